"""Pictures that the server draws: lines over ten minutes, and the bars of a job's attempts. SVG, of numbers alone.

A line stops where nobody looked, for nothing was measured then. Colours and widths are those of the stylesheet.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

__all__ = ["attempt_bars", "line", "per_second"]

WIDTH, HEIGHT = 600, 56
SPAN = 600.0
# Seconds without a sample after which the line stops.
GAP = 5.0

Point = tuple[float, float]


def per_second(samples: Sequence[Sequence[float]], field: int) -> list[Point]:
    """Turn a counter into what came to it a second, between each two samples that are near each other.

    Args:
        samples: with the moment as the first of each.
        field: which of a sample is the counter.
    """
    return [
        (after[0], max(0.0, after[field] - before[field]) / (after[0] - before[0]))
        for before, after in itertools.pairwise(samples)
        if 0 < after[0] - before[0] <= GAP
    ]


def line(points: Sequence[Point], now: float, words: str) -> Markup:
    """Draw values of the last ten minutes as a line with its area.

    Args:
        points: moment and value, the oldest first.
        now: the moment at the right edge.
        words: what it shows, for those who cannot see it.
    """
    seen = [(at, value) for at, value in points if 0 <= now - at <= SPAN]
    top = max((value for _, value in seen), default=0.0) or 1.0
    pieces: list[list[Point]] = []
    last: float | None = None
    for at, value in seen:
        x, y = WIDTH * (1 - (now - at) / SPAN), HEIGHT - 2 - value / top * (HEIGHT - 6)
        if last is None or at - last > GAP:
            pieces.append([])
        pieces[-1].append((x, y))
        last = at
    drawn = Markup("")
    for piece in pieces:
        if len(piece) == 1:  # a line of no length is not seen
            piece = [piece[0], (piece[0][0] + 1, piece[0][1])]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in piece)
        drawn += Markup('<path class="area" d="M{0} {2}L{1}L{3} {2}Z"/><path class="line" d="M{1}"/>').format(
            f"{piece[0][0]:.1f}", path, HEIGHT, f"{piece[-1][0]:.1f}"
        )
    return Markup('<svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, words, drawn
    )


def attempt_bars(job: dict[str, Any], now: float) -> tuple[Markup, list[dict[str, Any]]]:
    """Draw where the time of a job went: waiting, attempts, pauses between them; and return the same as rows.

    Args:
        job: as the verb `job` shows it.
        now: seconds since 1970.
    """
    begin = _at(job.get("submitted"))
    if begin is None:
        return Markup(""), []
    end = _at(job.get("finished")) or now
    rows: list[dict[str, Any]] = []
    at, kind = begin, "queued"
    for attempt in job.get("attempts", ()):
        started, ended = _at(attempt["started_time"]), _at(attempt["ended_time"])
        if started is None or ended is None:
            continue
        rows.append(_row(kind, at, started))
        rows.append(_row("attempt", started, ended, number=attempt["number"], error=attempt["error"]))
        at, kind = ended, "backoff"
    started = _at(job.get("started"))
    running = job.get("status") in ("running", "succeeded") or (started is not None and started >= at)
    if started is not None and running and started >= at - 0.001:
        rows.append(_row(kind, at, started))
        error = job.get("error") if job.get("finished") else None
        rows.append(_row("attempt", started, end, number=job.get("attempt"), error=error))
    elif not rows or not job.get("finished"):
        rows.append(_row(kind, at, end))
    rows = [row for row in rows if row["kind"] == "attempt" or row["seconds"] > 0.0005]
    whole = max(end - begin, 1e-6)
    drawn = Markup("")
    for row in rows:
        x = 1000 * (row["from"] - begin) / whole
        width = max(3.0, 1000 * row["seconds"] / whole)
        failed = " failed" if row["error"] else ""
        drawn += Markup('<rect class="{}{}" x="{}" y="2" width="{}" height="20"/>').format(
            row["kind"], failed, f"{min(x, 997):.1f}", f"{width:.1f}"
        )
    picture = Markup(
        '<svg class="bars" viewBox="0 0 1000 24" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format("where the time of the job went; the table below has the same", drawn)
    return picture, rows


def _row(kind: str, begin: float, end: float, *, number: int | None = None, error: str | None = None) -> dict[str, Any]:
    when = datetime.datetime.fromtimestamp(begin, datetime.UTC).isoformat()
    length = max(0.0, end - begin)
    return {"kind": kind, "from": begin, "when": when, "seconds": length, "number": number, "error": error}


def _at(text: str | None) -> float | None:
    return None if text is None else datetime.datetime.fromisoformat(text).timestamp()
