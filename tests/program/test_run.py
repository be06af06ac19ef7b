"""`aiopool.run`: whole programs in processes of their own, and real signals."""

import asyncio
import os
import signal
import textwrap
import threading
import time

import pytest
from child_programs import program, rest, wait_for

import aiopool
from aiopool import Pool

long = pytest.mark.long
second_loop_long = pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=long)])


# -- without signals -------------------------------------------------------------------------------------------------


def test_returns_what_main_returns():
    """The pool is open in main, and main's value comes back when its jobs are done."""
    done = []

    async def job(number: int) -> None:
        await asyncio.sleep(0)
        done.append(number)

    async def main(pool: Pool) -> str:
        for number in range(5):
            await pool.submit(job, number)
        return "value"

    assert aiopool.run(main, pool=Pool(size=2)) == "value"
    assert done == [0, 1, 2, 3, 4]


def test_without_a_pool_main_takes_no_argument():
    async def main() -> int:
        return 42

    assert aiopool.run(main) == 42


def test_raises_what_main_raises():
    async def main(pool: Pool) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        aiopool.run(main, pool=Pool())


def test_handlers_are_put_back():
    """Whatever handled the signals before handles them afterwards, and is not there in between."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    async def main() -> list[object]:
        return [signal.getsignal(number) for number in before]

    seen = aiopool.run(main)
    assert {number: signal.getsignal(number) for number in before} == before
    assert all(handler not in before.values() for handler in seen)


def test_a_handler_set_by_main_is_left_alone():
    def mine(number: int, frame: object) -> None: ...

    async def main() -> None:
        signal.signal(signal.SIGTERM, mine)
        signal.signal(signal.SIGINT, mine)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        aiopool.run(main)
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> None:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGINT)

    try:
        aiopool.run(main)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_works_in_another_thread():
    """There are no signals there, and no handlers are touched."""
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    async def main(pool: Pool) -> None:
        seen.append(await pool.run(threading.get_ident))
        seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=lambda: aiopool.run(main, pool=Pool(size=1)))
    thread.start()
    thread.join(30)
    assert len(seen) == 2
    assert seen[1] == before


def test_mistakes_are_answered_with_the_line_to_write():
    async def main() -> None: ...

    with pytest.raises(TypeError, match=r"write aiopool\.run\(main\), without calling it"):
        aiopool.run(main())  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"write aiopool\.run\(main\)"):
        aiopool.run(None)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="timeout"):
        aiopool.run(main, timeout=-1)


async def test_refuses_inside_a_running_loop():
    async def main() -> None: ...

    with pytest.raises(RuntimeError, match="async with Pool"):
        aiopool.run(main)


def test_a_task_that_does_not_end_holds_up_nobody(caplog: pytest.LogCaptureFixture):
    """asyncio.run would wait for it for ever."""
    release = []

    async def stubborn() -> None:
        while not release:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        return task

    began = time.monotonic()
    task = aiopool.run(main, grace=0.05)
    assert time.monotonic() - began < 30
    assert "stubborn" in caplog.text
    release.append(True)
    # Nothing may be reported at garbage collection: it has been, and the loop is closed.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()  # type: ignore[union-attr]


# -- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "loop"),
    [
        (signal.SIGINT, "uvloop"),
        (signal.SIGTERM, "asyncio"),
        pytest.param(signal.SIGINT, "asyncio", marks=long),
        pytest.param(signal.SIGTERM, "uvloop", marks=long),
    ],
)
def test_first_signal_drains(number: signal.Signals, loop: str):
    """Jobs under way and queued ones are done; submit() raises PoolClosedError, which main need not catch."""
    with program(
        """
        async def job(number):
            say("start", number)
            await asyncio.sleep(0.3)
            say("end", number)

        async def main(pool):
            for number in range(1000000):
                await pool.submit(job, number)

        aiopool.run(main, pool=Pool(size=2, queue_size=2), loop_factory=loop_factory)
        """,
        loop,
    ) as process:
        wait_for(process, "start 1")
        process.send_signal(number)
        lines, code = rest(process)
    assert code == 0, lines
    ended = {line for line in lines if line.startswith("end")}
    assert {"end 0", "end 1", "end 2", "end 3"} <= ended
    assert len(ended) <= 6
    assert not [line for line in lines if "Error" in line], lines


@second_loop_long
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=long)])
def test_second_signal_cancels(number: signal.Signals, loop: str):
    with program(
        """
        async def job():
            say("started")
            try:
                await asyncio.sleep(3600)
            finally:
                say("cleaned up")

        async def main(pool):
            await pool.submit(job)
            while pool.status == "open":
                await asyncio.sleep(0.01)
            say("closing")
            await pool.wait_closed()

        pool = Pool(size=2)
        pool.on_shutdown(lambda: say("closed"))
        aiopool.run(main, pool=pool, loop_factory=loop_factory)
        """,
        loop,
    ) as process:
        wait_for(process, "started")
        process.send_signal(number)
        wait_for(process, "closing")  # the first has been heard: the second one cannot be merged with it
        assert process.poll() is None
        process.send_signal(number)
        lines, code = rest(process)
    assert code == 128 + number, lines
    assert [line for line in lines if line in ("cleaned up", "closed")] == ["cleaned up", "closed"]


@second_loop_long
@pytest.mark.parametrize(
    "blocks",
    [
        "time.sleep(3600)",
        *(pytest.param(line, marks=long) for line in ("await asyncio.sleep(3600)", "while True: pass")),
    ],
)
def test_third_signal_exits_at_once(blocks: str, loop: str):
    """Also while a job blocks the event loop, where nothing else would help."""
    with program(
        f"""
        async def job():
            say("started")
            while True:
                try:
                    {blocks}
                except asyncio.CancelledError:
                    pass

        async def main(pool):
            await pool.run(job)

        aiopool.run(main, pool=Pool(size=2, cancel_grace=600), grace=600, loop_factory=loop_factory)
        """,
        loop,
    ) as process:
        wait_for(process, "started")
        process.send_signal(signal.SIGINT)
        while process.poll() is None:  # two of a kind may be merged into one
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        _, code = rest(process)
    assert code == 128 + signal.SIGTERM


def test_what_is_not_done_in_time_is_cancelled():
    """The drain has a time limit; missing it is not a clean end."""
    with program(
        """
        async def job():
            say("started")
            await asyncio.sleep(3600)

        async def main(pool):
            await pool.submit(job)
            await pool.wait_closed()

        aiopool.run(main, pool=Pool(), timeout=0.2)
        """
    ) as process:
        wait_for(process, "started")
        process.terminate()
        lines, code = rest(process)
    assert code == 128 + signal.SIGTERM, lines


def test_the_time_runs_from_the_signal_however_busy_the_loop_is():
    """What was cut short for want of time is no clean end, also if the loop is held up when the signal comes."""
    with program(
        """
        import logging

        class Busy(logging.Handler):
            def emit(self, record):
                asyncio.get_running_loop().call_soon(time.sleep, 0.1)

        async def job():
            say("started")
            await asyncio.sleep(3600)

        async def main(pool):
            await pool.submit(job)
            logging.getLogger("aiopool.run").addHandler(Busy())
            logging.getLogger("aiopool.run").setLevel(logging.INFO)
            await pool.wait_closed()

        aiopool.run(main, pool=Pool(), timeout=0.3)
        """
    ) as process:
        wait_for(process, "started")
        process.terminate()
        lines, code = rest(process)
    assert code == 128 + signal.SIGTERM, lines


def test_pools_that_main_opens_itself_are_drained():
    """All of them, and what happens to them is the same as with `pool=`."""
    with program(
        """
        async def job(name):
            say("start", name)
            await asyncio.sleep(0.3)
            say("end", name)

        async def main():
            async with Pool() as one, Pool() as two:
                await one.submit(job, "one")
                await two.submit(job, "two")
                while True:
                    await asyncio.sleep(0.01)
                    await one.submit(asyncio.sleep, 0)

        aiopool.run(main)
        """
    ) as process:
        wait_for(process, "start two")
        process.terminate()
        lines, code = rest(process)
    assert code == 0, lines
    assert {"end one", "end two"} <= set(lines)


def test_main_may_use_the_last_results():
    """It is not cancelled the moment the last job ends; what it returns then is returned."""
    with program(
        """
        async def job():
            say("started")
            await asyncio.sleep(0.3)
            return "result"

        async def main(pool):
            result = await (await pool.submit(job))
            await asyncio.sleep(0.1)
            return result

        say("returned", aiopool.run(main, pool=Pool()))
        """
    ) as process:
        wait_for(process, "started")
        process.terminate()
        lines, code = rest(process)
    assert code == 0, lines
    assert lines == ["returned result"]


def test_main_is_cancelled_when_it_waits_for_something_else():
    with program(
        """
        async def main():
            say("up")
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)
                say("cleaned up")
                raise

        aiopool.run(main)
        """
    ) as process:
        wait_for(process, "up")
        process.terminate()
        lines, code = rest(process)
    assert (lines, code) == (["cleaned up"], 0)


def test_a_main_that_will_not_end_is_left():
    """By name, with its stack, in bounded time."""
    with program(
        """
        async def main():
            say("up")
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    say("no")

        aiopool.run(main, grace=0.2)
        """
    ) as process:
        wait_for(process, "up")
        process.terminate()
        lines, code = rest(process)
    assert code == 128 + signal.SIGTERM
    assert lines.count("no") == 2
    assert "main did not end" in "\n".join(lines)
    assert ", in main" in "\n".join(lines)
    assert ", in sleep" in "\n".join(lines)


@pytest.mark.parametrize(
    "job",
    [
        "async def job():\n    say('started')\n    while True:\n        try:\n            await asyncio.sleep(3600)\n"
        "        except asyncio.CancelledError:\n            pass",
        "def job():\n    say('started')\n    time.sleep(3600)",
    ],
    ids=["task", "thread"],
)
def test_a_job_that_will_not_end_is_left(job: str):
    """The process ends although the job does not; the job is named."""
    with program(
        textwrap.dedent(job)
        + textwrap.dedent(
            """
            async def main(pool):
                await pool.submit(job)
                await pool.wait_closed()

            aiopool.run(main, pool=Pool(cancel_grace=0.1), timeout=0.2, grace=0.3)
            """
        )
    ) as process:
        wait_for(process, "started")
        process.terminate()
        lines, code = rest(process)
    assert code == 128 + signal.SIGTERM
    assert "job 'job' id" in "\n".join(lines)
    assert "in job" in "\n".join(lines) or "in a thread" in "\n".join(lines)


@pytest.mark.long
def test_a_thread_of_the_executor_that_will_not_end_is_left():
    """asyncio.run would wait for it: for ever on 3.11."""
    with program(
        """
        def stuck():
            say("started")
            time.sleep(3600)

        async def main():
            await asyncio.to_thread(stuck)

        aiopool.run(main, grace=0.1)
        """
    ) as process:
        wait_for(process, "started")
        process.terminate()
        _, code = rest(process)
    assert code == 128 + signal.SIGTERM


def test_errors_of_main_are_not_swallowed():
    """A signal excuses PoolClosedError, nothing else."""
    with program(
        """
        async def main(pool):
            say("up")
            await pool.wait_closed()
            raise ZeroDivisionError("mine")

        aiopool.run(main, pool=Pool())
        """
    ) as process:
        wait_for(process, "up")
        process.terminate()
        lines, code = rest(process)
    assert code == 1
    assert lines[-1] == "ZeroDivisionError: mine"


def test_pool_closed_inside_a_task_group_is_a_clean_end():
    with program(
        """
        async def job():
            say("started")
            await asyncio.sleep(0.2)
            say("ended")

        async def produce(pool):
            while True:
                await pool.submit(job)

        async def main(pool):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(produce(pool))
                tasks.create_task(produce(pool))

        aiopool.run(main, pool=Pool(size=1, queue_size=1))
        """
    ) as process:
        wait_for(process, "started")
        process.terminate()
        lines, code = rest(process)
    assert code == 0, lines
    assert lines.count("ended") == lines.count("started") + 1


def test_a_failing_callback_is_reported():
    with program(
        """
        async def main(pool):
            say("up")
            await asyncio.sleep(3600)

        pool = Pool()
        pool.on_shutdown(lambda: 1 / 0)
        aiopool.run(main, pool=pool, grace=0.1)
        """
    ) as process:
        wait_for(process, "up")
        process.terminate()
        lines, code = rest(process)
    assert code == 1
    assert "ZeroDivisionError: division by zero" in lines


@pytest.mark.parametrize("end", ["returns", "SIGTERM, returns", pytest.param("SIGTERM, is cancelled", marks=long)])
@pytest.mark.parametrize("opens", ["run", pytest.param("main", marks=long)])
def test_a_failing_callback_is_exit_code_1_however_the_program_ends(end: str, opens: str):
    """One rule: after a signal and without, for the pool of `run` and those of `main`; it is logged once."""
    with program(
        f"""
        async def main(*pools):
            async with contextlib.AsyncExitStack() as stack:
                if not pools:
                    await stack.enter_async_context(pool)
                if {end!r} != "returns":
                    signal.raise_signal(signal.SIGTERM)
                    await (pool.wait_closed() if {end!r} == "SIGTERM, returns" else asyncio.sleep(3600))
                return "done"

        import contextlib
        pool = Pool()
        pool.on_shutdown(lambda: 1 / 0)
        aiopool.run(main, pool=pool if {opens!r} == "run" else None, grace=0.1)
        """
    ) as process:
        lines, code = rest(process)
    assert code == 1, lines
    assert lines.count("ZeroDivisionError: division by zero") == 1


def test_system_exit_in_a_callback_of_on_shutdown_ends_the_program_with_its_code():
    """When the pool is closed: the other callbacks are not left out."""
    with program(
        """
        async def main(pool):
            await asyncio.sleep(0)

        pool = Pool()
        pool.on_shutdown(lambda: say("first"))
        pool.on_shutdown(lambda: sys.exit(7))
        aiopool.run(main, pool=pool, grace=0.1)
        """
    ) as process:
        lines, code = rest(process)
    assert code == 7, lines
    assert lines[0] == "first"


@pytest.mark.parametrize("isolation", ["task", pytest.param("scope", marks=long)])
def test_a_leaked_job_does_not_hold_up_a_normal_end(isolation: str):
    """`main` returns, the pool is left in its time, and so is the program; asyncio.run would wait for the job."""
    with program(
        f"""
        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass

        async def main(pool):
            await pool.submit(stubborn)
            await asyncio.sleep(0.05)
            say("returns")

        pool = Pool(isolation={isolation!r}, shutdown_timeout=0.1, cancel_grace=0.1)
        began = time.monotonic()
        aiopool.run(main, pool=pool, grace=0.1)
        say("left", time.monotonic() - began < 10)
        """
    ) as process:
        wait_for(process, "returns")
        lines, code = rest(process)
    assert code == 0, lines
    assert "left True" in lines


def test_from_sigterm_on_only_the_pools_own_jobs_may_submit():
    """Already in the turn of the signal; what a job submits is finished."""
    with program(
        """
        from aiopool.health import HealthMonitor

        async def child():
            await asyncio.sleep(0.05)
            say("child done")

        async def parent():
            while pool.status == "open":
                await asyncio.sleep(0.01)
            await pool.submit(child)
            say("parent done")

        async def main(pool):
            await pool.submit(parent)
            await asyncio.sleep(0.05)
            signal.raise_signal(signal.SIGTERM)
            while pool.status == "open":
                await asyncio.sleep(0)
            try:
                await pool.submit(child)
            except aiopool.PoolClosedError:
                say("refused", HealthMonitor(pool).report().ready)
            await pool.wait_closed()
            await asyncio.sleep(0)

        pool = Pool()
        aiopool.run(main, pool=pool)
        """
    ) as process:
        lines, code = rest(process)
    assert code == 0, lines
    assert [line for line in lines if " " in line][:3] == ["refused False", "parent done", "child done"], lines


def test_the_second_signal_says_what_a_third_one_does():
    """In one line: how many jobs are cancelled, and that the next one leaves at once."""
    with program(
        """
        import logging
        logging.basicConfig(level=logging.INFO, format="%(message)s")

        async def main(pool):
            for _ in range(3):
                await pool.submit(asyncio.sleep, 3600)
            await asyncio.sleep(0.01)
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
                await asyncio.sleep(0.01)
            await pool.wait_closed()

        aiopool.run(main, pool=Pool(), grace=0.1)
        """
    ) as process:
        lines, code = rest(process)
    assert code == 128 + signal.SIGINT
    assert "Ctrl-C: finishing 3 jobs" in lines
    assert "second Ctrl-C: cancelling 3 jobs; once more leaves at once" in lines


def test_a_forked_child_dies_of_its_own_signal():
    """The child inherits handlers and wake-up socket; neither may keep it alive, nor end its parent."""
    with program(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: that is the point

        def child():
            say("child up")
            time.sleep(3600)

        async def main(pool):
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            await asyncio.sleep(0.3)
            process.terminate()
            await asyncio.to_thread(process.join, 10)
            say("child", process.exitcode)
            await asyncio.sleep(0.1)
            return pool.status

        say(aiopool.run(main, pool=Pool()))
        """
    ) as process:
        lines, code = rest(process)
    assert code == 0, lines
    assert lines[-2:] == [f"child {-signal.SIGTERM}", "open"]


