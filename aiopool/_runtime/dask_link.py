"""The side of Dask: a thread with an event loop of its own, in which its client lives, and the calls that it has.

Importing it, connecting, pickling: all of that happens here, so neither a slow scheduler nor a large result holds up
the pool. `distributed` has no types: it is imported here, as `Any`, and nowhere else but in the workers.

It knows its runner (`dask.py`) by the four methods of `DaskHome`, and tells it everything in the runner's loop.

Always true: a connection that was lost is used no more, though Dask's client makes a new one by itself: the scheduler
behind it knows nothing of our calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import pickle
import threading
import uuid
from collections.abc import Callable
from typing import Any, Protocol, final

from aiopool._runtime.dask_worker import NotReturned, run_call
from aiopool._runtime.faults import describe_error, log_fault
from aiopool._runtime.pickled_call import PROTOCOL
from aiopool.errors import ClusterLostError, NotPicklableError, ProcessDiedError

__all__ = ["DaskCall", "DaskLink"]

logger = logging.getLogger("aiopool.dask")

# Seconds for which a call waits for a scheduler that cannot be reached.
PATIENCE = 10.0
# Seconds between two attempts to reach it, and from the loss of a connection to the next one: the first, and the most.
BACKOFF = 0.25, 5.0
# Seconds after which Dask is told of a cancel again: a scheduler forgets one of a call that it has not taken in yet. So
# long, in all, the word of a call which has begun may take; without it a call that was cancelled has not begun.
TOLD_AGAIN = 0.1, 0.3, 0.6
# Seconds between two looks whether the connection is the same, while a cancelled function runs.
LOOK_SECONDS = 0.5
# Seconds that the end of the client may take.
CLOSE_SECONDS = 2.0


@final
class DaskCall:
    """One call, known to both threads.

    Attributes:
        begun, over: its function runs somewhere; that is over. Set in the thread of Dask.
        worker: where it has begun last.
    """

    __slots__ = (
        "about",
        "args",
        "begun",
        "cancelled",
        "function",
        "future",
        "over",
        "sent",
        "token",
        "withdrawn",
        "worker",
    )

    def __init__(self, token: Any, about: Any, function: Any, args: tuple[Any, ...]) -> None:
        self.token = token
        self.about = about
        self.function = function
        self.args = args
        self.sent = self.withdrawn = self.cancelled = False
        self.future: Any = None
        self.begun = asyncio.Event()
        self.over = asyncio.Event()
        self.worker: str | None = None


class DaskHome(Protocol):
    """Whose calls they are."""

    name: str
    loop: asyncio.AbstractEventLoop

    def hand_over(self, call: DaskCall) -> bool:
        """A call is about to go to Dask; False: it was withdrawn. Called in the thread of Dask, the others at home."""
        ...

    def deliver(self, call: DaskCall, ok: bool, value: Any) -> None:
        """A call has ended."""
        ...

    def noted(self, call: DaskCall, note: Any) -> None:
        """A call has sent something home."""
        ...

    def gone(self) -> None:
        """The thread has ended."""
        ...


@final
class DaskLink:
    """The side of Dask: everything below `tell` is called in its thread."""

    def __init__(self, home: DaskHome, cluster: object) -> None:
        self._home = home
        self._cluster = cluster
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_key: dict[str, DaskCall] = {}
        self._topic = f"aiopool-{uuid.uuid4().hex}"
        self._client: Any = None
        self._comm: Any = None  # the connection of the client: it makes a new one by itself, which has lost everything
        self._connecting: asyncio.Task[Any] | None = None
        self._losses = 0  # in a row
        self._closing = False
        threading.Thread(target=self._live, name=f"{home.name}-dask", daemon=True).start()

    def tell(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called in the thread."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(function, *args)

    def _live(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            self._loop.run_forever()
        finally:
            self._loop.close()
            self._tell_home(self._home.gone)

    def _tell_home(self, function: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._home.loop.call_soon_threadsafe(function, *args)

    # -- a call --------------------------------------------------------------------------------------------------------

    def start(self, call: DaskCall) -> None:
        """Take a call."""
        task = self._loop.create_task(self._run(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, call: DaskCall) -> None:
        """Have Dask forget a call."""
        call.cancelled = True
        if call.future is not None:
            self._loop.create_task(_quietly(call.future.cancel()))

    async def _run(self, call: DaskCall) -> None:
        try:
            outcome = await self._outcome(call)
        except asyncio.CancelledError as error:  # the runner is closed
            if call.sent:
                return  # its function may run
            outcome = False, error
        except BaseException as error:
            outcome = False, error
        self._tell_home(self._home.deliver, call, *outcome)

    async def _outcome(self, call: DaskCall) -> tuple[bool, Any]:
        try:
            client = await self._connected()
            about, payload = pickle.dumps(call.about, PROTOCOL), _pickled(call)
        except ClusterLostError as error:
            return False, asyncio.CancelledError() if call.cancelled else error
        if not self._home.hand_over(call) or call.cancelled:
            return False, asyncio.CancelledError()
        key = f"{call.about.name}-{uuid.uuid4().hex}"
        self._by_key[key] = call
        try:
            call.future = client.submit(run_call, self._topic, key, about, payload, key=key, pure=False)
            ok, value = await self._end_of(call, client)
        finally:
            del self._by_key[key]
            if call.future is not None:
                call.future.release()
        return ok, value

    async def _end_of(self, call: DaskCall, client: Any) -> tuple[bool, Any]:
        """Wait for the end of a call that Dask has."""
        future, comm = call.future, self._comm
        try:
            error = await future.exception()
            if future.status == "finished":
                value = await future
                self._losses = 0
                return (False, value.error()) if isinstance(value, NotReturned) else (True, value)
        except (OSError, asyncio.CancelledError) as fault:
            if self._closing:
                raise
            error = fault
        if future.status == "error":
            self._losses = 0
            return False, _died(call, error) if type(error).__name__ == "KilledWorker" else error
        if call.cancelled:
            await self._quiet(call, comm)
            return False, asyncio.CancelledError()
        if not self._holds(client, comm):
            self._lose(client)
            why = "the connection to its scheduler is lost"
        else:
            why = f"it has forgotten the call ({describe_error(error)})" if error else "it has forgotten the call"
        return False, ClusterLostError(f"{call.about.name} went to a Dask cluster, and {why}: it may run there still")

    async def _quiet(self, call: DaskCall, comm: Any) -> None:
        """Wait until no line of a call that Dask has forgotten runs any more."""
        for seconds in TOLD_AGAIN:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await call.begun.wait()
                    break
            await _quietly(call.future.cancel())
        while call.begun.is_set() and not call.over.is_set() and self._holds(self._client, comm):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await call.over.wait()

    # -- what is told by events ----------------------------------------------------------------------------------------

    async def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        message = event[1]
        call = self._by_key.get(message["key"])
        if call is None:
            return
        if "begun" in message:
            call.worker = message["begun"]
            call.begun.set()
            call.over.clear()
        elif "note" in message:
            self._tell_home(self._home.noted, call, tuple(message["note"]))
        elif message.get("ended") == call.worker:
            call.over.set()

    async def _on_worker(self, event: tuple[float, Any]) -> None:
        message = event[1]
        if isinstance(message, dict) and message.get("action") == "remove-worker":
            for call in self._by_key.values():
                if call.worker == message.get("worker"):
                    call.over.set()

    # -- the connection ------------------------------------------------------------------------------------------------

    def _holds(self, client: Any, comm: Any) -> bool:
        """Whether this is the present connection, and it is whole."""
        return (
            client is not None
            and client is self._client
            and client.status == "running"
            and client.scheduler_comm is comm
            and not comm.comm.closed()
        )

    async def _connected(self) -> Any:
        """Return a client that is connected.

        Raises:
            ClusterLostError: there was none in `PATIENCE` seconds.
        """
        if self._holds(self._client, self._comm):
            return self._client
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())
            self._connecting.add_done_callback(self._has_connected)
        return await asyncio.shield(self._connecting)

    def _has_connected(self, task: asyncio.Task[Any]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # all who wait have it

    def _lose(self, client: Any) -> None:
        """The connection is lost: close what is left of it."""
        if client is self._client and client is not None:
            self._client = self._comm = None
            self._losses += 1
            log_fault(logger, "the connection of %s to Dask is lost", self._home.name, level=logging.WARNING)
            self._loop.create_task(_quietly(client.close()))

    async def _connect(self) -> Any:
        distributed: Any = await asyncio.to_thread(importlib.import_module, "distributed")
        loop = self._loop
        self._lose(self._client)
        until = loop.time() + PATIENCE
        pause = BACKOFF[0]
        if self._losses:
            await asyncio.sleep(min(BACKOFF[1], BACKOFF[0] * 2.0 ** (self._losses - 1)))
        while True:
            try:
                address, security = _where(self._cluster)
                client = await distributed.Client(
                    address,
                    security=security,
                    asynchronous=True,
                    set_as_default=False,
                    timeout=max(0.1, until - loop.time()),
                    name=self._home.name,
                )
            except (OSError, TimeoutError) as error:
                if loop.time() + pause >= until:
                    raise ClusterLostError(
                        f"no scheduler of Dask could be reached in {PATIENCE:g} s: {describe_error(error)}"
                    ) from None
                await asyncio.sleep(pause)
                pause = min(2 * pause, BACKOFF[1])
                continue
            client.subscribe_topic(self._topic, self._on_event)
            client.subscribe_topic("all", self._on_worker)
            self._client, self._comm = client, client.scheduler_comm
            return client

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Forget all calls, disconnect, and end the thread."""
        if not self._closing:
            self._closing = True
            self._loop.create_task(self._close())

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                futures = [call.future for call in self._by_key.values() if call.future is not None]
                for future in futures:
                    await _quietly(future.cancel())
                if self._connecting is not None:
                    self._connecting.cancel()
                if self._client is not None:
                    await self._client.close()
        except Exception as error:
            log_fault(logger, "the client of Dask could not be closed", error=error, level=logging.WARNING)
        left = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSE_SECONDS)
        await self._loop.shutdown_default_executor()
        self._loop.stop()


async def _quietly(steps: Any) -> None:
    """Wait for something whose failure changes nothing: the connection is gone."""
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await steps


def _where(cluster: Any) -> tuple[str, Any]:
    """Return the address of a scheduler now, and the certificates of its cluster."""
    if isinstance(cluster, str):
        return cluster, None
    found = getattr(cluster, "scheduler_address", None)
    if found is None:
        found = cluster.scheduler.address if cluster.scheduler is not None else ""
    if "://" not in str(found):
        raise OSError(f"{type(cluster).__name__} is not connected")
    return str(found), getattr(cluster, "security", None)


def _pickled(call: DaskCall) -> bytes:
    dask_pickle: Any = importlib.import_module("distributed.protocol.pickle")
    try:
        payload: bytes = dask_pickle.dumps((call.function, call.args))
    except Exception as error:
        raise NotPicklableError(
            f"{call.about.name}: the call cannot be sent to a Dask cluster: {describe_error(error)}. Send what its "
            "arguments are made from (a path, a number, a text), and open it there"
        ) from error
    return payload


def _died(call: DaskCall, error: Any) -> ProcessDiedError:
    fault = ProcessDiedError(f"the workers of Dask that ran {call.about.name} died: {error}", None)
    fault.__cause__ = error
    return fault
