"""Ids of jobs: UUIDs of version 7 (RFC 9562), which begin with the time, so that a database keeps new ones together.

What is random in them comes from the operating system, for many ids at once: asking it is dearer than all the rest. A
process that is forked throws away what its parent had asked for.
"""

from __future__ import annotations

import os
import time

__all__ = ["new_id"]

_MS = 1_000_000  # nanoseconds


def new_id() -> str:
    """Return an id that nobody else has, on any host.

    The twelve bits after the milliseconds are a fraction of one, so that ids made in a row mostly are in order.
    """
    ms, rest = divmod(time.time_ns(), _MS)
    text = f"{ms & 0xFFFFFFFFFFFF:012x}7{rest * 4096 // _MS:03x}"
    try:
        end = _ends.pop()
    except IndexError:
        end = _new_end()
    return f"{text[:8]}-{text[8:12]}-{text[12:]}-{_VARIANT[end[0]]}{end[1:4]}-{end[4:]}"


_BYTES, _AT_ONCE = 8, 256
_ends: list[str] = []


def _new_end() -> str:
    """Return eight random bytes, as hexadecimal digits, and keep some for later."""
    text, digits = os.urandom(_BYTES * _AT_ONCE).hex(), 2 * _BYTES
    _ends.extend(text[at : at + digits] for at in range(digits, len(text), digits))
    return text[:digits]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ends.clear)

# The variant is in the two highest bits: 10.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
