"""The outcome as a table, or as JSON."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter

from aiopool._torture.torture import Outcome

__all__ = ["as_json", "as_text", "print_outcome"]

# So many violations of one promise are printed.
MOST = 5


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    account = outcome.account
    restart = account.restart_seconds()
    return [
        ("store", outcome.store),
        ("seed", str(outcome.seed)),
        ("seconds", f"{outcome.seconds:.1f}"),
        ("kills", str(outcome.kills)),
        *((f"  {kind}", str(number)) for kind, number in sorted(outcome.counts.items())),
        ("failpoints hit", ", ".join(f"{point} {n}" for point, n in sorted(outcome.points.items())) or "none"),
        ("acknowledged", str(account.acknowledged)),
        ("executions", str(account.executions)),
        ("rescued", str(outcome.rescued)),
        ("ended", ", ".join(f"{status} {n}" for status, n in sorted(account.ended.items()))),
        ("beside another, after a lost lease", str(account.overlaps)),
        (
            "from death to restart",
            "none"
            if restart is None
            else f"median {restart[0]:.2f} s, max {restart[1]:.2f} s, of {len(account.restarts)}",
        ),
        ("violations", str(len(account.violations))),
    ]


def print_outcome(outcome: Outcome) -> None:
    """Print the outcome, as a table if rich is there and somebody looks on."""
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        print(as_text(outcome))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("", "aiopool torture", show_header=True)
    for name, value in _facts(outcome):
        table.add_row(name, value)
    Console(highlight=False).print(table)
    for line in _faults(outcome):
        print(line)


def as_text(outcome: Outcome) -> str:
    """Return the outcome as lines."""
    facts = _facts(outcome)
    width = max(len(name) for name, _ in facts)
    return "\n".join([*(f"{name:<{width}}  {value}" for name, value in facts), *_faults(outcome)])


def _faults(outcome: Outcome) -> list[str]:
    lines: list[str] = []
    shown: Counter[str] = Counter()
    for violation in outcome.account.violations:
        shown[violation.promise] += 1
        if shown[violation.promise] <= MOST:
            lines.append(f"VIOLATION of {violation.promise!r}: {violation.id} {violation.text}")
    lines += [f"… {n - MOST} more of {promise!r}" for promise, n in shown.items() if n > MOST]
    if outcome.directory is not None:
        lines.append(f"journals: {outcome.directory}")
    return lines


def as_json(outcome: Outcome) -> str:
    """Return the outcome as one line of JSON."""
    account = outcome.account
    restart = account.restart_seconds()
    return json.dumps(
        {
            "store": outcome.store,
            "seed": outcome.seed,
            "seconds": round(outcome.seconds, 1),
            "kills": outcome.kills,
            "by_kind": outcome.counts,
            "failpoints": outcome.points,
            "acknowledged": account.acknowledged,
            "executions": account.executions,
            "rescued": outcome.rescued,
            "ended": dict(account.ended),
            "overlaps_after_lost_lease": account.overlaps,
            "restart_seconds": None if restart is None else {"median": restart[0], "max": restart[1]},
            "violations": [violation._asdict() for violation in account.violations],
            "directory": outcome.directory,
        }
    )
