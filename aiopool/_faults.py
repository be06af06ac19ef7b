"""`log_fault`: how the core tells of a fault that has nobody else to go to. Told once, and whatever the log does.

A handler of the log that raises must not end a worker: then the fault, and the handler's own, go to stderr.
"""

from __future__ import annotations

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
    try:
        logger.error(text, *args, exc_info=error, extra=fields)
    except Exception as broken:
        print(text % args, file=sys.stderr)
        if error is not None:
            traceback.print_exception(error)
        traceback.print_exception(broken)
