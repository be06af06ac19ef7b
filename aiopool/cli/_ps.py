"""`aiopool ps`: the programs of this user that have a door open, and their pools, one line each."""

from __future__ import annotations

from typing import Any, Final

from aiopool.cli._door import NO_DOOR, Found, at_door, blocked_text, exit_code, find_programs
from aiopool.cli._job_text import to_line
from aiopool.cli._store import complain
from aiopool.cli._streams import write_output
from aiopool.cli._table import table_lines
from aiopool.cli._words import FAILED

__all__ = ["HEADER", "list_programs", "pool_row"]

HEADER: Final = ("pid", "program", "pool", "status", "running", "queued", "failed", "loop")


def list_programs(*, as_json: bool) -> int:
    """Print a line for each pool of each program; a program that has none, or does not answer, has one, too."""

    def work() -> int:
        found = find_programs()
        if not found:
            complain(NO_DOOR)
            return FAILED
        if as_json:
            text = "".join(to_line(row) for program in found for row in _json_rows(program))
        else:
            text = "".join(table_lines(HEADER, [row for program in found for row in _rows(program)]))
        code = write_output(text)
        silent = [program.error for program in found if program.error is not None]
        # One that answers is what was asked for. If none does, the code says why.
        return code or (exit_code(silent[0]) if len(silent) == len(found) else 0)

    return at_door(work)


def pool_row(program: Found, status: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a pool."""
    assert program.hello is not None
    numbers, loop = status["numbers"], status["loop"]
    return (
        program.pid,
        str(program.hello["program"]),
        str(status["pool"]),
        "paused" if status.get("paused") and status["status"] == "open" else str(status["status"]),
        f"{numbers['running']}/{status['size']}",
        f"{numbers['queued'] + numbers['scheduled']:,}",
        f"{numbers['failed'] + numbers['timed_out']:,}",
        f"{loop['lag'] * 1000:.0f} ms late" if loop["blocked"] is None else blocked_text(loop["blocked"]),
    )


def _rows(program: Found) -> list[tuple[str, ...]]:
    if program.hello is None:
        return [(program.pid, "", "", "no answer", "", "", "", str(program.error))]
    empty = (program.pid, str(program.hello["program"]), "", "no pool is open", "", "", "", "")
    return [pool_row(program, status) for status in program.pools] or [empty]


def _json_rows(program: Found) -> list[dict[str, Any]]:
    if program.hello is None:
        return [{"pid": int(program.pid) if program.pid.isdecimal() else None, "error": str(program.error)}]
    about = {name: program.hello[name] for name in ("pid", "program", "python", "access")}
    return [about | status for status in program.pools] or [about | {"pool": None}]
