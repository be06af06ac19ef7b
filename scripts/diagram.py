"""Draw the table of a job's transitions, for the docs: a picture (SVG) and a table (Markdown).

    python scripts/diagram.py           write both
    python scripts/diagram.py --check   write nothing; exit with 1 if one of them is out of date

The rows come from `aiopool._jobs.status.TRANSITIONS` and from nowhere else. What is kept here is where the boxes stand
and which way the arrows take; an arrow that nobody has placed yet is drawn as a straight line, and a status that has no
place is an error that says so.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from aiopool._jobs.status import FINAL, TRANSITIONS, JobStatus  # noqa: E402

PICTURE = ROOT / "docs" / "assets" / "how-a-job-travels.svg"
PAGE = ROOT / "docs" / "reference" / "statuses.md"
BEGIN, END = "<!-- transitions: begin (scripts/diagram.py) -->", "<!-- transitions: end -->"

WIDTH, HEIGHT = 860, 420
# Middle, width and height of each box. The two endings that every live job may come to lie along the edges, so
# that the arrows to them are short and straight.
BOXES: dict[JobStatus | None, tuple[int, int, int, int]] = {
    None: (40, 210, 14, 14),
    JobStatus.SCHEDULED: (200, 210, 110, 44),
    JobStatus.QUEUED: (400, 210, 110, 44),
    JobStatus.RUNNING: (590, 210, 110, 44),
    JobStatus.SUCCEEDED: (780, 150, 116, 44),
    JobStatus.FAILED: (780, 270, 116, 44),
    JobStatus.CANCELLED: (395, 50, 516, 44),
    JobStatus.TIMED_OUT: (395, 370, 516, 44),
}
# The colours of a page in light and in dark: a picture that is embedded takes the scheme of its page.
LIGHT = (
    ".transition path{fill:none;stroke:#455a64;stroke-width:1.5}.transition text{fill:#37474f;font-size:13px}"
    ".card,.transition rect{fill:#fff}.tip{fill:#455a64}.new{fill:#1a1a1a}"
    ".live rect{fill:#e8eaf6;stroke:#3f51b5;stroke-width:1.5}.final rect{fill:#eceff1;stroke:#607d8b}"
    ".live text,.final text{fill:#1a1a1a;font-weight:600}"
)
DARK = (
    ".transition path{stroke:#90a4ae}.transition text{fill:#cfd8dc}"
    ".card,.transition rect{fill:#1e2129}.tip{fill:#90a4ae}.new{fill:#eceff1}"
    ".live rect{fill:#283046;stroke:#8c9eff}.final rect{fill:#2b3238;stroke:#90a4ae}"
    ".live text,.final text{fill:#eceff1}"
)
Point = tuple[float, float]
# Arrows that go round a box: the points of a curve, and where its word stands.
CURVES: dict[tuple[JobStatus | None, JobStatus], tuple[str, Point]] = {
    (None, JobStatus.QUEUED): ("M40,217 C40,310 380,310 380,234", (290, 288)),
    (JobStatus.RUNNING, JobStatus.SCHEDULED): ("M570,188 C550,110 240,110 220,186", (480, 138)),
}


def place(status: JobStatus | None) -> tuple[int, int, int, int]:
    """Return where a status stands."""
    try:
        return BOXES[status]
    except KeyError:
        raise SystemExit(f"scripts/diagram.py: status {status} has no place yet: give it one in BOXES") from None


def arrow(before: JobStatus | None, event: str, after: JobStatus) -> str:
    """Return one transition as SVG."""
    if (before, after) in CURVES:
        path, (x, y) = CURVES[before, after]
    else:
        path, (x, y) = _straight(place(before), place(after))
    width = 7 * len(event) + 6
    return (
        f'  <g class="transition" data-from="{before or ""}" data-event="{event}" data-to="{after}">\n'
        f'    <path d="{path}" marker-end="url(#tip)"/>\n'
        f'    <rect x="{x - width / 2:g}" y="{y - 12:g}" width="{width}" height="17"/>\n'
        f'    <text x="{x:g}" y="{y:g}" text-anchor="middle">{event}</text>\n'
        "  </g>"
    )


def _straight(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[str, Point]:
    """A straight line between two boxes: upright if one lies along the other, else from side to side."""
    ax, ay, aw, ah = a
    start: Point
    end: Point
    word: Point
    bx, by, bw, bh = b
    if abs(ax - bx) <= abs(bw - aw) / 2:
        down = 1 if by > ay else -1
        start, end = (ax, ay + down * ah / 2), (ax, by - down * (bh / 2 + 2))
        word = (ax, (start[1] + end[1]) / 2 + 4 + down * 22)
    else:
        right = 1 if bx > ax else -1
        start, end = (ax + right * aw / 2, ay), (bx - right * (bw / 2 + 2), by)
        word = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + (4 if ay != by else -9))
    return f"M{start[0]:g},{start[1]:g} L{end[0]:g},{end[1]:g}", word


def box(status: JobStatus) -> str:
    """Return one status as SVG; a final one has a double frame."""
    x, y, w, h = place(status)
    final = status in FINAL
    frames = "".join(
        f'<rect x="{x - w / 2 + gap:g}" y="{y - h / 2 + gap:g}" width="{w - 2 * gap}" height="{h - 2 * gap}" rx="8"/>'
        for gap in ((0, 4) if final else (0,))
    )
    return (
        f'  <g class="{"final" if final else "live"}" data-status="{status}">{frames}'
        f'<text x="{x}" y="{y + 5}" text-anchor="middle">{status}</text></g>'
    )


def rows() -> list[tuple[JobStatus | None, str, JobStatus]]:
    """Return the table, row by row."""
    return [(before, event, after) for before, events in TRANSITIONS.items() for event, after in events.items()]


def picture() -> str:
    """Return the diagram as SVG."""
    words = "; ".join(f"{before or 'a new job'}, {event}: {after}" for before, event, after in rows())
    x, y, w, _ = place(None)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            'aria-labelledby="title words" font-family="system-ui, sans-serif" font-size="14">',
            "  <!-- Drawn by scripts/diagram.py from the table in aiopool/_jobs/status.py. Do not edit. -->",
            '  <title id="title">How a job travels</title>',
            f'  <desc id="words">{words}.</desc>',
            '  <defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path class="tip" d="M0,0 L8,4 L0,8 z"/></marker></defs>',
            f"  <style>{LIGHT}@media (prefers-color-scheme: dark){{{DARK}}}</style>",
            f'  <rect class="card" width="{WIDTH}" height="{HEIGHT}" rx="10"/>',
            *(arrow(*row) for row in rows()),
            f'  <circle cx="{x}" cy="{y}" r="{w / 2:g}" class="new"/>',
            *(box(status) for status in JobStatus),
            "</svg>",
            "",
        ]
    )


def table() -> str:
    """Return the transitions as a Markdown table."""
    lines = ["| status | event | next status |", "| --- | --- | --- |"]
    lines += [
        f"| {f'`{before}`' if before else '*(new)*'} | {event} | `{after}`{' (final)' if after in FINAL else ''} |"
        for before, event, after in rows()
    ]
    return "\n".join(lines)


def page(text: str) -> str:
    """Return the text of a page with the table in its place."""
    head, mark, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (mark and end):
        raise SystemExit(f"scripts/diagram.py: {PAGE} has no place for the table: write {BEGIN} and {END} there")
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"


def main() -> int:
    """Write what is out of date, or only tell of it."""
    wanted = {PICTURE: picture(), PAGE: page(PAGE.read_text(encoding="utf-8"))}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{'out of date' if '--check' in sys.argv else 'written'}: {path.relative_to(ROOT)}")
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
