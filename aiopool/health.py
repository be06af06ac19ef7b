"""Health of a pool: healthy, degraded or failing, with reasons; for the probes of load balancers and containers.

    from aiopool.health import HealthMonitor

    monitor = HealthMonitor(pool, checks={"database": database_problem})
    ...
    report = monitor.report()
    return Response(str(report.status), status_code=200 if report.ready else 503)

Nothing runs between two reports, but for a look at the event loop twice a second after the first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, cast, final

from aiopool._engine.engine import Engine
from aiopool._jobs.callables import function_name, is_asynchronous
from aiopool._jobs.status import PoolStatus
from aiopool._observe.health import (
    Check,
    Finding,
    HealthLimits,
    HealthReport,
    HealthStatus,
    Sample,
    compare,
    report,
    run_checks,
)
from aiopool._pool.inspector import oldest_wait
from aiopool._pool.pool import Pool
from aiopool._pool.state import PoolState
from aiopool._runtime.public import publish

__all__ = ["Check", "Finding", "HealthLimits", "HealthMonitor", "HealthReport", "HealthStatus"]


@final
class HealthMonitor:
    """Says how a pool is, and why.

    It compares the numbers of now with those of its own earlier reports, with the limits, and runs your checks. One
    monitor for each pool, kept for as long as the pool: it remembers one window of reports.

    Args:
        pool: the pool, open or not.
        limits: from where on the pool is degraded or failing; those of the pool's settings, or the usual ones.
        checks: plain functions without arguments, or a mapping of names to them; a function's own name by default.
            Each is called in `report()`, where that is called. It returns None if all is well, a text (the pool is
            degraded), or a `Finding`. If it raises, the pool is failing: nobody can say that all is well.

    Raises:
        TypeError: `pool` is no pool, or a check no plain function.
        ValueError: two checks have one name.

    Example:
        monitor = HealthMonitor(pool, limits=HealthLimits(max_wait=5), checks=[machine_check()])
    """

    __slots__ = ("_checks", "_engine", "_limits", "_samples", "_state")

    def __init__(
        self,
        pool: Pool,
        *,
        limits: HealthLimits | None = None,
        checks: Iterable[Check] | Mapping[str, Check] = (),
    ) -> None:
        if not isinstance(pool, Pool):
            raise TypeError(
                f"HealthMonitor takes a pool, not {pool!r} ({type(pool).__name__}): write HealthMonitor(pool)"
            )
        if limits is not None and not isinstance(limits, HealthLimits):
            raise TypeError(
                f"limits={limits!r} is a {type(limits).__name__}: write limits=HealthLimits(max_wait=5), or None"
            )
        self._state = pool._state
        self._limits = limits
        self._checks = _by_name(checks)
        self._engine: Engine | None = None  # of the opening that the samples are of
        self._samples: deque[Sample] = deque()  # the numbers of earlier reports, the oldest first

    def report(self) -> HealthReport:
        """Return how the pool is: from any thread, in any state, at any time; cheap enough for a probe.

        Your own checks run in the caller's thread.
        """
        state, engine = self._state, self._state.engine
        findings: list[Finding] = []
        if state.failure is not None:
            findings.append(Finding("given_up", HealthStatus.FAILING, str(state.failure)))
        elif state.status is not PoolStatus.OPEN:
            findings.append(Finding("state", HealthStatus.FAILING, f"the pool is {state.status}: it takes no jobs"))
        if engine is not None and state.status is not PoolStatus.CLOSED:
            state.measure_loop()
            findings += engine.runtime.read(lambda: self._compare(engine))
        return report(state.name, findings + run_checks(self._checks, state.hooks))

    def _compare(self, engine: Engine) -> list[Finding]:
        if engine is not self._engine:  # each opening is judged by itself
            self._engine = engine
            self._samples.clear()
        limits = self._limits or self._state.health_limits or HealthLimits()
        return compare(_sample(self._state, engine), self._samples, self._state.opened_at, limits)


def _by_name(checks: Iterable[Check] | Mapping[str, Check]) -> dict[str, Check]:
    """Return the user's checks by name."""
    found: dict[str, Check] = {}
    named: Any = checks.items() if isinstance(checks, Mapping) else ((None, check) for check in checks)
    for own, check in named:
        if not callable(check):
            raise TypeError(f"a health check is a function without arguments, not {check!r} ({type(check).__name__})")
        if is_asynchronous(check):
            raise TypeError(
                f"{check!r} is asynchronous, and report() does not wait. Have a task of your own ask, keep its answer, "
                "and give a plain function that returns it"
            )
        name = function_name(check) if own is None else own
        if name in found:
            raise ValueError(f"there are two health checks {name!r}: write checks={{name: function, ...}}")
        found[name] = cast("Check", check)
    return found


def _sample(state: PoolState, engine: Engine) -> Sample:
    """Return the numbers of now."""
    assert state.supervisor is not None
    counters, now = engine.counters, engine.now()
    # Jobs that hold a slot: one that waits for another has lent its own.
    began = [
        worker.job._started_at
        for worker in state.supervisor.busy()
        if worker.job is not None and not (worker.job._extra is not None and worker.job._extra.lent)
    ]
    bad = counters.failed + counters.timed_out
    return Sample(
        at=now,
        ended=counters.succeeded + bad,
        bad=bad,
        restarts=counters.restarts,
        backlog=engine.queued() + len(engine.admission.waiting),
        oldest_wait=oldest_wait(engine),
        size=engine.slots.size,
        busy=engine.slots.active,
        leaked=engine.endings.leaked,
        leaks_hold=engine.endings.leaked > engine.slots.replaced,
        youngest_run=now - max(began, default=now),
        loop_lag=0.0 if state.lag is None else state.lag.worst(),
        paused=engine.slots.paused,
        store_outage=0.0 if state.durability is None else state.durability.numbers().outage,
    )


publish(globals())
