"""What goes into a store and comes out of it: plain rows.

Rule 1: this file knows neither a pool nor an engine. A row holds texts, numbers and None; what is not a number is JSON
text that the store never looks into.

Rule 2: moments are seconds since 1970 *by the clock of the store*. Whoever writes a row says "in 5 seconds", never
"at 12:00 by my clock": the clocks of two hosts are not compared.

Where a job is:

    submit ──> scheduled ──(its moment)──> queued ──claim──> running ──settle──> succeeded | failed | timed_out
                  ^                        ^  |                │  └──────────────> cancelled | dead
                  └──────── retry ─────────┼──┼────────────────┤
                                           ├──┼── release ─────┤   the attempt is given back
                                           └──┼── rescue ──────┘   its owner is dead: a crash is counted
    queued ──its time is over──> timed_out    ├──cancel──> cancelled
                                              └──park────> parked   no worker here knows the name

`limited` is `queued` behind a limit of the fleet that has no place; `moving` is on its way to another store. The rows
of jobs that have ended go to the history.
"""

from __future__ import annotations

import enum
import re
from typing import Any, Final, Literal, NamedTuple

__all__ = [
    "ENDED",
    "LIVE",
    "Beat",
    "CancelAnswer",
    "Claim",
    "Claimed",
    "Finished",
    "Incarnation",
    "LimitRow",
    "NewJob",
    "ScheduleRow",
    "SettleAs",
    "Settlement",
    "StoreStatistics",
    "StoredJob",
    "StoredStatus",
    "Submitted",
    "SweepReport",
    "WorkerRow",
    "schedule_text",
]


class StoredStatus(enum.StrEnum):
    """Where a job of a store is. The last five are final."""

    SCHEDULED = "scheduled"
    """It waits for a moment: its delayed start, or its next attempt."""
    QUEUED = "queued"
    """It waits for a worker."""
    LIMITED = "limited"
    """It waits for a worker, and a limit of the fleet has no place for it."""
    PARKED = "parked"
    """No worker that has seen it knows its name."""
    MOVING = "moving"
    """It is on its way to another store."""
    RUNNING = "running"
    """A worker runs one of its attempts."""
    SUCCEEDED = "succeeded"
    """It returned a value."""
    FAILED = "failed"
    """It raised, and is not tried again."""
    TIMED_OUT = "timed_out"
    """One of its time limits ran out."""
    CANCELLED = "cancelled"
    """Somebody cancelled it."""
    DEAD = "dead"
    """It was given up: its workers died while they ran it, or its arguments cannot be read."""


ENDED: Final = frozenset(
    {
        StoredStatus.SUCCEEDED,
        StoredStatus.FAILED,
        StoredStatus.TIMED_OUT,
        StoredStatus.CANCELLED,
        StoredStatus.DEAD,
    }
)
LIVE: Final = frozenset(StoredStatus) - ENDED


class Incarnation(NamedTuple):
    """One opening of a store by one process: a fresh id each time, never a name that comes back."""

    id: str
    host: str
    pid: int
    runs_jobs: bool  # it claims; one that only submits holds nothing


