"""The Dask runner: plain functions go to a Dask cluster, their outcomes come back to the loop.

It has the interface of the other runners (`runners.py`). All that is Dask's lives in one thread with an event loop of
its own: importing it, connecting, pickling, and what its client does. So neither a slow scheduler nor a large result
holds up the pool. `distributed` has no types: it is imported here, as `Any`, and nowhere else but in the workers.

The queue is the scheduler's: every call goes there at once. A cluster that is lost (no scheduler answers, or the
connection breaks) ends the calls that it had with a `ClusterLostError`; each call that comes waits for a connection for
`PATIENCE` seconds and ends so if there is none. So whoever tries again and again is never in a hot loop, and needs to
know nothing of it. A worker that dies loses its calls: Dask itself gives them to another one, and after some deaths
(`distributed.scheduler.allowed-failures`) it gives a call up, which is a `ProcessDiedError`.

A call that has begun cannot be stopped. When it is cancelled Dask forgets it, and the call ends for us when its function
has told its end, its worker is removed, or the cluster is lost.

Always true:
- Each call that was started ends once, by `on_done`, in a later turn of the loop; or it was withdrawn; or the runner was
  closed while the function ran.
- A call is handed to Dask once.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import importlib.util
import logging
import pickle
import threading
import uuid
from collections.abc import Callable
from typing import Any, final

from aiopool._runtime.dask_worker import NotReturned, run_call
from aiopool._runtime.faults import describe_error, log_fault
from aiopool.errors import ClusterLostError, NotPicklableError, ProcessDiedError

__all__ = ["DaskRunner", "check_cluster"]

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

MISSING = "the offload to a Dask cluster needs distributed, which is not installed: pip install 'aiopool[dask]'"


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
class _Call:
    """One call, known to both threads.

    Attributes:
        begun, over: its function runs somewhere; that is over. Set in the thread of Dask.
        worker: where it has begun last.
    """

    __slots__ = ("about", "args", "begun", "cancelled", "function", "future", "over", "sent", "token", "withdrawn", "worker")

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
        self._calls: dict[int, _Call] = {}
        self._lock = threading.Lock()  # of `sent` and `withdrawn`
        self._closed = False
        self.ended: asyncio.Future[None] | None = None  # once closed: done when the thread has ended
        self._link = _Link(self, cluster)

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
        call = self._calls[id(token)] = _Call(token, self._describe(token), fn, args)
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
        """Have Dask forget a call: one that has not begun never does. Its outcome is a `CancelledError`, when no line of
        it runs any more. Whether there is such a call."""
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

    def hand_over(self, call: _Call) -> bool:
        """A call is about to go to Dask; False: it was withdrawn. Called in the other thread."""
        with self._lock:
            call.sent = not call.withdrawn
        return call.sent

    def deliver(self, call: _Call, ok: bool, value: Any) -> None:
        """Tell the outcome of a call."""
        if self._calls.get(id(call.token)) is call:  # else it was withdrawn
            del self._calls[id(call.token)]
            self._on_done(call.token, ok, value)

    def noted(self, call: _Call, note: Any) -> None:
        """Tell a note of a call."""
        if self._calls.get(id(call.token)) is call:
            self._on_note(call.token, note)

    def gone(self) -> None:
        """The thread has ended."""
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)


@final
class _Link:
    """The side of Dask: everything below `tell` is called in its thread."""

    def __init__(self, runner: DaskRunner, cluster: object) -> None:
        self._runner = runner
        self._cluster = cluster
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_key: dict[str, _Call] = {}
        self._topic = f"aiopool-{uuid.uuid4().hex}"
        self._client: Any = None
        self._comm: Any = None  # the connection of the client: it makes a new one by itself, which has lost everything
        self._connecting: asyncio.Task[Any] | None = None
        self._losses = 0  # in a row
        self._closing = False
        threading.Thread(target=self._live, name=f"{runner.name}-dask", daemon=True).start()

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
            self._tell_home(self._runner.gone)

    def _tell_home(self, function: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._runner.loop.call_soon_threadsafe(function, *args)

    # -- a call --------------------------------------------------------------------------------------------------------

    def start(self, call: _Call) -> None:
        """Take a call."""
        task = self._loop.create_task(self._run(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, call: _Call) -> None:
        """Have Dask forget a call."""
        call.cancelled = True
        if call.future is not None:
            self._loop.create_task(_quietly(call.future.cancel()))

    async def _run(self, call: _Call) -> None:
        try:
            outcome = await self._outcome(call)
        except asyncio.CancelledError as error:  # the runner is closed
            if call.sent:
                return  # its function may run
            outcome = False, error
        except BaseException as error:
            outcome = False, error
        self._tell_home(self._runner.deliver, call, *outcome)

    async def _outcome(self, call: _Call) -> tuple[bool, Any]:
        try:
            client = await self._connected()
            about, payload = pickle.dumps(call.about, 5), _pickled(call)
        except ClusterLostError as error:
            return False, asyncio.CancelledError() if call.cancelled else error
        if not self._runner.hand_over(call) or call.cancelled:
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

    async def _end_of(self, call: _Call, client: Any) -> tuple[bool, Any]:
        """Wait for the end of a call that Dask has."""
        future, comm = call.future, self._comm
        try:
            error = await future.exception()
            if future.status == "finished":
                value = await future
                self._losses = 0
                return (False, value.error) if isinstance(value, NotReturned) else (True, value)
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

    async def _quiet(self, call: _Call, comm: Any) -> None:
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
            self._tell_home(self._runner.noted, call, tuple(message["note"]))
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
            log_fault(logger, "the connection of %s to Dask is lost", self._runner.name, level=logging.WARNING)
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
                    name=self._runner.name,
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


def _pickled(call: _Call) -> bytes:
    dask_pickle: Any = importlib.import_module("distributed.protocol.pickle")
    try:
        payload: bytes = dask_pickle.dumps((call.function, call.args))
    except Exception as error:
        raise NotPicklableError(
            f"{call.about.name}: the call cannot be sent to a Dask cluster: {describe_error(error)}. Send what its "
            "arguments are made from (a path, a number, a text), and open it there"
        ) from error
    return payload


def _died(call: _Call, error: Any) -> ProcessDiedError:
    fault = ProcessDiedError(f"the workers of Dask that ran {call.about.name} died: {error}", None)
    fault.__cause__ = error
    return fault
