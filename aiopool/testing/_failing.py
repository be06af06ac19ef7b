"""`FailingCall` and `fail_calls`: what becomes of a program if one call of the event loop, or of a thread, fails?

Memory may be short, the stack deep, the system without another thread, at any call. `FailingCall` lets the n-th call
of one method fail; `fail_calls` runs a scenario once for each n, until nothing is left to fail. That is how SQLite is
tested: not some calls, drawn at random, but every one.

Knows calls, numbers and errors; refuses to know what must hold afterwards, for that is the scenario's own word.

Not counted are the calls with which asyncio wakes a task, or calls back for a future that is done: if one of these
fails, asyncio itself has lost the wake-up, and no program can do anything about that.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, get_args

from ._report import describe_callback, takes_argument
from ._runner import run_virtual
from ._schedule import resumed

__all__ = ["CALLS", "ERRORS", "Call", "FailedCalls", "FailingCall", "fail_calls"]

Call = Literal["call_soon", "call_later", "call_at", "call_soon_threadsafe", "create_task", "Thread.start"]

CALLS: tuple[Call, ...] = get_args(Call)
"""The calls that can be made to fail: methods of the running loop, and `threading.Thread.start`."""

ERRORS: tuple[type[Exception], ...] = (MemoryError, RuntimeError, RecursionError)
"""What they fail with, if nothing else is said: no memory, no thread or a broken loop, a stack that is too deep."""

_MAX_RUNS = 10_000

Scenario = Callable[[], Coroutine[Any, Any, object]] | Callable[["FailingCall"], Coroutine[Any, Any, object]]


class FailingCall:
    """Let one call fail inside a `with` block: the n-th call of one method, by whoever calls it.

    The methods are those of the loop that runs when the block is entered; they are replaced on that one loop, and put
    back at the end. On uvloop only what is called from Python is seen; that is what a program calls itself. The calls
    with which asyncio wakes its own tasks and futures are not counted.

    Args:
        call: which method: `"call_soon"`, `"call_later"`, `"call_at"`, `"call_soon_threadsafe"`, `"create_task"`, or
            `"Thread.start"`, of any thread.
        n: which of its calls fails, the first one is 1.
        error: the class of the exception that it raises.
        lasting: the calls after the n-th fail, too.

    Attributes:
        count: how many calls there were.
        failed: whether one has failed.

    Raises:
        ValueError: there is no such call, or `n` is less than 1.
        RuntimeError: the block was entered without a running loop, or twice.

    Example:
        with FailingCall("Thread.start", lasting=True):
            with pytest.raises(RuntimeError):
                await pool.run(resize, image)       # a plain function, and no thread to be had
    """

    def __init__(
        self, call: Call, n: int = 1, error: type[BaseException] = MemoryError, *, lasting: bool = False
    ) -> None:
        if call not in CALLS:
            raise ValueError(f"FailingCall({call!r}): there is no such call; use one of {', '.join(map(repr, CALLS))}")
        if n < 1:
            raise ValueError(f"FailingCall({call!r}, {n!r}): calls are counted from 1")
        self.call = call
        self.n = n
        self.error = error
        self.lasting = lasting
        self.count = 0
        self.failed = False
        self._lock = threading.Lock()
        self._location: Any = None
        self._before: Any = None

    def __enter__(self) -> Self:
        if self._location is not None:
            raise RuntimeError(f"{self!r} was entered twice; make one for each block")
        self._location = threading.Thread if self.call == "Thread.start" else asyncio.get_running_loop()
        name = self.call.rpartition(".")[2]
        original = getattr(self._location, name)
        self._before = vars(self._location).get(name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._count(args)
            return original(*args, **kwargs)

        setattr(self._location, name, counted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        name = self.call.rpartition(".")[2]
        if self._before is None:
            delattr(self._location, name)
        else:
            setattr(self._location, name, self._before)
        self._location = self._before = None

    def _count(self, args: tuple[Any, ...]) -> None:
        if self.call == "call_soon" and _wakes(args):
            return
        with self._lock:  # threads call, too
            self.count += 1
            if self.count != self.n and not (self.lasting and self.count > self.n):
                return
            self.failed = True
        raise self.error(f"made to fail: {self.call}, call {self.count}")

    def __repr__(self) -> str:
        lasting = ", lasting=True" if self.lasting else ""
        return f"FailingCall({self.call!r}, {self.n}, {self.error.__name__}{lasting})"


@dataclass(frozen=True, slots=True)
class FailedCalls:
    """What a search without a failure has seen.

    Attributes:
        runs: how many runs there were, the last one of each row included, in which nothing failed.
        calls: of each call, how many of them were made to fail, one after the other. 0: the scenario makes no such
            call.
    """

    runs: int
    calls: Mapping[Call, int]


def fail_calls(
    scenario: Scenario,
    *,
    calls: Iterable[Call] = CALLS,
    errors: Iterable[type[BaseException]] = ERRORS,
    n: int | None = None,
    lasting: bool = False,
    run: Callable[[Coroutine[Any, Any, object]], object] = run_virtual,
) -> FailedCalls:
    """Run an async scenario again and again, and let another call fail in each run, until there is none left.

    For each call and each error the first call fails in the first run, the second one in the second run, and so on;
    the row ends with the run in which no call failed. The first run that goes wrong ends the search: the scenario
    raised, or, in virtual time, it would have waited for ever.

    The scenario says what must hold. If it takes an argument it gets the `FailingCall`, to enter where the calls shall
    begin to fail, and then to look whether all is well; it may expect `fault.error` there. If it takes none, its
    whole run is under the fault, and it has to bear the error itself.

    Args:
        scenario: a coroutine function.
        calls: which calls.
        errors: what they raise.
        n: only the run in which this call fails; None: all of them.
        lasting: the calls after the n-th fail, too.
        run: what runs a coroutine: `asyncio.run`, `uvloop.run`. There a wait without an end is one: put an
            `asyncio.timeout` into the scenario.

    Returns:
        How many runs there were, and how many calls were made to fail.

    Raises:
        AssertionError: a run failed. The exception of the scenario is its cause; the last line replays it:
            `replay: fail_calls(scenario, calls=['call_soon'], errors=[MemoryError], n=3)`.

    Example:
        async def scenario(fault):
            async with Pool(size=2) as pool:
                with fault, contextlib.suppress(fault.error):
                    await pool.run(fetch, url)
                assert await pool.run(fetch, url) == page    # whatever failed: the pool works

        fail_calls(scenario)
    """
    runs = 0
    failed: dict[Call, int] = {}
    errors = tuple(errors)
    for call in calls:
        failed[call] = 0
        for error in errors:
            number = n or 1
            while True:
                fault = FailingCall(call, number, error, lasting=lasting)
                _run(scenario, fault, run, runs)
                runs += 1
                if fault.failed:
                    failed[call] += 1
                if n is not None or not fault.failed:
                    break
                if number >= _MAX_RUNS:
                    raise AssertionError(f"{describe_callback(scenario)} makes more than {_MAX_RUNS} calls of {call}")
                number += 1
    if not runs:
        raise ValueError("fail_calls(…) got no call or no error, so nothing was tested; leave calls= and errors= out")
    return FailedCalls(runs, failed)


def _run(scenario: Scenario, fault: FailingCall, run: Callable[[Any], object], runs: int) -> None:
    name = describe_callback(scenario)
    lasting = ", lasting=True" if fault.lasting else ""
    replay = (
        f"replay: fail_calls({name.rpartition('.')[2]}, calls=[{fault.call!r}], errors=[{fault.error.__name__}], "
        f"n={fault.n}{lasting})"
    )
    try:
        run(_call(scenario, fault))
    except (Exception, asyncio.CancelledError) as error:
        happened = "failed" if fault.failed else "was not reached"
        # The text of the error may have many lines; the line to copy must be the last one.
        raise AssertionError(
            f"{name} failed after {runs} runs without a failure; call {fault.n} of {fault.call} {happened} "
            f"({fault.error.__name__}): {type(error).__name__}: {error}\n{replay}"
        ) from error
    except BaseException as error:  # a skip, an interrupt: not ours to turn into a failure
        error.add_note(replay)
        raise


async def _call(scenario: Callable[..., Coroutine[Any, Any, object]], fault: FailingCall) -> object:
    if takes_argument(scenario):
        return await scenario(fault)
    with fault:
        return await scenario()


def _wakes(args: tuple[Any, ...]) -> bool:
    """Whether a call of `call_soon` is asyncio's own, for a task to go on or a future that is done."""
    if not args:
        return False
    return resumed(args[0]) is not None or (len(args) == 2 and asyncio.isfuture(args[1]) and args[1].done())
