"""The bars for the documentation, drawn by hand: an SVG needs no library.

It takes the colour of its text from the reader's light or dark mode, and carries a title and a description
for those who do not see it.
"""

from __future__ import annotations

from html import escape

from benchmarks.contenders import OURS
from benchmarks.measure import CellResult
from benchmarks.report import BASELINES, number

WIDTH = 760
LABEL = 270
BAR = 400
ROW = 22
LONGEST = 2.5
"""Ratios beyond this are cut off, with their number beside them, so that the rest can be told apart."""

CHARTED = (("requests", "GET (aiohttp)"), ("requests", "SELECT 1 (asyncpg)"), ("burst", "no-op"))
"""What is drawn: what users run first, then what shows the price of a job best."""

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .head { font-weight: 600; font-size: 14px; }
  .value { font-variant-numeric: tabular-nums; }
  .peer { fill: #9aa4b2; }
  .ours { fill: #2563eb; }
  .one { stroke: #57606a; stroke-dasharray: 3 3; opacity: 0.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .peer { fill: #6b7684; }
    .ours { fill: #60a5fa; }
    .one { stroke: #9aa4b2; }
  }
"""


def chosen(results: list[CellResult]) -> list[CellResult]:
    """Return the cells of the chart, as far as they were measured: of each kind the first."""
    first = {(result.cell.suite, result.cell.workload): result for result in reversed(results) if result.samples}
    return [first[kind] for kind in CHARTED if kind in first]


def draw(results: list[CellResult], python: str) -> str:
    """Return an SVG with a block of bars for each cell, cheapest first."""
    top = 44
    blocks: list[str] = []
    for result in results:
        drawn, height = _block(result, top)
        blocks.append(drawn)
        top += height
    title = f"CPU time per job, CPython {python}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" '
        f'aria-labelledby="title desc">\n<title id="title">{escape(title)}</title>\n'
        f'<desc id="desc">{escape(_describe(results))}</desc>\n<style>{STYLE}</style>\n'
        f'<text class="head" x="8" y="22">{escape(title)} (shorter is better)</text>\n'
        + "\n".join(blocks)
        + "\n</svg>\n"
    )


def _ranked(result: CellResult) -> list[tuple[str, float]]:
    base = BASELINES[result.cell.suite]
    if base not in result.samples:
        return []
    pairs = [(name, result.ratio(name, base).median) for name in result.samples]
    return sorted(pairs, key=lambda pair: pair[1])


def _describe(results: list[CellResult]) -> str:
    lines = []
    for result in results:
        pairs = ", ".join(f"{name} {number(ratio)}" for name, ratio in _ranked(result))
        lines.append(f"{result.cell.workload}, in units of {BASELINES[result.cell.suite]}: {pairs}.")
    return " ".join(lines)


def _block(result: CellResult, top: int) -> tuple[str, int]:
    cell = result.cell
    rows = _ranked(result)
    caption = f"{cell.workload}, {cell.count:,} jobs, {cell.concurrency:,} at a time – {BASELINES[cell.suite]} = 1"
    if cell.suite == "steady":
        caption = f"steady: {caption}"
    scale = BAR / LONGEST
    parts = [f'<text class="head" x="8" y="{top + 16}">{escape(caption)}</text>']
    begin = top + 26
    for index, (name, ratio) in enumerate(rows):
        y = begin + index * ROW
        kind = "ours" if name in OURS else "peer"
        length = min(ratio, LONGEST) * scale
        tail = " →" if ratio > LONGEST else ""
        parts += [
            f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{LABEL}" y="{y + 3}" width="{length:.1f}" height="{ROW - 7}" rx="2"/>',
            f'<text class="value" x="{LABEL + length + 6:.1f}" y="{y + 14}">{number(ratio)}{tail}</text>',
        ]
    end = begin + len(rows) * ROW
    one = LABEL + scale
    parts.append(f'<line class="one" x1="{one:.1f}" x2="{one:.1f}" y1="{begin}" y2="{end}"/>')
    return "\n".join(parts), end - top + 18
