"""How numbers, durations, moments and texts are written on a page. The script writes them in the same way.

Texts come from programs and from whoever gave them work: they are cut, and characters that a reader cannot see, or that
turn the order of others, are shown by name. Escaping is the templates' work.
"""

from __future__ import annotations

import datetime
import re
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

__all__ = [
    "MAX_TEXT",
    "address",
    "clean",
    "cut",
    "fact",
    "kilobytes",
    "live_row",
    "moment",
    "number",
    "quoted",
    "rate",
    "seconds",
    "short",
    "value",
]

# Characters of one text on a page.
MAX_TEXT = 2000
# Of one in a table.
MAX_CELL = 160
NOTHING = "–"
# Control characters but tab and newline; marks that turn the direction of text; lone halves of pairs.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: Any) -> Any:
    """Return a text as it is shown; other values as they are. It is called for all that templates write."""
    if text is None:
        return ""
    if not isinstance(text, str) or isinstance(text, Markup):
        return text
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}… ({len(text):,} characters)"
    if text.isprintable():
        return text
    return _HIDDEN.sub(lambda found: f"⟨{ord(found[0]):04X}⟩", text)


def short(text: Any) -> str:
    """Return a text for a cell of a table, cut; the page of the one thing has more of it."""
    return "" if text is None else cut(str(text), MAX_CELL)


def cut(text: str, most: int) -> str:
    """Return a text of so many characters at most."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def live_row(id: object) -> Markup:
    """Return the attribute by which the script finds the row of a job, for the numbers of a frame."""
    text = str(id)
    return Markup("") if len(text) > MAX_CELL else Markup(f' data-job="{value(text)}"')  # noqa: S704 - escaped


def value(text: object) -> Markup:
    """Return a text for a hidden field: whole, and only escaped, for it comes back to us. (HTML has no NUL.)"""
    return escape("" if text is None else str(text).replace("\0", "�"))


def number(of: float | None) -> str:
    """Write a number: `1,234`."""
    if of is None:
        return NOTHING
    return f"{of:,}" if isinstance(of, int) else rate(of)


def rate(of: float | None) -> str:
    """Write a number that is no whole one: `0.03`, `4.2`, `1,234`."""
    if of is None:
        return NOTHING
    if of == 0:
        return "0"
    return f"{of:,.0f}" if of >= 100 else f"{of:.1f}" if of >= 1 else f"{of:.2f}"


def seconds(of: float | None) -> str:
    """Write a duration: `3 ms`, `4.2 s`, `5 m 03 s`, `2 h 05 m`, `3 d 04 h`."""
    if of is None:
        return NOTHING
    if of < 0.9995:
        return f"{of * 1000:.0f} ms" if of >= 0.01 or of == 0 else f"{of * 1000:.1f} ms"
    if of < 59.95:
        return f"{of:.1f} s"
    whole = round(of)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def kilobytes(of: float | None) -> str:
    """Write a number of bytes."""
    if of is None:
        return NOTHING
    for unit in ("B", "kB", "MB"):
        if of < 1000:
            return f"{of:.0f} {unit}" if unit == "B" or of >= 100 else f"{of:.1f} {unit}"
        of /= 1000
    return f"{of:,.1f} GB"


def fact(of: Any, name: str) -> str:
    """Write what an engine says of itself; its name ends with the unit."""
    if of is None:
        return NOTHING
    if isinstance(of, bool):
        return "yes" if of else "no"
    if isinstance(of, list):
        return "; ".join(map(str, of)) or "none"
    if isinstance(of, str):
        return of
    unit = name.rpartition("_")[2]
    return seconds(of) if unit == "seconds" else kilobytes(of) if unit == "bytes" else str(of)


def moment(text: str | None, *, date: bool = False) -> Markup:
    """Write a moment, given as RFC 3339, as a `<time>` in UTC; the script shows the reader's own time in its place."""
    if not text:
        return escape(NOTHING)
    try:
        at = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    except ValueError:
        return escape(text)
    shown = f"{at:%Y-%m-%d %H:%M:%S}" if date else f"{at:%H:%M:%S}"
    return Markup('<time datetime="{}" title="{} UTC"{}>{}</time>').format(
        f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
        f"{at:%Y-%m-%d %H:%M:%S}",
        Markup(" data-date") if date else "",
        shown,
    )


def address(path: str, parameters: dict[str, Any]) -> str:
    """Return a relative address; what is None or empty is left out."""
    query = "&".join(f"{name}={quoted(str(one))}" for name, one in parameters.items() if one not in (None, ""))
    return f"{path}?{query}" if query else path


def quoted(text: str) -> str:
    """Return a text as a part of an address; what it gives needs no escaping."""
    return text if text.isalnum() and text.isascii() else quote(text, safe="", errors="replace")