class NewJob(NamedTuple):
    """A job to be submitted.

    Attributes:
        id: unique among the jobs of the store, those in its history too.
        name: of the function, as it is registered.
        payload: the arguments, JSON text.
        priority: lower first; equal ones in the order of submission.
        delay: seconds from now until it is queued; 0: at once.
        run_at: the moment at which it is queued, by the clock on the wall, in place of `delay`; None: `delay` counts.
        queue_timeout: seconds that it may wait in the queue for its first attempt.
        total_timeout: seconds from now to its end.
        max_crashes: so many of its workers may die while they run it; with that many it is `dead`.
        unique: at most one live job has this; another one is not taken, and the answer names the one that has it.
        group, keys: as they were given; `keys` is JSON text.
        lanes: the limits under which it stands, in the order in which places are taken: `"rule"`, or `"rule\\x1fkey"`.
            The rule is a name in `set_limits`; one that is not there limits nothing.
        metadata, trace: JSON texts.
        parent: the id of the job inside of which it was submitted.
        submitter: the id of the incarnation that submits it.
        start: it may start at once, here: the submitter has a free slot for it. A store that has no other job queued
            before it makes it `running` at once, owned by the submitter (attempt 1, fence 1), and saves a claim. Never
            with lanes or a delay. A store may ignore this.
        tick: (schedule, moment): it is only taken if the moment is later than any that the schedule has had.
    """

    id: str
    name: str
    payload: str
    priority: int = 5
    delay: float = 0.0
    run_at: float | None = None
    queue_timeout: float | None = None
    total_timeout: float | None = None
    max_crashes: int = 3
    unique: str | None = None
    group: str | None = None
    keys: str | None = None
    lanes: tuple[str, ...] = ()
    metadata: str | None = None
    trace: str | None = None
    parent: str | None = None
    submitter: str = ""
    start: bool = False
    tick: tuple[str, float] | None = None


class Submitted(NamedTuple):
    """What became of a submission.

    Attributes:
        outcome: `"queued"` (or scheduled), `"running"` (see `NewJob.start`), `"same_id"` or `"same_unique"` (not taken:
            another job has it), `"tick_over"` (not taken).
        id: of the job: of the other one, if it was not taken.
        submitter: of the job with this id; by it one's own, sent a second time, is known.
    """

    outcome: Literal["queued", "running", "same_id", "same_unique", "tick_over"]
    id: str
    submitter: str


class Claimed(NamedTuple):
    """A job that was given to this process, to run it.

    Attributes:
        attempt: which attempt this is, from 1; crashes count as attempts.
        crashes: how many of the attempts before ended by the death of the worker.
        fence: a number that grows with each claim of the job; whoever settles it names it.
        age: seconds since its submission.
        time_left: seconds until its total time is over; None: no limit.
    """

    id: str
    name: str
    payload: str
    priority: int
    attempt: int
    crashes: int
    fence: int
    age: float
    time_left: float | None
    group: str | None
    keys: str | None
    metadata: str | None
    trace: str | None
    parent: str | None


class Claim(NamedTuple):
    """The answer to a claim.

    Attributes:
        jobs: in the order in which they start.
        cancels: (id, fence, reason) of jobs that this process runs, and that somebody has cancelled; each time again
            until they are settled.
        next_in: seconds until there may be more without anybody's doing: a scheduled job, a rate. None: nothing is
            known of.
        more: there are more that could be claimed now.
        paused: the fleet is paused: nobody gets jobs.
    """

    jobs: list[Claimed]
    cancels: list[tuple[str, int, str | None]]
    next_in: float | None
    more: bool
    paused: bool


SettleAs = Literal["succeeded", "failed", "timed_out", "cancelled", "dead", "retry", "release", "park"]


class Settlement(NamedTuple):
    """How an attempt ended. It counts only if the job is still running under this fence.

    Attributes:
        outcome: the five final ones; `"retry"`: another attempt in `delay` seconds, and it keeps its place in line;
            `"release"`: it goes back to the queue at once, and the attempt was none; `"park"`: as release, but it waits
            for a worker that knows its name.
        delay: seconds, of a retry.
        result: JSON text, of one that succeeded.
        error: JSON text, of one that did not; of a retry, too.
        reason: the words of whoever cancelled it.
    """

    id: str
    fence: int
    outcome: SettleAs
    delay: float = 0.0
    result: str | None = None
    error: str | None = None
    reason: str | None = None


class CancelAnswer(NamedTuple):
    """What a cancel met: the job was there and `queued` (it is cancelled now), `running` (its worker is told),
    `ended`, or `unknown`."""

    id: str
    was: Literal["queued", "running", "ended", "unknown"]


