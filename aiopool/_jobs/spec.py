"""`JobSpec`: merged options, laid out for the hot path and shared by all jobs of one function.

A view (`pool.with_options(...)`) makes the spec of a function once; a job then carries one reference in place of its
name and seven options. The other two, `id` and `delay`, concern one job: they are in its `JobExtra`.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, final

from aiopool._jobs.layered import Layer
from aiopool._jobs.limits import NO_LIMITS, Key, PoolLimits
from aiopool._jobs.options import JobOptions
from aiopool._jobs.retry import Retry

if TYPE_CHECKING:  # it comes with whoever asks for a moment by the wall clock
    import datetime

__all__ = ["JobOwner", "JobSpec"]


class JobOwner(Protocol):
    """Who runs the jobs of a spec, and what a job asks of it: a pool."""

    @property
    def name(self) -> str: ...
    def cancel(self, job: Any, reason: str | None) -> bool: ...
    def set_timeout(self, job: Any, seconds: float | None) -> None: ...
    def call_back(self, job: Any, callback: Callable[[Any], object]) -> None: ...
    def expect(self, job: Any) -> None: ...
    def waiting_for(self, job: Any) -> str | None: ...
    def wait(self, job: Any, waiter: Any) -> Iterable[Any]: ...
    def run_inside_layers(self, job: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> Awaitable[Any]: ...
    def wall_time(self, at: float) -> datetime.datetime: ...


@final
class JobSpec:
    """The options of a job, complete.

    Attributes:
        name: what the job is called: the option, or the function's name.
        runner: where a plain function runs: `"thread"`, `"process"` or `"interpreter"`; None: an `async def`.
        layers: what is around each attempt, the outermost first.
        offload: the same as `runner`, if the worker starts the function; with layers a coroutine does.
        owner: whose jobs they are.
        limits: the lanes in which a job has to have a place to run: a rule each, and a key of it.
        sent: it runs in another process or interpreter, so its calls are pickled.
        plain: nothing has to be arranged at submission: no group or lane, and no time limit that runs from then on.
        swift: nothing but a time limit has to be arranged at the start of an attempt: no retry, no
            limit and no thread.
        least, most: how many arguments the function takes if none has a keyword.
    """

    __slots__ = (
        "_limits_of",
        "group",
        "key",
        "layers",
        "least",
        "limits",
        "metadata",
        "most",
        "name",
        "offload",
        "owner",
        "plain",
        "priority",
        "queue_timeout",
        "retry",
        "runner",
        "sent",
        "swift",
        "timeout",
        "total_timeout",
    )

    def __init__(
        self,
        options: JobOptions,
        function: str,
        owner: JobOwner,
        *,
        offload: bool,
        arity: tuple[int, int],
        limits: PoolLimits = NO_LIMITS,
    ) -> None:
        """Merge nothing: `options` are complete.

        `function` is its name; `offload`: it is a plain one; `arity` is how many arguments it takes, at least and most.
        """
        # Any: a complete set of options holds no UNSET, which the type of a field cannot say.
        complete: Any = options
        self.priority: int = int(complete.priority)
        self.timeout: float | None = complete.timeout
        self.queue_timeout: float | None = complete.queue_timeout
        self.total_timeout: float | None = complete.total_timeout
        self.retry: Retry | None = complete.retry
        self.name: str = function if complete.name is None else complete.name
        self.group: str | None = complete.group
        self.key: Key | None = complete.key
        self.limits = limits.of(self.name, self.group, self.key)
        self.metadata: Mapping[str, Any] | None = complete.metadata
        self._limits_of = limits
        self.owner = owner
        self.runner: str | None = (complete.offload or "thread") if offload else None
        self.layers: tuple[Layer, ...] = tuple(layer for layer in complete.layers or () if layer is not None)
        self.offload = None if self.layers else self.runner
        # What leaves this process is looked at, and pickled, in each call: no number of arguments is the usual.
        self.sent = self.runner in ("process", "interpreter")
        self.least, self.most = (sys.maxsize, 0) if self.sent else arity
        self._sum_up()

    def _sum_up(self) -> None:
        self.plain = (
            self.group is None
            and not self.limits
            and self._limits_of.weights is None
            and self.queue_timeout is None
            and self.total_timeout is None
            and not self.layers
        )
        self.swift = self.retry is None and self.offload is None and not self.limits

    def with_key(self, key: Key | None) -> JobSpec:
        """Return a copy with another key."""
        copy = self._copy()
        copy.key = key
        copy.limits = self._limits_of.of(self.name, self.group, key)
        copy._sum_up()
        return copy

    def with_priority(self, priority: int) -> JobSpec:
        """Return a copy with another priority."""
        copy = self._copy()
        copy.priority = priority
        return copy

    def with_timeout(self, timeout: float | None) -> JobSpec:
        """Return a copy with another time limit of an attempt."""
        copy = self._copy()
        copy.timeout = timeout
        return copy

    def _copy(self) -> JobSpec:
        copy = object.__new__(JobSpec)
        for field in JobSpec.__slots__:
            setattr(copy, field, getattr(self, field))
        return copy
