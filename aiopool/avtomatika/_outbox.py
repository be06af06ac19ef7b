"""The results that are on their way: each is sent until the orchestrator has answered, however long it is away.

    put ──▶ (on the disk) ──▶ send ──accepted, ignored──▶ forgotten
                               ▲ └──away──▶ a delay, or the first sign of life ──┐
                               └─────────────────────────────────────────────────┘

A body that the orchestrator refuses for good is replaced by a failure that says so, for the job must not wait for ever.

Always true: a result is in here until there is an answer for it, and with a file it is on the disk before it is sent.
How many there can be is the business of whoever takes tasks: it takes none while there are too many.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, final

from aiopool import Retry
from aiopool._runtime.ending import end_tasks
from aiopool.avtomatika._counts import Counts
from aiopool.avtomatika._errors import AwayError, RefusedError
from aiopool.avtomatika._outcome import INTERNAL
from aiopool.avtomatika._result_file import ResultFile
from aiopool.avtomatika._task import Result

__all__ = ["AGAIN", "Outbox"]

AGAIN: Final = Retry(attempts=2**31, delay=0.5, max_delay=15.0, jitter=0.3)
"""How patiently the orchestrator is asked again; a sign of life cuts a delay short."""

# So many are sent at once.
_AT_ONCE: Final = 8

logger = logging.getLogger("aiopool.avtomatika")

Send = Callable[[Result], Awaitable[dict[str, Any]]]


@final
class Outbox:
    """The results of one worker; bound to the loop in which it is made."""

    def __init__(self, send: Send, counts: Counts, file: ResultFile | None, *, on_away: Callable[[], None]) -> None:
        self._send = send
        self._counts = counts
        self._file = file
        self._on_away = on_away
        self._kept: dict[str, Result] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._life = asyncio.Event()
        self._changed = asyncio.Event()
        self._random = random.Random()  # noqa: S311 - delays

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def results(self) -> list[Result]:
        """What is not delivered yet."""
        return list(self._kept.values())

    async def load(self) -> int:
        """Take up what an earlier run has left on the disk; return how many."""
        if self._file is None:
            return 0
        results = [result for result in await asyncio.to_thread(self._file.load) if result.task_id not in self._kept]
        for result in results:
            self._begin(result)
        return len(results)

    async def put(self, result: Result) -> None:
        """Take a result; with a file, it is on the disk when this returns."""
        self._kept[result.task_id] = result
        if self._file is not None:
            try:
                await asyncio.to_thread(self._file.add, result)
            except Exception:  # a full disk: in memory it is as safe as without a file
                logger.exception("the result of task %s could not be written to the disk", result.task_id)
        self._begin(result)

    def hurry(self) -> None:
        """The orchestrator has given a sign of life: send again at once what waits."""
        self._life.set()
        self._life = asyncio.Event()

    async def drain(self, timeout: float | None) -> None:
        """Wait until everything is delivered, for some seconds at most; None: as long as it takes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._kept:
                    await self._changed.wait()

    async def wait_below(self, count: int) -> None:
        """Wait until fewer results than that are kept."""
        while len(self._kept) >= count:
            await self._changed.wait()

    async def close(self) -> None:
        """Send no more, and close the file. What is left is in `results`, and on the disk."""
        await end_tasks(*self._tasks)
        if self._file is not None:
            await asyncio.to_thread(self._file.close)

    # -- one result --------------------------------------------------------------------------------------------------

    def _begin(self, result: Result) -> None:
        self._kept[result.task_id] = result
        task = asyncio.create_task(self._deliver(result), name=f"avtomatika-result-{result.task_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, result: Result) -> None:
        attempt, delay = 0, 0.0
        replaced = False
        while True:
            life = self._life
            try:
                async with self._gate:
                    answer = await self._send(result)
                break
            except RefusedError as error:
                if error.status != 403:  # a token can be set right; a body stays what it is
                    logger.error("the result of task %s is refused for good: %s: %r", result.task_id, error, result)
                    self._counts.results["refused"] += 1
                    if replaced:
                        return await self._forget(result)
                    result, replaced = _refusal(result, error), True
                    continue
                fault: Exception = error
                logger.error("the result of task %s is kept, and sent again: %s", result.task_id, error)
            except AwayError as error:
                fault = error
                self._on_away()
            except Exception as error:  # a fault of ours must not lose it
                fault = error
                logger.exception("the result of task %s could not be sent, and is sent again", result.task_id)
            attempt += 1
            self._counts.results["again"] += 1
            delay = AGAIN.next_delay(fault, attempt=attempt, elapsed=0.0, previous=delay, rng=self._random) or 0.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await life.wait()
        self._delivered(result, answer)
        await self._forget(result)

    def _delivered(self, result: Result, answer: dict[str, Any]) -> None:
        status = str(answer.get("status"))
        self._counts.results["ignored" if status == "ignored" else "accepted"] += 1
        if status == "ignored":
            reason = answer.get("reason")
            logger.warning("the orchestrator ignored the result of task %s: %s", result.task_id, reason)

    async def _forget(self, result: Result) -> None:
        if self._file is not None:
            try:
                await asyncio.to_thread(self._file.remove, result.task_id)
            except Exception:  # the next run sends it again, and the orchestrator ignores it
                logger.exception("the result of task %s could not be taken off the disk", result.task_id)
        del self._kept[result.task_id]
        self._changed.set()
        self._changed = asyncio.Event()


def _refusal(result: Result, error: RefusedError) -> Result:
    message = f"the orchestrator refused the result of this task: {error.reason:.500}"
    return Result(result.task_id, result.job_id, "failure", error={"code": INTERNAL, "message": message})
