"""A pool for a program without an event loop: `BlockingPool`, its thread and its ends."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import traceback

import pytest
from helpers import assert_counters_balance, double, fail, forever, stubborn

from aiopool import JobCancelledError, Pool, PoolClosedError, Priority, Restart, current_job
from aiopool.blocking import BlockingPool
from aiopool.errors import RestartLimitError
from aiopool.testing import assert_no_leaks

pytestmark = pytest.mark.both_isolations

SECONDS = 30  # until a test that hangs fails


@pytest.fixture
def blocking(isolation):
    """Make blocking pools; at the end nothing is left of them, and their numbers add up."""
    made = []

    def make(*args, **options):
        made.append(BlockingPool(*args, isolation=isolation, **options))
        return made[-1]

    with assert_no_leaks():
        yield make
    for pool in made:
        if pool.status != "new":
            assert_counters_balance(pool.pool)
        assert pool._loop is None or pool._loop.is_closed()


def nap(seconds):
    time.sleep(seconds)
    return seconds


# -- what it does --------------------------------------------------------------------------------------------------


def test_a_program_without_a_loop(blocking):
    """Both kinds of functions, one by one, in a map, by an executor; nothing of it is left."""
    with blocking(3, name="mails") as pool:
        assert pool.run(double, 4) == 8
        assert pool.submit(nap, 0).result() == 0
        assert list(pool.map(double, range(20))) == list(range(0, 40, 2))
        assert sorted(pool.map(double, range(20), ordered=False)) == list(range(0, 40, 2))
        assert list(pool.as_executor().map(pow, [2, 3], [2, 2])) == [4, 9]
        assert pool.with_options(name="other").run(lambda: current_job().name) == "other"
        with pytest.raises(ValueError, match="no"):
            pool.run(fail, ValueError("no"))
        assert (pool.name, pool.size, pool.status) == ("mails", 3, "open")
        assert repr(pool) == "<BlockingPool of <Pool 'mails' open size 3 0 running, 0 queued>>"
    assert pool.status == "closed"
    assert pool.statistics().failed == 1


def test_its_arguments_are_those_of_the_pool():
    """And those of its views are those of `with_options`; a wrong one is explained."""
    assert inspect.signature(BlockingPool) == inspect.signature(Pool)
    assert inspect.signature(BlockingPool.with_options) == inspect.signature(Pool.with_options)
    with pytest.raises(TypeError, match=r"write Pool\(size=...\)"):
        BlockingPool(max_workers=3)
    with pytest.raises(ValueError, match="only the main thread hears signals"):
        BlockingPool(handle_signals=True)


def test_what_steers_it(blocking):
    """From the thread that has no loop: size, pause, cancels, questions."""
    with blocking(1) as pool:
        pool.resize(2)
        assert pool.size == 2
        pool.pause()
        waiting = pool.submit(double, 1)
        deferred = pool.with_options(id="seven", priority=Priority.HIGH).submit(forever)
        assert {job.id for job in pool.jobs("queued")} == {1, "seven"}
        assert pool.get_job("seven") is deferred.job
        pool.pause(group="none")
        pool.resume(group="none")
        pool.resume()
        assert waiting.result() == 2
        assert pool.cancel("seven", reason="enough")
        with pytest.raises(JobCancelledError, match="enough"):
            deferred.result()
        pool.submit(forever)
        assert pool.cancel_all() == 1
        pool.join()
        assert pool.statistics().cancelled == 2


def test_many_threads_use_one(blocking):
    """At the same time, and each gets its own results."""
    found = []
    with blocking(4, queue_size=2) as pool:

        def body(k):
            found.append(list(pool.map(double, range(k, k + 50))))

        threads = [threading.Thread(target=body, args=(k,)) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == [[2 * n for n in range(k, k + 50)] for k in range(6)]


def test_it_runs_on_the_loop_of_choice(blocking):
    """`loop_factory` makes the loop."""
    made = []

    def factory():
        made.append(asyncio.new_event_loop())
        return made[-1]

    pool = blocking()
    pool.loop_factory = factory
    with pool:

        async def loop():
            return asyncio.get_running_loop()

        assert pool.run(loop) is made[0]


# -- the end -------------------------------------------------------------------------------------------------------


def test_leaving_waits_for_the_jobs(blocking):
    """Those that were handed in and not asked for, too."""
    ended = []

    def work(n):
        time.sleep(0.01)
        ended.append(n)

    with blocking(2) as pool:
        for n in range(10):
            pool.submit(work, n)
    assert sorted(ended) == list(range(10))


def test_an_exception_cancels_the_jobs(blocking):
    """It comes out, and the jobs are told."""
    pool = blocking(2)
    with pytest.raises(LookupError), pool:
        future = pool.submit(forever)
        raise LookupError
    with pytest.raises(JobCancelledError):
        future.result()


def test_a_shutdown_is_reported(blocking):
    """The same report to all; after it a call is refused, and leaving the block is quiet."""
    with blocking(1) as pool:
        running, waiting = pool.submit(forever), pool.submit(forever)
        report = pool.shutdown(timeout=0)
        assert (report.cancelled, report.leaked) == (2, ())
        assert pool.shutdown() is report
        for future in (running, waiting):
            with pytest.raises(JobCancelledError):
                future.result()
        for call in (lambda: pool.submit(double, 1), lambda: pool.resize(3), pool.join):
            with pytest.raises(PoolClosedError, match="before the `with` block ends"):
                call()
        with pytest.raises(ValueError, match="timeout"):
            pool.shutdown(timeout=-1)


def test_it_may_be_opened_again(blocking):
    """But not twice at a time; and not be used before."""
    pool = blocking(1)
    for call in (lambda: pool.submit(double, 1), pool.join, pool.shutdown):
        with pytest.raises(RuntimeError, match=r"which is new: write `with BlockingPool\(...\) as pool:`"):
            call()
    for n in range(3):
        with pool:
            assert pool.run(double, n) == 2 * n
            with pytest.raises(RuntimeError, match="opened once at a time"):
                pool.__enter__()


def test_a_loop_that_cannot_be_made_says_so(blocking):
    """When the block is entered."""
    pool = blocking()

    def broken():
        raise OSError("no more files")

    pool.loop_factory = broken
    with pytest.raises(OSError, match="no more files"), pool:
        pass


def test_a_pool_that_gives_up_says_so_when_it_is_left(isolation):
    """`RestartLimitError`, as from `async with`."""
    pool = BlockingPool(1, isolation=isolation, restart=Restart(max_restarts=0))
    with pytest.raises(RestartLimitError), pool:

        async def crash():
            pool.pool._give_up(RuntimeError("the worker crashed"))

        with pytest.raises((PoolClosedError, JobCancelledError)):
            pool.run(crash)
            pool.run(forever)


def test_a_job_that_exits_ends_the_block(isolation):
    """`SystemExit` out of a job: the others are cancelled, and it comes out of the block."""

    def leave():
        sys.exit(3)

    with pytest.raises(SystemExit) as caught, BlockingPool(2, isolation=isolation) as pool:
        other = pool.submit(forever)
        pool.submit(leave)
        with pytest.raises((JobCancelledError, PoolClosedError)):
            other.result()
    assert caught.value.code == 3


def test_a_callback_that_exits_ends_the_block(isolation):
    """`SystemExit` out of a callback of a future, as out of a job."""

    def leave(future):
        sys.exit(4)

    with pytest.raises(SystemExit) as caught, BlockingPool(2, isolation=isolation) as pool:
        other = pool.submit(forever)
        pool.submit(asyncio.sleep, 0.01).add_done_callback(leave)
        with pytest.raises((JobCancelledError, PoolClosedError)):
            other.result()
    assert caught.value.code == 4


def test_a_job_that_ignores_its_cancel_holds_up_nobody(isolation, caplog):
    """It is reported as leaked; the thread ends without it."""
    with BlockingPool(1, isolation=isolation, cancel_grace=0.01) as pool:
        future = pool.submit(stubborn)
        while not future.running():
            time.sleep(0.001)
        report = pool.shutdown(timeout=0)
        assert [job.name for job in report.leaked] == ["stubborn"]
        with pytest.raises(JobCancelledError):
            future.result()
    assert not pool._thread.is_alive()


@pytest.mark.long
def test_a_job_that_blocks_the_loop_holds_up_nobody(isolation):
    """The thread is left behind, and the error shows the line that blocks it."""
    gate = threading.Event()

    async def blocks():
        gate.wait(SECONDS)  # the line

    pool = BlockingPool(1, isolation=isolation, cancel_grace=0, shutdown_timeout=0)
    try:
        with pytest.raises(TimeoutError, match="# the line"), pool:
            pool.submit(blocks)
    finally:
        gate.set()
        pool._thread.join(SECONDS)


def test_in_a_job_its_loop_is_not_waited_for(blocking):
    """Refused, with the line to write; the pool itself may be used there."""
    with blocking(2) as pool:

        async def work():
            for call in (pool.join, pool.shutdown, lambda: pool.resize(3)):
                with pytest.raises(RuntimeError, match="would wait for itself"):
                    call()
            with pytest.raises(RuntimeError, match="would wait for itself"):
                pool.submit(double, 1)
            return await pool.pool.run(double, 4)

        assert pool.run(work) == 8


def test_a_thread_that_waits_is_released_by_the_end(blocking):
    """Whatever it waits for: a job, room, or the loop."""
    seen = []
    with blocking(1, queue_size=1) as pool:
        running = pool.submit(forever)
        pool.submit(forever)

        def body(wait):
            try:
                wait()
            except (PoolClosedError, JobCancelledError) as error:
                seen.append(type(error).__name__)
            else:
                seen.append("nothing")

        waits = [running.result, lambda: pool.submit(forever), pool.join]
        threads = [threading.Thread(target=body, args=(wait,)) for wait in waits]
        for thread in threads:
            thread.start()
        while pool.statistics().waiting < 1:
            time.sleep(0.001)
        pool.shutdown(timeout=0)
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
    assert set(seen) <= {"JobCancelledError", "PoolClosedError", "nothing"}
    assert seen.count("nothing") <= 1  # `join` may have seen the last job end


def test_a_call_that_comes_as_the_loop_closes_is_answered(blocking):
    """Nobody runs it any more: `PoolClosedError`."""
    pool = blocking(1)
    closing = threading.Event()

    class Loop(asyncio.SelectorEventLoop):
        def close(self):
            closing.set()
            until = time.monotonic() + SECONDS
            while not pool._calls and not self.is_closed() and time.monotonic() < until:
                time.sleep(0.001)
            super().close()

    pool.loop_factory = Loop
    seen = []

    def late():
        closing.wait(SECONDS)
        try:
            pool.join()
        except PoolClosedError:
            seen.append("closed")

    thread = threading.Thread(target=late)
    thread.start()
    with pool:
        pass
    thread.join(SECONDS)
    assert seen == ["closed"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_the_block(blocking):
    """The child leaves it at once, may not use it, and may open one of its own; the parent's goes on."""
    with blocking(1) as pool:
        future = pool.submit(forever)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for call in (lambda: pool.submit(double, 1), future.result, pool.join, lambda: pool.resize(2)):
                    with pytest.raises(RuntimeError, match="in a child process"):
                        call()
                pool.__exit__(None, None, None)
                with BlockingPool(1) as own:
                    assert own.run(double, 4) == 8
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        future.cancel()
        assert pool.run(double, 2) == 4


