"""`Submitter`: the three ways to hand in a job, shared by a pool, its views and its groups.

Options and arguments never share a keyword namespace: options are bound first, on a view (`with_options`); whatever
follows the function in `submit` is the function's own.

A view is cheap: it holds its options and a `JobSpec` for each kind of function, made at first use. A view that differs
by an `id`, a `delay`, a `key` or `unique` alone, and is made for one job, takes the specs of the view that it was made
from.

The jobs of a pool that has a store go there (`durability.py`): no view of such a pool is *direct*.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import inspect
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Hashable, Iterable, Mapping
from types import CoroutineType, FunctionType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from aiopool._engine.engine import Engine
from aiopool._jobs.callables import arity, check_call, check_function, function_name
from aiopool._jobs.job import Job
from aiopool._jobs.layered import Layer
from aiopool._jobs.limits import Key, LaneKey, Limit, LimitRule, check_key, keys_of
from aiopool._jobs.options import (
    UNSET,
    JobOptions,
    Offload,
    Unset,
    check_count,
    check_id,
    check_seconds,
    check_unique,
    function_options,
    is_for_one_job,
)
from aiopool._jobs.retry import Retry
from aiopool._jobs.spec import JobSpec
from aiopool._jobs.status import PoolStatus
from aiopool._pool.block import JobBlock
from aiopool._pool.durability import Durability, StoreCall
from aiopool._pool.map import MapResult, MapStream
from aiopool._pool.map_feed import MapFeed
from aiopool._pool.state import PoolState
from aiopool._runtime.keywords import explain_keywords
from aiopool._runtime.runtime import shield
from aiopool.errors import JobDroppedError, QueueFullError

if TYPE_CHECKING:  # they come with whoever asks for them
    from aiopool._pool.executor import PoolExecutor
    from aiopool._pool.once import Once
    from aiopool._pool.periodic import Periodic
    from aiopool._pool.thread_submitter import ThreadSubmitter

__all__ = ["Submitter"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_OPTION_NAMES = frozenset(
    (
        *("priority", "timeout", "queue_timeout", "total_timeout", "retry", "delay", "id", "name", "group", "key"),
        *("metadata", "run_at", "offload", "layers", "unique", "within"),
    )
)
_set_options: Any = inspect.unwrap(JobOptions.__init__)
# A view keeps no more specs than this: functions may have names that are made up as they go.
MAX_SPECS = 256


class Submitter:
    """Hands jobs to a pool, with options."""

    __slots__ = (
        "_base",
        "_block",
        "_delay",
        "_direct",
        "_id",
        "_key",
        "_known",
        "_known_keywords",
        "_known_spec",
        "_options",
        "_origin",
        "_specs",
        "_state",
        "_unique",
        "_within",
    )

    _id: int | str | None
    _delay: float | datetime.datetime
    _unique: str | None

    def __init__(self, state: PoolState, options: JobOptions, base: JobOptions, block: JobBlock | None = None) -> None:
        """`options` are nearer than a function's own; `base` (complete) are those of the group or the pool."""
        self._state = state
        self._options = options
        self._base = base
        self._block = block  # whose jobs they are
        self._origin: Submitter | None = None  # the view that this one differs from by these alone
        self._key: Key | Unset | None = UNSET  # of a view with an origin
        self._within: object | None = None  # a connection of the caller's, to the database of the store
        self._set_own(
            base.id if options.id is UNSET else options.id,
            base.delay if options.delay is UNSET else options.delay,
            base.unique if options.unique is UNSET else options.unique,
        )
        # The last function, its spec, and the keywords of the last call of it that had some.
        self._known: Callable[[], object] = _nothing
        self._known_spec: JobSpec
        self._known_keywords: tuple[Any, ...] | None = None
        # By name, kind, own options and arity; the options are kept with the spec, so that nothing else gets their id.
        self._specs: dict[tuple[str, bool, int, tuple[int, int]], tuple[JobOptions | None, JobSpec]] = {}

    def _set_own(self, id: Any, delay: Any, unique: Any) -> None:
        """Note what concerns one job, and is in no spec."""
        self._id, self._delay, self._unique = id, delay or 0.0, unique
        durable = self._state.durability is not None
        self._direct = self._block is None and id is unique is None and not delay and not durable

    def _delay_now(self, engine: Engine) -> float:
        """Return the delay in seconds, of a job that is submitted now."""
        delay = self._delay
        if isinstance(delay, datetime.datetime):
            return engine.runtime.seconds_until(delay)
        return delay

    # -- handing in ------------------------------------------------------------------------------------------------

    @overload
    async def submit(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    @overload
    async def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    async def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Hand in a call, wait for room in the queue if there is none, and return the job.

        The job starts when its turn comes, never inside this call. It sees the caller's context variables as they are
        now. With room in the queue this does not suspend, so jobs submitted in a row stand in line together.

        Args:
            function: an `async def` (runs in the event loop) or a plain function (runs in a thread).
            args, kwargs: its own arguments. Options go to `with_options(...)`.

        Returns:
            The job: await it for its result.

        Raises:
            PoolClosedError: the pool is closed, or being left: then only its own jobs may submit, and those until what
                is left is cancelled. (Own: `current_job()` here is a job of this pool that has not finished.)
            QueueFullError: there is no room, and the pool's `overflow` policy says not to wait.
            TypeError: `function` is no function, or does not take these arguments; the text shows the line to write
                instead. (Checked are functions and methods that are written in Python.)
            PayloadError, StoreError: of a pool with a store: the arguments cannot be kept there; it cannot be reached.

        If the caller is cancelled while it waits for room, the job is withdrawn.

        In a pool with a store this returns when the job is committed there, as durably as the store says. The function
        must be registered, and its arguments must be such that JSON can hold them. If the caller is cancelled
        meanwhile, the job may be there or not: an id of your own (`with_options(id=…)`) finds it.

        Example:
            job = await pool.submit(fetch, url)
            page = await job
        """
        job = self._try_submit("submit", function, args, kwargs)
        return job if job is not None else await self._submit_when_space(function, args, kwargs)

    @overload
    def submit_nowait(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    @overload
    def submit_nowait(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
    def submit_nowait(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Hand in a call and return the job; never wait.

        Args:
            function, args, kwargs: as in `submit`.

        Raises:
            QueueFullError: there is no room (also `asyncio.QueueFull`).
            PoolClosedError, TypeError: as in `submit`.

        Example:
            job = pool.submit_nowait(fetch, url)
        """
        job = self._try_submit("submit_nowait", function, args, kwargs)
        return job if job is not None else self._submit_or_refuse(function, args, kwargs)

    def _try_submit(
        self, what: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any] | None:
        """Hand in a call if there is room; else return None."""
        spec = self._known_spec if function is self._known() else self._look_up(function)
        if kwargs:
            view, keywords = self._origin or self, (len(args), *kwargs)
            if keywords != view._known_keywords or function is not view._known():
                view._check_keywords(what, function, args, kwargs, keywords)
            function = functools.partial(function, **kwargs)
            if spec.sent and self._state.durability is None:
                function, args = _pickle(what, function, args)
        elif len(args) != spec.least and not spec.least <= len(args) <= spec.most:
            if spec.sent and self._state.durability is None:  # to a store go the arguments as JSON
                function, args = _pickle(what, function, args)
            else:
                check_call(what, function, args, kwargs)
        engine = self._state.engine
        if engine is None:
            raise self._state.not_open(what)
        if self._direct:
            return engine.try_submit(spec, function, args)
        block = self._block
        if block is not None:
            block.check_open()
        if self._state.durability is not None:
            return None  # it takes a commit: nothing is handed in at once
        if self._unique is not None:
            raise _store_needed(f"unique={self._unique!r}")
        if self._id is None and not self._delay:
            job = engine.try_submit(spec, function, args, block)
        else:
            job = engine.try_submit_one(spec, function, args, block, self._id, self._delay_now(engine))
        if job is not None and block is not None:
            block.add(job)
        return job

    @overload
    async def run(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Hand in a call and wait for its result.

        Args:
            function, args, kwargs: as in `submit`.

        Returns:
            What the function returns.

        Raises:
            BaseException: what the function raises; `JobCancelledError`, `JobTimeoutError`; and as `submit`.

        If the caller is cancelled, the job is cancelled too, and has ended (or leaked) when the cancellation goes on.

        Example:
            page = await pool.run(fetch, url)
        """
        submitted = self._try_submit("run", function, args, kwargs)
        job = submitted if submitted is not None else await self._submit_when_space(function, args, kwargs)
        del submitted
        reason = "the caller of run() was cancelled"
        try:
            if job._finished_at is None:
                await self._state.wait_or_cancel(job, reason)
            return job.result()
        except asyncio.CancelledError:
            with shield():
                await self._state.stop(job, reason)
            raise
        finally:
            del job  # this frame is in the traceback of its error: no cycle through it

    @overload
    def map(
        self,
        function: Callable[[T], Awaitable[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        ordered: bool = True,
        buffersize: int | None = None,
        options: JobOptions | Callable[[T], JobOptions] | None = None,
        errors: Literal["raise"] = "raise",
    ) -> MapStream[R]: ...
    @overload
    def map(
        self,
        function: Callable[[T], Awaitable[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        ordered: bool = True,
        buffersize: int | None = None,
        options: JobOptions | Callable[[T], JobOptions] | None = None,
        errors: Literal["yield"],
    ) -> MapStream[MapResult[T, R]]: ...
    @overload
    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T] | AsyncIterable[T],
        *,
        ordered: bool = True,
        buffersize: int | None = None,
        options: JobOptions | Callable[[T], JobOptions] | None = None,
        errors: Literal["raise"] = "raise",
    ) -> MapStream[R]: ...
    @overload
    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T] | AsyncIterable[T],
        *,
        ordered: bool = True,
        buffersize: int | None = None,
        options: JobOptions | Callable[[T], JobOptions] | None = None,
        errors: Literal["yield"],
    ) -> MapStream[MapResult[T, R]]: ...
    @explain_keywords
    def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        ordered: bool = True,
        buffersize: int | None = None,
        options: JobOptions | Callable[[Any], JobOptions] | None = None,
        errors: Literal["raise", "yield"] = "raise",
    ) -> MapStream[Any]:
        """Apply a function to every item, and stream the results.

        Lazy and bounded: an item is taken from `items` when there is place for its job, and no more than `buffersize`
        jobs are between the input and the consumer. If the queue is full it waits for room, whatever `overflow` says.

        In a group, its jobs are waited for and cancelled with the block; their failures are the consumer's.

        Args:
            function: an `async def` or a plain function of one argument.
            items: any iterable or async iterable, endless ones too.
            ordered: results in the order of the items; else as they come.
            buffersize: jobs between input and consumer; twice the size of the pool by default.
            options: options of these jobs, nearer than those of the view: a `JobOptions`, or a function that returns
                one for an item. Only a function may give an `id`.
            errors: `"raise"` raises the first error and cancels the rest; `"yield"` yields a `MapResult` for each
                item, failed ones too.

        Returns:
            A stream: `async with … as results: async for result in results`, or a bare `async for`, or
            `await ….collect()` for a list. It is as long as `items`, or raises. `async with` cancels what is left over
            when the block is left. When a bare loop breaks, no more items are read and the source is closed; jobs
            under way run on, and those that fail are reported. The stream tells how far it is: `done`, `failed`, …

        Raises:
            ValueError, TypeError: an argument that it cannot have; an option `id`, which only one job can have. What
                `options(item)` raises ends the stream, as an error of the source does.

            RuntimeError: the function or the source raised `StopIteration`, `StopAsyncIteration`, `GeneratorExit`, or a
                `CancelledError` of its own, which would look like an end; that is the cause.
            PoolClosedError: the pool closed before the source had ended.

        If the consumer is cancelled, `async with` cancels the jobs and waits for their end.

        Example:
            async with pool.map(fetch, urls, ordered=False) as pages:
                async for page in pages: ...

            results = await pool.map(load, rows, options=lambda row: JobOptions(id=row.key)).collect()
        """
        if errors not in ("raise", "yield"):
            raise ValueError(f'errors={errors!r}: it must be "raise" or "yield"')
        if buffersize is not None:
            check_count("buffersize", buffersize, least=1)
        if not isinstance(items, (AsyncIterable, Iterable)):
            raise TypeError(f"map() takes an iterable or an async iterable, not {items!r} ({type(items).__name__})")
        spec, spec_for = self._map_specs(function, options)
        feed = MapFeed(
            self._state,
            self._block,
            spec,
            spec_for,
            function,
            items,
            ordered=ordered,
            buffersize=buffersize,
            with_inputs=errors == "yield",
        )
        return MapStream(feed)

    @explain_keywords
    def every(
        self,
        when: float | datetime.timedelta | str,
        function: Callable[..., Any],
        /,
        *args: Any,
        jitter: float = 0.0,
        overlap: Literal["skip", "queue"] = "skip",
        tz: datetime.tzinfo | None = None,
        missed: Literal["skip", "once"] = "skip",
    ) -> Periodic:
        """Submit a call again and again, until the pool, or the group, is left.

        The moments do not drift: each is counted from the first, whatever became of the one before. One that comes
        more than a second late, and those that were missed, are counted, and told in the log once a minute.

        Args:
            when: seconds, or a timedelta, from one moment to the next; the first is one interval from now. Or a cron
                text (extra `cron`), such as `"30 3 * * *"`; with six fields the last are seconds.
            function, args: as in `submit`; for keyword arguments take `functools.partial`. It runs with the options of
                this view, in the context of whoever calls `every`.
            jitter: each job is submitted up to so many seconds later, drawn anew each time.
            overlap: while the job of the moment before has not ended, `"skip"` passes over the new one; `"queue"`
                submits it, to start when that one has ended.
            tz: the time zone of a cron text; UTC by default. Summer time is followed as Debian's cron does.
            missed: of a pool with a store: if moments went by while no process was there, `"once"` makes up for the
                last of them when this is called (also the very first time); `"skip"` does not.

        With a store each moment has one job in the whole fleet, however many processes call this for the same function,
        arguments and schedule. An interval is counted from 1970 then, so that all have the same moments.

        Returns:
            What is known of it: its last `job`, `runs`, `skipped`, `missed`; `cancel()` ends it.

        Raises:
            TypeError, ValueError: an argument that it cannot have.
            RuntimeError: the pool is not open; or a cron text, and the extra `cron` is not installed.

        Example:
            pool.every(60, refresh, cache)
            pool.with_options(timeout=600).every("30 3 * * *", clean_up, tz=ZoneInfo("Europe/Berlin"))
        """
        from aiopool._jobs.schedules import schedule_of  # few programs need it
        from aiopool._pool.periodic import Periodic

        if overlap not in ("skip", "queue"):
            raise ValueError(f'overlap={overlap!r}: it must be "skip" or "queue"')
        if missed not in ("skip", "once"):
            raise ValueError(f'missed={missed!r}: it must be "skip" or "once"')
        engine = self._state.engine
        if engine is None:
            raise self._state.not_open("every")
        engine.caller.check("every")
        self._state.check_accepting()
        durability, skips = self._state.durability, overlap == "skip"
        schedule = schedule_of(when, engine.now(), tz, shared=durability is not None)
        view = self if skips or durability is not None else self._one_at_a_time(function)
        spec = view._look_up(function)  # what is wrong with it is said now
        check_call("every", function, args, {})
        if durability is None:
            if missed != "skip":
                raise _store_needed(f"missed={missed!r}")

            def submit(periodic: Periodic, due: float) -> Job[Any]:
                return view.submit_nowait(function, *args)
        else:
            call = StoreCall(spec, function, args, {}, block=self._block)

            def submit(periodic: Periodic, due: float) -> Job[Any]:
                return durability.submit_tick(periodic, call, str(schedule), due, skips=skips)

        return Periodic(
            self._state,
            schedule,
            spec.name,
            submit,
            is_open=self._takes_jobs,
            jitter=check_seconds("jitter", jitter),
            skips=skips and durability is None,
            at_once=missed == "once",
        )

    def once(self, key: Hashable, *, keep: float = 0.0) -> Once:
        """Return a handle for one call at a time: all who ask for the same key share one job, and its result.

        Of three who wait with `run`, one may be cancelled, and the others get their result; when all are, the job is
        cancelled. All get the same object, also if it is an error.

        Args:
            key: of all who want the same; anything hashable. The function and its arguments are those of the first who
                asks.
            keep: seconds for which a result is kept after the end, and given to whoever asks; an error is not kept.

        Example:
            rates = await pool.once("rates", keep=60).run(fetch_rates)
        """
        from aiopool._pool.once import Once  # few programs need it

        hash(key)
        # A group waits for its own jobs, and cancels them: nobody else shares them.
        return Once(self._state, self.submit, (self._block, key), check_seconds("keep", keep))

    def _takes_jobs(self) -> bool:
        """Whether the pool is open, and the group of this view has not been left."""
        return self._state.status is PoolStatus.OPEN and (self._block is None or self._block.takes_jobs)

    def _one_at_a_time(self, function: Callable[..., Any]) -> Submitter:
        """Return a view whose jobs run one after the other, whatever other keys they have."""
        own = function_options(function)
        options = self._options if own is None else self._options.over(own)
        keys: Any = options.over(self._base).key if self._key is UNSET else self._key
        lane = LaneKey(LimitRule("every", Limit(max_at_once=1)), "all")
        return self.with_options(key=(lane, *keys_of(keys)))

    # -- for other threads -------------------------------------------------------------------------------------------

    @property
    def from_thread(self) -> ThreadSubmitter:
        """The same pool, with the same options, for code that runs in other threads than the event loop's.

        Example:
            page = pool.from_thread.run(fetch, url)  # blocks the thread
        """
        from aiopool._pool.thread_submitter import ThreadSubmitter

        return ThreadSubmitter(self._state, self)

    def as_executor(self) -> PoolExecutor:
        """Return an executor of `concurrent.futures` that hands its calls to this pool, with these options.

        Its shutdown is not that of the pool, which may have any number of executors.

        Example:
            await loop.run_in_executor(pool.as_executor(), resize, image)
        """
        from aiopool._pool.executor import PoolExecutor

        return PoolExecutor(self._state, self)

    def _check(self, what: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a call that is known to fail; from any thread."""
        check_function(function)
        if not _OPTION_NAMES.isdisjoint(kwargs):
            _check_misplaced(function, kwargs)
        check_call(what, function, args, kwargs)

    # -- options -----------------------------------------------------------------------------------------------------

    @explain_keywords
    def with_options(
        self,
        *,
        priority: int | Unset = UNSET,
        timeout: float | Unset | None = UNSET,
        queue_timeout: float | Unset | None = UNSET,
        total_timeout: float | Unset | None = UNSET,
        retry: Retry | Unset | None = UNSET,
        delay: float | Unset | None = UNSET,
        id: str | int | Unset | None = UNSET,
        name: str | Unset | None = UNSET,
        group: str | Unset | None = UNSET,
        key: Key | Unset | None = UNSET,
        metadata: Mapping[str, Any] | Unset | None = UNSET,
        run_at: datetime.datetime | Unset | None = UNSET,
        offload: Offload | Unset | None = UNSET,
        layers: Iterable[Layer] | Unset | None = UNSET,
        unique: str | Unset | None = UNSET,
        within: object | None = None,
    ) -> Submitter:
        """Return a view of the same pool that submits with other options; cheap, and good for many jobs.

        What is not given here comes from `@aiopool.job(...)` on the function, then from the group, then from the pool.

        Args:
            priority: lower goes first; equal ones in the order of submission. See `Priority`.
            timeout: seconds that one attempt may run. 0 is a limit; None is none.
            queue_timeout: seconds that the job may wait for its first attempt.
            total_timeout: seconds from submission to the end, delays and attempts included; not the time in which
                `submit` waits for room.
            retry: when to try again.
            delay: seconds until the job enters the queue.
            id: your own name for the one job that is submitted with it; unique among live jobs.
            name: what the job is called in logs.
            group: the name of the group that the job joins.
            key: what the job has to do with, such as a tenant or a host: jobs of one key share the limit that the
                pool sets for it (`limits`, `key_limit`, `lanes`). Several: a tuple.
            metadata: a small mapping that you read again as `job.metadata`, in events and in records of the job.
            run_at: the moment at which the job enters the queue, in place of `delay`: a datetime with a time zone. At
                once, if it is over.
            offload: where a plain function runs: in a `"thread"`; in a `"process"` that the pool keeps, and kills if
                the job is cancelled or its time is over; in an `"interpreter"` of its own (Python 3.13); or on the
                `"dask"` cluster of the pool.
            layers: what is done around each attempt: `async def layer(job, call)`, the outermost first; inside of those
                of the pool, the group and the function. None: none at all.
            unique: of a pool with a store: at most one live job has this text. A submission that finds one returns that
                job, and submits nothing.
            within: of a pool with a store that is a database: an open connection of yours to it. The job is written in
                its transaction, and is there when you commit. See the store.

        Raises:
            TypeError, ValueError: an option has a value that it cannot have.

        Example:
            urgent = pool.with_options(priority=Priority.HIGH, timeout=5)
            job = await urgent.submit(fetch, url)
        """
        if (
            priority is timeout is queue_timeout is total_timeout is retry is name is group is UNSET
            and metadata is run_at is offload is layers is UNSET
        ):
            view = self._for_one_job(id, delay, key, unique)
            if within is not None:
                view._set_within(within)
            return view
        options = object.__new__(JobOptions)
        _set_options(  # a view may be made for each job, and the names have been checked
            options,
            priority=priority,
            timeout=timeout,
            queue_timeout=queue_timeout,
            total_timeout=total_timeout,
            retry=retry,
            delay=delay,
            id=id,
            name=name,
            group=group,
            key=key,
            metadata=metadata,
            run_at=run_at,
            offload=offload,
            layers=layers,
            unique=unique,
        )
        view = self._with(options)
        if within is not None:
            view._set_within(within)
        return view

    def _with(self, options: JobOptions) -> Submitter:
        if self._origin is not None:
            options = options.over(JobOptions(id=self._id, delay=self._delay, key=self._key, unique=self._unique))
        view = Submitter(self._state, options.over(self._options), self._base, self._block)
        view._within = self._within
        return view

    def _set_within(self, connection: object) -> None:
        if self._state.durability is None:
            raise _store_needed(f"within={connection!r}")
        self._within = connection

    def _for_one_job(
        self,
        id: str | int | Unset | None,
        delay: float | datetime.datetime | Unset | None,
        key: Key | Unset | None,
        unique: str | Unset | None,
    ) -> Submitter:
        """Return a view with another id, delay, key or `unique`, and the specs of this one."""
        if id is UNSET:
            id = self._id
        elif id is not None:
            check_id(id)
        if delay is UNSET:
            delay = self._delay
        elif delay is not None and not isinstance(delay, datetime.datetime):
            check_seconds("delay", delay)
        if key is UNSET:
            key = self._key
        elif key is not None:
            check_key(key)
        if unique is UNSET:
            unique = self._unique
        elif unique is not None:
            check_unique(unique)
        view = object.__new__(Submitter)
        view._state, view._options, view._base, view._block = self._state, self._options, self._base, self._block
        view._origin = self._origin or self
        view._known = _nothing
        view._key = key
        view._within = self._within
        view._set_own(id, delay, unique)
        return view

    def _map_specs(
        self, function: Callable[..., Any], options: JobOptions | Callable[[Any], JobOptions] | None
    ) -> tuple[JobSpec, Callable[[Any], tuple[JobSpec, int | str | None, float]] | None]:
        """Return the spec of the jobs of a map, and what returns the spec, id and delay of one if they differ."""
        view = self._with(options) if isinstance(options, JobOptions) else self
        spec = view._look_up(function)
        if not spec.least <= 1 <= spec.most:
            check_call("map", function, (None,), {})
        if view._id is not None:
            raise ValueError(
                f"map() makes many jobs, and id={view._id!r} is the name of one: write "
                f"with_options(group={view._id!r}) to find them all, or give each an id of its own: "
                f"map(..., options=lambda item: JobOptions(id=item))"
            )
        if options is None or isinstance(options, JobOptions):
            own: Callable[[Any], JobOptions] | None = (lambda item: JobOptions()) if view._delay else None
        elif callable(options):
            own = options
        else:
            raise TypeError(
                f"options={options!r} is a {type(options).__name__}: write options=JobOptions(timeout=5), or a "
                "function that returns one for an item"
            )
        return spec, None if own is None else functools.partial(view._spec_for, function, own)

    def _spec_for(
        self, function: Callable[..., Any], choose: Callable[[Any], JobOptions], item: Any
    ) -> tuple[JobSpec, int | str | None, float]:
        """Return the spec, the id and the delay of the job of one item of a map."""
        options: object = choose(item)
        if not isinstance(options, JobOptions):
            raise TypeError(
                f"options({item!r}) returned {options!r} ({type(options).__name__}): it must return a JobOptions, such "
                "as JobOptions(timeout=5); JobOptions() changes nothing"
            )
        if is_for_one_job(options):
            view = self._for_one_job(options.id, options.delay, options.key, options.unique)
        else:
            view = self._with(options)
        engine = self._state.engine
        assert engine is not None
        return view._look_up(function), view._id, view._delay_now(engine)

    def _look_up(self, function: Callable[..., Any]) -> JobSpec:
        """Return the spec for a function, checked; and remember it, for the next call is likely to be for the same."""
        if self._origin is not None:
            origin = self._origin
            spec = origin._known_spec if function is origin._known() else origin._look_up(function)
            if self._key is UNSET:
                return spec
            spec = spec.with_key(self._key)
            if type(function) is FunctionType:
                self._known, self._known_spec = weakref.ref(function), spec
            return spec
        try:
            offload = not check_function(function)
        except TypeError:
            if isinstance(function, CoroutineType) and function.cr_code in _OWN:
                raise TypeError(
                    "what pool.submit(...) or pool.run(...) returns is to be awaited, not submitted: write "
                    "`await pool.run(fetch, url)` for the result, or `job = await pool.submit(fetch, url)` for the job"
                ) from None
            raise
        name, own = function_name(function), function_options(function)
        takes = arity(function)
        key = name, offload, id(own), takes
        known = self._specs.get(key)
        if known is None or known[0] is not own:
            options = self._options if own is None else self._options.over(own)
            spec = JobSpec(
                options.over(self._base), name, self._state, offload=offload, arity=takes, limits=self._state.limits
            )
            if options.offload is not UNSET and options.offload is not None and not offload:
                raise TypeError(
                    f"{name} is an async def, which runs in the event loop, and offload={options.offload!r} is for "
                    f"plain functions: write `def {name}(...)`, or leave the option out"
                )
            if len(self._specs) >= MAX_SPECS:
                self._specs.clear()
            self._specs[key] = own, spec
        else:
            spec = known[1]
        if spec.runner == "dask" and self._state.dask is None and self._state.durability is None:
            raise ValueError(
                f'{name} is to run on a Dask cluster, and this pool knows none: write Pool(dask="tcp://scheduler:8786")'
            )
        if spec.sent:
            from aiopool._runtime.pickled_call import check_sendable

            copied = spec.runner == "process" and self._state.start_method == "fork"
            check_sendable(function, spec.runner or "", copied=copied)
        if type(function) is FunctionType:
            # Weakly: a pool keeps no function alive.
            self._known, self._known_spec, self._known_keywords = weakref.ref(function), spec, None
        return spec

    def _check_keywords(
        self,
        what: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        keywords: tuple[Any, ...],
    ) -> None:
        """Refuse keyword arguments that the function does not take; and remember those that it does."""
        if not _OPTION_NAMES.isdisjoint(kwargs):
            _check_misplaced(function, kwargs)
        check_call(what, function, args, kwargs)
        if function is self._known():
            self._known_keywords = keywords

    # -- room --------------------------------------------------------------------------------------------------------

    async def _submit_when_space(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, patient: bool = False
    ) -> Job[Any]:
        """Hand in a call that found no room, as the overflow policy says; a patient one waits, whatever it says.

        Or one that goes to a store.
        """
        if self._state.durability is not None:
            return await self._submit_to_store(self._state.durability, function, args, kwargs)
        engine, job = self._make(function, args, kwargs)
        self._state.check_accepting(job)
        has_room = not engine.admission.is_full() or (not patient and self._apply_overflow(engine, job, nowait=False))
        if has_room:
            self._take_in(engine, job)
            return job
        if self._block is not None:
            self._block.add(job)
        try:
            await engine.enter_when_space(job)
        except asyncio.CancelledError:
            engine.admission.withdraw(job)
            raise
        return job

    def _submit_or_refuse(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]:
        """Hand in a call that found no room if the overflow policy makes some; never wait."""
        if self._state.durability is not None:
            raise RuntimeError(
                "submit_nowait() does not wait, and a job of a store is there when it is committed: write `await "
                "pool.submit(...)`"
            )
        engine, job = self._make(function, args, kwargs)
        self._state.check_accepting(job)
        self._apply_overflow(engine, job, nowait=True)
        self._take_in(engine, job)
        return job

    def _take_in(self, engine: Engine, job: Job[Any]) -> None:
        """Take in a job for which there is room, or another one was dropped."""
        if self._block is not None:
            self._block.add(job)
        engine.enter(job)
        engine.admission.admit()  # one that starts later takes no room: what was dropped for it has left some

    async def _submit_to_store(
        self, durability: Durability, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any]:
        """Hand in a call to the store of the pool."""
        self._state.check_accepting()
        spec = self._known_spec if function is self._known() else self._look_up(function)
        call = StoreCall(spec, function, args, kwargs, self._id, self._delay, self._unique, self._within, self._block)
        return await durability.submit(call)

    def _make(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Engine, Job[Any]]:
        """Make a job that is not taken in yet."""
        spec = self._look_up(function)
        engine = self._state.engine
        assert engine is not None
        if kwargs:
            function = functools.partial(function, **kwargs)  # they have been checked
        if spec.sent:
            function, args = _pickle("submit", function, args)
        return engine, engine.make(spec, function, args, self._block, self._id, self._delay_now(engine))

    def _apply_overflow(self, engine: Engine, job: Job[Any], *, nowait: bool) -> bool:
        """Apply the overflow policy: whether there is room now. Raises if the job is refused."""
        policy = self._state.overflow
        if policy == "drop_oldest" or policy == "drop_lowest":
            victim = engine.droppable(oldest=policy == "drop_oldest")
            if victim is not None and (policy == "drop_oldest" or victim.priority > job.priority):
                engine.counters.dropped += 1
                engine.evict(victim, JobDroppedError(f"{victim!r} was dropped for {job!r}: overflow={policy!r}"))
                return True
        elif policy == "wait" and not nowait:
            return False
        engine.counters.submitted += 1
        engine.counters.rejected += 1
        raise QueueFullError(
            f"{job!r} was refused: {engine.queued()} jobs are queued (queue_size={engine.admission.capacity:g}) and "
            f"{engine.slots.active} of {engine.slots.size} slots are taken. Use `await pool.submit(...)` with "
            'overflow="wait" to wait for room'
        )


# What gives a coroutine that a newcomer might submit.
_OWN = (Submitter.submit.__code__, Submitter.run.__code__)


def _pickle(what: str, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[()]]:
    """Return a call that goes to another process or interpreter."""
    from aiopool._runtime.pickled_call import pickle_call  # few pools need it

    least, most = arity(function)
    if not least <= len(args) <= most:
        check_call(what, function, args, {})
    return pickle_call(function, args), ()


def _nothing() -> object:
    """No function is known yet; and no function is this one."""
    return _nothing


def _store_needed(option: str) -> ValueError:
    return ValueError(
        f"{option} is for the jobs of a store, and this pool has none: write "
        'Pool(store="sqlite:///jobs.db", handlers=...)'
    )


def _check_misplaced(function: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    """Refuse job options among the arguments, if the function would not take them."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin that does not tell
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    misplaced = [name for name in kwargs if name in _OPTION_NAMES and name not in signature.parameters]
    if misplaced:
        options = ", ".join(f"{name}={kwargs[name]!r}" for name in misplaced)
        name = function_name(function)
        raise TypeError(
            f"{name}() takes no argument {misplaced[0]!r}; that is an option of the job. "
            f"Write pool.with_options({options}).submit({name}, ...)"
        )
