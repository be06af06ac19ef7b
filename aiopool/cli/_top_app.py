"""The screen of `aiopool top`, on Textual. It is imported only when there is a terminal to draw on.

A thread asks, so the screen never waits for an answer; the next question comes a while after the last answer, never
before it. Whatever changes the pool asks first, and is not there at all with `--read-only`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, ClassVar, final

from textual import work
from textual.app import App, ComposeResult, ScreenStackError
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, Static, Tab, Tabs

from aiopool._control.client import Connection, NoAnswerError, NoProgramError
from aiopool._control.problems import Problem
from aiopool.cli._answer_text import answer_lines, stack_lines
from aiopool.cli._door import Found, exit_code
from aiopool.cli._fit import clean_cell
from aiopool.cli._frame import ORDERS, table, titles
from aiopool.cli._look import MAX_ROWS, VIEWS, Look, Wanted, Watcher, ended_text
from aiopool.cli._top_choose import Choose
from aiopool.cli._top_dialogs import Page, Question, SizeQuestion
from aiopool.cli._top_head import Head
from aiopool.cli._top_rows import Rows
from aiopool.cli._words import Refusal

__all__ = ["TopApp"]

_STEERING = ("pause", "size", "cancel", "retry", "say_no_retry")
NO_RETRY = (
    "a pool in memory keeps no arguments of jobs that have ended, so none can be run again: submit it anew, or give "
    "the pool a store: Pool(store=..., handlers=...)"
)
# Seconds without an answer from which on the screen says so; more, if it asks less often than that.
_SILENT = 3.0


@final
class TopApp(App[None]):
    """Shows one pool, and does what the keys say.

    Attributes:
        left_because: why it has ended without being told to; None: it was told.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #rows { height: 1fr; }
    #note { height: 1; color: $text-muted; }
    #find { display: none; height: 3; }
    .stale { text-style: dim; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"view('{view}')", view, show=False) for number, view in enumerate(VIEWS, 1)),
        Binding("tab", "next_view(1)", "View", priority=True),
        Binding("shift+tab", "next_view(-1)", "Back", show=False, priority=True),
        Binding("slash", "find", "Filter", key_display="/"),
        Binding("s", "sort", "Sort"),
        Binding("enter", "details", "Details", key_display="⏎"),
        Binding("t", "tree", "Tree"),
        Binding("w", "view('what-if')", "What if"),
        Binding("p", "pause", "Pause"),
        Binding("plus,equals_sign", "size(1)", "Size", key_display="+"),
        Binding("minus", "size(-1)", "Size", key_display="-"),
        Binding("c", "cancel", "Cancel"),
        Binding("r", "retry", "Retry"),
        Binding("r", "say_no_retry", show=False),
        Binding("q", "leave", "Quit"),
        Binding("escape", "clear", "Clear", show=False),
        Binding("ctrl+c", "leave", "Quit", show=False, priority=True),
    ]

    def __init__(self, watcher: Watcher | None, *, interval: float, view: str, wanted: Wanted, read_only: bool) -> None:
        super().__init__()
        self.left_because: str | None = None
        self.look: Look | None = None
        self.view_name = view
        self.wanted = wanted
        self._watcher = watcher
        self._interval = interval
        self._read_only = read_only
        self._orders = {view: next(iter(orders)) for view, orders in ORDERS.items()}
        # Kept, and not looked for: an answer may come while a dialog is above them, or while they are removed.
        self._head = Head()
        self._tabs = Tabs(*(Tab(view, id=view) for view in VIEWS), active=view)
        self._rows = Rows(id="rows")
        self._note = Static(id="note", markup=False)
        self._field = Input(
            placeholder="a word of the row, or name= group= error= label= waits_for= older_than=", id="find"
        )
        self._wake = asyncio.Event()
        self._asked_at = 0.0

    def compose(self) -> ComposeResult:
        """Make the screen."""
        self._tabs.can_focus = False
        yield from (self._head, self._tabs, self._rows, self._note, self._field)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Begin to ask; or ask first which pool is meant."""
        self._rows.focus()
        self.set_interval(1.0, self._tell_silence)
        if self._watcher is None:
            self.push_screen(Choose(), self._chosen)
        else:
            self._watch()

    def _chosen(self, choice: tuple[Found, str] | None) -> None:
        if choice is not None:
            self.run_worker(self._go_in(*choice))

    async def _go_in(self, found: Found, key: str) -> None:
        try:
            connection = await asyncio.to_thread(Connection, found.path)
        except (NoProgramError, NoAnswerError, PermissionError, Problem) as error:
            self.notify(clean_cell(str(error)), severity="error", markup=False)
            self.push_screen(Choose(), self._chosen)
            return
        self._watcher = Watcher(connection, key, read_only=self._read_only)
        self._watch()

    # -- looking -------------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="watch")
    async def _watch(self) -> None:
        watcher = self._watcher
        assert watcher is not None
        self._asked_at = time.monotonic()
        while True:
            self._wake.clear()
            view, wanted = self.view_name, self.wanted
            try:
                look = await asyncio.to_thread(watcher.look, view, self._rows_wanted(), wanted)
            except NoAnswerError:
                await asyncio.sleep(self._interval)  # `_tell_silence` says so meanwhile
                continue
            except (NoProgramError, PermissionError, Problem) as error:
                self._end(ended_text(error, watcher), exit_code(error))
                return
            self._asked_at = time.monotonic()
            if (view, wanted) == (self.view_name, self.wanted):  # nobody has gone elsewhere meanwhile
                before, self.look = self.look, look
                self.show_look()
                if before is None or before.page.retry != look.page.retry:
                    self._refresh_keys()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._interval)
                self._asked_at = time.monotonic()

    def _rows_wanted(self) -> int:
        """Return how many rows to ask for: those that are seen, and some to go on to; all, if they are to be sorted."""
        rows = self._rows
        sorted_anew = ORDERS[self.view_name][self._orders[self.view_name]] is not None
        if sorted_anew or self.wanted.words:
            return MAX_ROWS
        return min(MAX_ROWS, rows.cursor_row + max(10, rows.size.height) + 10)

    def show_look(self) -> None:
        """Show what was seen last."""
        look = self.look
        if look is None or look.view != self.view_name:
            return
        order = self._orders[look.view]
        found = table(look, order)
        self._head.show(look, self.size.width)
        self._rows.show_rows(found.header, found.rows, found.items, _keys(found.items))
        self.set_class(False, "stale")
        for tab in self._tabs.query(Tab):
            title = titles(look)[str(tab.id)]
            if tab.label_text != title:
                tab.label = title
        sort = "" if order == next(iter(ORDERS[look.view])) else f"by {order}"
        self._note.update("; ".join(filter(None, (sort, found.summary()))))

    def _refresh_keys(self) -> None:
        with contextlib.suppress(ScreenStackError):  # somebody has left, and an answer came after that
            self.refresh_bindings()

    def _tell_silence(self) -> None:
        """Say so if there was no answer for a while: numbers that are old must not look like new ones."""
        silent = time.monotonic() - self._asked_at
        if self._watcher is None or not self._asked_at or silent < max(_SILENT, 2 * self._interval):
            return
        self.set_class(True, "stale")
        who = f"{self._watcher.hello['program']} {self._watcher.hello['pid']}"
        self._note.update(clean_cell(f"NO ANSWER from {who} for {silent:.0f} s: this is old"))

    def _end(self, why: str, code: int) -> None:
        self.left_because = why
        self.exit(return_code=code)

    def let_go(self) -> None:
        """End what is being asked, and close the connections."""
        if self._watcher is not None:
            self._watcher.abort()
            self._watcher.close()

    def on_unmount(self) -> None:
        """Have no thread wait for a program that owes an answer."""
        if self._watcher is not None:
            self._watcher.abort()

    # -- keys ----------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave out keys that can do nothing here."""
        if action in _STEERING and (self._watcher is None or self._watcher.read_only):
            return False
        if action == "cancel":
            return self.view_name in ("running", "waiting", "groups")
        if action == "retry":
            return self.view_name == "failed" and self.look is not None and self.look.page.retry
        return action != "say_no_retry" or self.view_name == "failed"

    def action_leave(self) -> None:
        """Leave."""
        self.exit()

    def action_view(self, view: str) -> None:
        """Show another view."""
        self._tabs.active = view

    def action_next_view(self, step: int) -> None:
        """Show the view beside this one."""
        if len(self.screen_stack) == 1:
            self.action_view(VIEWS[(VIEWS.index(self.view_name) + step) % len(VIEWS)])

    def on_tabs_tab_activated(self, event: Tabs.TabActivated) -> None:
        """Show the view of a tab."""
        if event.tab.id is not None and event.tab.id != self.view_name:
            self.view_name = event.tab.id
            self._ask_now()

    def _ask_now(self) -> None:
        self._wake.set()
        self._refresh_keys()

    def action_sort(self) -> None:
        """Sort by the next thing that the rows can be sorted by."""
        orders = list(ORDERS[self.view_name])
        self._orders[self.view_name] = orders[(orders.index(self._orders[self.view_name]) + 1) % len(orders)]
        self.show_look()
        self._ask_now()  # of more rows, maybe

    def action_find(self) -> None:
        """Ask for a filter."""
        field = self._field
        field.display = True
        field.value = str(self.wanted)
        field.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take the filter."""
        try:
            self.wanted = Wanted.of(event.value)
        except Refusal as refusal:
            self.notify(clean_cell(str(refusal)), severity="error", markup=False)
            return
        self._hide_field()
        self._ask_now()

    def action_clear(self) -> None:
        """Leave the field of the filter; outside of it: filter no more."""
        if self._field.display:
            self._hide_field()
        elif str(self.wanted):
            self.wanted = Wanted()
            self._ask_now()

    def _hide_field(self) -> None:
        self._field.display = False
        self._rows.focus()

    # -- pages ---------------------------------------------------------------------------------------------------------

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show all that is known of a row."""
        if event.data_table is self._rows:
            self.action_details()

    def action_details(self) -> None:
        """Show all that is known of the row below the cursor."""
        item = self._rows.item
        if item is not None:
            self.run_worker(self._show_details(self.view_name, item))

    async def _show_details(self, view: str, item: dict[str, Any]) -> None:
        if view == "loop":
            text = f"{clean_cell(item['where'])}\n\n{''.join(stack_lines(item['stack']))}"
            self.push_screen(Page(f"blocked {item['seconds']:.1f} s", text))
        elif view == "groups":
            self.push_screen(Page(f"group {item['name']}", "".join(answer_lines("group", item))))
        elif view == "what-if":
            self.push_screen(Page(f"if the size were {item['size']:,}", "".join(answer_lines("what_if", item))))
        else:
            blocked = None if self.look is None else self.look.status["loop"]["blocked"]
            verb = "stack" if blocked and view == "running" else "job"  # a stack needs no event loop
            if blocked and blocked["job"] == item["id"]:
                answer: dict[str, Any] | None = {"frames": blocked["stack"]}  # it is suspended nowhere: it runs
            else:
                answer = await self._ask(verb, id=str(item["id"]))
            if answer is not None:
                self.push_screen(Page(f"job {item['id']} {item['name']}", "".join(answer_lines(verb, answer))))

    @work
    async def action_tree(self) -> None:
        """Show which job has submitted which."""
        answer = await self._ask("tree")
        if answer is not None:
            self.push_screen(Page("jobs of jobs", "".join(answer_lines("tree", answer))))

    # -- verbs ---------------------------------------------------------------------------------------------------------

    @work
    async def action_pause(self) -> None:
        """Pause or resume the pool; in the view of groups: the group."""
        if self.look is None:
            return
        item = self._rows.item if self.view_name == "groups" else None
        paused = bool(self.look.status.get("paused") if item is None else item["paused"])
        verb = "resume" if paused else "pause"
        what = f"pool {self.look.status['pool']}" if item is None else f"group {item['name']}"
        effect = "jobs start again" if paused else "no job starts, and those that run go on"
        if await self.push_screen_wait(Question(f"{verb.capitalize()} {what}? {effect}")):
            await self._do(
                verb, lambda _: f"{what} {'goes on' if paused else 'is paused'}", group=item and item["name"]
            )

    @work
    async def action_size(self, by: int) -> None:
        """Change the size of the pool."""
        if self.look is None:
            return
        before, pool = int(self.look.status["size"]), str(self.look.status["pool"])
        size = await self.push_screen_wait(SizeQuestion(pool, before, before + by))
        if size and size != before:
            await self._do("resize", lambda done: f"size {before:,} is now {done['size']:,}", size=size)

    @work
    async def action_cancel(self) -> None:
        """Cancel the job below the cursor; in the view of groups: all jobs of the group."""
        item = self._rows.item
        if item is None:
            return
        if self.view_name == "groups":
            name = str(item["name"])
            text = f"Cancel all jobs of group {name}? {item['live']:,} of them had not ended a moment ago"
            if await self.push_screen_wait(Question(text)):
                await self._do(
                    "cancel_group", lambda done: f"cancels {done['total']:,} jobs of group {name}", group=name
                )
            return
        id = str(item["id"])
        if await self.push_screen_wait(Question(f"Cancel job {id} {item['name']}? It is {item['status']}")):
            await self._do("cancel", lambda done: f"job {id} was {done['was']}, and is {done['status']}", id=id)

    @work
    async def action_retry(self) -> None:
        """Put the job below the cursor back into the queue."""
        item = self._rows.item
        if item is None:
            return
        id = str(item["id"])
        if await self.push_screen_wait(Question(f"Run job {id} {item['name']} again? It is {item['status']}")):
            await self._do("retry", lambda _: f"job {id} is in the queue again", id=id)

    def action_say_no_retry(self) -> None:
        """Say why no job can be run again."""
        self.notify(NO_RETRY, title="retry", severity="warning", markup=False)

    async def _do(self, verb: str, said: Callable[[dict[str, Any]], str], **arguments: Any) -> None:
        answer = await self._ask(verb, **arguments)
        if answer is not None:
            self.notify(clean_cell(said(answer)), markup=False)
            self._ask_now()

    async def _ask(self, verb: str, **arguments: Any) -> dict[str, Any] | None:
        """Ask in a thread; what goes wrong is shown, and None returned."""
        assert self._watcher is not None
        try:
            return await asyncio.to_thread(self._watcher.ask, verb, **arguments)
        except (Problem, NoProgramError, NoAnswerError, PermissionError) as error:
            self.notify(clean_cell(str(error)), title=verb, severity="error", markup=False)
            return None


def _keys(items: list[dict[str, Any]]) -> list[str]:
    names = ("id", "name", "time", "size")
    return [next(str(item[name]) for name in names if item.get(name) is not None) for item in items]
