"""One run of a worker, from its registration to its last result.

Its loops, each a task: presence (registration, heartbeats), polls, commands, progress. They live in one task group; a
fault in one of them ends the run, loudly.

    stop ──▶ draining is told ──▶ the last poll ends ──▶ what has not begun is handed back ──▶ running tasks end, or are
    cancelled at the deadline ──▶ results are delivered, for `delivery_timeout` at most ──▶ offline is told

A poll that is given up can lose a task: the orchestrator does not notice, and hands the next one for this worker to a
connection that nobody reads any more. So the orchestrator is told first that there is nothing this worker can do. And
if the next run may have the same id, the poll is waited for, unless there is no time: it would take that run's first
task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from aiopool import Pool
from aiopool._runtime.ending import end_tasks
from aiopool.avtomatika import _outcome as outcome
from aiopool.avtomatika._counts import Counts
from aiopool.avtomatika._errors import AwayError, RefusedError
from aiopool.avtomatika._handlers import Handlers
from aiopool.avtomatika._link import OrchestratorLink
from aiopool.avtomatika._outbox import AGAIN, Outbox
from aiopool.avtomatika._presence import Presence
from aiopool.avtomatika._result_file import ResultFile
from aiopool.avtomatika._settings import WorkerSettings
from aiopool.avtomatika._task import NotATaskError, Result, read_task
from aiopool.avtomatika._tasks import Tasks
from aiopool.events import PoolClosing, PoolResized

__all__ = ["Life", "Options", "StopReport"]

# Seconds for a task that was given to the last poll to arrive.
_LAST_POLL: Final = 0.5
# Seconds for what is left when the caller of `main` is cancelled: there is no time, but a result is worth a try.
_HURRY: Final = 2.0
# Seconds after which a channel of commands that is closed was a good one.
_STEADY: Final = 60.0

logger = logging.getLogger("aiopool.avtomatika")


@final
@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told beside its settings; see `Worker`."""

    named: bool  # its id was given, so that another run may have the same
    resources: Mapping[str, Any]
    results_file: str | None
    delivery_timeout: float
    max_waiting_tasks: int
    max_kept_results: int
    progress_interval: float
    websockets: bool
    report_busy: bool
    retry_as: outcome.RetryAs


@final
@dataclass(frozen=True, slots=True)
class StopReport:
    """How a worker ended.

    Attributes:
        tasks: how many have ended in this run.
        cancelled: how many of them were cancelled by the stop, or had not begun; the orchestrator was told to have them
            done elsewhere.
        undelivered: the results that the orchestrator has not got. With `results_file` they are on the disk, and the
            next run sends them.
    """

    tasks: int
    cancelled: int
    undelivered: tuple[Result, ...] = ()

    def __str__(self) -> str:
        lost = f", {len(self.undelivered)} results not delivered" if self.undelivered else ""
        return f"{self.tasks} tasks, {self.cancelled} handed back{lost}"


