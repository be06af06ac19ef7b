"""Layers that many programs want: a circuit breaker, hedging, a cache, a log of calls, checked arguments.

A layer is `async def layer(job, call)`, or an object with such a `__call__`. It is around each attempt of a job: given
to a pool, a group, a function or a view as `layers=[...]`. These here are made of nothing that yours cannot use.

An object that keeps a state, as `CircuitBreaker` and `Cache` do, keeps it for all jobs that have it: make one for each
server, or each function, and share it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, final

from aiopool._jobs.checks import check_count, check_seconds
from aiopool._jobs.job import Job
from aiopool._jobs.layered import Call, Layer
from aiopool._jobs.match import Match, check_match, verdict
from aiopool._jobs.outcome import timeout_error
from aiopool._jobs.stop import StopCause
from aiopool._runtime.faults import log_fault
from aiopool._runtime.public import publish as _publish
from aiopool._runtime.runtime import shield
from aiopool.errors import JobError

__all__ = [
    "BreakerStatistics",
    "Cache",
    "Call",
    "CircuitBreaker",
    "CircuitOpenError",
    "Hedge",
    "Layer",
    "log_calls",
    "validate_arguments",
]


logger = logging.getLogger("aiopool.layers")

# Seconds after which one that was refused by a half-open breaker may come back.
WHILE_OTHERS_TRY = 1.0


def _now() -> float:
    return asyncio.get_running_loop().time()


# -- circuit breaker ---------------------------------------------------------------------------------------------------


class CircuitOpenError(JobError):
    """A circuit breaker did not let an attempt through.

    Attributes:
        retry_after: seconds until it lets one through to try. With a `Retry` on this error it is the delay.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.retry_after)


@dataclass(frozen=True, slots=True)
class BreakerStatistics:
    """A circuit breaker in numbers.

    Attributes:
        state: `"closed"`: all attempts go through. `"open"`: none does. `"half_open"`: some do, to try.
        failures: how many in a row.
        opened: how many times it opened.
        refused: how many attempts it did not let through.
        retry_after: seconds until it lets one through to try; 0 if it is not open.
    """

    state: Literal["closed", "open", "half_open"]
    failures: int
    opened: int
    refused: int
    retry_after: float


@final
class CircuitBreaker:
    """A layer that refuses attempts at once while what they call is down.

    *Closed*: all go through. After `failures` in a row it is *open*: each attempt fails with `CircuitOpenError`. After
    `recovery` seconds it is *half-open*: `probes` attempts at a time go through to try. The first that succeeds
    closes it, and one that fails opens it again. (M. Nygard, "Release It!", 2007.)

    An attempt that runs into its `timeout` counts as a failure by `JobTimeoutError`. One that is cancelled otherwise
    says nothing about the server, and counts neither way. Nor does the outcome of an attempt that began before the
    breaker opened, once it has.

    Args:
        failures: how many in a row open it.
        recovery: seconds that it is open.
        on: which errors count as failures: a class, a tuple of classes, or a predicate. What else is raised shows that
            somebody answered: it counts as a success.
        probes: how many attempts may try at once while it is half-open.
        name: what messages call it.

    Raises:
        TypeError, ValueError: an argument has a value that it cannot have.

    Example:
        breaker = CircuitBreaker(failures=5, recovery=60, on=OSError)
        async with Pool(layers=[breaker]) as pool: ...
    """

    __slots__ = (
        "_failures",
        "_on",
        "_opened",
        "_probes",
        "_refused",
        "_row",
        "_since",
        "_trying",
        "name",
        "recovery",
    )

    def __init__(
        self,
        failures: int = 5,
        recovery: float = 60.0,
        *,
        on: Match = Exception,
        probes: int = 1,
        name: str = "circuit breaker",
    ) -> None:
        self._failures = check_count("failures", failures, least=1)
        self.recovery = check_seconds("recovery", recovery)
        check_match("CircuitBreaker", "on", on)
        self._on = on
        self._probes = check_count("probes", probes, least=1)
        self.name = name
        self._row = 0
        self._since: float | None = None  # when it opened; None: it is closed
        self._trying = 0  # how many attempts try now
        self._opened = self._refused = 0

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        """Whether attempts go through: `"closed"`, `"open"` or `"half_open"`; ask in the event loop."""
        if self._since is None:
            return "closed"
        return "open" if _now() < self._since + self.recovery else "half_open"

    def statistics(self) -> BreakerStatistics:
        """Return the breaker in numbers; ask in the event loop."""
        state = self.state
        left = self._since + self.recovery - _now() if state == "open" and self._since is not None else 0.0
        return BreakerStatistics(state, self._row, self._opened, self._refused, left)

    async def __call__(self, job: Job[Any], call: Call) -> Any:
        """Let an attempt through, or refuse it."""
        state = self.state
        opened = self._opened
        if state == "open" or (state == "half_open" and self._trying >= self._probes):
            self._refused += 1
            assert self._since is not None
            # While others try, nobody knows when they end: a retry should not use up its attempts meanwhile.
            after = self._since + self.recovery - _now() if state == "open" else min(self.recovery, WHILE_OTHERS_TRY)
            raise CircuitOpenError(
                f"{self.name} is {state.replace('_', '-')} after {self._row} failures in a row: {job.name!r} was not "
                f"called. It lets one through in {after:.3g} s",
                after,
            )
        probes = state == "half_open"
        self._trying += probes
        try:
            value = await call()
        except BaseException as error:
            failure = _failure(job, error)
            if failure is not None and opened == self._opened:
                self._count(failed=verdict("CircuitBreaker", "on", self._on, failure) is not False)
            raise
        else:
            if opened == self._opened:
                self._count(failed=False)
            return value
        finally:
            self._trying -= probes

    def _count(self, *, failed: bool) -> None:
        if not failed:
            self._row, self._since = 0, None
            return
        self._row += 1
        if self._since is not None or self._row >= self._failures:
            self._since = _now()
            self._opened += 1


