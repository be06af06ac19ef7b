"""Whether the orchestrator knows this worker: registration, heartbeats, and both again after it was away.

An orchestrator that has been restarted has forgotten its workers, and does not say so: it answers the heartbeat of a
stranger with "ok". Only to an empty one it says nothing at all. So each beat is an empty one, unless there is something
to tell; and whoever sees that the orchestrator was away calls `lost`, and the worker registers anew.

What is told: `idle` as long as the worker runs, for to one that is `busy` today's orchestrator gives no task, nor keeps
one for it: with no other worker, the job is given up after a few tries. `report_busy` changes that.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import socket
from collections.abc import Callable
from typing import Any, Final, final

import orjson

import aiopool
from aiopool.avtomatika._counts import Counts
from aiopool.avtomatika._errors import AwayError, RefusedError
from aiopool.avtomatika._handlers import Handlers
from aiopool.avtomatika._link import OrchestratorLink
from aiopool.avtomatika._outbox import AGAIN
from aiopool.avtomatika._settings import WorkerSettings
from aiopool.avtomatika._tasks import Tasks

__all__ = ["Presence"]

# Seconds that have to pass between two heartbeats that tell of a change.
_CALM: Final = 2.0
# A farewell that is not heard is no reason to stay.
_FAREWELL: Final = 5.0

logger = logging.getLogger("aiopool.avtomatika")


@final
class Presence:
    """One worker, as its orchestrator sees it."""

    def __init__(
        self,
        link: OrchestratorLink,
        settings: WorkerSettings,
        handlers: Handlers,
        tasks: Tasks,
        counts: Counts,
        *,
        resources: dict[str, Any],
        websockets: bool,
        report_busy: bool,
        on_life: Callable[[], None],
        on_cancel: Callable[[str], object],
    ) -> None:
        self._link = link
        self._settings = settings
        self._tasks = tasks
        self._counts = counts
        self._resources = resources
        self._websockets = websockets
        self._report_busy = report_busy
        self._on_life = on_life
        self._on_cancel = on_cancel
        self._skills = [handler.skill() for handler in handlers]
        self._skills_hash = hashlib.sha256(orjson.dumps(self._skills, option=orjson.OPT_SORT_KEYS)).hexdigest()
        self._known = asyncio.Event()
        self._lost = asyncio.Event()
        self._told: dict[str, Any] | None = None
        self._draining = False
        self._random = random.Random()  # noqa: S311 - delays

    async def known(self) -> None:
        """Wait until the worker is registered."""
        await self._known.wait()

    def lost(self) -> None:
        """The orchestrator was away: it may have forgotten the worker."""
        self._known.clear()
        self._lost.set()

    async def live(self) -> None:
        """Register, and send heartbeats, until cancelled.

        Raises:
            RefusedError: the very first registration was refused: the token, or a setting, is wrong.
        """
        while True:
            await self._register()
            while not await self._beats():
                pass

    # -- registration ------------------------------------------------------------------------------------------------

    async def _register(self) -> None:
        attempt, delay = 0, 0.0
        while True:
            self._lost.clear()
            try:
                await self._link.register(self._registration())
                self._told = None
                await self._beat()  # a registration says nothing of commands
                break
            except RefusedError as error:
                if not self._counts.registrations:
                    raise
                fault: Exception = error
                logger.error("the worker cannot register: %s", error)
            except AwayError as error:
                fault = error
                logger.warning("the worker cannot register yet: %s", error)
            attempt += 1
            delay = AGAIN.next_delay(fault, attempt=attempt, elapsed=0.0, previous=delay, rng=self._random) or 0.0
            await asyncio.sleep(delay)
        self._counts.registrations += 1
        logger.info("worker %s is registered at %s", self._settings.worker_id, self._settings.orchestrator_url)
        self._known.set()
        self._on_life()

    def _registration(self) -> dict[str, Any]:
        return {
            "worker_type": self._settings.worker_type,
            "supported_skills": self._skills,
            "available_skills": [skill["name"] for skill in self._skills],
            "resources": self._resources,
            "capabilities": {"hostname": socket.gethostname(), "extra": {"websockets": self._websockets}},
            "installed_software": {"aiopool": aiopool.__version__},
            "skills_hash": self._skills_hash,
            "metadata": {"pid": os.getpid()},
        }

    # -- heartbeats --------------------------------------------------------------------------------------------------

    async def _beats(self) -> bool:
        """Send one heartbeat after the interval; True: the worker has to register."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.heartbeat_interval):
                await self._lost.wait()
            return True
        try:
            if not await self._link.ping():
                logger.warning("the orchestrator has forgotten this worker: it registers again")
                return True
            self._on_life()
            if self._status() != self._told:
                return await self._beat()
        except AwayError as error:
            logger.warning("no heartbeat: %s", error)
            return True
        except RefusedError as error:
            logger.error("a heartbeat is refused: %s", error)
        return False

    def _status(self) -> dict[str, Any]:
        busy = self._report_busy and not self._tasks.has_room()
        return {
            "status": "draining" if self._draining else "busy" if busy else "idle",
            "current_tasks": self._tasks.ids,
            "available_skills": [] if self._draining else self._tasks.startable(),
            # Only of a worker that says this here the orchestrator believes that it hears commands.
            "capabilities": {"hostname": socket.gethostname(), "websockets": self._websockets},
            "skills_hash": self._skills_hash,
        }

    async def _beat(self) -> bool:
        """Tell all; True: the orchestrator wants a registration."""
        status = self._status()
        answer = await self._link.send_heartbeat(status)
        self._told = status
        for task_id in answer.get("cancel_task_ids") or ():
            self._on_cancel(str(task_id))
        return bool(answer.get("require_full_sync"))

    async def watch_busy(self) -> None:
        """With `report_busy`: tell at once, but not too often, when the last room goes and when there is some again."""
        while True:
            await self._known.wait()
            await asyncio.sleep(_CALM)
            told = None if self._told is None else self._told["status"]
            if told is not None and self._status()["status"] != told:
                with contextlib.suppress(AwayError, RefusedError):  # the next beat tells it
                    await self._beat()

    # -- farewell ----------------------------------------------------------------------------------------------------

    async def say_draining(self, *, nothing_waits: bool) -> None:
        """Ask for no more tasks.

        Args:
            nothing_waits: a poll is being held, so no task of this worker waits there. Then it also says that it can do
                nothing any more; else the orchestrator could still give the poll a task that waits for another worker,
                when nobody reads the answer. (If some wait, others may take them, as long as it can do them.)
        """
        self._draining = True
        body = self._status()
        if nothing_waits:
            body |= {"supported_skills": [], "skills_hash": "draining"}
        await self._say(body)

    async def say_offline(self) -> None:
        """Say goodbye."""
        await self._say({**self._status(), "status": "offline"})

    async def _say(self, body: dict[str, Any]) -> None:
        if not self._known.is_set():
            return
        try:
            async with asyncio.timeout(_FAREWELL):
                await self._link.send_heartbeat(body)
        except (AwayError, RefusedError, TimeoutError) as error:
            logger.info("the orchestrator did not hear that the worker stops: %s", error)
