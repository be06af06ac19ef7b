"""Stop many services at once, under one deadline, and say what became of each.

What can be asked is asked, each on the event loop where it lives; what is a process is ended together with
all other processes, by one thread. Nobody waits for another: a hundred stubborn services take as long as one.

    0 ───────── ask, wait ───────── force_at ── insist, kill, verify ── deadline

A service is stopped when it is seen to be over, not when its `stop()` has returned: its processes are gone,
and it does not say that it runs.

Invariant: `stop_services` returns by the deadline (or half a second after it began, whichever is later),
whatever the services do.
"""

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from aiopool._runtime.daemon_thread import run_in_daemon_thread
from aiopool._runtime.faults import log_fault
from aiopool.services._calls import call_at, run_to_end, running_loop
from aiopool.services._families import ProcessTree, end_trees, refresh_trees
from aiopool.services._service import Service
from aiopool.services._status import StopReport, TypeReport

__all__ = ["Deadlines", "Outcome", "StopCoordinator", "end_in_thread", "report", "stop_services"]

_log = logging.getLogger("aiopool.services")

# The share of the time that is kept for force, and its upper bound in seconds: killing is quick.
_FORCE_SHARE = 0.2
_FORCE_MOST = 1.0
# Infinity cannot be subtracted from itself; nobody will see the difference.
_FOR_EVER = 10.0 * 365 * 86400
# However short the time: SIGKILL and a cancelled task need a moment to take effect.
_LEAST = 0.5
# What a service left behind after it was stopped has nobody any more to wait for.
_LEFT_GRACE = 1.0
# forkserver tells of an end a moment after it, and so does asyncio's child watcher.
_CODE_LAG = 0.3
_LOOK_AGAIN = 0.01

_NOTHING = "nothing to stop"

Choice = Callable[[], Sequence[Service]]