def _failure(job: Job[Any], error: BaseException) -> BaseException | None:
    """Return what an attempt failed with, as the awaiter of its job sees it; None: it was cancelled."""
    if not isinstance(error, asyncio.CancelledError):
        return error
    stop = None if job._extra is None else job._extra.stop
    return timeout_error(job, stop.cause) if stop is not None and stop.cause is StopCause.TIMEOUT else None


# -- hedging -----------------------------------------------------------------------------------------------------------


@final
class Hedge:
    """A layer that starts a second call when the first is slow; the first that succeeds wins.

    For calls that may run twice, against a few slow answers among many quick ones. (J. Dean, L. A. Barroso, "The Tail
    at Scale", CACM 56(2), 2013.) The others are cancelled, and have ended when the job ends. If all fail, the first
    error is raised; the other errors are logged as warnings.

    All calls of a job run in its one slot: with a `Hedge`, `most` times the size of the pool may run at once.

    Args:
        after: seconds after which another call starts, while none has succeeded. Set it to what 95 % of the calls need.
        most: how many calls there are, at most.

    Raises:
        TypeError, ValueError: an argument has a value that it cannot have.

    Example:
        pool.with_options(layers=[Hedge(after=0.2)])
    """

    __slots__ = ("after", "most")

    def __init__(self, after: float, *, most: int = 2) -> None:
        self.after = check_seconds("after", after)
        self.most = check_count("most", most, least=2)

    async def __call__(self, job: Job[Any], call: Call) -> Any:
        """Call, and call again."""
        tasks: list[asyncio.Task[Any]] = []
        first: BaseException | None = None
        raised: BaseException | None = None
        try:
            while True:
                if len(tasks) < self.most:
                    tasks.append(asyncio.ensure_future(_awaited(call)))
                running = [task for task in tasks if not task.done()]
                timeout = self.after if len(tasks) < self.most else None
                done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = asyncio.CancelledError() if task.cancelled() else task.exception()
                    if error is None:
                        return task.result()
                    first = first or error
                if len(tasks) == self.most and all(task.done() for task in tasks):
                    assert first is not None
                    raised = first
                    raise raised
        finally:
            await _ended(tasks, job, raised)
            del first, raised  # this frame is in the traceback of its error: no cycle through it


async def _awaited(call: Call) -> Any:
    return await call()


