"""`Tormentor`: starts hosts and producers, kills them by chance, and starts others in their place.

All that it does goes into a journal, before it is done: so a death is known to be later than its line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import aiopool
from aiopool._torture.host import HostOptions
from aiopool._torture.journal import Journal
from aiopool._torture.producer import ProducerOptions
from aiopool._torture.proxy import Proxy
from aiopool._torture.servers import Server

__all__ = ["Tormentor", "Torments"]

# Seconds that a process has to end after SIGTERM.
PATIENCE = 15.0
# Seconds between a death and the next start in its place.
PAUSE = 0.2


@dataclass(frozen=True)
class Torments:
    """What is done.

    Attributes:
        hosts, producers: how many processes there are.
        kills: how many are killed, and over how many `seconds`.
        freeze: seconds for which a host is stopped, at most.
        points: the failpoints that hosts get, in turn; `producer_points`: those of producers.
        clock: seconds by which the clock of one host is off.
        full: one host has a full disk for a while.
        poisons: how many jobs of each producer kill their process.
        rate: jobs in a second, of each producer.
        block: seconds for which jobs hold up the event loop.
    """

    hosts: int
    producers: int
    kills: int
    seconds: float
    freeze: float
    points: tuple[str, ...]
    producer_points: tuple[str, ...] = ("submit.before", "submit.after")
    clock: float = 0.0
    full: bool = False
    poisons: int = 1
    rate: float = 60.0
    block: float = 1.0


class _Child:
    """One place for a process: whoever dies there has a successor."""

    def __init__(self, slot: int, kind: str) -> None:
        self.slot = slot
        self.kind = kind
        self.process: asyncio.subprocess.Process | None = None
        self.point: str | None = None
        self.killed = False
        self.frozen = False


@final
class Tormentor:
    """See the module.

    Attributes:
        counts: what was done, by kind.
        points: failpoints that were hit.
        hung: processes that did not end when they were told to.
    """

    def __init__(
        self,
        torments: Torments,
        directory: Path,
        queue: str,
        url_of: Callable[[int], str],
        proxies: dict[int, Proxy],
        server: Server | None,
        rng: random.Random,
    ) -> None:
        """`url_of(slot)`: the URL for the process in a slot; `proxies`: those on the way, by slot."""
        self.counts: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.hung = 0
        self.deaths = 0
        self.journal = Journal(directory, "tormentor")
        self._torments = torments
        self._directory = directory
        self._queue = queue
        self._url_of = url_of
        self._proxies = proxies
        self._server = server
        self._rng = rng
        self._ending = self._calm = False
        self._children: list[_Child] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._background: set[asyncio.Task[None]] = set()
        self._next_point = self._next_producer_point = 0
        self._fresh = 0
        self._opened: set[int] = set()
        self._log = (directory / "processes.log").open("ab")

    @property
    def kills(self) -> int:
        """How many deaths were ours."""
        return self.deaths

    # -- processes -----------------------------------------------------------------------------------------------------

    async def spawn(self, module: str, options: Any, point: str | None = None) -> asyncio.subprocess.Process:
        """Start a process of ours."""
        root = str(Path(aiopool.__file__).parent.parent)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
        env.pop("AIOPOOL_FAILPOINT", None)
        if point is not None:
            env["AIOPOOL_FAILPOINT"] = point
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", f"aiopool._torture.{module}", json.dumps(asdict(options))),
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def host_options(self, slot: int, **more: Any) -> HostOptions:
        """Return what the host in a slot is told."""
        return HostOptions(self._url_of(slot), self._queue, str(self._directory), block=self._torments.block, **more)

    def begin(self) -> None:
        """Start all of them."""
        for slot in range(self._torments.hosts):
            self._keep(_Child(slot, "host"))
        for slot in range(self._torments.hosts, self._torments.hosts + self._torments.producers):
            self._keep(_Child(slot, "producer"))

    def _keep(self, child: _Child) -> None:
        self._children.append(child)
        self._keepers.append(asyncio.create_task(self._keep_alive(child)))

    async def _keep_alive(self, child: _Child) -> None:
        while not self._ending and not (self._calm and child.kind == "producer"):
            child.killed = child.frozen = False
            child.point = None
            point = self._point_for(child)
            if child.kind == "host":
                child.process = await self.spawn("host", self._options_for(child), point)
            else:
                self._fresh += 1
                seed = self._rng.randrange(1 << 30)
                poisons = self._torments.poisons if self._fresh <= self._torments.producers else 0
                url = self._url_of(child.slot)
                options = ProducerOptions(
                    url, self._queue, str(self._directory), seed, rate=self._torments.rate, poisons=poisons
                )
                child.process = await self.spawn("producer", options, point)
            process = child.process
            if child.point == "close.before":
                self._spawn(self._terminate_soon(child, process))
            code = await process.wait()
            self.journal.note("exit", victim=process.pid, code=code)
            if code == -signal.SIGKILL and not child.killed:
                if child.point is not None:
                    self.points[child.point] += 1
                    self.counts["failpoint"] += 1
                    self.deaths += 1
                else:
                    self.counts["suicide"] += 1
            elif code not in (0, -signal.SIGKILL, -signal.SIGTERM):
                self.counts[f"exit code {code}"] += 1
            if not self._ending:
                await asyncio.sleep(PAUSE)

    def _options_for(self, child: _Child) -> HostOptions:
        more: dict[str, Any] = {}
        if child.slot == 0 and self._torments.clock and not self._calm:
            more["clock"] = self._torments.clock
        if child.slot == 1 and self._torments.full and not self._calm:
            more["full"] = (self._rng.uniform(0.5, 2.0), 2.0)
        return self.host_options(child.slot, **more)

    def _point_for(self, child: _Child) -> str | None:
        """Give every second process a point at which it dies, in turn, after some passes of it."""
        if self._calm:
            return None
        if child.kind == "host":
            if not self._torments.points or self._rng.random() < 0.4:
                return None
            child.point = self._torments.points[self._next_point % len(self._torments.points)]
            self._next_point += 1
            return f"{child.point}:{1 if child.point == 'close.before' else self._rng.randrange(1, 30)}"
        if not self._torments.producer_points or self._rng.random() < 0.6:
            return None
        child.point = self._torments.producer_points[self._next_producer_point % len(self._torments.producer_points)]
        self._next_producer_point += 1
        return f"{child.point}:{self._rng.randrange(5, 60)}"

    async def _terminate_soon(self, child: _Child, process: asyncio.subprocess.Process) -> None:
        await asyncio.sleep(self._rng.uniform(0.8, 2.0))
        if child.process is process and process.returncode is None:
            self.journal.note("kill", victim=process.pid, how="SIGTERM")
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    # -- torments ------------------------------------------------------------------------------------------------------

    async def torment(self) -> None:
        """Kill so many over so many seconds."""
        torments = self._torments
        pause = torments.seconds / max(1, torments.kills)
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):  # processes start slowly on a busy machine
            async with asyncio.timeout(20.0):
                while not all(  # noqa: ASYNC110  # their files say so
                    child.process is not None and self._is_open(child.process.pid) for child in self._children
                ):
                    await asyncio.sleep(0.05)
        began = loop.time()
        while True:
            now = loop.time() - began
            if (now >= torments.seconds and self.kills >= torments.kills) or now > 3 * torments.seconds + 30:
                return
            await asyncio.sleep(min(self._rng.expovariate(1.0 / pause), 4 * pause))
            if self.kills < torments.kills:
                await self._one(self._rng.random())

    async def _one(self, chance: float) -> None:
        if self._server is not None and chance < 0.06:
            await self._kill_server(self._server)
        elif self._proxies and chance < 0.25:
            self._disturb_line()
        elif chance < 0.40:
            self._freeze()
        else:
            self._kill(chance)

    def _victims(self, kind: str | None = None) -> list[_Child]:
        return [
            child
            for child in self._children
            if (kind is None or child.kind == kind)
            and child.process is not None
            and child.process.returncode is None
            and not child.killed
            and (self._rng.random() < 0.1 or self._is_open(child.process.pid))
        ]

    def _is_open(self, pid: int) -> bool:
        """Whether a process says that it has opened the store."""
        if pid not in self._opened:
            lines = b"".join(path.read_bytes() for path in self._directory.glob(f"*-{pid}-*.jsonl"))
            if b'"open"' in lines:
                self._opened.add(pid)
        return pid in self._opened

    def _kill(self, chance: float) -> None:
        victims = self._victims("producer" if chance > 0.92 else "host")
        if not victims:
            return
        child = self._rng.choice(victims)
        process = child.process
        assert process is not None
        number = signal.SIGTERM if chance < 0.52 else signal.SIGKILL
        if number == signal.SIGTERM and child.frozen:
            return
        self.journal.note("kill", victim=process.pid, how=number.name)
        child.killed = True
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        self.counts[f"{number.name} {child.kind}"] += 1
        self.deaths += 1
        if number == signal.SIGTERM:
            self._spawn(self._see_it_end(process))

    async def _see_it_end(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        except TimeoutError:
            self.hung += 1
            self.journal.note("kill", victim=process.pid, how="SIGKILL")
            process.kill()

    def _freeze(self) -> None:
        victims = [child for child in self._victims("host") if not child.frozen]
        if victims:
            self._spawn(self._freeze_one(self._rng.choice(victims), self._rng.uniform(0.1, self._torments.freeze)))

    async def _freeze_one(self, child: _Child, seconds: float) -> None:
        process = child.process
        assert process is not None
        self.journal.note("disturb", victim=process.pid, how="SIGSTOP", seconds=seconds)
        self.counts["SIGSTOP host"] += 1
        child.frozen = True
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                self.journal.note("disturb", victim=process.pid, how="SIGCONT")
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
        if child.process is process:
            child.frozen = False

    def _disturb_line(self) -> None:
        slot = self._rng.choice(list(self._proxies))
        proxy = self._proxies[slot]
        child = next((child for child in self._children if child.slot == slot), None)
        victim = None if child is None or child.process is None else child.process.pid
        how = self._rng.choice(("cut", "hang", "slow", "lose"))
        self.journal.note("disturb", victim=victim, how=how)
        self.counts[f"line {how}"] += 1
        seconds = self._rng.uniform(0.2, self._torments.freeze)
        if how == "cut":
            proxy.cut()
        elif how == "lose":
            self._spawn(proxy.lose(seconds / 10))
        elif how == "hang":
            self._spawn(proxy.hang(seconds))
        else:
            self._spawn(proxy.slow(self._rng.uniform(0.02, 0.3), seconds))

    async def _kill_server(self, server: Server) -> None:
        self.journal.note("disturb", victim=0, how="server")
        self.counts["SIGKILL server"] += 1
        self.deaths += 1
        await server.kill()
        await asyncio.sleep(self._rng.uniform(0.1, 1.5))
        await server.start()
        self.journal.note("disturb", victim=0, how="server is back")

    def _spawn(self, steps: Any) -> None:
        task = asyncio.create_task(steps)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def calm(self) -> None:
        """Kill nobody any more, and stop the producers; hosts go on, with what they went through."""
        self._calm = True
        if self._background:
            await asyncio.wait(self._background)
        await self._stop("producer")
        self.journal.note("calm")

    async def end(self) -> None:
        """Stop all of them, as an operator would."""
        self._ending = True
        await self._stop("host")
        await asyncio.wait(self._keepers)

    async def _stop(self, kind: str) -> None:
        stopping = []
        for child in self._children:
            process = child.process
            if child.kind != kind or process is None or process.returncode is not None:
                continue
            self.journal.note("kill", victim=process.pid, how="SIGTERM")
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            stopping.append(self._see_it_end(process))
        await asyncio.gather(*stopping)

    async def run_to_end(self, process: asyncio.subprocess.Process, seconds: float) -> int | None:
        """Wait for a process to end by itself; None: it had to be killed."""
        try:
            async with asyncio.timeout(seconds):
                code: int | None = await process.wait()
        except TimeoutError:
            self.journal.note("kill", victim=process.pid, how="SIGKILL")
            process.kill()
            await process.wait()
            code = None
        self.journal.note("exit", victim=process.pid, code=code)
        return code

    def close(self) -> None:
        """Kill whoever is left."""
        for child in self._children:
            if child.process is not None and child.process.returncode is None:
                child.process.kill()
        self._log.close()
