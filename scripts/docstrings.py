"""A griffe extension: what our docstrings mean that griffe's reader does not know.

`Example:` is followed by code. Griffe takes it for prose, and would set it as a paragraph. `Raises (when awaited):` is
a section of its own kind; griffe knows `Raises:` only.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:\n((?:[ ]{4}.*\n|[ \t]*\n)*(?:[ ]{4}.*))", re.MULTILINE)


def with_code(text: str) -> str:
    """Return a docstring with its example fenced."""

    def fenced(match: re.Match[str]) -> str:
        code = textwrap.dedent(match[1]).strip()
        language = "pycon" if code.startswith(">>>") else "python"
        return f"**Example**\n\n```{language}\n{code}\n```"

    return EXAMPLE.sub(fenced, text.replace("Raises (when awaited):", "Raises:"))


class Examples(griffe.Extension):
    """Fences the examples of all docstrings."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Look at an object when all of it has been read."""
        if obj.docstring is not None:
            obj.docstring.value = with_code(obj.docstring.value)
