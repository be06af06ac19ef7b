"""The Dask runner: plain functions go to a Dask cluster, their outcomes come back to the loop.

It has the interface of the other runners (`runners.py`). All that is Dask's is on the other side of a thread
(`dask_link.py`); here is what the loop knows: which calls there are.

The queue is the scheduler's: every call goes there at once. A cluster that is lost (no scheduler answers, or the
connection breaks) ends the calls that it had with a `ClusterLostError`; each call that comes waits some seconds for a
connection, and ends so if there is none. So whoever tries again and again is never in a hot loop, and needs to know
nothing of it. A worker that dies loses its calls: Dask itself gives them to another one, and after some deaths
(`distributed.scheduler.allowed-failures`) it gives a call up, which is a `ProcessDiedError`.

A call that has begun cannot be stopped. When it is cancelled Dask forgets it, and the call ends for us when its
function has told its end, its worker is removed, or the cluster is lost.

Always true:
- Each call that was started ends once, by `on_done`, in a later turn of the loop; or it was withdrawn; or the runner
  was closed while the function ran.
- A call is handed to Dask once.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import threading
from collections.abc import Callable
from typing import Any, final

from aiopool._runtime.dask_link import DaskCall, DaskLink

__all__ = ["DaskRunner", "check_cluster"]

MISSING = (
    "a pool with a Dask cluster needs distributed, which is not installed: pip install distributed, or the extra dask"
)


def check_cluster(cluster: object) -> None:
    """Raise if this is no cluster, or Dask is not installed.

    Raises:
        ModuleNotFoundError: `distributed` is not installed; the text says what to install.
        TypeError: it is no address, no cluster and no client.
    """
    if isinstance(cluster, str) or hasattr(cluster, "scheduler_address") or hasattr(cluster, "scheduler_info"):
        if importlib.util.find_spec("distributed") is None:
            raise ModuleNotFoundError(MISSING, name="distributed")
        return
    raise TypeError(
        f"dask={cluster!r} ({type(cluster).__name__}): write the address of a scheduler, such as "
        'dask="tcp://scheduler:8786", or a cluster or a Client of dask.distributed'
    )


@final
class DaskRunner:
    """Run plain functions on a Dask cluster, and bring their outcomes back to the loop.

    All methods belong to the thread of the loop, and none of them waits.

    Args:
        loop: where outcomes are delivered.
        cluster: the address of a scheduler; or a cluster or client, whose address and certificates are taken.
        name: of the pool, for its thread and the keys at Dask.
        on_done: called in the loop as `on_done(token, ok, value)`, once for each call that was not withdrawn.
        describe: called with a token; it returns an object that pickles. In the worker `begin(note)` of it is called
            before the function, with a function that sends a note home; its `name` is for messages.
        on_note: called as `on_note(token, note)`, with what a call has sent home.
    """

    stops = False

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        cluster: object,
        name: str,
        on_done: Callable[[Any, bool, Any], object],
        describe: Callable[[Any], Any],
        on_note: Callable[[Any, Any], object],
    ) -> None:
        self.loop = loop
        self.name = name
        self._on_done = on_done
        self._describe = describe
        self._on_note = on_note
        self._calls: dict[int, DaskCall] = {}
        self._lock = threading.Lock()  # of `sent` and `withdrawn`
        self._closed = False
        self.ended: asyncio.Future[None] | None = None  # once closed: done when the thread has ended
        self._link = DaskLink(self, cluster)

    def start(
        self, token: Any, context: contextvars.Context, fn: Callable[..., object], args: tuple[Any, ...] = ()
    ) -> None:
        """Hand a call to the cluster. Context variables are not carried.

        Raises:
            RuntimeError: the runner is closed, or the token is in use.
        """
        if self._closed or id(token) in self._calls:
            what = "runs a call for this token already" if id(token) in self._calls else "is closed"
            raise RuntimeError(f"{self!r} {what}")
        call = self._calls[id(token)] = DaskCall(token, self._describe(token), fn, args)
        self._link.tell(self._link.start, call)

    def withdraw(self, token: Any) -> bool:
        """Take back a call that Dask does not have yet; whether it was."""
        call = self._calls.get(id(token))
        if call is None:
            return False
        with self._lock:
            if call.sent:
                return False
            call.withdrawn = True
        del self._calls[id(token)]
        return True

    def cancel(self, token: Any, reason: str | None = None) -> bool:
        """Have Dask forget a call: one that has not begun never does. Whether there is such a call.

        Its outcome is a `CancelledError`, when no line of it runs any more.
        """
        call = self._calls.get(id(token))
        if call is None:
            return False
        self._link.tell(self._link.cancel, call)
        return True

    def abandon(self, token: Any) -> bool:
        """Say that nobody waits for a call any more; it runs on, and its end is told. Whether it runs."""
        return id(token) in self._calls

    def close(self, wait: float = 0.0) -> int:
        """Take no more calls, have Dask forget those that it has, and disconnect. Returns how many it had.

        Those that it did not have are delivered as cancelled.
        """
        count = sum(call.sent for call in self._calls.values())
        if self._closed:
            return count
        self._closed = True
        self.ended = self.loop.create_future()
        self._link.tell(self._link.close)
        return count

    def __repr__(self) -> str:
        return f"<DaskRunner {self.name!r} {len(self._calls)} calls>"

    # -- told by the other thread ------------------------------------------------------------------------------------

    def hand_over(self, call: DaskCall) -> bool:
        """A call is about to go to Dask; False: it was withdrawn. Called in the other thread."""
        with self._lock:
            call.sent = not call.withdrawn
        return call.sent

    def deliver(self, call: DaskCall, ok: bool, value: Any) -> None:
        """Tell the outcome of a call."""
        if self._calls.get(id(call.token)) is call:  # else it was withdrawn
            del self._calls[id(call.token)]
            self._on_done(call.token, ok, value)

    def noted(self, call: DaskCall, note: Any) -> None:
        """Tell a note of a call."""
        if self._calls.get(id(call.token)) is call:
            self._on_note(call.token, note)

    def gone(self) -> None:
        """The thread has ended."""
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)
