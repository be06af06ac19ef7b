"""The account: what the journals say, held against what the store says. It knows no process and no store.

Rule 1: it is conservative. An execution lasts from the line after its start to the line before its end; one whose
process was killed, to the moment before the kill. So what overlaps here did overlap.

Rule 2: where leases are kept (`Conditions.leases`), a host that was frozen or cut off may lose what it holds, and not
know it for a while. What such a host did is counted apart, never excused for one that nobody disturbed.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Final, NamedTuple, final

from aiopool._torture.journal import Event
from aiopool._torture.work import LANES, PACE, POISON_CRASHES
from aiopool.stores._rows import ENDED, StoredJob, StoredStatus

__all__ = ["Account", "Conditions", "Violation", "account"]

# Seconds by which two clocks of one machine, or two readings of one, may differ.
SLACK: Final = 0.01


class Violation(NamedTuple):
    """A promise that was not kept: which one, for which job, and what shows it."""

    promise: str
    id: str
    text: str


@dataclass(frozen=True)
class Conditions:
    """How it was.

    Attributes:
        leases: the store keeps leases, by a clock; else the kernel tells who lives.
        finished: all work could be done in the end: nothing may be left.
    """

    leases: bool = False
    finished: bool = True


@dataclass
class Account:
    """The outcome.

    Attributes:
        violations: promises that were not kept; none, if all is well.
        overlaps: executions beside another one of the same job, after a lost lease.
        restarts: seconds from the death of a process to the next start of each job that it ran; of those where another
            host was open all the time, and nobody had disturbed it.
    """

    acknowledged: int = 0
    executions: int = 0
    crashes: int = 0
    overlaps: int = 0
    cancelled: int = 0
    restarts: list[float] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    def restart_seconds(self) -> tuple[float, float] | None:
        """Return the median and the maximum of `restarts`."""
        return (median(self.restarts), max(self.restarts)) if self.restarts else None


@dataclass
class _Execution:
    id: str
    name: str
    pid: int
    token: str
    attempt: int
    fence: int | None
    start: float
    lanes: list[str]
    end: float = math.inf
    how: str | None = None  # None: its process died


def account(events: Sequence[Event], rows: Iterable[StoredJob], conditions: Conditions) -> Account:
    """Hold the journals against the rows of the store.

    Args:
        events: of all journals, in order; those of the tormentor, too.
        rows: all rows of the store; one that is there twice shows twice.
        conditions: how it was.
    """
    return _Accountant(events, rows, conditions).result()


@final
class _Accountant:
    def __init__(self, events: Sequence[Event], rows: Iterable[StoredJob], conditions: Conditions) -> None:
        self._account = Account()
        self._conditions = conditions
        self._rows: dict[str, StoredJob] = {}
        for row in rows:
            if row.id in self._rows:
                self._bad("one state", row.id, f"it is {self._rows[row.id].status} and {row.status}")
            self._rows[row.id] = row
        self._events: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            self._events[event["what"]].append(event)
        self._dead = self._deaths(events)
        self._disturbed = self._disturbances()
        born = {event["pid"] for event in self._events["host"]}
        self._hosts = {event["pid"]: event["at"] for event in self._events["open"] if event["pid"] in born}
        self._executions = self._read_executions()
        self._by_job: dict[str, list[_Execution]] = defaultdict(list)
        for execution in self._executions:
            self._by_job[execution.id].append(execution)
        self._asked = {event["id"] for event in self._events["cancel"]}
        self._submits = {event["id"]: event for event in self._events["submit"]}

    def _bad(self, promise: str, id: str, text: str) -> None:
        self._account.violations.append(Violation(promise, id, text))

    # -- what was ------------------------------------------------------------------------------------------------------

    def _deaths(self, events: Sequence[Event]) -> dict[int, float]:
        """Return the moment at which each process surely still lived, of those that are gone."""
        last: dict[int, float] = {}
        for event in events:
            if event["what"] not in _OURS:
                last[event["pid"]] = event["at"]
        dead: dict[int, float] = {}
        for event in self._events["exit"]:
            dead[event["victim"]] = last.get(event["victim"], 0.0)
        for event in self._events["kill"]:
            if event["how"] == "SIGKILL" and event["victim"] in dead:
                dead[event["victim"]] = max(dead[event["victim"]], event["at"])
        return dead

    def _disturbances(self) -> dict[int, list[float]]:
        """Return the moments at which a host was frozen or cut off; those of all hosts are under 0."""
        found: dict[int, list[float]] = defaultdict(list)
        for event in self._events["disturb"]:
            found[event.get("victim") or 0].append(event["at"])
        for event in (*self._events["full"], *self._events["free"], *self._events["stopping"]):
            found[event["pid"]].append(event["at"])
        for moments in found.values():
            moments.sort()
        return found

    def _is_disturbed(self, execution: _Execution, until: float) -> bool:
        """Whether its host may have lost its lease before a moment. What happened shortly before it counts, too."""
        for pid in (execution.pid, 0):
            moments = self._disturbed.get(pid, [])
            at = bisect_right(moments, until)
            if at and moments[at - 1] > execution.start - 60.0:
                return True
        return False

    def _read_executions(self) -> list[_Execution]:
        found: dict[str, _Execution] = {}
        for event in self._events["start"]:
            found[event["token"]] = _Execution(
                event["id"],
                event["name"],
                event["pid"],
                event["token"],
                event["attempt"],
                event["fence"],
                event["at"],
                event.get("lanes", []),
            )
        for event in self._events["end"]:
            execution = found.get(event["token"])
            if execution is not None:
                execution.end, execution.how = event["at"], event["how"]
        for execution in found.values():
            if execution.how is None:
                execution.end = max(execution.start, self._dead.get(execution.pid, math.inf))
        return sorted(found.values(), key=lambda execution: execution.start)

    # -- the promises --------------------------------------------------------------------------------------------------

    def result(self) -> Account:
        account = self._account
        account.executions = len(self._executions)
        account.ended = Counter(str(row.status) for row in self._rows.values())
        account.crashes = sum(row.crashes for row in self._rows.values())
        self._check_accepted()
        self._check_children()
        for row in self._rows.values():
            self._check_end(row)
            self._check_executions(row)
        self._check_owners()
        self._check_limits()
        self._check_pace()
        self._check_unique()
        self._check_cancels()
        self._check_awaited()
        self._check_delays()
        self._check_line()
        self._check_seen()
        return account

    def _check_accepted(self) -> None:
        for event in self._events["taken"]:
            self._account.acknowledged += 1
            id, other = event["id"], event.get("other")
            if other is not None:
                if other not in self._rows:
                    self._bad("accepted is kept", other, f"{id} was not taken because of it, and it is not there")
                if id in self._rows:
                    self._bad("accepted is kept", id, f"it was answered with {other}, and is there all the same")
            elif id not in self._rows:
                self._bad("accepted is kept", id, "it was acknowledged, and the store does not know it")
        for event in self._events["refused"]:
            self._bad("accepted once", event["id"], f"nobody else has this id, and it was refused: {event['error']}")
        known = self._submits.keys() | {event["id"] for event in self._events["child"]}
        for id, row in self._rows.items():
            if id not in known and row.parent is None:
                self._bad("accepted is kept", id, "nobody has handed it in")

    def _check_children(self) -> None:
        for event in self._events["child"]:
            row = self._rows.get(event["id"])
            if row is None:
                self._bad("accepted is kept", event["id"], "it was acknowledged to its parent, and is not there")
            elif row.parent != event["parent"]:
                self._bad(
                    "accepted is kept", event["id"], f"its parent is {event['parent']}, the row says {row.parent}"
                )
        for id, row in self._rows.items():
            if row.name == "parent" and row.status is StoredStatus.SUCCEEDED:
                wanted = self._submits[id]["args"][0] if id in self._submits else 0
                there = sum(f"{id}/{number}" in self._rows for number in range(wanted))
                if there != wanted:
                    self._bad("accepted is kept", id, f"it succeeded with {there} of {wanted} children")

    def _check_end(self, row: StoredJob) -> None:
        status = row.status
        if status is StoredStatus.CANCELLED:
            if row.id not in self._asked:
                self._bad("ends", row.id, "it was cancelled, and nobody had asked for that")
            return
        wanted = {"poison": StoredStatus.DEAD, "nobody": StoredStatus.PARKED}.get(row.name, StoredStatus.SUCCEEDED)
        limits = [limit for limit in (row.queue_until, row.total_until) if limit is not None]
        if status is StoredStatus.TIMED_OUT and limits:
            if (row.finished_at or 0.0) < min(limits) - SLACK:
                self._bad(
                    "never early", row.id, f"it timed out {min(limits) - (row.finished_at or 0.0):.3f} s too early"
                )
            return
        if status is not wanted:
            if status in ENDED or self._conditions.finished:
                self._bad("ends", row.id, f"{row.name} is {status}, and should be {wanted}: {(row.error or '')[:200]}")
            return
        if status is StoredStatus.DEAD and row.crashes != POISON_CRASHES:
            self._bad("ends", row.id, f"it was given up after {row.crashes} crashes, not {POISON_CRASHES}")
        if status is StoredStatus.SUCCEEDED:
            token = json.loads(row.result) if row.result else None
            by = [run for run in self._by_job[row.id] if run.token == token]
            if not by or by[0].how != "ok":
                self._bad("written once", row.id, f"its result {row.result} is of no execution that returned")
            elif by[0].fence is not None and by[0].fence != row.fence:
                self._bad("one owner", row.id, f"claim {by[0].fence} has settled it, the last one was {row.fence}")

    def _check_executions(self, row: StoredJob) -> None:
        runs = self._by_job[row.id]
        errors = sum(run.how == "error" for run in runs)
        cancelled = sum(run.how == "cancelled" for run in runs)
        most = 1 + row.crashes + errors + cancelled
        if len(runs) > most:
            self._bad(
                "executions",
                row.id,
                f"{len(runs)} executions, for {row.crashes} crashes, {errors} retries, {cancelled} given back",
            )
        if row.attempt > 1 + row.crashes + errors:
            self._bad("executions", row.id, f"attempt {row.attempt}, for {row.crashes} crashes and {errors} errors")
        fences = Counter(run.fence for run in runs if run.fence is not None)
        for fence, times in fences.items():
            if times > 1:
                self._bad("one owner", row.id, f"{times} executions under claim {fence}")
        orphans = [run for run in runs if run.how is None and run.pid in self._dead]
        counted = sum(run.fence is not None and run.fence < row.fence for run in orphans)
        if row.crashes < counted:
            self._bad("executions", row.id, f"{row.crashes} crashes are counted, and {counted} of its processes died")
        created = self._submits[row.id]["at"] if row.id in self._submits else 0.0
        deaths = sum(event["at"] >= created for event in self._events["exit"])
        if not self._conditions.leases and row.crashes > deaths:
            self._bad("the living keep", row.id, f"{row.crashes} crashes, and only {deaths} processes have died")
        for run in orphans:
            after = [other.start for other in runs if other.start > run.end]
            death = self._dead[run.pid]
            if after and any(self._could_restart(host, death, min(after)) for host in self._hosts):
                self._account.restarts.append(min(after) - death)

    def _could_restart(self, host: int, death: float, start: float) -> bool:
        """Whether a host was there all the time between a death and the next start."""
        moments = [*self._disturbed.get(host, ()), *self._disturbed.get(0, ())]
        return (
            self._hosts[host] <= death
            and self._dead.get(host, math.inf) >= start
            and not any(death - 1.0 <= moment <= start for moment in moments)
        )

    def _lost(self, run: _Execution, until: float) -> bool:
        """Whether an execution may have gone on without its lease."""
        if not self._conditions.leases or not self._is_disturbed(run, until):
            return False
        row = self._rows.get(run.id)
        return row is None or row.result is None or json.loads(row.result) != run.token

    def _check_owners(self) -> None:
        for id, runs in self._by_job.items():
            for first, second in pairwise(runs):
                if second.start >= first.end:
                    continue
                if self._lost(first, second.start) or self._lost(second, second.start):
                    self._account.overlaps += 1
                else:
                    beside = min(first.end, second.end) - second.start
                    self._bad(
                        "one owner",
                        id,
                        f"claims {first.fence} and {second.fence} ran at once for {beside:.3f} s, in processes "
                        f"{first.pid} and {second.pid}",
                    )

    def _check_limits(self) -> None:
        lanes: dict[str, list[_Execution]] = defaultdict(list)
        for run in self._executions:
            if run.lanes and run.start < run.end and not self._lost(run, run.end):
                for lane in run.lanes:
                    lanes[lane].append(run)
        for lane, runs in lanes.items():
            most = LANES[lane.partition(" ")[0]]
            steps = sorted(
                [(run.start, 1, run.id) for run in runs] + [(run.end, -1, run.id) for run in runs],
                key=lambda step: step[:2],
            )
            running: list[str] = []
            for at, step, id in steps:
                if step < 0:
                    running.remove(id)
                    continue
                running.append(id)
                if len(running) > most:
                    self._bad("limits hold", id, f"{len(running)} run at once in {lane!r} at {at:.3f}: {running}")

    def _check_pace(self) -> None:
        starts = sorted(
            (row.started_at, row.id) for row in self._rows.values() if row.name == "paced" and row.started_at
        )
        most = math.ceil(PACE)
        for (first, _), (last, id) in zip(starts, starts[most:], strict=False):
            if last - first < most / PACE - SLACK:
                self._bad("limits hold", id, f"{most + 1} starts of 'paced' within {last - first:.3f} s")

    def _check_unique(self) -> None:
        lives: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
        for row in self._rows.values():
            if row.unique is not None:
                lives[row.unique].append((row.created_at, row.finished_at or math.inf, row.id))
        for unique, rows in lives.items():
            rows.sort()
            for (_, end, id), (start, _, other) in pairwise(rows):
                if start < end - SLACK:
                    self._bad("unique", other, f"{unique!r} was taken by {id} for {end - start:.3f} s more")

    def _check_cancels(self) -> None:
        for event in self._events["cancelled"]:
            id, row = event["id"], self._rows.get(event["id"])
            if event["was"] is None or row is None:
                continue
            self._account.cancelled += event["status"] == "cancelled"
            status = event["status"] if row.status is not StoredStatus.DEAD else "failed"
            final = str(row.status) if row.status is not StoredStatus.DEAD else "failed"
            if status != final:
                self._bad("written once", id, f"a cancel was answered with {status}, and it is {final}")
            if event["was"] == "queued":
                for run in self._by_job[id]:
                    if run.start > event["at"] and not self._lost(run, run.start):
                        self._bad("cancelled never runs", id, f"it started {run.start - event['at']:.3f} s after")

    def _check_awaited(self) -> None:
        """Whoever waited was told what the store says."""
        for event in self._events["awaited"]:
            row = self._rows.get(event["id"])
            if row is None:
                continue
            status = "failed" if row.status is StoredStatus.DEAD else str(row.status)
            value = json.loads(row.result) if row.result else None
            if (event["status"], event["value"]) != (status, value):
                self._bad(
                    "written once",
                    row.id,
                    f"its waiter got {event['status']} {event['value']}, and it is {status} {value}",
                )

    def _check_delays(self) -> None:
        for id, event in self._submits.items():
            delay = event["options"].get("delay")
            runs = self._by_job[id]
            if delay and runs and runs[0].start < event["at"] + delay - SLACK:
                early = event["at"] + delay - runs[0].start
                self._bad("never early", id, f"it started {early:.3f} s before its delay of {delay} s was over")

    def _check_line(self) -> None:
        """Those of the line were all there when the first of them could start: they start in its order."""
        line = [event for event in self._events["submit"] if event.get("line") and self._by_job[event["id"]]]
        for number, event in enumerate(line):
            event["place"] = (event["options"]["priority"], number)
        line.sort(key=lambda event: self._by_job[event["id"]][0].start)
        for before, after in pairwise(line):
            if before["place"] > after["place"]:
                self._bad("in order", after["id"], f"{before['place']} started before {after['place']}")

    def _check_seen(self) -> None:
        """What was final at one time stays as it was."""
        for event in self._events["seen"]:
            row = self._rows.get(event["id"])
            if row is None:
                self._bad("accepted is kept", event["id"], "it had ended, and is not there any more")
                continue
            now = (str(row.status), row.result, row.finished_at, row.attempt)
            then = (event["status"], event["result"], event["finished_at"], event["attempt"])
            if now != then:
                self._bad("written once", row.id, f"it was {then}, and is {now}")


# Events that others write about a process.
_OURS: Final = frozenset({"exit", "kill", "disturb", "seen"})
