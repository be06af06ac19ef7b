"""`aiopool jobs`, in processes of its own, on a file that the test has opened too."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from cli.stores import URL, end, new, opened
from cli.support import Done, finish, run, started, wait_for

from aiopool.cli._store import hidden
from aiopool.stores._rows import StoredJob, StoredStatus

ERROR = json.dumps({"type": "ValueError", "message": "no such address\nat all", "traceback": "Traceback …"})


async def jobs(here: Path, *arguments: str, store: str = URL, **options: Any) -> Done:
    """Run `aiopool jobs`, while the event loop of the test goes on."""
    where = ("--store", store) if store else ()
    return await asyncio.to_thread(run, here, "jobs", *arguments, *where, **options)


# -- list and show -----------------------------------------------------------------------------------------------------


async def test_list_shows_live_jobs_the_newest_first(here: Path):
    """A table with a line for each job that has not ended; an error is shown by its first line."""
    async with opened(here) as store:
        await store.submit([new("first"), new("second", "report.make", priority=1), new("late", delay=3600.0)])
        await end(store, "retry", error=ERROR)
        done = await jobs(here, "list")
    assert done.code == 0
    lines = done.out.decode().splitlines()
    assert lines[0].split() == ["id", "name", "status", "priority", "attempt", "age", "worker", "error"]
    assert [line.split()[0] for line in lines[1:]] == ["late", "second", "first"]
    assert re.fullmatch(r"second +report.make +queued +1 +1 +\d\.\d s +ValueError: no such address", lines[2])
    assert done.err == ""


async def test_list_names_the_worker_of_a_running_job(here: Path):
    """The owner is shown by its host and process, and the status is a filter."""
    async with opened(here) as store:
        await store.submit([new("a"), new("b")])
        await store.claim(1)
        done = await jobs(here, "list", "--status", "running", "--json")
    (row,) = done.rows
    assert (row["id"], row["status"], row["attempt"]) == ("a", "running", 1)
    assert row["worker"].startswith("worker-host:")


async def test_list_filters(here: Path):
    """Only the jobs of a function, of a group, or with a status are listed."""
    async with opened(here) as store:
        await store.submit([new("a"), new("b", "report.make"), new("c", group="night")])
        await store.cancel(["a"], None)
        listed = {
            option: [row["id"] for row in (await jobs(here, "list", "--json", *option)).rows]
            for option in (
                ("--name", "report.make"),
                ("--group", "night"),
                ("--status", "cancelled"),
                ("--queue", "other"),
            )
        }
    assert list(listed.values()) == [["b"], ["c"], ["a"], []]


async def test_list_json_has_all_of_a_job(here: Path):
    """Each line is an object with every field of a stored job, and JSON texts are values."""
    async with opened(here) as store:
        await store.submit([new("a", payload='{"args": [1, "ü"]}', lanes=("rule\x1fkey",), metadata='{"x": 1}')])
        done = await jobs(here, "list", "--json")
    (row,) = done.rows
    assert set(row) == {*StoredJob._fields, "worker"}
    assert row["payload"] == {"args": [1, "ü"]}
    assert row["metadata"] == {"x": 1}
    assert row["lanes"] == ["rule key"]


async def test_list_goes_on_at_a_cursor(here: Path):
    """A page that is not the last says how to go on, and the pages together have each job once."""
    async with opened(here) as store:
        await store.submit([new(f"job-{number}") for number in range(7)])
        first = await jobs(here, "list", "--json", "--limit", "4")
        match = re.fullmatch(r"there are more: --cursor (\S+)\n", first.err)
        assert match is not None
        second = await jobs(here, "list", "--json", "--limit", "4", "--cursor", match[1])
        everything = await jobs(here, "list", "--json", "--limit", "0")
    assert second.err == ""
    assert [row["id"] for row in first.rows + second.rows] == [f"job-{number}" for number in reversed(range(7))]
    assert everything.rows == first.rows + second.rows


async def test_show_has_everything(here: Path):
    """Arguments, error with its traceback, reason and moments are shown, as they can be read."""
    async with opened(here) as store:
        await store.submit([new("a", payload='{"args": ["x"], "kwargs": {"to": "ü"}}', unique="only", group="night")])
        await end(store, "failed", error=ERROR)
        text = (await jobs(here, "show", "a")).out.decode()
        as_json = (await jobs(here, "show", "a", "--json")).rows
    assert re.search(r"^status +failed$", text, re.M)
    assert re.search(r"^unique +only$", text, re.M)
    assert re.search(r"^submitted +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ \(\d\.\d s ago\)$", text, re.M)
    assert re.search(r"^crashes +0 of 3$", text, re.M)
    assert '    "to": "ü"' in text
    assert "\nerror\n  Traceback …\n  ValueError: no such address\n  at all\n" in text
    assert as_json[0]["error"]["message"] == "no such address\nat all"


async def test_nothing_steers_the_terminal(here: Path):
    """Control characters in what a job was given, or has said, are escaped."""
    nasty = "\x1b[2J\x9b31m\u202e"
    async with opened(here) as store:
        await store.submit([new("a", name=f"x{nasty}", payload=json.dumps({"args": [nasty]}, ensure_ascii=False))])
        await end(store, "failed", error=json.dumps({"type": "E", "message": nasty}))
        for arguments in (("list", "--status", "failed"), ("list", "--status", "failed", "--json"), ("show", "a")):
            done = await jobs(here, *arguments)
            text = done.out.decode()
            assert done.code == 0
            assert all(char.isprintable() or char == "\n" for char in text), arguments
            assert "u202e" in text


@pytest.mark.long
@pytest.mark.parametrize(
    "text",
    [
        "no JSON at all",
        "",
        "[" * 100_000 + "]" * 100_000,
        '{"args": [1e999, NaN]}',
        '"\\ud800"',
        "[1, 2]",
        '{"type": 5, "message": [1], "traceback": 7}',
        "1" * 5000,
    ],
)
async def test_whatever_a_job_holds_can_be_looked_at(here: Path, text: str):
    """Arguments and errors that are no JSON, or JSON of another shape, are shown, and are values of strict JSON."""
    async with opened(here) as store:
        await store.submit([new("a", payload=text)])
        await end(store, "failed", error=text)
        assert (await jobs(here, "show", "a")).code == 0
        assert (await jobs(here, "list", "--status", "failed")).code == 0
        done = await jobs(here, "show", "a", "--json")
    row = json.loads(done.out, parse_constant=pytest.fail)
    assert row["id"] == "a"


async def test_nobody_reads_the_output(here: Path):
    """Whoever has closed the output has seen enough: no complaint, and the exit code of a broken pipe."""
    async with opened(here) as store:
        await store.submit([new("a")])
        read, write = os.pipe()
        os.close(read)
        with started(here, "jobs", "list", "--store", URL, stdout=write) as process:
            os.close(write)
            _, err = await asyncio.to_thread(process.communicate)
    assert (process.returncode, err) == (141, b"")


async def test_show_of_a_job_that_is_not_there(here: Path):
    """An unknown id is said in a line, with exit code 1."""
    async with opened(here):
        done = await jobs(here, "show", "nobody")
    assert done.code == 1
    assert re.fullmatch(r"aiopool: queue 'pool' of sqlite:.*jobs.db has no job 'nobody', and its .*\n", done.err)


# -- cancel, retry, requeue-dead, pause, purge -------------------------------------------------------------------------


async def test_cancel_says_what_each_job_met(here: Path):
    """One that waits is cancelled with its reason, one that runs is told; others make the exit code 1."""
    async with opened(here) as store:
        await store.submit([new("runs"), new("waits")])
        await store.claim(1)
        fine = await jobs(here, "cancel", "waits", "runs", "--reason", "not needed")
        poor = await jobs(here, "cancel", "waits", "nobody")
        assert [(id, reason) for id, _, reason in (await store.claim(0)).cancels] == [("runs", "not needed")]
        assert [(job.status, job.reason) for job in await store.find(["waits"])] == [("cancelled", "not needed")]
    assert (fine.code, fine.out.decode().splitlines()) == (
        0,
        ["waits  cancelled", "runs   runs: its worker is told"],
    )
    assert (poor.code, poor.out.decode().splitlines()) == (
        1,
        ["waits   has ended before", "nobody  is not there"],
    )


async def test_retry(here: Path):
    """A job that has ended is queued again under its id; one that has not, or is unknown, is said."""
    async with opened(here) as store:
        await store.submit([new("a", unique="only")])
        await end(store, "failed", error=ERROR)
        await store.submit([new("b", priority=9)])
        done = await jobs(here, "retry", "a", "b", "nobody")
        assert [job.status for job in await store.find(["a"])] == ["queued"]
        assert done.code == 1
        assert done.out.decode().splitlines() == [
            "a       queued",
            "b       is queued: it has not ended",
            "nobody  is not there",
        ]
        await end(store, "failed", error=ERROR)
        await store.submit([new("c", unique="only")])
        held = await jobs(here, "retry", "a")
        assert (held.code, held.out.decode()) == (
            1,
            "a  stays failed: a live job may have its unique key 'only'\n",
        )


async def test_requeue_dead(here: Path):
    """All that were given up are queued again; with a status, all of these; never those that have succeeded."""
    async with opened(here) as store:
        await store.submit([new("a"), new("b"), new("c"), new("d")])
        for outcome in ("dead", "dead", "failed", "succeeded"):
            await end(store, outcome, error=None if outcome == "succeeded" else ERROR)
        dead = await jobs(here, "requeue-dead")
        failed = await jobs(here, "requeue-dead", "--status", "failed")
        refused = await jobs(here, "requeue-dead", "--status", "succeeded")
        assert {job.id: job.status for job in await store.find(["a", "b", "c", "d"])} == {
            "a": "queued",
            "b": "queued",
            "c": "queued",
            "d": "succeeded",
        }
    assert dead.out == b"2 queued that were dead\n"
    assert failed.out == b"1 queued that were failed\n"
    assert refused.code == 2
    assert "write dead, failed, timed_out or cancelled" in refused.err


async def test_pause_and_resume(here: Path):
    """While the queue is paused nobody gets a job."""
    async with opened(here) as store:
        await store.submit([new("a")])
        assert (await jobs(here, "pause")).code == 0
        claim = await store.claim(1)
        assert (claim.jobs, claim.paused) == ([], True)
        assert (await jobs(here, "stats", "--json")).rows[0]["paused"] is True
        assert (await jobs(here, "resume")).code == 0
        assert [job.id for job in (await store.claim(1)).jobs] == ["a"]


async def test_purge(here: Path):
    """What ended long enough ago is removed; what did not stays."""
    async with opened(here) as store:
        await store.submit([new("a")])
        await end(store, "succeeded", result="1")
        kept = await jobs(here, "purge", "--older-than", "7d")
        assert len(await store.find(["a"])) == 1
        removed = await jobs(here, "purge", "--older-than", "0")
        assert await store.find(["a"]) == []
        bad = await jobs(here, "purge", "--older-than", "long")
    assert kept.out == b"0 removed that ended 7d ago or earlier\n"
    assert removed.out == b"1 removed that ended 0 ago or earlier\n"
    assert (bad.code, bad.err) == (
        2,
        "aiopool: --older-than long: write seconds, minutes, hours, days or weeks: 3600, 30m, 12h, 7d or 2w\n",
    )


async def test_statistics(here: Path):
    """Counts by status, the workers, and whether it is paused; as a table and as JSON."""
    async with opened(here) as store:
        await store.submit([new("a"), new("b"), new("c")])
        await end(store, "succeeded", result="1")
        await store.claim(1)
        text = (await jobs(here, "stats")).out.decode()
        (row,) = (await jobs(here, "stats", "--json")).rows
    for line in (r"queued +1", r"running +1", r"succeeded +1", r"paused +no", r"workers +1", r"worker-host +\d+ +1 .*"):
        assert re.search(f"^{line}$", text, re.M), line
    assert (row["queue"], row["live"]["running"], row["ended"]["succeeded"]) == ("pool", 1, 1)
    assert row["workers"][0]["running"] == 1


async def test_schedules(here: Path):
    """What is submitted again and again, the latest moment first; as a table and as JSON."""
    async with opened(here) as store:
        assert (await jobs(here, "schedules")).out == b"last  schedule\n"
        now = await store.now()
        await store.submit(
            [new("a", tick=("f every 5 s {}", now - 3600)), new("b", tick=("g\x1b[1m every 9 s {}", 7.5))]
        )
        text = (await jobs(here, "schedules")).out.decode()
        rows = (await jobs(here, "schedules", "--json", "-n", "1")).rows
    assert re.search(r"^1:00:0\d ago +f every 5 s \{\}$", text, re.M), text
    assert text.splitlines()[2].endswith(r"g\x1b[1m every 9 s {}")
    assert rows == [{"schedule": "f every 5 s {}", "last": now - 3600}]


# -- stores that cannot be had -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("sqlite:///typo.db", "there is no file"),
        ("memory://", "lives inside the process"),
        ("mysql://root:s3cretword@host/db", "begins with none of"),
        ("jobs.db", "begins with none of"),
        ("sqlite:///jobs.db?colour=red", "colour"),
    ],
)
def test_a_store_that_cannot_be_used(here: Path, store: str, words: str):
    """One line says why, without the password, with exit code 2; no file is made."""
    done = run(here, "jobs", "stats", "--store", store)
    assert done.code == 2
    assert done.err.startswith("aiopool: ")
    assert words in done.err
    assert len(done.lines) == 1
    assert "s3cretword" not in done.err
    assert not list(here.glob("*.db"))


def test_a_store_that_cannot_be_opened(here: Path):
    """The words of the store are shown, with exit code 2, and the file is left as it is."""
    (here / "jobs.db").write_bytes(b"this is no database, but a text that is longer than a header of one" * 100)
    before = (here / "jobs.db").read_bytes()
    done = run(here, "jobs", "list", "--store", URL)
    assert done.code == 2
    assert done.err.startswith("aiopool: ")
    assert len(done.lines) == 1
    assert (here / "jobs.db").read_bytes() == before


def test_no_store(here: Path):
    """Without a store the usage is said; the variable is one way to name it."""
    assert run(here, "jobs", "list").code == 2
    assert "there is no file" in run(here, "jobs", "list", AIOPOOL_STORE="sqlite:///typo.db").err


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql://me:pass/w@rd@host/db", "pass/w@rd"),
        ("redis://:hunter22@host:6379/0", "hunter22"),
        ("redis://:p%40ss@host:6379/0", "p@ss"),
        ("postgresql://me@host/db?password=hunter22&sslmode=require", "hunter22"),
    ],
)
def test_passwords_are_hidden(url: str, secret: str):
    """A text has neither the password of a URL in it, nor the URL with its password."""
    text = hidden(f"cannot reach {url}: role me with {secret} was refused", url)
    assert secret not in text
    assert "***" in text
    assert "host" in text


# -- copy --------------------------------------------------------------------------------------------------------------


async def test_copy_moves_what_waits(here: Path):
    """Jobs that wait are in the target, those that run or have ended stay, and a table says how it stands."""
    async with opened(here) as store, opened(here, name="new.db") as target:
        await store.submit([new("ended"), new("runs"), new("a"), new("b", delay=60.0)])
        await end(store, "succeeded", result="1")
        await store.claim(1)
        done = await asyncio.to_thread(run, here, "jobs", "copy", "--from", URL, "--to", "sqlite:///new.db")
        assert {job.id: job.status for job in (await target.page())[0]} == {"a": "queued", "b": "scheduled"}
        assert {job.id for job in (await store.page())[0]} == {"runs"}
    assert done.code == 0
    header, old, fresh = done.out.decode().splitlines()
    assert header.split() == ["store", "waiting", "running", "ended"]
    assert (old.split()[2:], fresh.split()[2:]) == (["0", "1", "1"], ["2", "0", "0"])
    assert "2 moved in" in done.err
    assert "1 jobs run at the source, and stay there" in done.err


async def test_copy_follows_until_it_is_told_to_end(here: Path):
    """With --follow, what is submitted later is moved too; SIGTERM ends it with the table and exit code 0."""
    async with opened(here) as store, opened(here, name="new.db") as target:
        await store.submit([new("a")])
        with started(
            here, "jobs", "copy", "--from", URL, "--to", "sqlite:///new.db", "--follow", "--every", "0"
        ) as process:
            await asyncio.to_thread(wait_for, process, "1 moved")
            await store.submit([new("b")])
            await asyncio.to_thread(wait_for, process, "2 moved")
            process.send_signal(signal.SIGTERM)
            done = await asyncio.to_thread(finish, process)
        assert {job.id for job in (await target.page())[0]} == {"a", "b"}
    assert done.code == 0
    assert len(done.out.splitlines()) == 3


async def test_copy_goes_on_after_a_kill(here: Path):
    """The command is killed in the middle; the same command ends the move, and each job is in the target once."""
    ids = [f"job-{number:05}" for number in range(3000)]
    arguments = ("jobs", "copy", "--from", URL, "--to", "sqlite:///new.db", "--batch", "20", "--every", "0")
    async with opened(here) as store, opened(here, name="new.db") as target:
        for start in range(0, len(ids), 1000):
            await store.submit([new(id) for id in ids[start : start + 1000]])
        with started(here, *arguments) as process:
            await asyncio.to_thread(wait_for, process, "40 of 3,000 moved")
            process.kill()
            await asyncio.to_thread(process.communicate)
        assert (await store.statistics()).live.get(StoredStatus.QUEUED, 0) > 0, "it was killed in the middle"
        done = await asyncio.to_thread(run, here, *arguments[:-2])
        assert done.code == 0
        assert (await store.page())[0] == []
        arrived = []
        while claimed := (await target.claim(500)).jobs:
            arrived += [job.id for job in claimed]
    assert arrived == ids


def test_copy_to_itself(here: Path):
    """The same store on both sides is refused."""
    done = run(here, "jobs", "copy", "--from", URL, "--to", URL)
    assert done.code == 2
    assert "--from and --to are the same" in done.err


async def test_copy_to_itself_by_another_name(here: Path):
    """The same file under two names is refused, and its jobs are still there."""
    async with opened(here) as store:
        await store.submit([new("a")])
        done = await asyncio.to_thread(run, here, "jobs", "copy", "--from", URL, "--to", f"sqlite:///{here}/jobs.db")
        assert [job.id for job in (await store.claim(1)).jobs] == ["a"]
    assert done.code == 1
    assert "the same store" in done.err