class Finished(NamedTuple):
    """The end of a job, for those who await it.

    Attributes:
        waited: seconds from submission to the start of the last attempt, or to the end.
        seconds: seconds that the last attempt ran.
        finished_at: when it ended, by the clock of the store.
    """

    id: str
    status: StoredStatus
    result: str | None
    error: str | None
    reason: str | None
    attempt: int
    waited: float
    seconds: float
    finished_at: float


class StoredJob(NamedTuple):
    """All that a store knows of a job, live or ended; also what goes from one store to another.

    `queue_until` and `total_until` are moments; `position` is its place in line among those of its priority.
    """

    id: str
    name: str
    status: StoredStatus
    payload: str
    priority: int
    position: int
    attempt: int
    crashes: int
    max_crashes: int
    created_at: float
    run_at: float | None
    queue_until: float | None
    total_until: float | None
    started_at: float | None
    finished_at: float | None
    owner: str | None
    fence: int
    unique: str | None
    group: str | None
    keys: str | None
    lanes: tuple[str, ...]
    metadata: str | None
    trace: str | None
    parent: str | None
    submitter: str
    progress: tuple[float, str] | None
    result: str | None
    error: str | None
    reason: str | None


class LimitRow(NamedTuple):
    """A limit of the fleet: so many at once (None: any number), so many a second (None: any), so many in one burst."""

    rule: str
    max_at_once: int | None
    max_per_second: float | None
    burst: int


class WorkerRow(NamedTuple):
    """A process that has opened the store to run jobs."""

    id: str
    host: str
    pid: int
    started_at: float
    seen_at: float
    running: int


class ScheduleRow(NamedTuple):
    """A schedule of the fleet that has had a moment.

    Attributes:
        schedule: as in `NewJob.tick`: name, moments and arguments of its jobs.
        last: the last moment for which a job was submitted, by the clock on the wall.
    """

    schedule: str
    last: float

    @property
    def name(self) -> str:
        """The name of its jobs; "?": the text is not one of `schedule_text`."""
        return self._words[0]

    @property
    def when(self) -> str:
        """The moments of its jobs, in words; "?": as above."""
        return self._words[1]

    @property
    def _words(self) -> tuple[str, str]:
        found = _SCHEDULE.match(self.schedule)
        return ("?", "?") if found is None else (found["name"], found["when"])


def schedule_text(name: str, when: str, payload: str) -> str:
    """Return the text by which all processes know a schedule: its jobs' name, moments and arguments."""
    return f"{name} {when} {payload}"


# A name may have spaces, and moments in words; arguments are an object.
_SCHEDULE = re.compile(r"(?P<name>.*?) (?P<when>every \S+ s|cron '[^']*') \{", re.DOTALL)


class StoreStatistics(NamedTuple):
    """A store in numbers.

    Attributes:
        live: how many jobs are in each live status.
        ended: how many are in the history, by status.
        oldest: seconds since the submission of the oldest job that is queued; None: there is none.
        workers: the processes that run jobs.
        rescued: how many times a job was taken from a dead worker, since the store was made.
        paused: nobody gets jobs.
        size: bytes on disk, or in memory; None: unknown.
    """

    live: dict[StoredStatus, int]
    ended: dict[StoredStatus, int]
    oldest: float | None
    workers: list[WorkerRow]
    rescued: int
    paused: bool
    size: int | None

    @property
    def unfinished(self) -> int:
        """How many jobs have not ended, wherever they are."""
        return sum(self.live.values())


class SweepReport(NamedTuple):
    """What a sweep did: jobs taken from dead workers, jobs given up, jobs whose time was over, rows of the history
    removed, jobs that are no longer parked; `more`: there is more of it to do now."""

    rescued: int = 0
    dead: int = 0
    timed_out: int = 0
    purged: int = 0
    unparked: int = 0
    more: bool = False


class Beat(NamedTuple):
    """The answer to a heartbeat: whether this incarnation still owns what it holds, and the time by the store."""

    alive: bool
    now: float


Facts = dict[str, Any]
