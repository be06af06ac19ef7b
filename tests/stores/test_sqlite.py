"""What is the SQLite store's own: its files and their faults, its locks, its processes. The rest is in the tests of all
stores."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aiopool.errors import StoreError, StoreUnavailableError
from aiopool.stores import _sqlite_files as files
from aiopool.stores._open import open_store
from aiopool.stores._protocol import Wake
from aiopool.stores._rows import Incarnation, NewJob, Settlement, StoredStatus
from aiopool.stores._sqlite import SQLite
from aiopool.stores._sqlite_schema import SCHEMA_VERSION
from aiopool.stores._sqlite_tx import Transaction

CHILD = Path(__file__).with_name("sqlite_child.py")
ROOT = Path(__file__).parents[2]

_numbers = itertools.count()


def jobs(*ids: str, **options: Any) -> list[NewJob]:
    return [NewJob(id, "work", options.pop("payload", "[]"), **options) for id in ids]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


Open = Callable[..., Any]


@pytest_asyncio.fixture
async def opened() -> AsyncIterator[Open]:
    """Open stores, and close them in the end."""
    stores: list[SQLite] = []

    async def open_one(path: Path, *, queue: str = "q", wakes: list[Wake] | None = None, **options: Any) -> SQLite:
        store = SQLite(path, **options)
        me = Incarnation(f"test-{next(_numbers)}", "host", os.getpid(), True)
        await store.open(queue, me, lambda what: wakes.append(what) if wakes is not None else None)
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        await store.close()


class Children:
    """Starts programs of `sqlite_child.py`, and kills what is left of them."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen[str]] = []
        self.pids: list[int] = []

    def start(self, what: str, path: Path) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, str(CHILD), what, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.all.append(child)
        return child

    async def line(self, child: subprocess.Popen[str]) -> dict[str, Any]:
        """Return the next thing that a child says."""
        assert child.stdout is not None
        said = await asyncio.to_thread(child.stdout.readline)
        assert said, f"the child has ended: {child.poll()}"
        found: dict[str, Any] = json.loads(said)
        return found

    def go(self, child: subprocess.Popen[str]) -> None:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()

    def kill(self, child: subprocess.Popen[str]) -> None:
        child.kill()
        child.wait()

    def end(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for child in self.all:
            self.kill(child)
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children()
    yield made
    made.end()


async def check_file(store: SQLite) -> None:
    found = await store._read(lambda connection: connection.execute("PRAGMA quick_check").fetchall())
    assert found == [("ok",)]


# -- processes ---------------------------------------------------------------------------------------------------------


async def test_jobs_of_a_killed_process_are_back_with_the_next_sweep(
    path: Path, opened: Open, children: Children
) -> None:
    """SIGKILL frees the lock of the owner, so that its jobs are rescued at once, and its files are removed."""
    store = await opened(path)
    await store.submit(jobs("a", "b"))
    child = children.start("own", path)
    assert (await children.line(child))["owns"] == ["a", "b"]
    assert (await store.sweep([])).rescued == 0
    children.kill(child)
    assert (await store.sweep([])).rescued == 2
    claimed = (await store.claim(10)).jobs
    assert [(job.id, job.attempt, job.crashes, job.fence) for job in claimed] == [("a", 2, 1, 2), ("b", 2, 1, 2)]
    assert not list(files.beside(path, "-live").glob(f"child-{child.pid}*"))


async def test_a_stopped_process_keeps_its_jobs(path: Path, opened: Open, children: Children) -> None:
    """One that is stopped, with its loop blocked, lives: nobody takes its jobs, however long it does nothing."""
    store = await opened(path)
    await store.submit(jobs("a"))
    child = children.start("own", path)
    await children.line(child)
    child.send_signal(signal.SIGSTOP)
    for _ in range(20):
        assert (await store.sweep([])).rescued == 0
    assert (await store.claim(1)).jobs == []
    children.kill(child)
    assert (await store.sweep([])).rescued == 1


async def test_a_forked_child_does_not_keep_its_dead_parent_alive(path: Path, opened: Open, children: Children) -> None:
    """A child has the parent's open files; its hook closes them, so the jobs of a dead parent are rescued."""
    store = await opened(path)
    await store.submit(jobs("a"))
    child = children.start("own_and_fork", path)
    said = await children.line(child)
    children.pids.append(said["child"])
    children.kill(child)
    os.kill(said["child"], 0)  # it lives
    assert (await store.sweep([])).rescued == 1


async def test_a_store_that_was_opened_before_a_fork_raises_in_the_child(path: Path, children: Children) -> None:
    """The child is told to open its own, and the parent goes on as if nothing had been."""
    child = children.start("fork", path)
    assert "opened before a fork" in (await children.line(child))["error"]
    assert (await children.line(child))["after"] == "queued"
    assert await asyncio.to_thread(child.wait) == 0


async def test_two_processes_share_the_jobs_and_none_runs_twice(path: Path, opened: Open, children: Children) -> None:
    """Of two processes that claim as fast as they can each job has one owner, and all are done."""
    store = await opened(path)
    ids = [f"job-{number}" for number in range(600)]
    await store.submit(jobs(*ids))
    workers = [children.start("work", path) for _ in range(2)]
    for worker in workers:
        await children.line(worker)
    for worker in workers:
        children.go(worker)
    done = [(await children.line(worker))["done"] for worker in workers]
    assert sorted(done[0] + done[1]) == sorted(ids)
    assert len(await store.finished(ids)) == 600
    for each in done:  # each of them got its own in the order of submission
        assert each == sorted(each, key=lambda id: int(id.removeprefix("job-")))


async def test_a_wake_up_comes_from_another_process(path: Path, opened: Open, children: Children) -> None:
    """A submission elsewhere is told at once, without asking."""
    woken = asyncio.Event()
    store = SQLite(path)
    await store.open("q", Incarnation("waits", "host", os.getpid(), True), lambda what: woken.set())
    try:
        child = children.start("submit", path)
        await asyncio.wait_for(woken.wait(), 30)
        assert [job.id for job in (await store.claim(1)).jobs] == ["from-afar"]
        await children.line(child)
    finally:
        await store.close()


async def test_wake_ups_work_where_paths_are_long(tmp_path: Path, opened: Open) -> None:
    """The path of a socket may have 107 bytes; that of the file has as many as it likes."""
    folder = tmp_path / ("long" * 30) / ("longer" * 20)
    folder.mkdir(parents=True)
    wakes: list[Wake] = []
    await opened(folder / "jobs.db", wakes=wakes)
    sender = await opened(folder / "jobs.db")
    await sender.submit(jobs("a"))
    while not wakes:
        await asyncio.sleep(0)
    assert wakes == ["work"]


async def test_what_was_accepted_survives_sigkill(path: Path, opened: Open, children: Children) -> None:
    """A job whose submission was answered is there after its process was killed in the middle of the next one."""
    accepted: list[str] = []
    for _ in range(3):
        child = children.start("submit_for_ever", path)
        for _ in range(20):
            accepted += (await children.line(child))["accepted"]
        children.kill(child)
    store = await opened(path)
    assert {job.id for job in await store.find(accepted)} == set(accepted)
    await check_file(store)


async def test_many_processes_make_one_file_at_once(path: Path, opened: Open, children: Children) -> None:
    """Of those that open a file that is not there yet one makes the tables, and all can use them."""
    starters = [children.start("open_only", path) for _ in range(4)]
    for each in starters:
        await children.line(each)
    for each in starters:
        children.go(each)
    assert [(await children.line(each)) for each in starters] == [{"opened": True}] * 4
    await check_file(await opened(path))


async def test_a_stopped_writer_makes_the_others_unavailable_not_stuck(
    path: Path, opened: Open, children: Children
) -> None:
    """Whoever waits for the lock of all writers gives up after a while, and goes on when it is free; reads go on."""
    store = await opened(path)
    child = children.start("hold", path)
    await children.line(child)
    child.send_signal(signal.SIGSTOP)
    store._opening.writer.wait = 0.05
    for _ in range(3):
        with pytest.raises(StoreUnavailableError, match="another process holds"):
            await store.submit(jobs("a"))
    assert await store.find(["a"]) == []
    children.kill(child)
    store._opening.writer.wait = 10.0
    assert [answer.outcome for answer in await store.submit(jobs("a"))] == ["queued"]


async def test_close_does_not_wait_for_ever_for_the_lock(
    path: Path, opened: Open, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store closes though a stopped process holds the lock; what it held is rescued by the others."""
    monkeypatch.setattr("aiopool.stores._sqlite_opening._CLOSING", 0.1)
    store, other = await opened(path), await opened(path)
    await store.submit(jobs("a"))
    assert len((await store.claim(1)).jobs) == 1
    child = children.start("hold", path)
    await children.line(child)
    child.send_signal(signal.SIGSTOP)
    await store.close()
    children.kill(child)
    assert (await other.sweep([])).rescued == 1


async def test_queues_of_one_file_see_nothing_of_each_other(path: Path, opened: Open) -> None:
    """The same id can be in both, and a claim, a page and the numbers are of one of them."""
    left, right = await opened(path, queue="left"), await opened(path, queue="right")
    await left.submit(jobs("a"))
    assert [answer.outcome for answer in await right.submit(jobs("a", "b"))] == ["queued", "queued"]
    assert [job.id for job in (await left.claim(10)).jobs] == ["a"]
    assert (await right.statistics()).live[StoredStatus.QUEUED] == 2
    assert [job.id for job in (await right.page())[0]] == ["b", "a"]


# -- faults ------------------------------------------------------------------------------------------------------------


async def test_a_full_disk_refuses_and_recovers(path: Path, opened: Open) -> None:
    """When there is no room a submission changes nothing and says so; with room again the store goes on."""
    store = await opened(path)
    await store.submit(jobs("before"))

    def allow(pages: int) -> Callable[[Transaction], object]:
        return lambda tx: tx.connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    await store._write(allow(1))  # it is as large as it may be
    big = jobs("big", payload="x" * 500_000)
    with pytest.raises(StoreUnavailableError, match="there is no room"):
        await store.submit(big)
    assert await store.find(["big"]) == []
    claimed = (await store.claim(1)).jobs
    assert await store.settle([Settlement("before", claimed[0].fence, "succeeded")]) == [True]
    await store._write(allow(1_000_000))
    assert (await store.submit(big))[0].outcome == "queued"
    await check_file(store)


async def test_a_limit_of_the_size_of_files_refuses_and_recovers(path: Path, opened: Open, children: Children) -> None:
    """A write that the system cuts short is rolled back, and said to be out of room."""
    said = await children.line(children.start("small_files", path))
    assert said["kinds"] == ["StoreUnavailableError"]
    assert said["last"] == "queued"
    assert said["found"] == ["first", "last"]
    await check_file(await opened(path))


async def test_a_damaged_header_is_refused_and_the_file_is_left_alone(path: Path, opened: Open) -> None:
    """What is no database is not opened, and not made anew."""
    await (await opened(path)).close()
    damaged = b"garbage!" * 512
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match="damaged, or no database"):
        await opened(path)
    assert path.read_bytes() == damaged


async def test_a_damaged_page_is_told(path: Path, opened: Open) -> None:
    """A page in the middle that is nonsense is met as a fault of the file, which stays as it is."""
    store = await opened(path)
    await store.submit(jobs(*[f"job-{number}" for number in range(500)], payload="x" * 300))
    await store.close()
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for page in range(2, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)
    with pytest.raises(StoreError, match="damaged"):
        await (await opened(path)).claim(500)
    assert path.stat().st_size == size


async def test_a_log_that_was_cut_loses_its_end_only(path: Path, tmp_path: Path, opened: Open) -> None:
    """After half of the log is gone the first commits are there, in their order, and the file is sound."""
    store = await opened(path)
    ids = [f"job-{number}" for number in range(50)]
    for id in ids:
        await store.submit(jobs(id))
    copy = tmp_path / "copy.db"
    for suffix in ("", "-wal"):
        shutil.copy(files.beside(path, suffix), files.beside(copy, suffix))
    log = files.beside(copy, "-wal")
    os.truncate(log, log.stat().st_size * 2 // 3)
    other = await opened(copy)
    found = [job.id for job in await other.find(ids)]
    assert 0 < len(found) < 50
    assert set(found) == set(ids[: len(found)])
    await check_file(other)


async def test_a_file_that_was_emptied_is_not_filled_again(path: Path, opened: Open) -> None:
    """A store that is empty now has lost its jobs: that is told, not hidden."""
    await (await opened(path)).close()
    os.truncate(path, 0)
    with pytest.raises(StoreError, match="is empty, though it was one before"):
        await opened(path)


async def test_a_file_that_is_gone_while_its_log_is_there_is_told(path: Path, opened: Open) -> None:
    """The log without its file is what is left of jobs: nothing new is made over it."""
    files.beside(path, "-wal").write_bytes(b"left over")
    with pytest.raises(StoreError, match="the file is gone"):
        await opened(path)
    assert files.beside(path, "-wal").read_bytes() == b"left over"


async def test_a_newer_file_is_refused(path: Path, opened: Open) -> None:
    """An older aiopool does not touch the tables of a newer one."""
    await (await opened(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match="a newer aiopool has written it"):
        await opened(path)


async def test_the_database_of_another_program_is_refused(path: Path, opened: Open) -> None:
    """Tables that are not ours stay alone."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(StoreError, match="the database of another program"):
        await opened(path)


async def test_a_program_that_holds_the_file_makes_it_unavailable(path: Path, opened: Open) -> None:
    """A shell with an exclusive transaction is told of, and when it ends the store goes on."""
    store = await opened(path)
    await store._write(lambda tx: tx.connection.execute("PRAGMA busy_timeout = 20").fetchone())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailableError, match="another program holds the file"):
            await store.submit(jobs("a"))
        shell.execute("ROLLBACK")
        assert (await store.submit(jobs("a")))[0].outcome == "queued"


async def test_after_a_failed_fsync_nothing_more_is_written(path: Path, opened: Open) -> None:
    """When the disk did not confirm, the store is over: a second try would only look fine."""
    store = await opened(path)

    def fail(tx: Transaction) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname, error.sqlite_errorcode = "SQLITE_IOERR_FSYNC", 1034  # type: ignore[misc]
        raise error

    for write in (fail, lambda tx: None):
        with pytest.raises(StoreError, match="the disk did not confirm a write") as caught:
            await store._write(write)
        assert not isinstance(caught.value, StoreUnavailableError)


async def test_a_directory_that_is_not_there_is_told(tmp_path: Path, opened: Open) -> None:
    """The directory is not made: a typing error would look like an empty store."""
    with pytest.raises(StoreError, match="there is no directory"):
        await opened(tmp_path / "nowhere" / "jobs.db")
    with pytest.raises(StoreError, match="it is a directory"):
        await opened(tmp_path)


async def test_a_directory_without_permission_is_told(children: Children) -> None:
    """A user who may not write there is told what has to be changed."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        said = await children.line(children.start("unprivileged", Path(folder) / "jobs.db"))
        os.chmod(folder, 0o755)
    assert said["kind"] == "StoreError"
    assert "let this user write" in said["error"]


async def test_a_network_file_system_is_refused(path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no such locks there as the store needs."""
    assert files.file_system(path.parent) not in ("", "nfs4")
    monkeypatch.setattr(files, "file_system", lambda directory: "nfs4")
    with pytest.raises(StoreError, match="network file system"):
        await opened(path)
    assert not path.exists()


async def test_a_row_that_cannot_be_written_is_no_fault_of_the_others(path: Path, opened: Open) -> None:
    """Verbs that share a transaction fail alone."""
    store = await opened(path)
    wrong: Any = object()
    good, bad, more = await asyncio.gather(
        store.submit(jobs("good")),
        store.submit([NewJob("bad", "work", wrong)]),
        store.submit(jobs("more")),
        return_exceptions=True,
    )
    assert isinstance(bad, StoreError)
    assert [good[0].outcome, more[0].outcome] == ["queued", "queued"]
    assert {job.id for job in await store.find(["good", "bad", "more"])} == {"good", "more"}


async def test_a_sweep_that_was_cancelled_lets_go_of_the_dead(path: Path, opened: Open) -> None:
    """Whoever stops waiting for a sweep leaves nothing locked: the jobs of the dead are rescued, by whomever."""
    store, other, dying = await opened(path), await opened(path), await opened(path)
    await store.submit(jobs("a"))
    await dying.claim(1)
    await dying._die()
    sweep = asyncio.ensure_future(store.sweep([]))
    await asyncio.sleep(0)
    sweep.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweep
    await store._write(lambda tx: None)  # the writer is done with it
    await other.sweep([])
    assert [(job.id, job.crashes) for job in (await other.claim(1)).jobs] == [("a", 1)]


async def test_a_page_looks_at_a_bounded_number_of_rows(
    path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few rows have what is asked for, a page may be short; its cursors lead to all of them."""
    monkeypatch.setattr("aiopool.stores._sqlite_reads._LOOKS", 10)
    store = await opened(path)
    await store.submit(jobs(*[f"job-{number}" for number in range(95)]))
    await store.submit(jobs("rare-1", "rare-2", group="g"))
    await store.submit(jobs(*[f"more-{number}" for number in range(95)]))
    found: list[str] = []
    pages, cursor = 0, None
    while pages == 0 or cursor is not None:
        page, cursor = await store.page(group="g", status=StoredStatus.QUEUED, cursor=cursor)
        found += [job.id for job in page]
        pages += 1
    assert found == ["rare-2", "rare-1"]
    assert pages > 10
    with pytest.raises(ValueError, match="none that a page has returned"):
        await store.page(cursor="elsewhere")


async def test_a_large_requeue_and_a_large_purge_go_on_to_their_end(path: Path, opened: Open) -> None:
    """They are done in steps, and all of them are done."""
    store = await opened(path)
    ids = [f"job-{number}" for number in range(2500)]
    await store.submit(jobs(*ids))
    await store.cancel(ids, None)
    assert await store.requeue(None, StoredStatus.CANCELLED) == 2500
    assert (await store.statistics()).live[StoredStatus.QUEUED] == 2500
    await store.cancel(ids, None)
    assert await store.forget_history(0.0) == 2500
    assert await store.find(ids) == []


async def test_a_job_that_was_retried_waits_as_long_as_it_may_after_a_requeue(path: Path, opened: Open) -> None:
    """The moment of its retry takes nothing from its `queue_timeout`, which begins anew."""
    store = await opened(path)
    moment = 1_000_000.0
    store._opening._clock = lambda: moment
    await store.submit(jobs("a", queue_timeout=100.0))
    await store.claim(1)
    await store.settle([Settlement("a", 1, "retry", delay=60.0)])
    await store.cancel(["a"], None)
    assert await store.requeue(["a"], None) == 1
    (job,) = await store.find(["a"])
    assert job.queue_until == moment + 100.0


# -- words -------------------------------------------------------------------------------------------------------------


async def test_a_url_names_the_file_and_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes are relative, four are absolute; an option has the meaning of the argument."""
    monkeypatch.chdir(tmp_path)
    relative: Any = open_store("sqlite:///jobs.db")
    assert relative.path == tmp_path / "jobs.db"
    absolute: Any = open_store("sqlite:////var/jobs%20here.db?durability=process&keep=60&keep_failed=90&max_payload=10")
    assert (absolute.path, absolute.durability) == (Path("/var/jobs here.db"), "process")
    assert (absolute.keep, absolute.max_payload) == ((60.0, 90.0), 10)
    again: Any = open_store(absolute.url)
    assert (again.path, again.url, again.keep) == (absolute.path, absolute.url, absolute.keep)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://jobs.db", "sqlite:///relative.db"),
        ("sqlite:///", "sqlite:///relative.db"),
        ("sqlite:///jobs.db?kep=3", "no option 'kep'"),
        ("sqlite:///jobs.db?keep=long", "keep='long' is no number"),
        ("sqlite:///jobs.db?keep=-1", "must be 0 or more"),
        ("sqlite:///jobs.db?durability=none", '"power" or "process"'),
    ],
)
def test_a_url_that_is_wrong_says_what_to_write(url: str, says: str) -> None:
    """Nothing in a URL is passed over."""
    with pytest.raises(ValueError, match=says):
        open_store(url)