def test_system_exit_in_a_job_ends_the_program():
    with program(
        """
        async def job():
            sys.exit(7)

        async def main(pool):
            await pool.submit(job)
            await asyncio.sleep(3600)

        aiopool.run(main, pool=Pool())
        """
    ) as process:
        lines, code = rest(process)
    assert code == 7, lines


def test_pools_with_handle_signals_hear_together():
    """Two pools that handle signals in one loop: each hears, the handlers go with the last one."""
    with program(
        """
        async def job(name):
            say("start", name)
            await asyncio.sleep(0.3)
            say("end", name)

        async def main():
            before = signal.getsignal(signal.SIGTERM)
            one, two = Pool(name="one", handle_signals=True), Pool(name="two", handle_signals=True)
            async with one, two:
                await one.submit(job, "one")
                await two.submit(job, "two")
                await asyncio.gather(one.wait_closed(), two.wait_closed())
            assert signal.getsignal(signal.SIGTERM) == before
            say("put back")

        asyncio.run(main())
        """
    ) as process:
        wait_for(process, "start two")
        process.terminate()
        lines, code = rest(process)
    assert code == 0, lines
    assert set(lines) == {"end one", "end two", "put back"}


def test_nothing_outlives_the_process():
    """After a drain no thread and no child of ours is left that could hold the exit up."""
    with program(
        """
        def job():
            say("started")
            time.sleep(0.2)

        async def main(pool):
            await pool.submit(job)
            await pool.wait_closed()

        try:
            aiopool.run(main, pool=Pool())
        finally:
            say("threads", [t.name for t in threading.enumerate() if not t.daemon])
        """
    ) as process:
        wait_for(process, "started")
        process.terminate()
        lines, code = rest(process)
    assert (lines, code) == (["threads ['MainThread']"], 0)
