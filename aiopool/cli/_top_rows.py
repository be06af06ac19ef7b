"""`Rows`: a table that stays calm: cells are patched in place, and the cursor stays on the job that it is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from rich.text import Text
from textual.coordinate import Coordinate
from textual.events import Resize
from textual.widgets import DataTable

from aiopool.cli._fit import GAP, clipped, column_widths

__all__ = ["Rows"]

# By the letter of a status; the letter says it without colour, too.
_STYLES = {"R": "green", "Q": "cyan", "S": "blue", "F": "bold red", "T": "bold magenta", "C": "yellow"}


@final
class Rows(DataTable[Text]):
    """Rows of text. What they are about is in `items`, in the same order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cursor_type="row", cell_padding=GAP // 2, **options)
        self.items: list[Any] = []
        self._header: tuple[str, ...] = ()
        self._cells: list[tuple[str, ...]] = []
        self._keys: list[str] = []
        self._widths: list[int] = []

    @property
    def item(self) -> Any:
        """What the row below the cursor is about; None: there is none."""
        return self.items[self.cursor_row] if 0 <= self.cursor_row < len(self.items) else None

    def show_rows(
        self, header: tuple[str, ...], rows: Sequence[tuple[str, ...]], items: Sequence[Any], keys: Sequence[str]
    ) -> None:
        """Show these rows.

        Args:
            header: titles of the columns.
            rows: their cells, clean.
            items: what each row is about.
            keys: what tells one row from another: the cursor follows its key.
        """
        room = max(20, self.size.width - GAP - 1)  # a column of the scroll bar
        wanted = column_widths(header, rows, room)
        wider = any(new > old for new, old in zip(wanted, self._widths, strict=False))
        if header != self._header or wider or not self._widths:
            if header == self._header and self._widths:
                # Where there is room, a column that was wide stays so: a table that breathes cannot be read.
                calm = [max(new, old) for new, old in zip(wanted, self._widths, strict=True)]
                wanted = calm if sum(calm) + GAP * (len(calm) - 1) <= room else wanted
            self._build(header, wanted)
        at = self._keys[self.cursor_row] if 0 <= self.cursor_row < len(self._keys) else None
        self._patch([tuple(clipped(cell, wide) for cell, wide in zip(row, self._widths, strict=True)) for row in rows])
        self.items, self._keys = list(items), list(keys)
        if at in self._keys:
            self.move_cursor(row=self._keys.index(at))

    def _build(self, header: tuple[str, ...], widths: list[int]) -> None:
        row = self.cursor_row
        self.clear(columns=True)
        for title, width in zip(header, widths, strict=True):
            self.add_column(title, width=width)
        if header != self._header:
            row, self._keys = 0, []
        for number, cells in enumerate(self._cells if header == self._header else ()):
            self.add_row(*map(_styled, cells), key=str(number))
        self._cells = self._cells if header == self._header else []
        self._header, self._widths = header, widths
        self.move_cursor(row=row)

    def _patch(self, rows: list[tuple[str, ...]]) -> None:
        before = self._cells
        for number, cells in enumerate(rows[: len(before)]):
            for column, cell in enumerate(cells):
                if before[number][column] != cell:
                    self.update_cell_at(Coordinate(number, column), _styled(cell))
        for number in range(len(before), len(rows)):
            self.add_row(*map(_styled, rows[number]), key=str(number))
        for number in range(len(rows), len(before)):
            self.remove_row(str(number))
        self._cells = rows

    def on_resize(self, event: Resize) -> None:
        """Fit the columns anew with the next rows."""
        self._widths = []


def _styled(cell: str) -> Text:
    # Never a plain `str`: the table would read markup in it, and names of jobs are whatever somebody has chosen.
    return Text(cell, style=_STYLES.get(cell, ""), no_wrap=True)
