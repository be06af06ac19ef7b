"""`Head`: the lines above the table of `aiopool top`, in colours; what they mean is said by a word, too."""

from __future__ import annotations

from typing import final

from rich.text import Text
from textual.widgets import Static

from aiopool.cli._frame import HEAD, head
from aiopool.cli._look import Look

__all__ = ["Head"]


@final
class Head(Static):
    """What is looked at, its numbers, its slots, its event loop."""

    DEFAULT_CSS = f"Head {{ height: {HEAD}; }}"

    def show(self, look: Look, width: int) -> None:
        """Show it in lines of a width."""
        text = Text("\n".join(head(look, width)), no_wrap=True)
        text.highlight_regex(r"PAUSED.*?(?=  |$)", "bold yellow")
        text.highlight_regex(r"BLOCKED.*", "bold red")
        text.highlight_regex(r"(?<=\[)#+", "green")
        text.highlight_regex(r"!+(?=\.*\])", "bold red")
        self.update(text)
