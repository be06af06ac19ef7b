"""A call in a worker of a Dask cluster: what runs there, and what it tells home besides its outcome.

Dask brings the outcome. What it does not tell whoever has cancelled a call is whether the function runs still, and how
far it is: that goes by events of a topic, through the scheduler, to the runner (`dask.py`).

Always true: an event `begun` is sent before a line of the function runs, and `ended` after the last one.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import pickle
import time
from collections.abc import Callable
from typing import Any, final

__all__ = ["NotReturned", "run_call"]

_NOT_DASKS: tuple[type[BaseException], ...] = (asyncio.CancelledError, SystemExit, KeyboardInterrupt)
# Seconds between two notes of a call: nobody reads faster. The last one is always sent.
_NOTE_INTERVAL = 0.02


@final
class NotReturned:
    """Stands for an error that Dask would take for its own business: a cancel, an exit.

    It is made anew at home: Dask's pickle of an exception does not call its class, so an exit would lose its code.
    """

    def __init__(self, error: BaseException) -> None:
        self._kind = next(kind for kind in _NOT_DASKS if isinstance(error, kind))
        code = getattr(error, "code", None)
        self._args = (code if code is None or isinstance(code, int) else str(code),) if hasattr(error, "code") else ()

    def error(self) -> BaseException:
        """Return the error."""
        return self._kind(*self._args)


def run_call(topic: str, key: str, about: bytes, payload: bytes) -> Any:
    """Run a call, in a thread of a Dask worker.

    Args:
        topic: where events go.
        key: which call it is.
        about: the pickle of what `DaskRunner`'s `describe` returned.
        payload: the pickle of (function, args), by Dask.
    """
    distributed: Any = importlib.import_module("distributed")
    worker = distributed.get_worker()
    kept: list[object] = []
    sent = 0.0

    def note(value: object) -> None:
        nonlocal sent
        now = time.monotonic()
        if now - sent < _NOTE_INTERVAL:
            kept[:] = [value]
            return
        kept.clear()
        sent = now
        worker.log_event(topic, {"key": key, "note": value})

    worker.log_event(topic, {"key": key, "begun": worker.address})
    try:
        # In a context of its own: the thread is used again.
        return contextvars.Context().run(_run, about, payload, note)
    except _NOT_DASKS as error:
        return NotReturned(error)
    finally:
        for value in kept:
            worker.log_event(topic, {"key": key, "note": value})
        worker.log_event(topic, {"key": key, "ended": worker.address})


def _run(about: bytes, payload: bytes, note: Callable[[object], object]) -> Any:
    pickle.loads(about).begin(note)  # noqa: S301 - from whoever may run code here anyway
    function, args = pickle.loads(payload)  # noqa: S301 - the same
    return function(*args)