@final
class Life:
    """One run; made in the loop in which it runs."""

    def __init__(
        self,
        settings: WorkerSettings,
        handlers: Handlers,
        pool: Pool,
        link: OrchestratorLink,
        counts: Counts,
        options: Options,
    ) -> None:
        self._settings, self._handlers, self._pool = settings, handlers, pool
        self._link, self._counts, self._options = link, counts, options
        path = options.results_file
        file = None if path is None else ResultFile(path, settings.worker_id)
        self._outbox = Outbox(link.send_result, counts, file, on_away=self._away)
        self._tasks = Tasks(
            pool,
            handlers,
            self._outbox,
            counts,
            max_waiting=options.max_waiting_tasks,
            retry_as=options.retry_as,
        )
        self._presence = Presence(
            link,
            settings,
            handlers,
            self._tasks,
            counts,
            resources=dict(options.resources),
            websockets=options.websockets,
            report_busy=options.report_busy,
            on_life=self._outbox.hurry,
            on_cancel=self._cancel,
        )
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._ends_at: float | None = None  # in the loop's time; None: tasks may take as long as they need
        self._cancels: set[asyncio.Task[Any]] = set()
        self._done: asyncio.Future[StopReport] = asyncio.get_running_loop().create_future()
        self._handed_back = 0
        self._ended_before = sum(counts.tasks.values())
        self._polling = False  # a poll is under way
        self._random = random.Random()  # noqa: S311 - delays

    @property
    def kept_results(self) -> int:
        """How many results are not delivered."""
        return len(self._outbox)

    @property
    def held_tasks(self) -> int:
        """How many tasks have not ended."""
        return len(self._tasks)

    # -- the run -----------------------------------------------------------------------------------------------------

    async def run(self) -> StopReport:
        """Run until `stop`, and return when all is over."""
        await self._link.open()
        try:
            async with self._pool:
                listen = self._pool.listen
                with listen(self._pool_closing, PoolClosing), listen(self._pool_resized, PoolResized):
                    await self._run()
        finally:
            if self._cancels:
                await asyncio.wait(self._cancels)
            await self._outbox.close()
            await self._link.close()
            ended = sum(self._counts.tasks.values()) - self._ended_before
            report = StopReport(ended, self._handed_back, tuple(self._outbox.results))
            self._done.set_result(report)
            self._tell(report)
        return report

    async def _run(self) -> None:
        loops: list[Callable[[], Any]] = [self._presence.live, self._progress]
        if self._options.websockets:
            loops.append(self._commands)
        if self._options.report_busy:
            loops.append(self._presence.watch_busy)
        kept = await self._outbox.load()
        if kept:
            logger.info("%d results of an earlier run are sent again", kept)
        try:
            async with asyncio.TaskGroup() as group:
                background = [group.create_task(loop()) for loop in loops]
                polls = group.create_task(self._polls())
                await self._stopping.wait()
                await self._end(polls)
                for task in background:
                    task.cancel()
        except BaseExceptionGroup as faults:
            await self._end_in_a_hurry()
            raise _first(faults) from None
        except asyncio.CancelledError:
            await self._end_in_a_hurry()
            raise

    async def _end(self, polls: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        await self._presence.say_draining(nothing_waits=self._polling)
        self._hand_back_waiting()
        if self._options.named or not self._polling:
            await self._in_time(polls)
        else:
            await asyncio.wait([polls], timeout=_LAST_POLL)
        await end_tasks(polls)
        self._hand_back_waiting()  # what the last poll has brought
        empty = loop.create_task(self._tasks.wait_empty(), name="avtomatika-tasks-end")
        try:
            if not await self._in_time(empty):
                self._hand_back("the worker is stopping, and the time for its tasks is over", running=True)
                await empty  # the pool bounds it: a cancelled job has its grace
        finally:
            empty.cancel()
        await self._outbox.drain(self._options.delivery_timeout)
        await self._presence.say_offline()

    async def _in_time(self, future: asyncio.Future[Any]) -> bool:
        """Wait for something as long as a stop may take; False: the time is over."""
        loop = asyncio.get_running_loop()
        while not future.done():
            left = None if self._ends_at is None else self._ends_at - loop.time()
            if left is not None and left <= 0:
                return False
            hurried = loop.create_task(self._hurried.wait())
            try:
                await asyncio.wait([future, hurried], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                hurried.cancel()
        return True

    async def _end_in_a_hurry(self) -> None:
        self._hand_back("the worker was stopped", running=True)
        # What is left then is in the report, and on the disk.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HURRY):
                await self._tasks.wait_empty()
                await self._outbox.drain(None)

    def _hand_back_waiting(self) -> None:
        self._hand_back("the worker is stopping, and does not run the task now", running=False)

    def _hand_back(self, why: str, *, running: bool) -> None:
        self._handed_back += self._tasks.hand_back(why, running=running)

    def _tell(self, report: StopReport) -> None:
        for result in report.undelivered:
            kept = "it is in the file" if self._options.results_file else "it is lost: name a results_file"
            logger.error("the result of task %s was not delivered; %s: %r", result.task_id, kept, result)
        logger.info("worker %s has stopped: %s", self._settings.worker_id, report)

    # -- being told to stop ------------------------------------------------------------------------------------------

    def begin_stop(self, timeout: float | None) -> None:
        """Begin to stop; called again, it can only make it hurry."""
        if timeout is not None:
            ends_at = asyncio.get_running_loop().time() + timeout
            self._ends_at = ends_at if self._ends_at is None else min(self._ends_at, ends_at)
            self._hurried.set()
            self._hurried = asyncio.Event()
        if not self._stopping.is_set():
            logger.info("worker %s is stopping: %d tasks", self._settings.worker_id, len(self._tasks))
            self._stopping.set()

    async def stopped(self) -> StopReport:
        """Wait for the end of the run."""
        return await asyncio.shield(self._done)

    def _pool_closing(self, event: PoolClosing) -> None:
        # By somebody else: `aiopool.run` at a signal, or whoever owns the pool.
        if not self._stopping.is_set():
            self.begin_stop(event.timeout)

    def _pool_resized(self, event: PoolResized) -> None:
        self._tasks.wake()

    # -- polls -------------------------------------------------------------------------------------------------------

    async def _polls(self) -> None:
        loop = asyncio.get_running_loop()
        attempt, delay = 0, 0.0
        while not self._stopping.is_set():
            await self._presence.known()
            await self._tasks.wait_room()
            await self._outbox.wait_below(self._options.max_kept_results)
            begin = loop.time()
            try:
                payload = await self._poll()
            except (AwayError, RefusedError) as error:
                attempt += 1
                self._counts.polls["error"] += 1
                logger.warning("no task: %s", error)
                self._away()
                delay = AGAIN.next_delay(error, attempt=attempt, elapsed=0.0, previous=delay, rng=self._random) or 0.0
                await asyncio.sleep(delay)
                continue
            attempt, delay = 0, 0.0
            self._outbox.hurry()
            if payload is not None:
                self._counts.polls["task"] += 1
                await self._take(payload)
                continue
            self._counts.polls["empty"] += 1
            # An orchestrator that does not hold polls would be asked without a pause.
            await asyncio.sleep(max(0.0, begin + self._settings.poll_interval - loop.time()))

    async def _poll(self) -> dict[str, Any] | None:
        self._polling = True
        try:
            return await self._link.poll(self._tasks.startable())
        finally:
            self._polling = False

    async def _take(self, payload: dict[str, Any]) -> None:
        try:
            task = read_task(payload, self._settings.orchestrator_secret)
        except NotATaskError as error:
            logger.error("the orchestrator sent something else than a task: %s", error)
        else:
            await self._tasks.take(task)

    def _away(self) -> None:
        self._presence.lost()

    # -- commands ----------------------------------------------------------------------------------------------------

    async def _commands(self) -> None:
        loop = asyncio.get_running_loop()
        attempt, delay = 0, 0.0
        while True:
            await self._presence.known()
            begin = loop.time()
            try:
                async with self._link.commands() as commands:
                    async for command in commands:
                        self._obey(command)
                fault: Exception = AwayError("the orchestrator closed the channel of commands")
                self._away()
            except (AwayError, RefusedError) as error:
                fault = error
            logger.info("%s; it is opened again", fault)
            attempt = 1 if loop.time() - begin > _STEADY else attempt + 1
            delay = AGAIN.next_delay(fault, attempt=attempt, elapsed=0.0, previous=delay, rng=self._random) or 0.0
            await asyncio.sleep(delay)

    def _obey(self, command: Mapping[str, Any]) -> None:
        if command.get("command") != "cancel_task":
            logger.warning("a command that is not known: %r", command.get("command"))
            return
        task_id, job_id = command.get("task_id"), command.get("job_id")
        self._cancel(task_id if isinstance(task_id, str) else None, job_id if isinstance(job_id, str) else None)

    def _cancel(self, task_id: str | None, job_id: str | None = None) -> None:
        task = asyncio.create_task(self._cancelled(task_id, job_id), name="avtomatika-cancel")
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    async def _cancelled(self, task_id: str | None, job_id: str | None) -> None:
        try:
            if await self._tasks.cancel(task_id, job_id, "the orchestrator cancelled the job"):
                self._counts.cancels += 1
        except Exception:
            logger.exception("task %s could not be cancelled", task_id or job_id)

    # -- progress ----------------------------------------------------------------------------------------------------

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(self._options.progress_interval)
            for task, fraction, message in self._tasks.told_progress():
                try:
                    await self._link.send_progress(task.task_id, task.job_id, fraction, message)
                except (AwayError, RefusedError) as error:  # the next step tells more
                    logger.info("the progress of task %s was not heard: %s", task.task_id, error)


def _first(faults: BaseExceptionGroup[BaseException]) -> BaseException:
    fault: BaseException = faults
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault
