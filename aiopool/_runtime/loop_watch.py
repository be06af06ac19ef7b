"""`LoopWatch`: no thread waits for a loop that is dead.

A thread that waits for an event loop hears nothing if the loop is closed under it, or if the thread of the loop has
ended: nobody is left who could say so. While threads may wait, one thread for the whole process looks twice a second
whether the loops live. It sleeps when nobody has waited for some seconds, and ends with the last pool that threads use.

It is a safety net: all that ends as it should ends without it.
"""

from __future__ import annotations

import os
import threading
from typing import Final, Protocol, final

__all__ = ["WATCH", "LoopWatch", "Watched"]

# Seconds between two looks.
TICK = 0.5
# After so many looks at which nobody waited, it sleeps until it is woken.
PATIENCE = 20


class Watched(Protocol):
    """What is looked at."""

    def waits(self) -> bool:
        """Whether a thread may be waiting."""
        ...

    def look(self) -> None:
        """Release who waits, if the loop is dead; from any thread."""
        ...

    def is_over(self) -> bool:
        """Whether nobody will wait any more."""
        ...


@final
class LoopWatch:
    """See the module. The mutable state is what is watched, and the thread while there is something."""

    __slots__ = ("_lock", "_thread", "_wake", "_watched", "asleep")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew: nothing is watched, and there is no thread (in a forked child)."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._watched: set[Watched] = set()
        self._thread: threading.Thread | None = None
        self.asleep = False  # whoever begins to wait calls `wake` then

    def add(self, watched: Watched) -> None:
        """Watch something, until `discard`."""
        with self._lock:
            self._watched.add(watched)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="aiopool-loop-watch", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return  # no thread to be had: there is no net, and everything else is as it was
                self._thread = thread
        self._wake.set()

    def discard(self, watched: Watched) -> None:
        """Watch something no more."""
        with self._lock:
            self._watched.discard(watched)
        self._wake.set()

    def wake(self) -> None:
        """Somebody begins to wait; to be called while it is asleep."""
        self._wake.set()

    def _run(self) -> None:
        quiet = 0
        while True:
            self._wake.clear()
            with self._lock:
                watched = list(self._watched)
                if not watched:
                    self._thread = None
                    return
            waited_for = any(one.waits() for one in watched)
            one = None
            for one in watched:
                if one.waits():
                    one.look()
                elif one.is_over():
                    self.discard(one)
            quiet = 0 if waited_for else quiet + 1
            self.asleep = quiet >= PATIENCE
            # Whoever begins to wait says so first and looks second, so one of us two sees the other.
            sleeps = self.asleep and not any(one.waits() for one in watched)
            del watched, one
            self._wake.wait(None if sleeps else TICK)
            self.asleep = False


WATCH: Final = LoopWatch()

if hasattr(os, "register_at_fork"):  # pragma: no branch: Windows has no fork, and no tests run there
    os.register_at_fork(after_in_child=WATCH.reset)
