"""`torture`: the whole: a store, its tormentor, a clean end, and the account."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from aiopool._torture.account import Account, Conditions, Violation, account
from aiopool._torture.journal import Journal, read_journals
from aiopool._torture.producer import ProducerOptions
from aiopool._torture.proxy import Proxy
from aiopool._torture.servers import Server, start_server
from aiopool._torture.tormentor import Tormentor, Torments
from aiopool.errors import StoreError
from aiopool.stores._open import open_store
from aiopool.stores._protocol import Store
from aiopool.stores._rows import Incarnation, StoredJob, StoredStatus

__all__ = ["Options", "Outcome", "torture"]

# Jobs of the line, whose order is checked.
LINE = 60


@dataclass(frozen=True)
class Options:
    """What is asked for: see the command."""

    store: str | None = None
    server: str | None = None
    kills: int = 30
    hosts: int = 3
    producers: int = 2
    seconds: float = 30.0
    seed: int | None = None
    clock: bool = False
    wait: float = 60.0
    keep: Path | None = None
    rate: float = 60.0
    poisons: int = 1


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        store: the URL, without secrets.
        seed: with which it is done again.
        account: the account.
        counts: what was done to the processes, by kind.
        points: failpoints at which a process died.
        directory: where the journals are; None: they are gone.
    """

    store: str
    seed: int
    account: Account
    counts: dict[str, int]
    points: dict[str, int]
    kills: int
    rescued: int
    seconds: float
    directory: str | None
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.account.violations


async def torture(options: Options) -> Outcome:
    """Torture a store.

    Raises:
        ValueError: the store is none that several processes can share.
        StoreError: it cannot be used.
        RuntimeError: a server cannot be started.
    """
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    directory = Path(tempfile.mkdtemp(prefix="aiopool-torture-")) if options.keep is None else options.keep
    directory.mkdir(parents=True, exist_ok=True)
    server: Server | None = None
    private = Path(tempfile.mkdtemp(prefix="aiopool-server-"))
    try:
        url = options.store
        if options.server is not None:
            server = await start_server(options.server, private)
            url = server.url + "?lease=3"
        if url is None:
            url = f"sqlite:///{directory / 'jobs.db'}"
        if url.startswith("memory:"):
            raise ValueError("store='memory://': jobs in memory die with their process; name another store")
        torment = _Torture(options, url, server, seed, directory)
        outcome = await torment.run()
    finally:
        if server is not None:
            await server.kill()
        await asyncio.to_thread(shutil.rmtree, private, ignore_errors=True)
    if outcome.ok and options.keep is None:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        outcome.directory = None
    return outcome


