"""Looking at the pools of a running program from outside of its jobs: from another thread, by a tool, on a page.

    from aiopool.inspection import open_pools, running_code

    for pool in open_pools():
        code = running_code(pool)
        print(pool.name, pool.statistics().running, "" if code is None else code.where)

Nothing here costs anything until it is asked. All of it may be called from any thread, also while the event loop is
blocked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import sysconfig
from functools import cache
from typing import TYPE_CHECKING, Any, final

from aiopool._engine.watchdog import running_code as _running_code
from aiopool._pool.open_pools import open_pools as _open_pools
from aiopool._pool.pool import Pool
from aiopool._runtime.public import publish

if TYPE_CHECKING:
    from aiopool._pool.periodic import Periodic

__all__ = [
    "CodeLine",
    "GroupInfo",
    "RunningCode",
    "finished_count",
    "groups",
    "is_paused",
    "loop_of",
    "open_pools",
    "openings",
    "options",
    "periodics",
    "running_code",
]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class CodeLine:
    """A line of code that is being executed.

    Attributes:
        file: the path of its file.
        line: its number, from 1.
        function: in which function it stands.
    """

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        """Say it in short: `app.py:41 in fetch`."""
        return f"{os.path.basename(self.file)}:{self.line} in {self.function}"


@final
@dataclasses.dataclass(frozen=True, slots=True)
class RunningCode:
    """What the thread of a pool's event loop executes at one moment.

    Attributes:
        job_id, job_name: the job of this pool to which the code belongs; None: it is no job of this pool.
        stack: the calls, the outermost first.
    """

    job_id: int | str | None
    job_name: str | None
    stack: tuple[CodeLine, ...]

    @property
    def where(self) -> CodeLine | None:
        """The innermost line that is the program's own: not of Python, an installed package or aiopool."""
        return innermost_own(self.stack)

    def __str__(self) -> str:
        """Say it in words: `app.py:41 in fetch, job 'fetch' id 17`."""
        where = "no line is known" if self.where is None else str(self.where)
        return where if self.job_id is None else f"{where}, job {self.job_name!r} id {self.job_id!r}"


@final
@dataclasses.dataclass(frozen=True, slots=True)
class GroupInfo:
    """A group of jobs in numbers.

    Attributes:
        name: its name.
        live: how many of its jobs have not ended.
        running: how many of them run.
        paused: whether its jobs are held back.
    """

    name: str
    live: int
    running: int
    paused: bool


def open_pools() -> list[Pool]:
    """Return the pools of this process that are open, or are closing, and whose event loop runs; the oldest first.

    Example:
        print([pool.name for pool in open_pools()])
    """
    found: list[Pool] = _open_pools()
    return [pool for pool in found if loop_of(pool).is_running()]


def loop_of(pool: Pool) -> asyncio.AbstractEventLoop:
    """Return the event loop of a pool, of now or of its last opening.

    Raises:
        RuntimeError: the pool was never opened.

    Example:
        asyncio.run_coroutine_threadsafe(pool.cancel(17), loop_of(pool)).result(5)
    """
    return pool._engine("loop_of").runtime.loop


def running_code(pool: Pool) -> RunningCode | None:
    """Return what the thread of a pool's event loop executes now; None: it waits for something to do, or is gone.

    One look; a loop that is blocked shows the same line in each of them. It does not wait for the loop.

    Raises:
        RuntimeError: the pool was never opened.

    Example:
        code = running_code(pool)
        print("the loop is idle" if code is None else code)
    """
    engine = pool._engine("running_code")
    runtime = engine.runtime
    if not runtime.loop.is_running():
        return None
    innermost = sys._current_frames().get(runtime.thread)
    if innermost is None:
        return None
    job, frames, busy = _running_code(engine, innermost)
    if not busy:
        return None
    stack = tuple(CodeLine(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) for frame in frames)
    return RunningCode(None if job is None else job.id, None if job is None else job.name, stack)