# -- whole programs ------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys, time
from aiopool.blocking import BlockingPool

async def work():
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up")

def leave_open():
    pool = BlockingPool(2).__enter__()
    future = pool.submit(work)
    while not future.running():
        time.sleep(0.001)
    print("left open")

def interrupted(where):
    with BlockingPool(2) as pool:
        future = pool.submit(work)
        while not future.running():
            time.sleep(0.001)
        print("ready", flush=True)
        if where == "body":
            time.sleep(60)
        elif where == "run":
            pool.run(asyncio.sleep, 60)
        elif where == "map":
            list(pool.map(asyncio.sleep, [60] * 10))
        elif where == "join":
            pool.join()

leave_open() if sys.argv[1] == "leave open" else interrupted(sys.argv[1])
"""


def test_a_program_that_does_not_leave_the_block_ends(child):
    """Its jobs are cancelled at the exit, and clean up."""
    program = child(PROGRAM, "leave open")
    out, err = program.communicate(timeout=SECONDS)
    assert (out, program.returncode) == ("left open\ncleaned up\n", 0)
    assert err == "the shutdown of pool pool cancelled 1 jobs: 0 had not started, 0 did not end\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no signal to send to a thread")
def test_ctrl_c_while_it_opens_leaves_no_pool_open(blocking):
    """Its thread has no event loop yet: it opens the pool, finds that nobody waits, and closes it."""
    interrupted = threading.Event()

    def slow():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert interrupted.wait(SECONDS)
        return asyncio.new_event_loop()

    pool = blocking(2)
    pool.loop_factory = slow
    with pytest.raises(KeyboardInterrupt), pool:
        pass
    interrupted.set()
    assert pool._ended.wait(SECONDS)
    assert pool.status == "closed"
    pool.loop_factory = asyncio.new_event_loop


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.parametrize(
    "where", ["body", "run", "exit", *(pytest.param(where, marks=pytest.mark.long) for where in ("map", "join"))]
)
def test_ctrl_c_in_the_main_thread(child, where):
    """Wherever it waits: the jobs are cancelled, and the program ends by KeyboardInterrupt."""
    program = child(PROGRAM, where)
    assert program.stdout.readline() == "ready\n"
    time.sleep(0.1)  # it is in its wait, or nearly
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=SECONDS)
    assert out == "cleaned up\n"
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert program.returncode == -signal.SIGINT


def test_it_is_loaded_on_demand():
    """`import aiopool` does not load it."""
    code = "import sys, aiopool; sys.exit('aiopool.blocking' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
