"""What a `HealthMonitor` finds: healthy, degraded or failing, with reasons. It is cheap, and runs only when asked.

`assess` is pure: numbers of now, numbers of a while ago, and limits go in, findings come out. `judge` is given the
numbers of earlier probes, too, so growth and ratios are judged without a timer of our own; the first probe is judged
against the opening of the pool. Only how late the event loop is needs a sampler (`LoopLag`); the first probe switches
it on.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import final

from aiopool._jobs.options import check_count, check_seconds
from aiopool._runtime.faults import describe, describe_error, is_kind
from aiopool._runtime.hooks import HookGuard

__all__ = [
    "Check",
    "Finding",
    "HealthLimits",
    "HealthReport",
    "HealthStatus",
    "Sample",
    "assess",
    "compare",
    "report",
    "run_checks",
]


class HealthStatus(enum.StrEnum):
    """How a pool is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It works, and somebody should look."""
    FAILING = "failing"
    """It does not do its work: send it none."""


HEALTHY, DEGRADED, FAILING = HealthStatus.HEALTHY, HealthStatus.DEGRADED, HealthStatus.FAILING


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        check: which check found it: `state`, `given_up`, `stuck`, `leaked`, `backlog`, `errors`, `restarts`,
            `loop_lag`, `store`, or the name of your own.
        status: degraded or failing; the word will do.
        text: what is wrong, with the numbers and the limit.

    Raises:
        ValueError: there is no such status.
    """

    check: str
    status: HealthStatus
    text: str

    def __post_init__(self) -> None:
        # A word that is equal to a status is not the status, and would be compared as something else.
        object.__setattr__(self, "status", HealthStatus(self.status))


Check = Callable[[], "Finding | str | None"]
"""A check of your own: it returns None if all is well, a text (degraded), or a `Finding`."""

logger = logging.getLogger("aiopool.health")

# Seconds without an answer of the store: a restart of the server takes less than the first, and after the second who
# submits has had an error.
STORE_OUTAGE, FAILING_STORE_OUTAGE = 3.0, 30.0
_MAX_TEXT = 500  # of somebody else's words in a finding
_SPACING = 1 / 60  # of the window: more probes than that are not kept
# What only a new process heals.
_DEADLY = frozenset(("given_up", "stuck", "leaked", "loop_lag"))