@final
@dataclass(frozen=True, slots=True)
class Deadlines:
    """When asking ends and when all ends, in the seconds of `time.monotonic()`.

    Attributes:
        force_at: processes are killed from here on. With a timeout of 0 that is at once.
        insist_at: what is no process is told again from here on; it always gets a moment.
        deadline: nobody waits longer.
    """

    force_at: float
    insist_at: float
    deadline: float

    @classmethod
    def within(cls, timeout: float, *, now: float) -> "Deadlines":
        """Divide the time.

        Raises:
            ValueError: the timeout is negative or not a number.
        """
        if timeout is None or not timeout >= 0:
            raise ValueError(
                f"timeout must be 0 or more seconds, got {timeout!r}; 0 kills at once, math.inf never gives up"
            )
        timeout = min(timeout, _FOR_EVER)
        total = max(timeout, _LEAST)
        reserve = min(_FORCE_MOST, _FORCE_SHARE * total)
        return cls(now + max(0.0, timeout - reserve), now + total - reserve, now + total)


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one service."""

    type: str
    name: str
    stopped: bool
    killed: bool
    errors: tuple[str, ...]


@final
class StopCoordinator:
    """The stops of one registry, from coroutines and from plain code.

    A stop goes on to its deadline, whatever becomes of the caller.

    Args:
        settled: called with the services that a stop has dealt with.
    """

    # The mutable state is the stops under way, so that they live until they are done.
    __slots__ = ("_settled", "_under_way")

    def __init__(self, settled: Callable[[Sequence[Service]], None]) -> None:
        self._settled = settled
        self._under_way: set[asyncio.Task[list[Outcome]]] = set()

    async def run(self, choose: Choice, timeout: float, nothing: str = _NOTHING) -> StopReport:
        """Stop whom `choose` gives, asked again until it names nobody new: some come while others go.

        Args:
            choose: gives the services.
            timeout: in total, in seconds.
            nothing: what the report says if there are none.
        """
        began = time.monotonic()
        Deadlines.within(timeout, now=began)
        task = asyncio.get_running_loop().create_task(self._run(choose, timeout))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        outcomes = await asyncio.shield(task)
        return report(outcomes, seconds=time.monotonic() - began, nothing=nothing)

    async def _run(self, choose: Choice, timeout: float) -> list[Outcome]:
        ends = time.monotonic() + timeout
        outcomes: list[Outcome] = []
        seen: set[Service] = set()
        while services := [service for service in choose() if service not in seen]:
            seen.update(services)
            outcomes += await stop_services(services, max(0.0, ends - time.monotonic()))
            self._settled(services)
            if time.monotonic() > ends + _LEAST:
                break  # who adds without end is not waited for without end
        return outcomes

    def run_to_end(self, choose: Choice, timeout: float, nothing: str = _NOTHING) -> StopReport:
        """Do what `run` does, from plain code; it blocks until it is done."""
        return run_to_end(lambda: self.run(choose, timeout, nothing))

    def run_blocking(self, choose: Choice, timeout: float, nothing: str = _NOTHING) -> StopReport:
        """Do what `run_to_end` does, but refuse what would wait for itself.

        Raises:
            RuntimeError: a service lives on the event loop of this very thread.
        """
        Deadlines.within(timeout, now=0.0)
        here = running_loop()
        mine = [service.name for service in choose() if here is not None and service.kind.own_loop() is here]
        if mine:
            raise RuntimeError(
                f"cannot wait here for {', '.join(map(repr, mine))}: they live on the event loop that this "
                "thread runs, and waiting would hold it up. Write "
                f"`await registry.stop_all(timeout={timeout:g})`"
            )
        return self.run_to_end(choose, timeout, nothing)


async def stop_services(services: Sequence[Service], timeout: float) -> list[Outcome]:
    """Stop these services, all at the same time.

    Args:
        services: whom; those that are over already count as stopped.
        timeout: the total time in seconds.
    """
    times = Deadlines.within(timeout, now=time.monotonic())
    over = [service for service in services if service.status == "stopped" and not service.alive()]
    done = [Outcome(service.type, service.name, True, False, ()) for service in over]
    services = [service for service in services if service not in over]
    for service in services:
        service.apply("stop")
    await asyncio.gather(*(_end_start(service, times) for service in services))
    asked = [service for service in services if service.kind.asks]
    plain = [service for service in services if not service.kind.asks]
    if families := _families(asked):
        # Before anybody is asked: a manager that ends takes with it the trace of what it leaves behind.
        await run_in_daemon_thread(lambda: refresh_trees(families), name="aiopool-services-look")
    ending = end_in_thread(_families(plain), force_at=times.force_at, deadline=times.deadline)
    errors = await asyncio.gather(*(_ask(service, times) for service in asked), ending)
    by_name = {service.name: text for service, text in zip(asked, errors, strict=False)}
    verdicts = (_verdict(service, times, by_name.get(service.name)) for service in services)
    return [*done, *await asyncio.gather(*verdicts)]


def _families(services: Sequence[Service]) -> list[ProcessTree]:
    return [family for service in services if (family := service.process_tree()) is not None]


async def _end_start(service: Service, times: Deadlines) -> None:
    """If it is starting just now, cancel that, and wait until it is settled."""
    starting = service.starting
    if starting is None:
        return
    cancel, done = starting
    try:
        cancel()
    except RuntimeError:
        return  # the loop on which it was starting is closed
    await asyncio.wait({asyncio.wrap_future(done)}, timeout=max(0.0, times.insist_at - time.monotonic()))


async def end_in_thread(families: Sequence[ProcessTree], *, force_at: float, deadline: float) -> None:
    """End families of processes without holding up the event loop."""
    if families:
        await run_in_daemon_thread(
            lambda: end_trees(families, force_at=force_at, deadline=deadline), name="aiopool-services-end"
        )


async def _ask(service: Service, times: Deadlines) -> str | None:
    """Ask it to end, then end what it leaves behind; what goes wrong is returned."""
    if service.status != "stopping":
        return None  # another stop was faster, and it may run anew already
    text = None
    with service.lock:
        shared = service.asking
        mine: concurrent.futures.Future[None] = concurrent.futures.Future()
        if shared is None:
            service.asking = mine
    try:
        if shared is not None:
            # Somebody stops it already. stop() is not called twice; but our deadline is our own.
            await _wait_for(shared, times)
        else:
            await call_at(
                service.kind.own_loop(),
                lambda: service.kind.stop(times.insist_at, times.deadline),
                until=times.deadline,
                name=f"stop of service {service.name!r}",
            )
    except Exception as error:
        text = str(error) if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        _log.error("service %r: stopping it failed: %s", service.name, text, exc_info=error)
    finally:
        if shared is None:
            with service.lock:
                service.asking = None
            mine.set_result(None)
    if (family := service.family) is not None:
        force_at = min(times.insist_at, time.monotonic() + _LEFT_GRACE)
        await end_in_thread([family], force_at=force_at, deadline=times.deadline)
    return text


async def _wait_for(shared: "concurrent.futures.Future[None]", times: Deadlines) -> None:
    waiting = asyncio.wrap_future(shared)
    await asyncio.wait({waiting}, timeout=max(0.0, times.insist_at - time.monotonic()))
    if not waiting.done():
        raise TimeoutError("an earlier stop of it is still under way")


async def _verdict(service: Service, times: Deadlines, text: str | None) -> Outcome:
    """See whether it is over, and write that down."""
    until = min(times.deadline, time.monotonic() + _CODE_LAG) if service.kind.asks else times.deadline
    while (alive := _is_alive(service)) is True and service.status == "stopping" and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_AGAIN)
    if service.status not in ("stopping", "failed"):
        # Another stop has seen it over. By now it may have been started again, which is not ours to judge.
        return Outcome(service.type, service.name, True, False, ())
    errors = [] if text is None else [text]
    family = service.family
    left = set() if family is None else family.living()
    if family is not None:
        errors += family.errors
    if left:
        errors.append(f"still running after the kill: {', '.join(str(process.pid) for process in sorted(left))}")
    elif alive is True:
        errors.append("says that it still runs")
    # An error in stop() is no proof that it still runs; its own word, or that of its processes, is better.
    stopped = not left and (alive is False or (alive is None and text is None))
    service.apply("stopped" if stopped else "stop_failed")
    service.error = "; ".join(errors) or None
    killed = family is not None and family.forced
    if family is not None:
        family.errors.clear()
        family.forced = False
    return Outcome(service.type, service.name, stopped, killed, tuple(f"{service.name}: {error}" for error in errors))


def _is_alive(service: Service) -> bool | None:
    try:
        return service.kind.alive()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        log_fault(_log, "service %r cannot be asked whether it runs", service.name, error=error)
        return None


def report(outcomes: Sequence[Outcome], *, seconds: float, nothing: str = _NOTHING) -> StopReport:
    """Add up what became of all."""
    by_type: dict[str, TypeReport] = {}
    for outcome in outcomes:
        before = by_type.get(outcome.type, TypeReport())
        by_type[outcome.type] = TypeReport(
            before.stopped + outcome.stopped,
            before.failed + (not outcome.stopped),
            before.errors + outcome.errors,
        )
    stopped = sum(outcome.stopped for outcome in outcomes)
    failed = len(outcomes) - stopped
    errors = tuple(error for outcome in outcomes for error in outcome.errors)
    killed = tuple(outcome.name for outcome in outcomes if outcome.killed)
    message = f"{stopped} stopped, {failed} failed" if outcomes else nothing
    if killed:
        message += f", {len(killed)} of them by force"
    if errors:
        message += f": {'; '.join(errors)}"
    return StopReport(failed == 0, stopped, failed, errors, message, by_type, killed, seconds)
