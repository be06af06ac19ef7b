"""A random walk over all verbs of a store, beside a model that says what each answer must be.

The model is written from what `_protocol.py` promises, and from no store: jobs in a dictionary, sorted anew for each
claim. It knows neither lines nor calls nor lanes as things; it counts.

Delays are odd multiples of 50 seconds and the clock goes on by multiples of 100, so that no moment is ever near: a
store whose clock runs by itself meanwhile gives the same answers.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fleet import Fleet, Peer
from kinds import Kind

from aiopool.stores._rows import ENDED, LimitRow, NewJob, Settlement, StoredStatus

__all__ = ["Walk"]

S = StoredStatus
OUTCOMES: list[Any] = ["succeeded", "failed", "timed_out", "cancelled", "dead", "retry", "retry", "release", "park"]
LANES = [(), (), (), ("one",), ("two",), ("one", "two"), ("two", "one"), ("key\x1fa",), ("key\x1fb", "one")]
NAMES = ["f", "g"]


@dataclass
class _Job:
    row: NewJob
    position: int
    created: float
    run_at: float
    state: str = "waits"  # "waits", "parked", "running", or a final one
    attempt: int = 0
    crashes: int = 0
    fence: int = 0
    owner: str | None = None
    cancelled: bool = False
    reason: str | None = None
    result: str | None = None
    life: float = 0.0  # when this life began: a job that was put back has a new one
    starts: int = 0
    allowed: int = 1  # starts that it may have had until now

    def over(self, now: float) -> bool:
        """Whether its time is over while it waits."""
        row = self.row
        queued_at = max(self.run_at, self.life) if self.attempt == 0 else None
        late = queued_at is not None and row.queue_timeout is not None and now >= queued_at + row.queue_timeout
        return late or (row.total_timeout is not None and now >= self.life + row.total_timeout)


@dataclass
class Walk:
    """One walk: `await Walk(fleet, kind, seed).go(steps)`."""

    fleet: Fleet
    kind: Kind
    seed: int
    jobs: dict[str, _Job] = field(default_factory=dict)
    limits: dict[str, int | None] = field(default_factory=dict)
    ticks: dict[str, float] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    now: float = 0.0
    paused: bool = False
    rescued: int = 0
    position: int = 0
    last_batch: list[NewJob] = field(default_factory=list)
    last_ends: list[Settlement] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    async def go(self, steps: int, look_every: int = 1) -> None:
        """Walk so many steps; an `AssertionError` shows the seed and the last ones."""
        verbs: list[Any] = [self.submit] * 5 + [self.claim] * 6 + [self.settle] * 5
        verbs += [self.cancel, self.cancel, self.requeue, self.sweep, self.resend, self.pause, self.limit]
        verbs += [self.advance] * 2 * self.kind.shifts + [self.kill] * self.kind.kills
        try:
            for _ in range(2):
                await self.fleet.join()
            for step in range(steps):
                verb = self.random.choice(verbs)
                self.log.append(verb.__name__)
                await verb()
                if any(job.state in ("waits", "parked") and job.over(self.now) for job in self.live()):
                    await self.sweep()  # until then a claim may end it, or not
                if step % look_every == 0:
                    await self.look()
            await self.look()
            await self.come_to_an_end()
        except AssertionError as error:
            error.add_note(f"seed {self.seed}, the last steps: {'; '.join(self.log[-12:])}")
            raise

    def peer(self) -> Peer:
        return self.random.choice(self.fleet.peers)

    def some(self, most: int) -> list[str]:
        ids = [*self.jobs, "nobody"]
        return self.random.sample(ids, min(len(ids), self.random.randint(1, most)))

    def say(self, text: object) -> None:
        self.log[-1] += f" {text}"

    # -- what the model thinks -------------------------------------------------------------------------------------

    def live(self) -> list[_Job]:
        return [job for job in self.jobs.values() if job.state not in ENDED]

    def room(self, lanes: tuple[str, ...], running: Counter[str]) -> bool:
        rules = ((lane, self.limits.get(lane.partition("\x1f")[0])) for lane in lanes)
        return all(most is None or running[lane] < most for lane, most in rules)

    def running(self) -> Counter[str]:
        return Counter(lane for job in self.jobs.values() if job.state == "running" for lane in job.row.lanes)

    def best(self, limit: int) -> list[str]:
        """Whom a claim must give."""
        running, ids = self.running(), []
        waiting = [job for job in self.jobs.values() if job.state == "waits" and job.run_at <= self.now]
        for job in sorted(waiting, key=lambda job: (job.row.priority, job.position)):
            if len(ids) < limit and not job.over(self.now) and self.room(job.row.lanes, running):
                running.update(job.row.lanes)
                ids.append(job.row.id)
        return [] if self.paused else ids

    def expect(self, row: NewJob) -> tuple[str, str]:
        """What a submission must be answered."""
        if row.id in self.jobs:
            return "same_id", row.id
        if row.tick is not None and row.tick[1] <= self.ticks.get(row.tick[0], 0.0):
            return "tick_over", row.id
        if row.unique is not None:
            for job in self.live():
                if job.row.unique == row.unique:
                    return "same_unique", job.row.id
        if row.tick is not None:
            self.ticks[row.tick[0]] = row.tick[1]
        self.position += 1
        self.jobs[row.id] = _Job(row, self.position, self.now, self.now + row.delay, life=self.now)
        return "queued", row.id

    # -- verbs -----------------------------------------------------------------------------------------------------

    async def submit(self) -> None:
        draw = self.random
        batch = [
            NewJob(
                draw.choice([*self.jobs, "x"]) if draw.random() < 0.1 else f"j{len(self.jobs)}-{draw.getrandbits(40)}",
                draw.choice(NAMES),
                "[]",
                priority=draw.choice([1, 5, 5, 9]),
                delay=draw.choice([0.0, 0.0, 0.0, 50.0, 150.0]),
                queue_timeout=draw.choice([None, None, None, 150.0, 350.0]),
                total_timeout=draw.choice([None, None, None, 250.0, 650.0]),
                max_crashes=draw.choice([1, 2, 3]),
                unique=draw.choice([None, None, None, "u", "v"]),
                lanes=draw.choice(LANES),
                tick=draw.choice([None] * 9 + [("s", float(draw.randint(1, 50)))]),
            )
            for _ in range(draw.randint(1, 4))
        ]
        await self.send(batch)

    async def send(self, batch: list[NewJob]) -> None:
        peer = self.peer()
        batch = [row._replace(submitter=row.submitter or peer.id) for row in batch]
        answers = await peer.store.submit(batch)
        self.say([row.id for row in batch])
        self.last_batch = batch
        for row, answer in zip(batch, answers, strict=True):
            assert answer[:2] == self.expect(row)
            if answer.outcome in ("same_id", "same_unique", "queued"):
                assert answer.submitter == self.jobs[answer.id].row.submitter

    async def claim(self) -> None:
        peer, limit = self.peer(), self.random.randint(0, 4)
        expected = self.best(limit)
        claim = await peer.store.claim(limit)
        got = claim.jobs
        self.say([job.id for job in got])
        assert [job.id for job in got] == expected, (self.limits, self.running())
        assert claim.paused == self.paused
        for taken in got:
            job = self.jobs[taken.id]
            assert taken.fence > job.fence
            job.state, job.fence, job.owner = "running", taken.fence, peer.id
            job.attempt += 1
            job.starts += 1
            assert job.starts <= job.allowed
            assert (taken.attempt, taken.crashes) == (job.attempt, job.crashes)
        asked = [job for job in self.jobs.values() if job.owner == peer.id and job.cancelled]
        assert sorted(claim.cancels) == sorted((job.row.id, job.fence, job.reason) for job in asked)
        for lane, count in self.running().items():
            most = self.limits.get(lane.partition("\x1f")[0])
            assert most is None or count <= most or not any(lane in self.jobs[job.id].row.lanes for job in got)

    async def settle(self) -> None:
        draw = self.random
        ends = []
        for id in self.some(4):
            fence = self.jobs[id].fence if id in self.jobs else 1
            outcome = draw.choice(OUTCOMES)
            delay = draw.choice([0.0, 50.0, 150.0]) if outcome == "retry" else 0.0
            ends.append(Settlement(id, fence - (draw.random() < 0.15), outcome, delay, str(draw.getrandbits(20))))
        running = [job for job in self.jobs.values() if job.state == "running"]
        for job in draw.sample(running, min(len(running), 3)):
            ends.append(Settlement(job.row.id, job.fence, draw.choice(OUTCOMES), 0.0, str(draw.getrandbits(20))))
        await self.finish(ends)

    async def finish(self, ends: list[Settlement]) -> None:
        answers = await self.peer().store.settle(ends)
        self.say([(end.id, end.outcome) for end in ends])
        self.last_ends = ends
        for end, answer in zip(ends, answers, strict=True):
            job = self.jobs.get(end.id)
            assert answer == (job is not None and job.state == "running" and job.fence == end.fence)
            if not answer or job is None:
                continue
            job.owner = None
            if end.outcome in ENDED:
                job.state, job.result = end.outcome, end.result
            elif job.cancelled and end.outcome in ("retry", "release", "park"):
                job.state = "cancelled"
            else:
                job.allowed += 1
                job.state = "parked" if end.outcome == "park" else "waits"
                if end.outcome == "retry":
                    job.run_at = max(job.run_at, self.now + end.delay)
                else:
                    job.attempt -= 1

    async def cancel(self) -> None:
        ids, reason = self.some(3), self.random.choice([None, "enough"])
        answers = await self.peer().store.cancel(ids, reason)
        self.say(ids)
        for id, answer in zip(ids, answers, strict=True):
            job = self.jobs.get(id)
            if job is None:
                assert answer == (id, "unknown")
            elif job.state in ENDED:
                assert answer == (id, "ended")
            elif job.state == "running":
                assert answer == (id, "running")
                if not job.cancelled:
                    job.cancelled, job.reason = True, reason
            else:
                assert answer == (id, "queued")
                job.state = "cancelled"

    async def requeue(self) -> None:
        ids = self.some(3)
        peer = self.peer()
        count = 0
        for id in ids:  # one by one: which of two with one `unique` comes back is not promised
            job = self.jobs.get(id)
            taken = job and job.row.unique and any(other.row.unique == job.row.unique for other in self.live())
            back = await peer.store.requeue([id], None)
            assert back == (job is not None and job.state in ENDED and not taken)
            if job is not None and back:
                count += 1
                job.state, job.attempt, job.crashes, job.cancelled, job.result = "waits", 0, 0, False, None
                job.run_at, job.life = self.now, self.now
                job.allowed = job.starts + 1
        self.say((ids, count))
        if count:  # where it stands in line is not promised either, nor how much time it has
            rows = {row.id: row for row in await peer.store.find(list(self.jobs))}
            for id, job in self.jobs.items():
                job.position = rows[id].position
                if id in ids and job.life == self.now and job.state == "waits":
                    queue, total = rows[id].queue_until is not None, rows[id].total_until is not None
                    job.row = job.row._replace(
                        queue_timeout=job.row.queue_timeout if queue else None,
                        total_timeout=job.row.total_timeout if total else None,
                    )
            self.position = max(job.position for job in self.jobs.values())

    async def sweep(self) -> None:
        names = self.random.choice([[], ["f"], ["f", "g"]])
        report = await self.peer().store.sweep(names)
        self.say(names)
        rescued = timed_out = unparked = 0
        for job in self.live():
            if job.owner in self.dead:
                rescued += 1
                job.owner = None
                job.crashes += 1
                job.allowed += 1
                if job.cancelled:
                    job.state = "cancelled"
                else:
                    job.state = "dead" if job.crashes >= job.row.max_crashes else "waits"
            elif job.state == "parked" and job.row.name in names and not job.over(self.now):
                unparked += 1
                job.state = "waits"
        for job in self.live():
            if job.state in ("waits", "parked") and job.over(self.now):
                timed_out += 1
                job.state = "timed_out"
        self.rescued += rescued
        self.dead.clear()
        assert report.unparked >= unparked
        assert (report.purged, report.more) == (0, False)
        assert report.rescued <= rescued <= report.rescued + report.dead
        assert report.timed_out <= timed_out

    async def resend(self) -> None:
        self.say("batch" if (batch := self.random.random() < 0.5) else "ends")
        await (self.send(self.last_batch) if batch else self.finish(self.last_ends))

    async def pause(self) -> None:
        self.paused = not self.paused and self.random.random() < 0.3
        await self.peer().store.set_paused(self.paused)

    async def limit(self) -> None:
        rule, most = self.random.choice(["one", "two", "key"]), self.random.choice([1, 1, 2, 3, None])
        self.limits[rule] = most
        self.say((rule, most))
        await self.peer().store.set_limits([LimitRow(rule, most, None, 1)])

    async def advance(self) -> None:
        seconds = self.random.choice([100.0, 200.0])
        await self.fleet.maker.shift_clock(seconds)
        self.now += seconds
        await self.sweep()

    async def kill(self) -> None:
        peer = self.peer()
        await self.fleet.kill(peer)
        self.say(peer.id)
        self.dead.add(peer.id)
        await self.fleet.join()
        if not self.fleet.peers[1:]:
            await self.fleet.join()
        await self.sweep()

    # -- looking ---------------------------------------------------------------------------------------------------

    def status(self, job: _Job) -> set[StoredStatus]:
        if job.state == "waits":
            return {S.SCHEDULED, S.QUEUED, S.LIMITED}
        return {S(job.state)}

    async def look(self) -> None:
        """Compare all that can be seen."""
        peer = self.peer()
        rows = {row.id: row for row in await peer.store.find(list(self.jobs))}
        assert set(rows) == set(self.jobs)
        for id, job in self.jobs.items():
            row = rows[id]
            assert row.status in self.status(job), (id, row.status, job)
            assert (row.attempt, row.crashes, row.owner) == (job.attempt, job.crashes, job.owner), (id, row, job)
            if job.state == "waits" and job.run_at > self.now:
                assert row.status is S.SCHEDULED
            if job.state == "succeeded":
                assert row.result == job.result
        ends = {end.id: end.status for end in await peer.store.finished(list(self.jobs))}
        assert ends == {id: S(job.state) for id, job in self.jobs.items() if job.state in ENDED}
        for one in self.fleet.peers:
            mine = [(job.row.id, job.fence) for job in self.jobs.values() if job.owner == one.id]
            assert sorted(await one.store.owned()) == sorted(mine)
        numbers = await peer.store.statistics()
        assert sum(numbers.live.values()) == len(self.live())
        assert sum(numbers.ended.values()) == len(self.jobs) - len(self.live())
        assert numbers.rescued == self.rescued
        counts = Counter(row.status for row in rows.values())
        assert {s: n for s, n in {**numbers.live, **numbers.ended}.items() if n} == dict(counts)

    async def come_to_an_end(self) -> None:
        """With places for all and time for all, each job ends: none was forgotten."""
        await self.peer().store.set_paused(False)
        self.paused = False
        if self.kind.shifts:
            await self.fleet.maker.shift_clock(1000.0)
            self.now += 1000.0
        self.log.append("the end")
        for _ in range(10 + 2 * len(self.jobs)):
            await self.peer().store.sweep(NAMES)
            for peer in self.fleet.peers:
                await peer.store.claim(5)
                held = await peer.store.owned()
                await peer.store.settle([Settlement(id, fence, "succeeded") for id, fence in held])
            numbers = await self.peer().store.statistics()
            if not sum(numbers.live.values()) - (0 if self.kind.shifts else numbers.live[S.SCHEDULED]):
                return
        raise AssertionError(f"jobs are left over: {numbers.live}")
