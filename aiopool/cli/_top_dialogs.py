"""What appears above the screen of `aiopool top`: a question before something is done, and a page of text."""

from __future__ import annotations

from typing import ClassVar, final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from aiopool.cli._fit import clean_cell

__all__ = ["Page", "Question", "SizeQuestion"]

_MAX_SIZE = 10_000


class Question(ModalScreen[bool]):
    """Asks whether something is to be done; answers True or False."""

    CSS = """
    Question, SizeQuestion { align: center middle; }
    #dialog { width: auto; max-width: 90%; height: auto; padding: 1 2; border: thick $primary; background: $surface; }
    #dialog Static { width: auto; max-width: 100%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "Yes"),
        Binding("n,escape,q", "answer(False)", "No"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = clean_cell(text)

    def compose(self) -> ComposeResult:
        """Make the box."""
        with Vertical(id="dialog"):
            yield Static(Text(self.text), id="question")
            yield Static(Text("\ny, Enter: yes    n, Esc: no"))

    def action_answer(self, answer: bool) -> None:
        """Close the box."""
        self.dismiss(answer)


@final
class SizeQuestion(ModalScreen[int]):
    """Asks for a new size; answers it, or 0: it stays."""

    CSS = Question.CSS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "Yes"),
        Binding("n,escape,q", "answer(False)", "No"),
        Binding("plus,equals_sign,up", "change(1)", "More"),
        Binding("minus,down", "change(-1)", "Less"),
    ]

    def __init__(self, pool: str, before: int, size: int) -> None:
        super().__init__()
        self._pool, self._before = clean_cell(pool), before
        self.new_size = max(1, min(_MAX_SIZE, size))

    def compose(self) -> ComposeResult:
        """Make the box."""
        with Vertical(id="dialog"):
            yield Static(self._text(), id="question")
            yield Static(Text("\n+ -: change it    y, Enter: yes    n, Esc: no"))

    def _text(self) -> Text:
        return Text(f"Resize pool {self._pool} from {self._before:,} to {self.new_size:,}?")

    def action_change(self, by: int) -> None:
        """Ask for another size."""
        self.new_size = max(1, min(_MAX_SIZE, self.new_size + by))
        self.query_one("#question", Static).update(self._text())

    def action_answer(self, answer: bool) -> None:
        """Close the box."""
        self.dismiss(self.new_size if answer else 0)


@final
class Page(ModalScreen[None]):
    """Shows lines of text until somebody has read them."""

    CSS = """
    Page { align: center middle; }
    Page VerticalScroll { width: 94%; height: 90%; padding: 0 1; border: round $primary; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "dismiss", "Back")]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self.heading, self.text = clean_cell(title), text

    def compose(self) -> ComposeResult:
        """Make the box."""
        with VerticalScroll() as box:
            box.border_title = Text(self.heading).markup
            box.border_subtitle = "Esc: back"
            yield Static(Text(self.text))