def groups(pool: Pool) -> list[GroupInfo]:
    """Return the groups of a pool that have live jobs or are paused, in the order in which they came.

    It costs what the running jobs do, and a little for each group.

    Raises:
        RuntimeError: the pool was never opened.

    Example:
        print({group.name: group.live for group in groups(pool)})
    """
    running: dict[str, int] = {}
    for job in pool.running_jobs():
        if job.group is not None:
            running[job.group] = running.get(job.group, 0) + 1
    engine = pool._engine("groups")

    def read() -> list[GroupInfo]:
        return [
            GroupInfo(state.name, len(state.members), running.get(state.name, 0), state.paused)
            for state in engine.groups
        ]

    return engine.runtime.read(read)


def periodics(pool: Pool) -> list[Periodic]:
    """Return what a pool submits again and again, by `pool.every` or as it is registered; the next one first.

    Raises:
        RuntimeError: the pool was never opened.

    Example:
        print([(one.name, one.when, one.next_time) for one in periodics(pool)])
    """

    def read() -> list[Periodic]:
        found = [(one.next_at, one) for one in pool._state.periodics]
        return [one for _, one in sorted(((at, one) for at, one in found if at is not None), key=lambda row: row[0])]

    return pool._engine("periodics").runtime.read(read)


def finished_count(pool: Pool) -> int:
    """Return of how many jobs that have ended a pool has records; see `Pool.finished_jobs`.

    Raises:
        RuntimeError: the pool was never opened.

    Example:
        print(finished_count(pool))
    """
    pool._engine("finished_count")
    finished = pool._state.observers.finished
    return 0 if finished is None else len(finished)


def is_paused(pool: Pool) -> bool:
    """Whether a pool lets no job start, whoever has paused it.

    Raises:
        RuntimeError: the pool was never opened.

    Example:
        print("paused" if is_paused(pool) else "open")
    """
    return pool._engine("is_paused").slots.paused


def openings(pool: Pool) -> int:
    """Return how often a pool has been opened. With each opening its jobs are numbered from 1 again.

    Whoever keeps the id of a job keeps this number with it, and knows later whether the id still means the same job.

    Example:
        print(openings(pool))
    """
    return pool._state.openings


# Options of `Pool(...)`, as they are called there, in their order; `priority` and so on are those of its jobs.
_OF_POOL = (
    *("size", "queue_size", "isolation", "aging", "cancel_grace", "on_leak", "max_threads", "max_processes"),
    *("restart", "shutdown_timeout", "recycle_after", "count_by_worker", "watchdog"),
)
_OF_STATE = ("name", "overflow", "start_method")
_OF_JOBS = ("priority", "timeout", "queue_timeout", "total_timeout", "retry", "offload")


def options(pool: Pool) -> dict[str, Any]:
    """Return the options that a pool was made with, by the words of `Pool(...)`, those that were left out, too.

    They are what was written, and not what holds now: `size` may have been changed since, see `Pool.size`. Functions
    (`on_error`, `layers`, `worker_context`), limits, the store and its handlers are not among them; `keep_finished` is
    None or a `KeepFinished`.

    Example:
        print(options(pool)["queue_size"])
    """
    state = pool._state
    finished = state.observers.finished
    return (
        {name: getattr(state, name) for name in _OF_STATE}
        | {name: getattr(pool, f"_{name}") for name in _OF_POOL}
        | {name: getattr(state.options, name) for name in _OF_JOBS}
        | {"keep_finished": None if finished is None else finished.keep}
    )


def innermost_own(stack: tuple[CodeLine, ...]) -> CodeLine | None:
    """Return the innermost line that is the program's own, or the innermost of all."""
    for line in reversed(stack):
        if not line.file.startswith(_foreign()) and not line.file.startswith("<"):
            return line
    return stack[-1] if stack else None


@cache
def _foreign() -> tuple[str, ...]:
    """Return where the code of others lies: Python's own, installed packages, and ours."""
    paths = sysconfig.get_paths()
    found = {paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"], os.path.dirname(__file__)}
    return tuple(path + os.sep for path in sorted(found))


publish(globals())
