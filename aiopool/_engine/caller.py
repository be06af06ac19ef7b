"""`CallerCheck`: a pool is used in the thread of its event loop, and not in a child that was forked from there.

The mutable state is `loop`, and only a fork changes it.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, final

from aiopool._runtime.runtime import Runtime, running_loop_or_none

__all__ = ["CallerCheck"]


@final
class CallerCheck:
    """Says who may call.

    Attributes:
        loop: its `_thread_id` is the number of the thread in which the pool may be called now. The hot path compares
            that, and calls `check` if it is another.
    """

    __slots__ = ("__weakref__", "_runtime", "loop")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # asyncio's own loops know in which thread they run, if they run; for others it is the thread of the opening.
        self.loop: Any = runtime.loop if hasattr(runtime.loop, "_thread_id") else _AnyLoop(runtime.thread)
        _checks.add(self)

    def check(self, what: str) -> None:
        """Raise if the caller is not in the pool's own event loop; between two runs of the loop, its thread will do."""
        running = running_loop_or_none()
        if running is self._runtime.loop and self._runtime.on_loop_thread():
            return
        if self._runtime.forked:
            raise RuntimeError(
                f"{what}() was called in a child process that was forked while the pool was open: the pool and its "
                "event loop live in the parent. Open a pool in the child, `async with Pool(...) as pool:`"
            )
        if not self._runtime.on_loop_thread():
            raise RuntimeError(
                f"{what}() was called in another thread than that of the pool's event loop, which it would corrupt. "
                "There, write `pool.from_thread.submit(...)`, `.run(...)` or `.map(...)` to hand in jobs; else "
                f"`asyncio.run_coroutine_threadsafe(pool.{what}(...), loop)`, or `loop.call_soon_threadsafe(...)` for "
                "a method that does not wait. `job.cancel()` may be called anywhere"
            )
        if running is not None:
            raise RuntimeError(
                f"{what}() was called in another event loop than that of the pool, which does not run meanwhile: a "
                "pool serves the loop in which it was opened. Open another here, `async with Pool(...) as pool:`"
            )

    def in_running_loop(self) -> bool:
        """Whether the loop runs, if we are in its thread; to ask asyncio for the running one costs a microsecond."""
        return self.loop is self._runtime.loop or running_loop_or_none() is self._runtime.loop

    def forked(self) -> None:
        """We are in a forked child: nobody is in the loop of a pool of the parent's."""
        self.loop = _FORKED
        self._runtime.thread = _FORKED._thread_id


class _AnyLoop:
    """A stand-in for a loop that does not tell in which thread it runs."""

    __slots__ = ("_thread_id",)

    def __init__(self, thread: int) -> None:
        self._thread_id = thread


# No thread has this number.
_FORKED = _AnyLoop(-1)
_checks: weakref.WeakSet[CallerCheck] = weakref.WeakSet()


def _after_fork() -> None:
    for check in _checks:
        check.forked()


if hasattr(os, "register_at_fork"):  # pragma: no branch: Windows has no fork, and no tests run there
    os.register_at_fork(after_in_child=_after_fork)