async def test_facts_tell_how_it_is_set(path: Path, opened: Open) -> None:
    """For `aiopool doctor`: the version, the journal, how long a commit takes; and nothing is left behind."""
    facts = await (await opened(path)).facts()
    assert (facts["engine"], facts["version"]) == ("SQLite", sqlite3.sqlite_version)
    assert (facts["journal_mode"], facts["synchronous"], facts["durability"]) == ("wal", "full", "power")
    assert facts["commit_seconds"] > 0
    assert facts["file_bytes"] > 0
    assert isinstance(facts["warnings"], list)
    assert not list(files.beside(path, "-live").glob("commit*"))
    relaxed = await (await opened(path, durability="process")).facts()
    assert relaxed["synchronous"] == "normal"


async def test_a_submission_within_a_connection_is_refused(path: Path, opened: Open) -> None:
    """Its transactions are its own."""
    with pytest.raises(TypeError, match="file of their own"):
        await (await opened(path)).submit(jobs("a"), within=object())


async def test_nothing_is_left_open_or_lying_about_after_a_close(path: Path, opened: Open) -> None:
    """The last one that closes writes the log back, and takes its own files away."""
    store = await opened(path)
    await store.submit(jobs("a"))
    await store.close()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["jobs.db", "jobs.db-live", "jobs.db-lock"]
    assert list(files.beside(path, "-live").iterdir()) == []
    with pytest.raises(StoreError, match="is not open"):
        await store.claim(1)
