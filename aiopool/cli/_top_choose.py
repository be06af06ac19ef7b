"""`Choose`: the pools of all programs that have a door, to go into one of them."""

from __future__ import annotations

import asyncio
from typing import ClassVar, final

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from aiopool.cli._door import NO_DOOR, Found, find_programs
from aiopool.cli._fit import clean_cell
from aiopool.cli._ps import HEADER, pool_row
from aiopool.cli._top_rows import Rows

__all__ = ["Choose"]

# Seconds between two rounds: each asks every program.
_EVERY = 2.0


@final
class Choose(Screen[tuple[Found, str]]):
    """A list of pools; answers the one that was chosen."""

    CSS = "Choose Rows { height: 1fr; } Choose #title { height: 2; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "go", "Go in"),
        Binding("q", "app.leave", "Quit"),
    ]

    def compose(self) -> ComposeResult:
        """Make the screen."""
        yield Static("Pools of programs with an open door", id="title", markup=False)
        yield Rows(id="pools")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to ask."""
        self.query_one(Rows).focus()
        self._ask()

    @work(exclusive=True)
    async def _ask(self) -> None:
        while True:
            try:
                found = await asyncio.to_thread(find_programs)
            except PermissionError as error:
                self.query_one("#title", Static).update(clean_cell(str(error)))
            else:
                pools = [(program, status) for program in found for status in program.pools]
                silent = [f"process {program.pid} does not answer" for program in found if program.hello is None]
                title = "Pools of programs with an open door" if pools else NO_DOOR
                self.query_one("#title", Static).update("; ".join((title, *silent)))
                rows = [tuple(map(clean_cell, pool_row(program, status))) for program, status in pools]
                items = [(program, str(status["pool"])) for program, status in pools]
                self.query_one(Rows).show_rows(HEADER, rows, items, [f"{one.pid}/{key}" for one, key in items])
            await asyncio.sleep(_EVERY)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Go in."""
        self.action_go()

    def action_go(self) -> None:
        """Answer the pool below the cursor."""
        item = self.query_one(Rows).item
        if item is not None:
            self.dismiss(item)
