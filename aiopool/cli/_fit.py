"""Tables that fit a width: columns give way, the widest first, and what does not fit ends in `…`. It knows no pool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size

from aiopool.cli._board import printable

__all__ = ["GAP", "clean_cell", "clipped", "column_widths", "fitted_lines"]

# Between two columns.
GAP: Final = 2
# A column gives way down to so much.
_LEAST: Final = 6


def clean_cell(text: str) -> str:
    """Return a text that stays in its cell, and steers no terminal."""
    return printable(text).replace("\t", " ")


def clipped(text: str, width: int) -> str:
    """Return a text that is no wider than `width`; 0: any width will do."""
    if not width or cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1)}…" if width > 1 else "…"[:width]


def column_widths(header: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> list[int]:
    """Return how wide each column is, so that all fit into `width`; 0: as wide as they like."""
    widths = [cell_len(title) for title in header]
    for row in rows:
        widths = [max(wide, cell_len(cell)) for wide, cell in zip(widths, row, strict=True)]
    over = sum(widths) + GAP * (len(widths) - 1) - width if width else 0
    while over > 0:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= _LEAST:
            break
        # Down to the next widest at once, not cell by cell: a text may have thousands.
        others = [wide for column, wide in enumerate(widths) if column != widest]
        step = max(1, min(over, widths[widest] - max(_LEAST, max(others, default=_LEAST))))
        widths[widest] -= step
        over -= step
    return widths


def fitted_lines(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table, the header first, without line ends."""
    clean = [[clean_cell(cell) for cell in row] for row in rows]
    widths = column_widths(header, clean, width)
    lines = []
    for row in (header, *clean):
        cells = [set_cell_size(clipped(cell, wide), wide) for cell, wide in zip(row, widths, strict=True)]
        lines.append(clipped((" " * GAP).join(cells).rstrip(), width))
    return lines
