"""What is read off the queue for metrics and for health: who waits, and for how long."""

from __future__ import annotations

from aiopool._engine.engine import Engine

__all__ = ["oldest_wait", "queued_by_priority"]


def queued_by_priority(engine: Engine) -> dict[int, int]:
    """Count the jobs that wait for a worker by their priorities."""
    counts = engine.queue.counts()
    for holder in (*engine.groups, *engine.lanes):
        for priority, count in holder.line.counts().items() if holder.line is not None else ():
            counts[priority] = counts.get(priority, 0) + count
    return counts


def oldest_wait(engine: Engine) -> float:
    """Return for how many seconds the oldest job in the queue could have started."""
    job = engine.queue.oldest()
    if job is None:
        return 0.0
    waited: float = engine.now() - job._submitted_at - job._first_delay
    return max(0.0, waited)