@final
@dataclasses.dataclass(frozen=True, slots=True)
class HealthReport:
    """How a pool is, and why.

    Attributes:
        pool: the pool's name.
        status: the worst of the findings; healthy, if there are none.
        findings: what was found, the worst first.
    """

    pool: str
    status: HealthStatus
    findings: tuple[Finding, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether to send it work: for a readiness probe. False while it is closing, too."""
        return self.status is not FAILING

    @property
    def live(self) -> bool:
        """Whether the process is worth keeping: for a liveness probe. True while it is closing: it ends by itself."""
        return not any(finding.status is FAILING and finding.check in _DEADLY for finding in self.findings)


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """From where on a pool is not well. A limit of None is none.

    Args:
        window: seconds over which growth, errors and restarts are judged.
        max_wait: degraded, if the oldest job in the queue has waited for more seconds than this and the backlog grows.
        stuck_after: failing, if jobs wait and every slot is taken by a job that has run for more seconds than this.
        max_error_ratio: degraded, if more than this part of the jobs failed or timed out.
        failing_error_ratio: failing, if more than this part did.
        min_jobs: fewer jobs than this within the window say nothing about errors.
        max_restarts: degraded, if more workers than this crashed within the window.
        max_loop_lag: degraded, if the event loop was late by more seconds than this.
        failing_loop_lag: failing, if it was late by more than this.

    Example:
        HealthMonitor(pool, limits=HealthLimits(max_wait=5, stuck_after=60))
    """

    # The window of most alert rules.
    window: float = 60.0
    # A minute is long for whoever waits, and short for a batch: batches set their own.
    max_wait: float | None = 60.0
    # Longer than nearly every job that is meant to end; a liveness probe restarts the process for it.
    stuck_after: float | None = 300.0
    max_error_ratio: float = 0.1
    failing_error_ratio: float = 0.5
    # With fewer, one failure more or less would be the whole finding.
    min_jobs: int = 20
    max_restarts: int | None = 3
    # What a person notices as a hang, and what a load balancer takes for death.
    max_loop_lag: float | None = 0.5
    failing_loop_lag: float | None = 5.0

    def __post_init__(self) -> None:
        if check_seconds("window", self.window) == 0:
            raise ValueError("window=0: nothing happens within no time; write a number of seconds, such as 60")
        for name in ("max_wait", "stuck_after", "max_loop_lag", "failing_loop_lag"):
            if getattr(self, name) is not None:
                check_seconds(name, getattr(self, name))
        for name in ("max_error_ratio", "failing_error_ratio"):
            ratio = getattr(self, name)
            if isinstance(ratio, bool) or not isinstance(ratio, (int, float)):
                raise TypeError(f"{name}={ratio!r} is a {type(ratio).__name__}: it must be a number between 0 and 1")
            if not 0 <= ratio <= 1:  # not a number, too
                raise ValueError(f"{name}={ratio!r}: a ratio lies between 0 and 1")
        check_count("min_jobs", self.min_jobs)
        if self.max_restarts is not None:
            check_count("max_restarts", self.max_restarts)


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The numbers of one moment that say how a pool is; all counts are since its opening."""

    at: float
    ended: int = 0
    bad: int = 0
    restarts: int = 0
    backlog: int = 0
    oldest_wait: float = 0.0
    size: int = 0
    busy: int = 0
    leaked: int = 0
    leaks_hold: bool = True
    youngest_run: float = 0.0
    loop_lag: float = 0.0
    paused: bool = False
    store_outage: float = 0.0


def assess(now: Sample, before: Sample, since: Sample | None, limits: HealthLimits) -> list[Finding]:
    """Compare the numbers of now with those of a window ago and with the limits.

    `since` are the numbers of soon after the oldest job in the queue came, if somebody looked then: a batch that is
    worked off was there already, a backlog that grows was not.
    """
    findings: list[Finding] = []

    def found(check: str, status: HealthStatus, text: str) -> None:
        findings.append(Finding(check, status, text))

    seconds = now.at - before.at
    if now.leaked and now.leaks_hold:
        worse = now.leaked >= now.size > 0
        found("leaked", FAILING if worse else DEGRADED, f"{now.leaked} of {now.size} slots are held by leaked jobs")
    elif now.leaked:
        found("leaked", DEGRADED, f"{now.leaked} jobs go on although they were told to end")
    if (
        limits.stuck_after is not None
        and now.backlog
        and not now.paused
        and now.busy >= now.size > 0
        and now.youngest_run > limits.stuck_after
    ):
        text = f"{now.backlog} jobs wait, and all {now.size} slots are taken by jobs that have run for"
        found("stuck", FAILING, f"{text} {now.youngest_run:.0f} s or more (stuck_after={limits.stuck_after:g})")
    if (
        limits.max_wait is not None
        and now.oldest_wait > limits.max_wait
        and since is not None
        and now.backlog > since.backlog
    ):
        text = f"the backlog grew from {since.backlog} to {now.backlog} jobs within {now.at - since.at:.0f} s, and the"
        text += f" oldest has been waiting for {now.oldest_wait:.0f} s (max_wait={limits.max_wait:g})"
        found("backlog", DEGRADED, text)
    ended, bad = now.ended - before.ended, now.bad - before.bad
    if ended >= max(1, limits.min_jobs) and bad > limits.max_error_ratio * ended:
        worse = bad > limits.failing_error_ratio * ended
        name = "failing_error_ratio" if worse else "max_error_ratio"
        text = f"{bad} of {ended} jobs failed or timed out within {seconds:.0f} s: {bad / ended:.0%}"
        found("errors", FAILING if worse else DEGRADED, f"{text} ({name}={getattr(limits, name):g})")
    if now.store_outage > STORE_OUTAGE:
        worse = now.store_outage > FAILING_STORE_OUTAGE
        text = f"the store has not answered for {now.store_outage:.0f} s"
        found("store", FAILING if worse else DEGRADED, text)
    restarts = now.restarts - before.restarts
    if limits.max_restarts is not None and restarts > limits.max_restarts:
        text = f"{restarts} workers crashed within {seconds:.0f} s (max_restarts={limits.max_restarts})"
        found("restarts", DEGRADED, text)
    for status, name in ((FAILING, "failing_loop_lag"), (DEGRADED, "max_loop_lag")):
        limit_lag: float | None = getattr(limits, name)
        if limit_lag is not None and now.loop_lag > limit_lag:
            found("loop_lag", status, f"the event loop was late by {now.loop_lag:.2f} s ({name}={limit_lag:g})")
            break
    return findings


def compare(now: Sample, pulses: deque[Sample], opened_at: float, limits: HealthLimits) -> list[Finding]:
    """Judge the numbers of now against those of one window ago, and keep them in `pulses`, the oldest first."""
    window = limits.window
    if not pulses:
        pulses.append(Sample(at=opened_at))
    while len(pulses) > 1 and now.at - pulses[1].at >= window:
        pulses.popleft()  # the next one is old enough, too
    since = next((pulse for pulse in pulses if pulse.at > now.at - now.oldest_wait), None)
    findings = assess(now, pulses[0], since, limits)
    if now.at - pulses[-1].at >= window * _SPACING:
        pulses.append(now)
    return findings


def run_checks(checks: Mapping[str, Check], hooks: HookGuard) -> list[Finding]:
    """Run the user's checks. One that raises is a finding: it cannot say that all is well."""
    findings = []
    for name, check in list(checks.items()):
        try:
            finding = _finding(name, check())
        except BaseException as error:
            if is_kind(error, (KeyboardInterrupt, SystemExit)):
                hooks.caught(error, logger, "health check %.200r failed", name)
            finding = Finding(name, FAILING, _cut(f"the check raised {describe_error(error)}"))
        if finding is not None:
            findings.append(finding)
    return findings


def _finding(name: str, answer: object) -> Finding | None:
    """Return what a check has found by its answer."""
    if answer is None:
        return None
    if isinstance(answer, Finding):
        return None if answer.status is HEALTHY else answer
    if isinstance(answer, str):
        return Finding(name, DEGRADED, _cut(answer))
    text = f"the check returned {_cut(describe(answer))}: return None if all is well, or a text, or a Finding"
    return Finding(name, FAILING, text)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


def report(pool: str, findings: list[Finding]) -> HealthReport:
    """Put findings together, the worst first."""
    findings.sort(key=lambda finding: finding.status is not FAILING)
    return HealthReport(pool, findings[0].status if findings else HEALTHY, tuple(findings))