class _Torture:
    def __init__(self, options: Options, url: str, server: Server | None, seed: int, directory: Path) -> None:
        self._options = options
        self._url = url
        self._server = server
        self._seed = seed
        self._directory = directory
        self._queue = f"torture-{uuid.uuid4().hex[:8]}"
        self._proxies: dict[int, Proxy] = {}
        self._more: list[Violation] = []

    async def run(self) -> Outcome:
        options, rng = self._options, random.Random(self._seed)  # noqa: S311  # chances, not secrets
        loop = asyncio.get_running_loop()
        began = loop.time()
        store = open_store(self._url)
        lease = store.lease
        sqlite = self._url.startswith("sqlite")
        if not sqlite:
            await self._begin_proxies()
        points = ["claim.after", "start.before", "job.ended", "settle.before", "settle.after", "submit.after"]
        points += ["sweep.before", "sweep.after", "close.before"]
        points += ["commit.before", "commit.after"] if sqlite else []
        points += ["beat.before"] if lease is not None else []
        rng.shuffle(points)
        torments = Torments(
            options.hosts,
            options.producers,
            options.kills,
            options.seconds,
            freeze=1.0 if lease is None else 1.5 * lease,
            points=tuple(points),
            clock=3600.0 if options.clock and not sqlite else 0.0,
            full=sqlite,
            rate=options.rate,
            poisons=options.poisons,
            block=1.0 if lease is None else 1.3 * lease,
        )
        tormentor = Tormentor(torments, self._directory, self._queue, self._url_of, self._proxies, self._server, rng)
        try:
            await self._die_while_migrating(tormentor)
            watching = asyncio.create_task(self._watch(tormentor.journal))
            tormentor.begin()
            await tormentor.torment()
            await tormentor.calm()
            left = await self._wait_for_end()
            if left:
                wait = self._options.wait
                self._more.append(Violation("ends", "", f"after {wait:g} s in which nobody was killed: {left}"))
            await tormentor.end()
            await self._finish(tormentor)
            watching.cancel()
            await asyncio.wait([watching])
        finally:
            tormentor.close()
            for proxy in self._proxies.values():
                await proxy.stop()
        if tormentor.hung:
            self._more.append(Violation("ends when told", "", f"{tormentor.hung} processes did not end after SIGTERM"))
        rows, rescued = await self._read_all(store)
        found = account(read_journals(self._directory), rows, Conditions(leases=lease is not None))
        found.violations[:0] = self._more
        if sqlite:
            found.violations += await self._check_damaged()
        return Outcome(
            store.url,
            self._seed,
            found,
            dict(tormentor.counts),
            dict(tormentor.points),
            tormentor.kills,
            rescued,
            loop.time() - began,
            str(self._directory),
        )

    # -- the way to the store ------------------------------------------------------------------------------------------

    async def _begin_proxies(self) -> None:
        parts = urlsplit(self._url)
        if parts.scheme == "rediss" or "sslmode" in parts.query or parts.hostname is None:
            return  # whoever checks the name of the server would not find it here
        port = parts.port or {"postgresql": 5432, "postgres": 5432}.get(parts.scheme, 6379)
        for slot in range(self._options.hosts + self._options.producers):
            proxy = Proxy(parts.hostname, port)
            await proxy.begin()
            self._proxies[slot] = proxy

    def _url_of(self, slot: int) -> str:
        proxy = self._proxies.get(slot)
        if proxy is None:
            return self._url
        parts = urlsplit(self._url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}"))

    # -- the steps -----------------------------------------------------------------------------------------------------

    async def _die_while_migrating(self, tormentor: Tormentor) -> None:
        """Kill the first process that makes the tables, halfway; of a store that has them it is not noticed."""
        process = await tormentor.spawn("host", tormentor.host_options(0), "migrate.inside:1")
        try:
            async with asyncio.timeout(3.0):
                code: int | None = await process.wait()
        except TimeoutError:
            tormentor.journal.note("kill", victim=process.pid, how="SIGKILL")
            process.kill()
            await process.wait()
            code = None
        tormentor.journal.note("exit", victim=process.pid, code=code)
        if code is not None:
            tormentor.points["migrate.inside"] += 1
            tormentor.counts["failpoint"] += 1
            tormentor.deaths += 1

    async def _watch(self, journal: Journal) -> None:
        """Write down what has ended, as it is seen now."""
        while True:
            with contextlib.suppress(StoreError):
                await self._look(journal)
            await asyncio.sleep(1.0)

    async def _look(self, journal: Journal) -> None:
        store = open_store(self._url)
        await store.open(self._queue, _onlooker(), _nothing)
        try:
            while True:
                for status in ("succeeded", "cancelled", "dead"):
                    rows, _ = await store.page(status=StoredStatus(status), limit=50)
                    for row in rows:
                        journal.note(
                            "seen",
                            id=row.id,
                            status=str(row.status),
                            result=row.result,
                            finished_at=row.finished_at,
                            attempt=row.attempt,
                        )
                await asyncio.sleep(0.5)
        finally:
            with contextlib.suppress(StoreError):
                await store.close()

    async def _finish(self, tormentor: Tormentor) -> None:
        """Hand in the line, let clean hosts do all that is left, and end them."""
        line = ProducerOptions(self._url, self._queue, str(self._directory), self._seed, line=LINE)
        process = await tormentor.spawn("producer", line)
        if await tormentor.run_to_end(process, 60.0) != 0:
            self._more.append(Violation("ends when told", "", "the last producer did not end well"))
        watching = asyncio.create_task(self._wait_for_end())
        try:
            while not watching.done():
                options = tormentor.host_options(-1, late=True)
                host = await tormentor.spawn("host", options)
                died = asyncio.create_task(host.wait())
                await asyncio.wait({died, watching}, return_when=asyncio.FIRST_COMPLETED)
                if died.done():  # by a job that kills it
                    tormentor.journal.note("exit", victim=host.pid, code=host.returncode)
                    await asyncio.sleep(0.1)
                    continue
                tormentor.journal.note("kill", victim=host.pid, how="SIGTERM")
                host.terminate()
                if await tormentor.run_to_end(host, 15.0) != 0:
                    self._more.append(Violation("ends when told", "", "the last host did not end well"))
        finally:
            watching.cancel()
        left = await watching
        if left:
            self._more.append(Violation("ends", "", f"after {self._options.wait:g} s of rest there is still {left}"))

    async def _wait_for_end(self) -> str:
        """Wait until nothing is left to do; return what is left after all, in words."""
        store = open_store(self._url)
        await store.open(self._queue, _onlooker(), _nothing)
        left: dict[str, int] = {}
        try:
            async with asyncio.timeout(self._options.wait):
                while True:
                    with contextlib.suppress(StoreError):
                        live = (await store.statistics()).live
                        left = {str(key): n for key, n in live.items() if n and key is not StoredStatus.PARKED}
                        if not left:
                            return ""
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return ", ".join(f"{number} {status}" for status, number in left.items())
        finally:
            with contextlib.suppress(StoreError):
                await store.close()

    async def _read_all(self, store: Store) -> tuple[list[StoredJob], int]:
        """Return all rows, as they stand in their lists, and how many were rescued."""
        await store.open(self._queue, _onlooker(), _nothing)
        rows: list[StoredJob] = []
        try:
            for status in StoredStatus:
                cursor: str | None = None
                while True:
                    page, cursor = await store.page(status=status, limit=500, cursor=cursor)
                    rows += page
                    if cursor is None:
                        break
            return rows, (await store.statistics()).rescued
        finally:
            await store.close()

    async def _check_damaged(self) -> list[Violation]:
        """A damaged file is refused, and left as it is."""
        copy = self._directory / "damaged.db"
        data = await asyncio.to_thread(_damaged_copy, Path(urlsplit(self._url).path[1:]), copy)
        store = open_store(f"sqlite:///{copy}")
        try:
            await store.open(self._queue, _onlooker(), _nothing)
        except StoreError:
            if await asyncio.to_thread(copy.read_bytes) != data:
                return [Violation("damage is refused", "", "a damaged file was refused, and changed")]
            return []
        await store.close()
        return [Violation("damage is refused", "", "a file with a damaged header was opened")]


def _damaged_copy(path: Path, copy: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[:100] = os.urandom(100)
    copy.write_bytes(data)
    return bytes(data)


def _onlooker() -> Incarnation:
    return Incarnation(uuid.uuid4().hex, "torture", os.getpid(), False)


def _nothing(wake: object) -> None:
    """A wake-up that nobody needs."""
