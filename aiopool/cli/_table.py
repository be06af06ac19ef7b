"""Plain tables: what a person reads on a terminal, and `grep` and `awk` in a pipe. It knows texts, and no job."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size

from aiopool.cli._board import printable

__all__ = ["name_value_lines", "table_lines"]


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, the header first. On a terminal none is longer than that is wide."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    table = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        line = "  ".join(set_cell_size(cell, size) for cell, size in zip(row, widths, strict=True)).rstrip()
        yield (f"{set_cell_size(line, width - 1)}…" if width and cell_len(line) > width else line) + "\n"


def name_value_lines(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield a line for each name and its value."""
    width = max((cell_len(name) for name, _ in rows), default=0)
    for name, value in rows:
        yield f"{set_cell_size(name, width)}  {printable(value)}".rstrip() + "\n"
