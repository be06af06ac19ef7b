"""`StoreJobs`: the jobs of one pool in its store. It wires the parts together, and is what the pool knows as its
`Durability`.

    submit ──▶ flusher ──▶ store.submit ──▶ queued there ── claimer ──▶ an attempt here, or in another process
                                       └──▶ running at once, if a slot is free here and nobody waits
    an attempt ends ──▶ flusher ──▶ store.settle ──▶ its handle, here or elsewhere, ends

The order of the end: claim no more; keep the leases; let what runs end, or give it back; write the ends, then what was
submitted; let go of the leases; close.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from typing import Any, final

from aiopool._durable.attempts import Attempts
from aiopool._durable.cancels import Cancels
from aiopool._durable.claimer import Claimer
from aiopool._durable.handlers import Handlers
from aiopool._durable.handles import Handles, current_job_id
from aiopool._durable.keeper import LeaseKeeper
from aiopool._durable.lookout import Lookout
from aiopool._durable.plans import Plans, limit_rows
from aiopool._durable.submissions import Submissions
from aiopool._durable.sweeper import Sweeper
from aiopool._engine.engine import Engine
from aiopool._jobs.job import Job
from aiopool._observe.store_numbers import StoreNumbers
from aiopool._pool.cancel_report import CancelReport
from aiopool._pool.durability import Role, StoreCall
from aiopool._pool.fleet import Fleet
from aiopool._pool.state import PoolState
from aiopool._runtime import failpoints
from aiopool._runtime.ending import end_tasks
from aiopool._runtime.faults import log_fault
from aiopool.errors import PoolClosedError, StoreError
from aiopool.stores._open import open_store
from aiopool.stores._protocol import Store, Wake
from aiopool.stores._rows import Incarnation

__all__ = ["StoreJobs", "store_jobs"]

logger = logging.getLogger("aiopool.store")

# Seconds that the end of a pool takes at most, for what is left to write.
CLOSE_SECONDS = 5.0
# Seconds between two tries to open a store again.
REOPEN_AFTER = 1.0

_NOTHING = StoreNumbers(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, None)


@final
class StoreJobs:
    """See the module. All parts but the store are made anew at each opening."""

    submissions: Submissions
    cancels: Cancels

    def __init__(self, state: PoolState, store: Store, handlers: Handlers, role: Role) -> None:
        self.store = store
        self.fleet = Fleet(store, self.watch)
        self._runs_jobs = role != "producer"
        self._starts = role == "both"
        self._limits = limit_rows(state.limits)
        self._state = state
        self._handlers = handlers
        self._is_open = self._closing = False

    @property
    def engine(self) -> Engine:
        """The engine of the open pool."""
        engine = self._state.engine
        assert engine is not None
        return engine

    # -- open and close ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `Durability`."""
        self._make_parts()
        if self._runs_jobs and self._state.dask is None:
            self.plans.refuse("dask", 'is to run on a Dask cluster: write Pool(dask="tcp://scheduler:8786"), too')
        await self._connect()
        self._is_open = True
        self.lookout.begin()
        if self._runs_jobs:
            await self._sweep_first()
            self.claimer.begin()
            self.sweeper.begin()
            for handler in self._handlers:
                if handler.every is not None:
                    self.plans.view.every(handler.every, handler.function, tz=handler.tz, missed=handler.missed)

    def _make_parts(self) -> None:
        store, engine, ready = self.store, self.engine, asyncio.Event()
        runtime, observers = engine.runtime, self._state.observers
        self._ready = ready
        self._closing = False
        self._joining = 0
        self._background: set[asyncio.Task[Any]] = set()
        self._keeper: LeaseKeeper | None = None
        handles = self.handles = Handles(
            self._state.name, engine, self._handlers, lambda id, reason: self.cancels.soon(id, reason)
        )
        self.plans = Plans(self._state, self._handlers, handles)
        self.attempts = Attempts(store, engine, ready, self._handlers, self.plans, handles)
        handles.is_here = self.attempts.is_here
        self.claimer = Claimer(
            store,
            engine,
            ready,
            self.attempts.start,
            self.attempts.cancel,
            lambda: self.attempts.give_back_unknown(self.submissions.starting),
        )
        self.attempts.released = self.claimer.hint
        self.submissions = Submissions(
            store,
            runtime,
            ready,
            self.plans,
            handles,
            self.claimer,
            me=lambda: self.me,
            starts=self._starts,
            start=self.attempts.start,
        )
        self.sweeper = Sweeper(store, runtime, ready, lambda: self._handlers.names, self.claimer.hint)
        self.lookout = Lookout(
            store,
            runtime,
            ready,
            handles,
            self.attempts,
            runs_jobs=self._runs_jobs,
            counts=lambda: observers.recorder is not None,
        )
        self.cancels = Cancels(
            store,
            runtime,
            ready,
            self.submissions,
            self.attempts,
            look_again=self.lookout.look_again,
            watch=self.watch,
            is_open=lambda: self._is_open,
        )

    async def _connect(self) -> None:
        """Open the store as a new incarnation."""
        self.me = Incarnation(uuid.uuid4().hex, socket.gethostname(), os.getpid(), self._runs_jobs)
        await self.store.open(self._state.name, self.me, self._on_wake)
        try:
            if self._limits:
                await self.store.set_limits(self._limits)
            keeper = self.store.keeper() if self._runs_jobs else None
            if keeper is not None:
                assert self.store.lease is not None
                self._keeper = LeaseKeeper(keeper, self.store.lease, self.engine.runtime, self._lease_lost)
                await self._keeper.begin()
        except BaseException:
            if self._keeper is not None:
                await self._keeper.stop()
                self._keeper = None
            await self.store.close()
            raise
        self._ready.set()

    async def _sweep_first(self) -> None:
        """Take back the jobs of the dead before the first claim: they stand before those that came later."""
        try:
            while (await self.store.sweep(self._handlers.names)).more:
                pass
        except StoreError as error:
            log_fault(logger, "the store cannot be swept: %s", error, fields={}, level=logging.WARNING)

    def stop_claiming(self) -> None:
        """See `Durability`."""
        self._closing = True
        if self._is_open:
            self.attempts.closing = True
            self.claimer.stop()

    async def close(self) -> None:
        """See `Durability`."""
        if not self._is_open:
            return
        self._is_open = False
        self._ready.set()  # whoever waits for the store to be opened again hears that it will not be
        flushers = (self.cancels.flusher, self.attempts.flusher, self.submissions.flusher)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.claimer.end()
                for flusher in flushers:
                    await flusher.drain()
        except TimeoutError:
            text = "pool %s has closed, and %d ends of its jobs are not written: another process will run them again"
            log_fault(logger, text, self._state.name, len(self.attempts.flusher), fields={})
        for flusher in flushers:
            flusher.give_up()
            await flusher.drain()
        await self.sweeper.stop()
        await self.lookout.stop()
        self.handles.close()
        await end_tasks(*self._background)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._keeper is not None:
                    await self._keeper.stop()
                if failpoints.ACTIVE:
                    failpoints.reach("close.before")
                await self.store.close()
        except (TimeoutError, StoreError) as error:
            log_fault(logger, "the store of pool %s could not be closed", self._state.name, error=error, fields={})

    # -- a lease that was lost -----------------------------------------------------------------------------------------

    def _lease_lost(self) -> None:
        """This process was taken for dead: what it runs is somebody else's. Begin anew, as another."""
        if self._closing or not self._is_open or not self._ready.is_set():
            return
        self._ready.clear()
        text = "the lease of pool %s was lost (the process was frozen, or cut off): its %d jobs run elsewhere now"
        log_fault(logger, text, self._state.name, len(self.attempts.runs), fields={})
        self.attempts.lose_all()
        task = self.engine.runtime.task(self._begin_anew(), "aiopool-store-reopen")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _begin_anew(self) -> None:
        if self._keeper is not None:
            await self._keeper.stop()
            self._keeper = None
        while not self._closing:
            try:
                await self.store.close()
                await self._connect()
            except Exception as error:
                log_fault(logger, "the store cannot be opened again: %s", error, fields={}, level=logging.WARNING)
                await asyncio.sleep(REOPEN_AFTER)
            else:
                self.claimer.hint()
                return

    # -- what the pool asks --------------------------------------------------------------------------------------------

    async def submit(self, call: StoreCall) -> Job[Any]:
        """See `Durability`."""
        return await self.submissions.submit(call)

    def hand_in(self, call: StoreCall) -> Job[Any]:
        """See `Durability`."""
        return self.submissions.hand_in(call)

    def submit_tick(self, periodic: Any, call: StoreCall, about: str, due: float, *, skips: bool) -> Job[Any]:
        """See `Durability`."""
        return self.submissions.submit_tick(periodic, call, about, due, skips=skips)

    async def cancel(self, id: str, reason: str | None) -> CancelReport:
        """See `Durability`."""
        return await self.cancels.now(id, reason)

    def expect(self, job: Job[Any]) -> bool:
        """See `Durability`."""
        ours = job._spec.owner is self.handles
        if ours:
            self.handles.expect(job)
        return ours

    async def join(self) -> None:
        """See `Durability`."""
        engine = self.engine
        joins = current_job_id() is not None
        self._joining += joins
        try:
            await engine.lending.wait_for(engine.runtime.task(self._join(), "aiopool-store-join"))
        finally:
            self._joining -= joins

    async def _join(self) -> None:
        await self.submissions.flusher.drain()
        await self.attempts.flusher.drain()
        try:
            await self.lookout.drained(lambda: self._joining)
        except StoreError:
            if self._is_open:
                raise
            raise PoolClosedError(
                f"pool {self._state.name!r} has closed, and its store had jobs that had not ended"
            ) from None

    def numbers(self) -> StoreNumbers:
        """See `Durability`."""
        if not self._is_open:
            return _NOTHING
        flushers = (self.submissions.flusher, self.attempts.flusher)
        since = [one.failing_since for one in (*flushers, self.claimer) if one.failing_since is not None]
        return StoreNumbers(
            commits=sum(flusher.writes for flusher in flushers),
            rows=sum(flusher.rows for flusher in flushers),
            waiting=sum(len(flusher) for flusher in flushers),
            leases=len(self.attempts.runs),
            claims=self.claimer.claims,
            claimed=self.claimer.jobs,
            lost=self.attempts.lost,
            rescued=self.sweeper.rescued,
            dead=self.sweeper.dead,
            outage=self.engine.now() - min(since) if since else 0.0,
            fleet=self.lookout.fleet,
        )

    def watch(self, id: str, name: str) -> Job[Any]:
        """Return a handle of a job that was submitted elsewhere."""
        found = self.handles.by_id.get(id)
        if found is not None:
            return found
        handler = self._handlers.get(name)
        function = _unknown if handler is None else handler.function
        spec = self.plans.view._look_up(function).with_priority(5)
        spec.owner, spec.name = self.handles, name or id
        return self.handles.make(spec, id, 0.0, None)

    def _on_wake(self, wake: Wake) -> None:
        if wake == "work":
            self.claimer.hint()
        elif wake == "cancel":
            self.claimer.look()
        else:
            self.lookout.look_again()


async def _unknown() -> None:
    """Stands for a function that is not known here."""


def store_jobs(state: PoolState, store: object, handlers: object, role: Role) -> StoreJobs:
    """Make what keeps the jobs of a pool in a store; checks what the user gave.

    Raises:
        TypeError, ValueError: it is no store, or no handlers.
    """
    if isinstance(store, str):
        store = open_store(store)
    elif not hasattr(store, "claim"):
        raise TypeError(f'store={store!r} is no store: write a URL, such as store="sqlite:///jobs.db"')
    if not isinstance(handlers, Handlers):
        raise TypeError(
            f"handlers={handlers!r}: a store keeps jobs by registered names: write handlers = aiopool.Handlers(), "
            'register functions with @handlers.register("name"), and Pool(store=..., handlers=handlers)'
        )
    found: Any = store
    return StoreJobs(state, found, handlers, role)
