"""How a program ends: signals, SystemExit, `asyncio.run` with an open pool.

Each program is a Python of its own, with all warnings as errors, under a plain `asyncio.run`. (`aiopool.run`, which
adds exit codes and a main that needs not know of signals, is in test_run.py; a thread that never ends, in
test_threads.py.)
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from aiopool import Pool, PoolStatus

PREFACE = """
import asyncio, contextlib, logging, os, signal, sys, threading, time
from aiopool import Pool, PoolClosedError, Retry

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
logging.basicConfig(level=logging.CRITICAL)
isolation = sys.argv[1]

def say(*words):
    # In one write; print() may make several, and the words of another process would come between them.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def forever():
    await asyncio.get_running_loop().create_future()

async def tidy(name):
    try:
        await forever()
    finally:
        say("cleaned up", name)
"""


@pytest.fixture(params=["task", pytest.param("scope", marks=pytest.mark.long)])
def isolation(request):
    """Both kinds of containment; the second one is long where it takes a program for each case."""
    return request.param


both = pytest.mark.parametrize("isolation", ["task", "scope"], indirect=True)


@pytest.fixture
def program(tmp_path, isolation):
    """Start a program; standard error goes to standard output."""
    started = []

    def start(body, *options):
        lines = body.strip("\n").split("\n")
        margin = len(lines[0]) - len(lines[0].lstrip())
        script = tmp_path / "program.py"
        script.write_text(PREFACE + "\n".join(line[margin:] for line in lines))
        command = [sys.executable, "-W", "error", *options, str(script), isolation]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(process, line):
    """Read up to a line."""
    for text in process.stdout:
        if text.rstrip("\n") == line:
            return
    raise AssertionError(f"the program never said {line!r}")


def end(process, within=30):
    """Return the rest of what it says, and its exit code."""
    out, _ = process.communicate(timeout=within)
    return out.splitlines(), process.returncode


# -- a job ends the program ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "late", "plain"])
@pytest.mark.parametrize(("error", "code"), [("SystemExit(3)", 3), ("KeyboardInterrupt()", -signal.SIGINT)])
def test_system_exit_and_ctrl_c_in_a_job_end_the_program(program, kind, error, code):
    """By a bounded shutdown: the others clean up, the callbacks run, and the exit code is what was raised."""
    process = program(f"""
        async def job():
            if {kind!r} == "late":
                await asyncio.sleep(0.01)
            raise {error}

        def plain():
            raise {error}

        async def main():
            async with Pool(size=2, isolation=isolation) as pool:
                pool.on_shutdown(lambda: say("callback"))
                other = await pool.submit(tidy, "other")
                await asyncio.sleep(0.01)
                job_ = await pool.submit(plain if {kind!r} == "plain" else job)
                try:
                    await forever()
                finally:
                    say(other.status, job_.status, type(job_.exception()).__name__)

        asyncio.run(main())
    """)
    lines, got = end(process)
    assert got == code, lines
    name = error.partition("(")[0]
    assert lines[:3] == ["cleaned up other", "callback", f"cancelled failed {name}"]
    assert not [line for line in lines if "never retrieved" in line or "destroyed" in line]


@both
def test_system_exit_in_a_job_that_is_awaited(program):
    """Whoever awaits it gets it as well, and may do what he likes: the program ends all the same."""
    process = program("""
        async def main():
            async with Pool(size=1, isolation=isolation) as pool:
                try:
                    await pool.run(sys.exit, 4)
                except SystemExit as error:
                    say("caught", error.code)
                await forever()

        asyncio.run(main())
    """)
    assert end(process) == (["caught 4"], 4)


@both
def test_the_first_of_two_that_end_the_program_counts(program):
    """Two jobs end it in the same turn: the code is that of the first."""
    process = program("""
        async def ends(code):
            await go.wait()
            raise SystemExit(code)

        async def main():
            global go
            go = asyncio.Event()
            async with Pool(size=2, isolation=isolation) as pool:
                jobs = [await pool.submit(ends, code) for code in (5, 6)]
                while any(job.status != "running" for job in jobs):
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.001)
                go.set()
                try:
                    await forever()
                finally:
                    say(*[job.exception().code for job in jobs])

        asyncio.run(main())
    """)
    assert end(process) == (["5 6"], 5)


# -- the program ends without the pool ---------------------------------------------------------------------------------


def test_asyncio_run_that_ends_with_an_open_pool(program):
    """No hang and no noise, whatever was going on: the jobs are told, and clean up."""
    process = program(
        """
        async def fail():
            raise OSError

        async def main():
            global pool, jobs
            pool = Pool(size=20, queue_size=1, isolation=isolation, cancel_grace=30)
            await pool.__aenter__()
            retry = Retry(attempts=2, delay=30, jitter=0)
            jobs = [await pool.submit(tidy, "a"), await pool.with_options(delay=30).submit(tidy, "b")]
            jobs.append(await pool.with_options(retry=retry).submit(fail))
            jobs += [await pool.submit(forever) for _ in range(18)]
            asyncio.create_task(pool.submit(forever))
            asyncio.create_task(pool.join())
            await asyncio.sleep(0.05)

        began = time.monotonic()
        asyncio.run(main())
        assert time.monotonic() - began < 5
        say("after", pool.statistics().running)
        """,
        "-W",
        "ignore:pool 'pool' was dropped:ResourceWarning",
    )
    lines, code = end(process)
    assert code == 0, lines
    assert "cleaned up a" in lines
    assert not [line for line in lines if "destroyed" in line or "Traceback" in line or "never" in line], lines


def test_asyncio_run_that_ends_while_a_shutdown_is_under_way(program):
    """The shutdown hurries, and is done when the loop closes."""
    process = program("""
        async def main():
            global pool
            pool = Pool(size=2, isolation=isolation, cancel_grace=30)
            await pool.__aenter__()
            pool.on_shutdown(lambda: say("callback"))
            await pool.submit(tidy, "job")
            await asyncio.sleep(0.01)
            asyncio.create_task(pool.shutdown())
            await asyncio.sleep(0.01)

        asyncio.run(main())
        say(pool.status)
    """)
    assert end(process) == (["cleaned up job", "callback", "closed"], 0)


def test_a_pool_that_is_dropped_by_a_program(program):
    """The warning is all that is said."""
    process = program(
        """
        async def main():
            pool = Pool(size=5, isolation=isolation, name="forgotten")
            await pool.__aenter__()
            job = await pool.submit(asyncio.sleep, 0, "done")
            del pool
            say(await job)

        asyncio.run(main())
        """,
        "-W",
        "default::ResourceWarning",
    )
    lines, code = end(process)
    assert code == 0
    assert "done" in lines
    assert sum("was dropped" in line for line in lines) == 1
    assert not [line for line in lines if "destroyed" in line or "Traceback" in line]


def test_a_job_that_stops_the_loop(program):
    """Asyncio says that the program did not end by itself; it ends all the same, and cleans up."""
    process = program("""
        async def job():
            asyncio.get_running_loop().stop()

        async def main():
            async with Pool(size=2, isolation=isolation) as pool:
                await pool.submit(tidy, "other")
                await asyncio.sleep(0.01)
                await pool.run(job)
                await asyncio.sleep(30)

        try:
            asyncio.run(main())
        except RuntimeError as error:
            say(error)
    """)
    lines, code = end(process)
    assert (lines, code) == (["cleaned up other", "Event loop stopped before Future completed."], 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS as Linux has it")
def test_a_job_that_hits_the_limit_of_memory(program):
    """It fails with MemoryError, async and plain; the pool goes on."""
    process = program("""
        import resource

        async def job():
            return bytearray(1 << 40)

        def plain():
            return bytearray(1 << 40)

        async def main():
            async with Pool(size=1, isolation=isolation) as pool:
                await pool.run(len, "a thread")
                resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
                for function in (job, plain):
                    try:
                        await pool.run(function)
                    except MemoryError:
                        say("MemoryError")
                say(await pool.run(asyncio.sleep, 0, "alive"))

        asyncio.run(main())
    """)
    assert end(process) == (["MemoryError", "MemoryError", "alive"], 0)


# -- Ctrl-C without a handler of ours --------------------------------------------------------------------------------


@both
def test_ctrl_c_without_handle_signals(program):
    """Asyncio cancels main; the pool is left by that cancel: jobs clean up, then KeyboardInterrupt."""
    process = program("""
        async def main():
            async with Pool(size=2, isolation=isolation) as pool:
                pool.on_shutdown(lambda: say("callback"))
                await pool.submit(tidy, "job")
                await asyncio.sleep(0.01)
                say("ready")
                await pool.join()

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            say("interrupted")
    """)
    until(process, "ready")
    process.send_signal(signal.SIGINT)
    assert end(process) == (["cleaned up job", "callback", "interrupted"], 0)


# -- handle_signals ----------------------------------------------------------------------------------------------------

PLACES = {
    "body": "await pool.wait_closed()",
    "job": "await pool.run(asyncio.sleep, 0.2)",
    "submit": """
                with contextlib.suppress(PoolClosedError):
                    while True:
                        await pool.submit(asyncio.sleep, 0.2)""",
    "join": """
                await pool.submit(asyncio.sleep, 0.2)
                await pool.join()""",
    "backoff": """
                await pool.with_options(retry=Retry(attempts=2, delay=0.2, jitter=0)).submit(flaky)
                await pool.join()""",
    "thread": "await pool.run(time.sleep, 0.2)",
    "exit": "await pool.submit(asyncio.sleep, 0.2)",
}


# Some of them every time.
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=[pytest.mark.long] * (place in ("body", "join", "exit", "backoff")))
        for place in PLACES
    ],
)
def test_a_signal_lets_the_work_finish_wherever_it_strikes(program, place):
    """Nothing is raised into a job or into main; the work is done; the handlers are put back."""
    process = program(f"""
        attempts = []

        async def flaky():
            attempts.append(1)
            if len(attempts) == 1:
                raise OSError
            say("second attempt")

        async def main():
            before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
            async with Pool(size=1, queue_size=1, isolation=isolation, handle_signals=True) as pool:
                pool.on_shutdown(lambda: say("callback"))
                job = await pool.submit(asyncio.sleep, 0.2, "first")
                asyncio.get_running_loop().call_later(0.05, say, "ready")
                {PLACES[place]}
            say(job.status, pool.statistics().cancelled)
            assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

        asyncio.run(main())
    """)
    until(process, "ready")
    process.send_signal(signal.SIGTERM)
    lines, code = end(process)
    assert code == 0, lines
    assert lines[-2:] == ["callback", "succeeded 0"]
    assert ("second attempt" in lines) == (place == "backoff")


def test_the_second_signal_cancels(program):
    """The first lets the jobs go on, the second tells them; both kinds of signals count together."""
    process = program("""
        async def main():
            async with Pool(size=2, isolation=isolation, handle_signals=True) as pool:
                job = await pool.submit(tidy, "job")
                await asyncio.sleep(0.01)
                say("ready")
                while pool.status == "open":
                    await asyncio.sleep(0.001)
                say(pool.status, job.status)
                await pool.wait_closed()
            say(job.status)

        asyncio.run(main())
    """)
    until(process, "ready")
    process.send_signal(signal.SIGINT)
    until(process, "closing running")
    process.send_signal(signal.SIGTERM)
    assert end(process) == (["cleaned up job", "cancelled"], 0)


@pytest.mark.long
@pytest.mark.parametrize("busy", ["swallows", "blocks the loop"])
def test_the_third_signal_ends_the_program_at_once(program, busy, monkeypatch):
    """Whatever the jobs do; the exit code is 128 and the number."""
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)  # a tracer writes its file first: not at once
    process = program(f"""
        async def swallows():
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(30)

        async def blocks():
            time.sleep(0.1)
            say("blocked")
            time.sleep(30)

        async def main():
            async with Pool(size=2, isolation=isolation, handle_signals=True, cancel_grace=60) as pool:
                await pool.submit({busy.split()[0]})
                say("ready")
                await asyncio.sleep(60)

        asyncio.run(main())
    """)
    until(process, "ready" if busy == "swallows" else "blocked")
    process.send_signal(signal.SIGTERM)
    while process.poll() is None:  # two of a kind that are pending are one: the kernel does not count
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one more while it ends would kill it
            process.wait(2)
    assert end(process)[1] == 128 + signal.SIGINT


def test_a_signal_during_the_shutdown_after_the_first_is_not_lost(program):
    """The pool was closing by itself when the signal came: it counts as the first, and the next one cancels."""
    process = program("""
        async def main():
            async with Pool(size=2, isolation=isolation, handle_signals=True) as pool:
                job = await pool.submit(tidy, "job")
                while job.status != "running":
                    await asyncio.sleep(0.01)
                closing = asyncio.create_task(pool.shutdown())
                await asyncio.sleep(0.01)
                say("ready")
                await asyncio.sleep(0.2)
                say("still", pool.status)
                report = await closing
            say(report.cancelled)

        asyncio.run(main())
    """)
    until(process, "ready")
    process.send_signal(signal.SIGTERM)
    until(process, "still closing")
    process.send_signal(signal.SIGTERM)
    assert end(process) == (["cleaned up job", "1"], 0)


# -- in this process ---------------------------------------------------------------------------------------------------


@both
def test_outside_of_the_main_thread_there_is_nothing_to_handle(isolation):
    """`handle_signals=True` in a thread works without: no error, no handler."""
    results = []

    async def main():
        async with Pool(size=1, isolation=isolation, handle_signals=True) as pool:
            results.append(await pool.run(asyncio.sleep, 0, "done"))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join(10)
    assert results == ["done"]
    assert signal.getsignal(signal.SIGTERM) == before


@both
async def test_pools_that_come_and_go_hear_signals_together(isolation):
    """The last one out puts the handlers back; whoever is left goes on hearing."""
    before = signal.getsignal(signal.SIGTERM)
    first = Pool(size=1, isolation=isolation, handle_signals=True)
    second = Pool(size=1, isolation=isolation, handle_signals=True)
    await first.__aenter__()
    async with second:
        pass
    assert signal.getsignal(signal.SIGTERM) != before
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        await first.wait_closed()
    assert (first.status, second.status) == (PoolStatus.CLOSED, PoolStatus.CLOSED)
    assert signal.getsignal(signal.SIGTERM) == before


@both
async def test_a_handler_of_the_users_is_put_back(isolation):
    """One that was set by `signal.signal`, and one that was ignored."""
    heard = []
    for handler in (lambda *args: heard.append("user's"), signal.SIG_IGN):
        before = signal.signal(signal.SIGTERM, handler)
        try:
            async with Pool(size=1, isolation=isolation, handle_signals=True) as pool:
                os.kill(os.getpid(), signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05 if handler is signal.SIG_IGN else 10):
                        await pool.wait_closed()
                assert pool.status == ("open" if handler is signal.SIG_IGN else "closed")
            assert signal.getsignal(signal.SIGTERM) is handler
        finally:
            signal.signal(signal.SIGTERM, before)
    assert heard == []
