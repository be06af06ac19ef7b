"""Run a program on a virtual loop, and steer the clock from inside it.

Knows how a program begins and ends (as `asyncio.run` does: cancel what is left, close async generators, end
the default executor). Refuses to know what the program is about; a search over seeds is `_explore.py`.

Invariant: what went wrong first is what is raised; a failure while cleaning up is told beside it, never
instead of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from ._loop import LoopOptions, VirtualLoop
from ._parts import DeadlockError, SpinError
from ._schedule import Mode

__all__ = ["VirtualRunner", "advance", "run_virtual", "running_virtual_loop", "settle"]

_T = TypeVar("_T")


class VirtualRunner:
    """Run several coroutines, one after the other, on one `VirtualLoop`: `asyncio.Runner` in virtual time.

    Leaving the `with` block cancels what is left and closes the loop, as `asyncio.run` does.

    Args:
        seed: as for `VirtualLoop`.
        mode: as for `VirtualLoop`.
        debug: asyncio's debug mode; None leaves it to the environment.
        **options: `max_steps`, `max_steps_at_once`, `patience` and `offload` of `VirtualLoop`.

    Raises:
        RuntimeError: an event loop is running in this thread.

    Example:
        with VirtualRunner(seed=7, mode="tasks") as runner:
            runner.run(main)
            print(runner.loop.time(), runner.loop.trace_hash())
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        mode: Mode = "fifo",
        debug: bool | None = None,
        **options: Unpack[LoopOptions],
    ) -> None:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "virtual time runs in a loop of its own, and one is running here: "
                "make this test a plain `def`, or give the `async def` the fixture `virtual_time`"
            )
        self.loop = VirtualLoop(seed=seed, mode=mode, **options)
        self._runner = asyncio.Runner(debug=debug, loop_factory=lambda: self.loop)
        self._runner.get_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except (DeadlockError, SpinError) as second:
            if error is None:
                raise
            error.add_note(f"and then, while cleaning up: {type(second).__name__}: {second}")

    def run(self, main: Callable[[], Coroutine[Any, Any, _T]] | Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine function (or a coroutine) to its end and return its result.

        Raises:
            DeadlockError: nothing can ever happen again.
            SpinError: the step budget is used up.
            BaseException: whatever `main` raised.
        """
        coroutine = main if asyncio.iscoroutine(main) else main()
        return self._runner.run(coroutine)

    def close(self) -> None:
        """Cancel what is left, close async generators and the default executor, and close the loop.

        Raises:
            DeadlockError: a cancelled task refused to end.
            SpinError: a cancelled task went on, round and round.
        """
        self._runner.close()


def run_virtual(
    main: Callable[[], Coroutine[Any, Any, _T]] | Coroutine[Any, Any, _T],
    *,
    seed: int | None = None,
    mode: Mode = "fifo",
    debug: bool | None = None,
    **options: Unpack[LoopOptions],
) -> _T:
    """Run `main` in virtual time and return its result: `asyncio.run` without the waiting.

    Time limits, delays and sleeps keep their order and their exact times, and take no time. What happens to
    threads and I/O is told in the module docstring of `aiopool.testing`.

    Args:
        main: a coroutine function without arguments, or a coroutine.
        seed: what the schedule is drawn from; None draws one.
        mode: `"fifo"` (asyncio's order) or `"tasks"` (another legal order).
        debug: asyncio's debug mode; None leaves it to the environment.
        **options: `max_steps`, `max_steps_at_once`, `patience` and `offload` of `VirtualLoop`.

    Raises:
        DeadlockError: nothing can ever happen again; the text says where every task waits.
        SpinError: the step budget is used up.
        BaseException: whatever `main` raised; where the schedule was drawn, a note says how to draw it again.

    Example:
        async def main():
            await asyncio.sleep(3600)
            return asyncio.get_running_loop().time()

        assert run_virtual(main) == 3600
    """
    with VirtualRunner(seed=seed, mode=mode, debug=debug, **options) as runner:
        try:
            return runner.run(main)
        except BaseException as error:
            if mode != "fifo":
                error.add_note(f"replay: run_virtual(…, seed={runner.loop.seed}, mode={mode!r})")
            raise


def running_virtual_loop(asked: str) -> VirtualLoop:
    """Return the running loop if it is a virtual one; `asked` is the call that needs it, for the message."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        return loop
    raise RuntimeError(
        f"{asked} needs a virtual clock, and the running loop is {loop!r}. "
        "Run the code by `run_virtual(main)`, or give the test the fixture `virtual_time`."
    )


async def settle() -> None:
    """Let everything run that is ready, and what becomes ready by that, without moving the clock.

    Work in threads and on sockets is not waited for; `wait_until` does that. If the caller is cancelled
    here, nothing else happens.

    Raises:
        RuntimeError: the running loop has no virtual clock.
        SpinError: there is no end to what is ready.

    Example:
        job = await pool.submit(fetch, url)
        await settle()
        assert job.status == "running"
    """
    await running_virtual_loop("settle()").until_quiet()


async def advance(seconds: float) -> None:
    """Let `seconds` of virtual time pass; afterwards all that is due at that moment has run.

    Everything that is due before happens at its own time on the way. If the caller is cancelled here, the
    clock stays where it is by then.

    Args:
        seconds: how far; 0 is `settle()`.

    Raises:
        ValueError: `seconds` is negative or no finite number.
        RuntimeError: the running loop has no virtual clock.

    Example:
        job = await pool.with_options(retry=Retry(attempts=3)).submit(flaky)
        await advance(60)
        assert job.attempt == 3
    """
    running_virtual_loop("advance()")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"advance({seconds!r}): time goes forward by a finite number of seconds; 0 is allowed")
    if seconds:
        await asyncio.sleep(seconds)
    await settle()
