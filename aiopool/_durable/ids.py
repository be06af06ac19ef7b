"""Ids of jobs: UUIDs of version 7 (RFC 9562), which begin with the time, so that a database keeps new ones together."""

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
    end = os.urandom(8).hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:]}-{_VARIANT[end[0]]}{end[1:4]}-{end[4:]}"


# The variant is in the two highest bits: 10.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
