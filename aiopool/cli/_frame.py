"""A look at a pool as text: pure, the same for a frame on standard output and for the screen of `aiopool top`.

Colour is never alone: a job has the letter of its status, and what is wrong has a word.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any, Final, final

from aiopool.cli._door import blocked_text
from aiopool.cli._fit import clean_cell, clipped, fitted_lines
from aiopool.cli._job_text import period
from aiopool.cli._look import VIEWS, Look

__all__ = ["HEAD", "LETTERS", "ORDERS", "Table", "frame", "head", "rows_in", "table", "titles"]

# Lines of `head`.
HEAD: Final = 4
LETTERS: Final = {
    "scheduled": "S",
    "queued": "Q",
    "running": "R",
    "succeeded": "D",  # done: S is taken
    "failed": "F",
    "timed_out": "T",
    "cancelled": "C",
}
_EMPTY: Final = {
    "running": "no job runs",
    "waiting": "no job waits",
    "failed": "no job that is kept has failed",
    "groups": "no group has a job, or is paused",
    "loop": "the event loop was not blocked since somebody looks",
    "what-if": "no guess has come yet",
}
_MAX_BAR: Final = 60


def _text(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda item: str(item.get(name) or "").lower()


def _most(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda item: -float(item.get(name) or 0)


# By view: what it can be sorted by. None is the order in which the program sends it.
ORDERS: Final[dict[str, dict[str, Callable[[dict[str, Any]], Any] | None]]] = {
    "running": {"seconds": None, "name": _text("name"), "attempt": _most("attempt"), "at": _text("at")},
    "waiting": {"next": None, "seconds": _most("seconds"), "name": _text("name"), "reason": _text("waiting_for")},
    "failed": {"newest": None, "name": _text("name"), "error": _text("error")},
    "groups": {"oldest": None, "live": _most("live"), "name": _text("name")},
    "loop": {"newest": None, "seconds": _most("seconds")},
    "what-if": {"size": None},
}


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """The rows of a view, as they are shown.

    Attributes:
        header: titles of the columns.
        rows: their cells; nothing in them steers a terminal.
        items: what each row is about, as the program has sent it.
        more: how many there are besides, as far as it is known.
        note: what else there is to say: that there is none, or that they are old.
    """

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    items: list[dict[str, Any]]
    more: int
    note: str

    def summary(self, hidden: int = 0) -> str:
        """Return the line below the rows; `hidden`: so many of them are not to be seen."""
        more = self.more + hidden
        return "; ".join(filter(None, (f"{more:,} more" if more else "", self.note)))


def head(look: Look, width: int) -> list[str]:
    """Return the lines above the table: what is looked at, its numbers, its slots, its event loop.

    Args:
        look: what was seen.
        width: of the lines at most; 0: any.
    """
    status, numbers = look.status, look.status["numbers"]
    at = datetime.datetime.fromtimestamp(status["time"], datetime.UTC)
    words = [f"{look.hello['program']} {look.hello['pid']}", f"pool {status['pool']}", _state(status)]
    words += [f"up {period(numbers['uptime'])}", f"{at:%H:%M:%S}Z"]
    failed = numbers["failed"] + numbers["timed_out"]
    done = f"{numbers['succeeded']:,} done"
    done += "" if look.done_rate is None else f" ({look.done_rate:,.0f}/s)"
    bad = f"{failed:,} failed" + ("" if look.fail_rate is None else f" ({look.fail_rate:,.0f}/min)")
    counts = [f"{numbers['queued']:,} queued", f"{numbers['scheduled']:,} scheduled", done, bad]
    counts += [f"{numbers[name]:,} {name}" for name in ("cancelled", "retries", "leaked") if numbers[name]]
    loop = status["loop"]
    if loop["blocked"] is None:
        third = f"loop   answers, {loop['lag'] * 1000:.0f} ms late at most"
    else:
        third = f"loop   {blocked_text(loop['blocked']).replace('blocked', 'BLOCKED', 1)}"
    lines = ["  ".join(words), "  ".join(counts), _bar(numbers, width), third]
    return [clipped(clean_cell(line), width) for line in lines]


def _state(status: dict[str, Any]) -> str:
    """Return how the pool is, and who has paused it, if it was somebody at the door."""
    if status["status"] != "open" or not status.get("paused"):
        return str(status["status"])
    by = status["paused_by"]
    return "PAUSED" if by is None else f"PAUSED by {by['who']}"


def _bar(numbers: dict[str, Any], width: int) -> str:
    """Draw the slots: `#` has a job, `!` a call that goes on after its job has ended, `.` is free."""
    size = numbers["size"]
    label, count = "slots  ", f"  {numbers['busy']:,} of {size:,}"
    room = max(1, min(_MAX_BAR, size, (width or 200) - len(label) - len(count) - 2))
    # A job that runs is seen, however many slots there are; and so is a slot that is free.
    leaked = _share(numbers["leaked"], size, room)
    busy = max(leaked, _share(numbers["busy"], size, room))
    return f"{label}[{'#' * (busy - leaked)}{'!' * leaked}{'.' * (room - busy)}]{count}"


def _share(part: int, whole: int, room: int) -> int:
    if part <= 0:
        return 0
    return room if part >= whole else max(1, min(room - 1, round(part * room / whole)))


def titles(look: Look) -> dict[str, str]:
    """Return what is written on the tab of each view."""
    numbers = look.status["numbers"]
    return {
        "running": f"running {numbers['running']:,}",
        "waiting": f"waiting {numbers['queued'] + numbers['scheduled']:,}",
        "failed": f"failed {numbers['failed'] + numbers['timed_out']:,}",
        "groups": "groups",
        "loop": "loop" if look.status["loop"]["blocked"] is None else "loop !",
        "what-if": "what-if",
    }


def table(look: Look, order: str | None = None) -> Table:
    """Return the rows that are wanted of a look.

    Args:
        look: what was seen.
        order: one of `ORDERS` of its view; None: the first.
    """
    header, row = _ROWS[look.view]
    by = None if order is None else ORDERS[look.view][order]
    items = look.page.items if by is None else sorted(look.page.items, key=by)
    now = look.status["time"]
    shown = [(tuple(map(clean_cell, row(item, now))), item) for item in items]
    words = look.wanted.words
    found = [(cells, item) for cells, item in shown if all(word in " ".join(cells).lower() for word in words)]
    total = 0 if str(look.wanted) else _total(look)
    more = max(0, total - len(items))
    return Table(header, [cells for cells, _ in found], [item for _, item in found], more, _note(look, len(found)))


def _total(look: Look) -> int:
    """Return how many rows there would be; 0: nobody has counted them."""
    numbers = look.status["numbers"]
    counts = {"running": numbers["running"], "waiting": numbers["queued"] + numbers["scheduled"]}
    return int(counts.get(look.view, 0)) if look.page.note is None else 0


def _note(look: Look, found: int) -> str:
    page, notes = look.page, [] if look.page.note is None else [look.page.note]
    if str(look.wanted):
        notes.insert(
            0, f"{found:,} of {len(page.items):,} match {look.wanted}" if look.wanted.words else f"{look.wanted}"
        )
    if not page.items and page.note is None:
        notes.append(_EMPTY[look.view])
    if page.kept == 0:
        notes.append("Pool(keep_finished=1000) would keep jobs that have ended")
    return clean_cell("; ".join(notes))


def _running(item: dict[str, Any], now: float) -> tuple[str, ...]:
    progress = item.get("progress")
    done = "" if progress is None else f"{_percent(progress['fraction'])} {progress['message'] or ''}".strip() + ", "
    at = item.get("at") or "in a process, or not known"
    return _letter(item), *_named(item), _seconds(item), str(item["attempt"]), f"{done}{at}"


def _waiting(item: dict[str, Any], now: float) -> tuple[str, ...]:
    reason = str(item["waiting_for"] or "it is about to start")
    return (
        _letter(item),
        *_named(item),
        _seconds(item),
        str(item["priority"]),
        str(item["attempt"]),
        item["group"] or "",
        reason,
    )


def _failed(item: dict[str, Any], now: float) -> tuple[str, ...]:
    ended = item["finished"]
    ago = "" if ended is None else period(now - datetime.datetime.fromisoformat(ended).timestamp())
    return _letter(item), *_named(item), ago, _seconds(item), str(item["attempt"]), str(item["error"] or "")


def _group(item: dict[str, Any], now: float) -> tuple[str, ...]:
    paused = "PAUSED" if item["paused"] else ""
    return str(item["name"]), f"{item['live']:,}", f"{item['running']:,}", f"{item['waiting']:,}", paused


def _spell(item: dict[str, Any], now: float) -> tuple[str, ...]:
    return str(item["time"])[11:19] + "Z", f"{item['seconds']:.1f} s", str(item["where"])


def _guess(item: dict[str, Any], now: float) -> tuple[str, ...]:
    waits = (period(item["wait_p50"]), period(item["wait_p95"]))
    return f"{item['size']:,}", *waits, f"{item['queue']:,}", f"{1 - item['busy']:.0%}", "NOW" if item["now"] else ""


def _letter(item: dict[str, Any]) -> str:
    return LETTERS.get(item["status"], "?")


def _named(item: dict[str, Any]) -> tuple[str, str]:
    return str(item["id"]), str(item["name"])


def _seconds(item: dict[str, Any]) -> str:
    return period(item["seconds"])


def _percent(fraction: object) -> str:
    return f"{fraction:.0%}" if isinstance(fraction, (int, float)) else ""


_ROWS: Final[dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any], float], tuple[str, ...]]]]] = {
    "running": (("S", "id", "name", "runs", "attempt", "suspended at"), _running),
    "waiting": (("S", "id", "name", "waits", "priority", "attempt", "group", "waits for"), _waiting),
    "failed": (("S", "id", "name", "ended ago", "ran", "attempt", "error"), _failed),
    "groups": (("group", "live", "running", "waiting", "paused"), _group),
    "loop": (("from", "blocked", "at"), _spell),
    "what-if": (("size", "wait p50", "wait p95", "longest queue", "idle", "now"), _guess),
}


def rows_in(height: int) -> int:
    """Return how many rows of a table a frame of a height has; besides them are the head, tabs, titles, a summary."""
    return max(0, height - HEAD - 3)


def frame(look: Look, width: int, height: int, order: str | None = None) -> list[str]:
    """Return the lines of a frame.

    Args:
        look: what was seen.
        width: columns at most; 0: any.
        height: lines at most; 0: any.
        order: see `table`.
    """
    found = table(look, order)
    tabs = titles(look)
    lines = head(look, width)
    lines.append(clipped("   ".join(f"[{tabs[view]}]" if view == look.view else tabs[view] for view in VIEWS), width))
    rows = found.rows
    if height:
        rows = rows[: rows_in(height)]
    if rows:
        lines += fitted_lines(found.header, rows, width)
    if summary := found.summary(len(found.rows) - len(rows)):
        lines.append(clipped(summary, width))
    return lines
