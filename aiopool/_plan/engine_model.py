"""`Engine` and `Modelled`: a store that does what the reference store does, and takes as long as a real one.

    verb ──▶ processor of the host ──▶ network ──▶ queue at the engine ──▶ its seconds ──▶ network ──▶ answer

`Modelled` wraps one `Memory` object, and so is one incarnation. What it decides is `Memory`'s; only *when* is the
model's. Rows of a claim are taken when the engine begins with it (they are locked from then on), and what is submitted
or settled is seen by others when the engine has done it (that is the commit).

It refuses to know what a host is, and what the jobs are. It runs on any loop, and only a virtual one makes it quick.

Always true: a call occupies the engine for what the table of costs says, plus the disk; calls queue in the order in
which they came; nothing is lost that `Memory` has.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar, final

from aiopool._plan.costs import EngineCosts, Verb
from aiopool.errors import StoreUnavailableError
from aiopool.stores._memory import Memory
from aiopool.stores._protocol import Keeper, Wake
from aiopool.stores._rows import (
    CancelAnswer,
    Claim,
    Facts,
    Finished,
    Incarnation,
    LimitRow,
    NewJob,
    ScheduleRow,
    Settlement,
    StoredJob,
    StoredStatus,
    StoreStatistics,
    Submitted,
    SweepReport,
)

__all__ = ["Engine", "Modelled", "Processors"]

T = TypeVar("T")

# Bytes on the wire, besides the payload: of a row, and of a call.
ROW_BYTES: Final = 300
CALL_BYTES: Final = 200
# Seconds after which a host that is cut off is told so.
CONNECT_TIMEOUT: Final = 1.0
# Longer turns of a processor are cut into pieces, between which others get theirs.
SLICE: Final = 0.004


@final
class Processors:
    """Some processors, that are given in the order in which they were asked for.

    Attributes:
        busy: seconds that all of them worked.
    """

    def __init__(self, count: int) -> None:
        self.busy = 0.0
        self._free = [0.0] * count

    @property
    def first(self) -> float:
        """When the first of them is free."""
        return self._free[0]

    def take(self, seconds: float, begin: float) -> float:
        """Work for so many seconds, not before `begin`, and return the moment of the end."""
        end = max(begin, self._free[0]) + seconds
        heapq.heapreplace(self._free, end)
        self.busy += seconds
        return end


@final
class Engine:
    """What all stores of one fleet share: the engine, and the machine if it is only one.

    Attributes:
        busy: seconds that its servers worked, by what: a verb, `"empty"` (claims that found nothing), `"hints"`.
        calls, rows: how many there were, by verb.
        bytes: that went over the network.
        queued: seconds that calls waited for the engine, in sum.
        machine: the processors that all share; None: each host has its own.
    """

    def __init__(self, costs: EngineCosts, *, slow_disk: float = 0.0, payload: int = 200) -> None:
        """`slow_disk`: seconds that each commit takes longer than measured; `payload`: bytes of the arguments."""
        self.costs = costs
        self.slow_disk = slow_disk if costs.waits_for_disk else 0.0
        self.payload = payload
        self.busy: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self.rows: dict[str, int] = {}
        self.bytes = 0
        self.queued = 0.0
        self.machine = Processors(costs.cores) if costs.one_machine else None
        self.listeners = 0
        self._turn = asyncio.Semaphore(costs.servers)
        self._last: object = None
        self._telling: set[asyncio.Task[None]] = set()

    def count(self, verb: str, rows: int, seconds: float) -> None:
        """Note what a call was."""
        self.busy[verb] = self.busy.get(verb, 0.0) + seconds
        self.calls[verb] = self.calls.get(verb, 0) + 1
        self.rows[verb] = self.rows.get(verb, 0) + rows
        self.bytes += CALL_BYTES + rows * (ROW_BYTES + self.payload)

    def tell(self, seconds: float) -> None:
        """Occupy one server with hints, in turn."""
        task = asyncio.get_running_loop().create_task(self.use(self, lambda spend: asyncio.sleep(seconds)))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def use(
        self, who: object, steps: Callable[[Callable[[str, int, float], Awaitable[None]]], Awaitable[T]]
    ) -> T:
        """Have the engine carry out some steps, in turn; each may call `spend(verb, rows, seconds)`."""
        loop = asyncio.get_running_loop()
        came = loop.time()
        waits = self._turn.locked()
        async with self._turn:
            self.queued += loop.time() - came
            handoff = self.costs.handoff if waits and self._last is not who else 0.0
            self._last = who

            async def spend(verb: str, rows: int, seconds: float) -> None:
                seconds += handoff
                self.count(verb, rows, seconds)
                await _until(loop.time() + seconds if self.machine is None else self.machine.take(seconds, loop.time()))

            return await steps(spend)


@final
class Modelled:
    """One incarnation at the engine. See the module, and `Store`.

    Attributes:
        dead: its process was killed: no call of it arrives or returns any more.
        cut_until: until this moment (of the loop) nothing comes through between it and the engine.
        beaten_at: when its last heartbeat arrived.
        settled: called with each end that counted.
        processor: of its host.
    """

    def __init__(self, memory: Memory, engine: Engine, settled: Callable[[Settlement], object]) -> None:
        costs = engine.costs
        self.memory = memory
        self.engine = engine
        self.url = f"{costs.store}://model"
        self.durability = f"a model of {costs.store}"
        self.poll = costs.poll
        self.sweep_every = costs.sweep_every
        self.lease: float | None = None  # see `beat`: a keeper's thread has no part in virtual time
        self.max_payload = memory.max_payload
        self.keep = memory.keep
        self.dead = self.lost = False
        self.cut_until = self.beaten_at = 0.0
        self.processor = Processors(1)
        self._settled = settled
        self._listens = False

    # -- on the way ----------------------------------------------------------------------------------------------------

    async def _work(self, seconds: float) -> float:
        """Use the processor of the host, in one thread, and return the moment of the end, which may be to come."""
        loop = asyncio.get_running_loop()
        machine, mine = self.engine.machine, self.processor
        if machine is None:
            return mine.take(seconds, loop.time())
        while seconds > 0:
            await _until(mine.first)
            piece = min(seconds, SLICE)
            seconds -= piece
            end = machine.take(piece, loop.time())
            mine.take(end - loop.time(), loop.time())
            mine.busy += piece - (end - loop.time())
        return mine.first

    async def _travel(self, begin: float) -> None:
        """Go to the engine, or back, at a moment."""
        loop = asyncio.get_running_loop()
        await _until(begin + self.engine.costs.network / 2)
        if self.dead:
            await loop.create_future()
        if self.cut_until > loop.time():
            await asyncio.sleep(min(CONNECT_TIMEOUT, self.cut_until - loop.time()))
            if self.cut_until > loop.time():
                raise StoreUnavailableError(f"{self.url} does not answer: the host is cut off")
        if self.lost:
            raise StoreUnavailableError(f"{self.url}: the lease is lost")

    async def _call(self, name: str, verb: Verb, rows: int, do: Callable[[], Awaitable[T]], *, host: float) -> T:
        """Carry out a verb that becomes true at its end."""
        await self._travel(await self._work(host + verb.host(rows)))

        async def steps(spend: Callable[[str, int, float], Awaitable[None]]) -> T:
            await spend(name, rows, verb.engine(rows) + self.engine.slow_disk)
            return await do()

        answer = await self.engine.use(self, steps)
        await self._travel(asyncio.get_running_loop().time() + self.engine.costs.host.late)
        return answer

    def _hinted(self, on_wake: Callable[[Wake], object]) -> Callable[[Wake], object]:
        """Return what is called with a hint: it travels, and is lost if nothing comes through."""
        loop = asyncio.get_running_loop()

        delay = self.engine.costs.network / 2 + self.engine.costs.host.late

        def arrive(kind: Wake) -> None:
            if self.engine.costs.hinted and not self.dead and self.cut_until <= loop.time():
                on_wake(kind)

        return lambda kind: loop.call_later(delay, arrive, kind)

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    async def open(self, queue: str, me: Incarnation, on_wake: Callable[[Wake], object]) -> None:
        """See `Store.open`."""
        self.lost = False
        await self.memory.open(queue, me, self._hinted(on_wake))
        self._listens = me.runs_jobs
        self.engine.listeners += me.runs_jobs
        self.beaten_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """See `Store.close`."""
        self.engine.listeners -= self._listens
        self._listens = False
        if not self.dead:
            await self.memory.close()

    def keeper(self) -> Keeper | None:
        """Return None: see `beat`."""
        return None

    async def beat(self) -> None:
        """Send a heartbeat, from the loop of the simulation.

        Raises:
            StoreUnavailableError: it did not arrive, or came too late.
        """
        verb = self.engine.costs.beat

        async def nothing() -> None:
            """A tiny write, of which `Memory` needs nothing."""

        await self._call("beat", verb, 0, nothing, host=0.0)
        self.beaten_at = asyncio.get_running_loop().time()

    async def now(self) -> float:
        """See `Store.now`."""
        return await self.memory.now()

    # -- the way of a job ----------------------------------------------------------------------------------------------

    async def submit(self, jobs: Sequence[NewJob], *, within: object | None = None) -> list[Submitted]:
        """See `Store.submit`."""
        costs, engine = self.engine.costs, self.engine
        answers = await self._call(
            "submit", costs.submit, len(jobs), lambda: self.memory.submit(jobs, within=within),
            host=len(jobs) * costs.host.submit,
        )  # fmt: skip
        if costs.hint and costs.hinted and engine.listeners:
            engine.count("hints", 0, costs.hint * engine.listeners)
            # The engine tells them one after the other, beside its other work: it has less time for that.
            engine.tell(costs.hint * engine.listeners)
        return answers

    async def claim(self, limit: int) -> Claim:
        """See `Store.claim`."""
        costs = self.engine.costs
        await self._travel(await self._work(costs.claim.host_call))
        if costs.reads_are_free:
            answer = await self.memory.claim(0)
            if not answer.more or not limit:
                self.engine.count("look", 0, 0.0)
                await _until(await self._work(costs.empty.call))
                return answer

        async def steps(spend: Callable[[str, int, float], Awaitable[None]]) -> Claim:
            found = await self.memory.claim(limit)
            rows = len(found.jobs)
            if rows:
                await spend("claim", rows, costs.claim.engine(rows) + self.engine.slow_disk)
            else:
                await spend("empty", 0, costs.empty.call)
            return found

        answer = await self.engine.use(self, steps)
        begin = asyncio.get_running_loop().time() + costs.host.late
        if rows := len(answer.jobs):
            begin = costs.host.late + await self._work(rows * (costs.claim.host_row + costs.host.run / 2))
        await self._travel(begin)
        return answer

    async def settle(self, ends: Sequence[Settlement]) -> list[bool]:
        """See `Store.settle`."""
        costs = self.engine.costs

        async def do() -> list[bool]:
            counted = await self.memory.settle(ends)
            for end, counts in zip(ends, counted, strict=True):
                if counts:
                    self._settled(end)
            return counted

        return await self._call("settle", costs.settle, len(ends), do, host=len(ends) * costs.host.run / 2)

    async def sweep(self, names: Sequence[str]) -> SweepReport:
        """See `Store.sweep`."""
        verb = self.engine.costs.sweep
        if self.engine.costs.reads_are_free:
            await self._travel(await self._work(verb.call))
            return await self.memory.sweep(names)
        return await self._call("sweep", verb, 0, lambda: self.memory.sweep(names), host=0.0)

    async def cancel(self, ids: Sequence[str], reason: str | None) -> list[CancelAnswer]:
        """See `Store.cancel`."""
        verb = self.engine.costs.settle
        return await self._call("cancel", verb, len(ids), lambda: self.memory.cancel(ids, reason), host=0.0)

    async def report_progress(self, rows: Sequence[tuple[str, int, float, str]]) -> None:
        """See `Store.report_progress`."""
        verb = self.engine.costs.settle
        await self._call("progress", verb, len(rows), lambda: self.memory.report_progress(rows), host=0.0)

    async def finished(self, ids: Sequence[str]) -> list[Finished]:
        """See `Store.finished`."""
        verb = self.engine.costs.empty
        return await self._call("finished", verb, 0, lambda: self.memory.finished(ids), host=0.0)

    # -- what takes no time here: nobody does it often -----------------------------------------------------------------

    async def owned(self) -> list[tuple[str, int]]:
        """See `Store.owned`."""
        return await self.memory.owned()

    async def find(self, ids: Sequence[str]) -> list[StoredJob]:
        """See `Store.find`."""
        return await self.memory.find(ids)

    async def page(
        self,
        *,
        status: StoredStatus | None = None,
        name: str | None = None,
        group: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[StoredJob], str | None]:
        """See `Store.page`."""
        return await self.memory.page(status=status, name=name, group=group, limit=limit, cursor=cursor)

    async def statistics(self) -> StoreStatistics:
        """See `Store.statistics`."""
        return await self.memory.statistics()

    async def schedules(self, limit: int = 200) -> list[ScheduleRow]:
        """See `Store.schedules`."""
        return await self.memory.schedules(limit)

    async def set_paused(self, paused: bool) -> None:
        """See `Store.set_paused`."""
        await self.memory.set_paused(paused)

    async def set_limits(self, limits: Sequence[LimitRow]) -> None:
        """See `Store.set_limits`."""
        await self.memory.set_limits(limits)

    async def requeue(self, ids: Sequence[str] | None, status: StoredStatus | None) -> int:
        """See `Store.requeue`."""
        return await self.memory.requeue(ids, status)

    async def forget_history(self, older_than: float) -> int:
        """See `Store.forget_history`."""
        return await self.memory.forget_history(older_than)

    async def export(self, limit: int) -> list[StoredJob]:
        """See `Store.export`."""
        return await self.memory.export(limit)

    async def restore(self, jobs: Sequence[StoredJob]) -> None:
        """See `Store.restore`."""
        await self.memory.restore(jobs)

    async def forget_moved(self, ids: Sequence[str]) -> None:
        """See `Store.forget_moved`."""
        await self.memory.forget_moved(ids)

    async def facts(self) -> Facts:
        """See `Store.facts`."""
        return {"engine": self.durability, "warnings": []}


async def _until(moment: float) -> None:
    """Sleep until a moment of the loop's clock."""
    wait = moment - asyncio.get_running_loop().time()
    if wait > 0:
        await asyncio.sleep(wait)