async def _ended(tasks: list[asyncio.Task[Any]], job: Job[Any], raised: BaseException | None) -> None:
    """Cancel what runs, and wait for its end, whoever is cancelled meanwhile; tell what else has failed."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    with shield():
        while running:
            try:
                await asyncio.wait(running)
            except asyncio.CancelledError as error:
                cancelled = error
            running = [task for task in running if not task.done()]
    for task in tasks:
        failure = None if task.cancelled() else task.exception()
        if failure is not None and failure is not raised:
            text = "a call of job %.200r failed, beside the one that decided"
            log_fault(logger, text, job, error=failure, level=logging.WARNING)
    if cancelled is not None:
        raise cancelled


# -- cache -------------------------------------------------------------------------------------------------------------


@final
class Cache:
    """A layer that keeps results for a while, by function and arguments.

    A job whose result is there returns it, and does not call. What raises is not kept. Jobs that run at the same time
    all call: for one call at a time see `pool.once`.

    Args:
        seconds: how long a result is kept; infinity: for ever.
        most: how many results are kept; the one that was not asked for the longest goes.
        key: `key(call)` returns what a result is kept under, something hashable; by default the function and its
            arguments. None: this call is not cached.

    Raises:
        TypeError, ValueError: an argument has a value that it cannot have.

    Example:
        rates = Cache(seconds=60)
        await pool.with_options(layers=[rates]).run(fetch_rate, "EUR")
    """

    __slots__ = ("_kept", "_key", "hits", "misses", "most", "seconds")

    def __init__(
        self, seconds: float = math.inf, *, most: int = 1024, key: Callable[[Call], Hashable | None] | None = None
    ) -> None:
        self.seconds = check_seconds("seconds", seconds)
        self.most = check_count("most", most, least=1)
        self._key = key or _call_key
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        """Return how many results are kept, those that are too old included."""
        return len(self._kept)

    def __bool__(self) -> bool:
        return True

    def clear(self) -> None:
        """Forget all results."""
        self._kept.clear()

    async def __call__(self, job: Job[Any], call: Call) -> Any:
        """Return a result that is kept, or call and keep it."""
        key = self._key(call)
        if key is None:
            return await call()
        found = self._kept.get(key)
        if found is not None and _now() < found[0]:
            self.hits += 1
            self._kept.move_to_end(key)
            return found[1]
        self.misses += 1
        value = await call()
        self._kept[key] = _now() + self.seconds, value
        self._kept.move_to_end(key)
        if len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return value


def _call_key(call: Call) -> Hashable:
    key = call.function, call.args, tuple(sorted(call.keywords.items()))
    try:
        hash(key)
    except TypeError:
        raise TypeError(
            f"a Cache keeps results by arguments, and those of {call!r} cannot be hashed: write Cache(key=lambda call: "
            "...), which returns what can, such as a text"
        ) from None
    return key


# -- a log of calls ----------------------------------------------------------------------------------------------------


def log_calls(logger: logging.Logger | None = None, level: int = logging.INFO, *, arguments: bool = False) -> Layer:
    """Return a layer that logs the end of each attempt: how long it took, and what came of it.

    Args:
        logger: where; `aiopool.calls` by default.
        level: of attempts that succeed; those that fail are logged as warnings.
        arguments: also what the function was called with. It may be secret.

    Example:
        async with Pool(layers=[log_calls()]) as pool: ...
    """
    log = logger or logging.getLogger("aiopool.calls")

    async def log_call(job: Job[Any], call: Call) -> Any:
        began = _now()
        what = f"{job.name} id {job.id!r} attempt {job.attempt}"
        if arguments:
            shown = [*map(repr, call.args), *(f"{name}={value!r}" for name, value in call.keywords.items())]
            what = f"{what} ({', '.join(shown)})"
        try:
            value = await call()
        except BaseException as error:
            log.log(
                max(level, logging.WARNING), "%s raised %s after %.3f s", what, type(error).__name__, _now() - began
            )
            raise
        log.log(level, "%s returned after %.3f s", what, _now() - began)
        return value

    return log_call


# -- checked arguments -------------------------------------------------------------------------------------------------


def validate_arguments() -> Layer:
    """Return a layer that checks and converts arguments by the annotations of the function, as pydantic does.

    What does not fit raises pydantic's `ValidationError`, and the function is not called.

    Example:
        await pool.with_options(layers=[validate_arguments()]).run(send, "3")  # def send(times: int): it gets 3
    """
    from pydantic import validate_call

    validators: weakref.WeakKeyDictionary[Any, Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]]
    validators = weakref.WeakKeyDictionary()

    async def validate(job: Job[Any], call: Call) -> Any:
        function = getattr(call.function, "__func__", call.function)  # of all methods that are bound, the same
        try:
            validator = validators.get(function)
        except TypeError:  # it has no hash, or no weak reference
            validator, function = None, None
        if validator is None:
            validator = validate_call(_recorder(call.function))
            if function is not None:
                validators[function] = validator
        args, keywords = validator(*call.args, **call.keywords)
        return await call.with_arguments(*args, **keywords)()

    return validate


def _recorder(function: Callable[..., Any]) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return a function with the signature of another, that returns what it was called with."""

    def record(*args: Any, **keywords: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, keywords

    signature = inspect.signature(function, eval_str=True)
    record.__signature__ = signature.replace(return_annotation=inspect.Signature.empty)  # type: ignore[attr-defined]
    record.__annotations__ = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if parameter.annotation is not inspect.Parameter.empty
    }
    record.__name__ = record.__qualname__ = getattr(function, "__name__", "function")
    return record


_publish(globals())
