"""End what earlier runs have left behind.

What was written down is read (`_pidfile`), who is still the same process is ended together with all that
descends from it (`_families`), and the file is removed once nothing is left. What cannot be ended stays
written down.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from aiopool.services._families import ProcessTree, end_trees, refresh_trees
from aiopool.services._pidfile import PidRecord, StaleRecord, leftovers
from aiopool.services._status import StopReport
from aiopool.services._stop import Deadlines, Outcome, report

__all__ = ["end_leftovers"]


def end_leftovers(directory: Path, timeout: float) -> StopReport:
    """End the processes of runs that are over; blocks until it is done.

    Args:
        directory: where the pid files are.
        timeout: in total, in seconds.
    """
    began = time.monotonic()
    times = Deadlines.within(timeout, now=began)
    found = [(leftover, [_family(record) for record in leftover.records]) for leftover in leftovers(directory)]
    everybody = [family for _, families in found for family in families]
    refresh_trees(everybody)
    present = {id(family) for family in everybody if family.living()}
    if everybody:
        end_trees(everybody, force_at=times.force_at, deadline=times.deadline)
    outcomes: list[Outcome] = []
    for leftover, families in found:
        outcomes += _settle(leftover, families, present)
    return report(outcomes, seconds=time.monotonic() - began, nothing="nothing was left")


def _family(record: PidRecord) -> ProcessTree:
    return ProcessTree(record.roots, members=record.members, own_session=record.own_session, mark=record.mark)


def _settle(leftover: StaleRecord, families: Sequence[ProcessTree], present: set[int]) -> list[Outcome]:
    """Say what became of what one run has left, and remove its file if that is nothing now."""
    outcomes: list[Outcome] = []
    for record, family in zip(leftover.records, families, strict=True):
        left = sorted(process.pid for process in family.living())
        errors = [*family.errors, f"still running after the kill: {left}"] if left else family.errors
        if left or family.forced or id(family) in present:
            texts = tuple(f"{record.name}: {error}" for error in errors)
            outcomes.append(Outcome(record.type, record.name, not left, family.forced, texts))
    if all(outcome.stopped for outcome in outcomes):
        leftover.forget()
    return outcomes
