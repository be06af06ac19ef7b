"""`log_fault`: how the core tells of a fault that has nobody else to go to. Told once, and whatever the log does.

A handler of the log that raises must not end a worker: then the fault, and the handler's own, go to stderr.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Any

__all__ = ["log_fault"]


def log_fault(
    logger: logging.Logger,
    text: str,
    *args: object,
    error: BaseException | None = None,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Log at `ERROR`, with the traceback of `error`; never raise."""
    # A tuple, not the error: `logging` asks whether it is true, and an exception may have its own idea of that.
    trace = None if error is None else (type(error), error, error.__traceback__)
    try:
        logger.error(text, *args, exc_info=trace, extra=fields)
    except Exception as broken:
        # Each by itself: an exception that cannot be printed must not hide the others.
        with contextlib.suppress(Exception):
            print(text % args, file=sys.stderr)
        for fault in (error, broken):
            if fault is not None:
                with contextlib.suppress(Exception):
                    traceback.print_exception(fault)
