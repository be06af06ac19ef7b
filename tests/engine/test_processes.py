"""Plain functions in processes: outcomes, what is killed and what dies, what cannot be sent, and that nothing is left.

The processes are real. A test waits for what a job reports (`job.progress`), never for a time.
"""

import asyncio
import contextvars
import functools
import multiprocessing
import os
import signal
import threading

import process_jobs as jobs
import psutil
import pytest
from helpers import echo

from aiopool import JobCancelledError, JobOptions, JobStatus, JobTimeoutError, Pool, Retry, current_job
from aiopool.errors import NotPicklableError, ProcessDiedError
from aiopool.testing import FailingCall, wait_until

real = pytest.mark.loops("real", long=("eager", "uvloop"))
both = pytest.mark.both_isolations
HOUR = 3600


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No process of a pool is left, dead or alive; only the helpers that `multiprocessing` keeps itself, and servers
    that tests of stores share."""
    yield
    left = [child for child in psutil.Process().children(recursive=True) if not is_helper(child)]
    assert not left


def is_helper(process):
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(word in line for word in ("resource_tracker", "forkserver", "valkey-server", "redis-server"))


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module", autouse=True)
def quick_start():
    """Let the fork server import what all of these processes need: then a process is there in some milliseconds."""
    multiprocessing.set_forkserver_preload(["aiopool._runtime.process_child", "process_jobs"])


@pytest.fixture
def process_pool(new_pool):
    """Make pools whose plain functions run in processes."""
    return functools.partial(new_pool, offload="process", start_method="forkserver")


async def begun(job):
    """Wait until a job runs in its process; return the pid."""
    await wait_until(lambda: job.progress is not None or job.done())
    return int(job.progress[1])


# -- outcomes --------------------------------------------------------------------------------------------------


@pytest.mark.loops("real")
@both
async def test_a_function_runs_in_a_process_that_is_kept(process_pool):
    """Its value comes back; the next job runs in the same process; keywords, partials and methods are sent as well."""
    async with process_pool(size=2, max_processes=1) as pool:
        first = await pool.run(jobs.pid)
        assert first != os.getpid()
        assert await pool.run(jobs.pid) == first
        assert await pool.run(jobs.add, 1, b=2) == 3
        assert await pool.run(functools.partial(jobs.add, b=5), 1) == 6
        assert await pool.run(jobs.Worker(3).times, 4) == 12
        assert await pool.map(jobs.square, range(20)).collect() == [n * n for n in range(20)]


@real
@both
async def test_an_exception_comes_back_with_the_traceback_of_its_process(process_pool):
    """Its own type and text, and the lines of the other process as a note."""
    async with process_pool() as pool:
        with pytest.raises(ValueError, match=r"^no\n") as caught:
            await pool.run(jobs.fail, "no")
    assert any("in fail\n" in note and "raise ValueError(text)" in note for note in caught.value.__notes__)


@real
async def test_where_it_can_be_said(new_pool):
    """For a pool, a view, a function, an item of a map; the nearest wins."""
    here = os.getpid()
    async with new_pool(max_processes=1) as pool:
        assert await pool.run(jobs.pid) == here
        assert await pool.with_options(offload="process").run(jobs.pid) != here
        assert await pool.run(jobs.marked) != here
        assert await pool.with_options(offload="thread").run(jobs.marked) == here
        options = JobOptions(offload="process")
        assert here not in await pool.map(jobs.pid, [1, 2], options=options).collect()
        group = pool.group("g", options=options)
        async with group:
            assert await group.run(jobs.pid) != here


@real
async def test_coroutine_functions_run_in_the_loop_whatever_the_pool_says(process_pool):
    """The pool's word is for plain functions; that of a view or a function is refused."""
    async with process_pool() as pool:
        assert await pool.run(echo, 7) == 7
        with pytest.raises(TypeError, match=r"echo is an async def.*write `def echo\(\.\.\.\)`"):
            await pool.with_options(offload="process").run(echo, 7)
        with pytest.raises(TypeError, match="marked_async is an async def"):
            await pool.submit(jobs.marked_async)
        with pytest.raises(TypeError, match="echo is an async def"):
            pool.with_options(offload="thread").submit_nowait(echo)


@pytest.mark.parametrize("wrong", ["processes", "", None, 3])
def test_what_is_no_place_is_refused(wrong):
    """Where it is written, with the words that there are."""
    with pytest.raises(ValueError, match=r"offload.*thread"):
        Pool(offload=wrong)
    if wrong is not None:
        with pytest.raises(ValueError, match='"thread", "process", "interpreter" or "dask"'):
            Pool().with_options(offload=wrong)


@real
async def test_a_thousand_jobs_through_four_processes(process_pool):
    """Each has its result, in its place, and no more than four processes have run them."""
    async with process_pool(size=8, max_processes=4) as pool:
        assert await pool.map(jobs.square, range(1000)).collect() == [n * n for n in range(1000)]
        assert 1 <= len(set(await pool.map(jobs.pid, range(100)).collect())) <= 4
        assert pool.statistics().succeeded == 1100


@real
async def test_a_coroutine_waits_for_a_process_job_in_a_pool_of_one(process_pool):
    """It lends its slot, as for any job of its pool."""

    async def outer():
        inner = await pool.submit(jobs.square, 6)
        assert inner.parent == current_job().id
        return await inner

    async with process_pool(size=1) as pool:
        assert await pool.run(outer) == 36


@real
async def test_context_variables_stay_on_both_sides(process_pool):
    """The submitter's are not seen there, and what a job sets is not seen by the next."""
    jobs.VARIABLE.set("of the submitter")
    async with process_pool(max_processes=1) as pool:
        assert [await pool.run(jobs.set_variable) for _ in range(2)] == ["unset", "unset"]
    assert contextvars.copy_context()[jobs.VARIABLE] == "of the submitter"


# -- killed by the pool ------------------------------------------------------------------------------------------


@pytest.mark.long
@real
@both
@pytest.mark.parametrize("function", [jobs.hang, jobs.hang_hard, jobs.hang_deaf, jobs.stop_self])
async def test_a_cancel_kills_the_process(process_pool, function):
    """Whatever it does; the slot is free when it is gone, and another process takes its place."""
    async with process_pool(size=1, cancel_grace=HOUR) as pool:
        job = await pool.submit(function)
        pid = await begun(job)
        report = await pool.cancel(job.id)
        assert report
        assert not report.leaked
        assert not alive(pid)
        with pytest.raises(JobCancelledError):
            await job
        assert pool.statistics().busy == 0
        assert await pool.run(jobs.square, 3) == 9


@pytest.mark.loops("real")
@both
async def test_a_time_limit_kills_the_process(process_pool):
    """Its waiters hear of it when the process is gone."""
    async with process_pool(size=1, cancel_grace=HOUR) as pool:
        await pool.run(jobs.pid)
        job = await pool.with_options(timeout=0.2).submit(jobs.hang)
        with pytest.raises(JobTimeoutError) as caught:
            await job
        assert caught.value.limit == "timeout"
        if job.progress is not None:
            assert not alive(int(job.progress[1]))
        assert await pool.run(jobs.square, 3) == 9


@real
@both
async def test_after_a_time_limit_it_is_tried_again(process_pool):
    """In another process; the attempts never overlap."""
    async with process_pool(size=1) as pool:
        await pool.run(jobs.pid)
        patient = pool.with_options(timeout=3, retry=Retry(attempts=2, delay=0))
        job = await patient.submit(jobs.hang_once, None)
        await begun(job)
        job.set_timeout(0)
        assert await job == 2
        assert job.attempt == 2


@real
async def test_what_a_job_has_started_is_killed_with_it(process_pool):
    """A child of the function, too."""
    async with process_pool() as pool:
        job = await pool.submit(jobs.spawn_child)
        child = await begun(job)
        await pool.cancel(job.id)
        await wait_until(lambda: not alive(child))


@real
async def test_a_job_that_waits_for_a_process_is_cancelled_at_once(process_pool):
    """It never ran, and the one that holds the process runs on."""
    async with process_pool(size=2, max_processes=1) as pool:
        busy = await pool.submit(jobs.hang)
        await begun(busy)
        waiting = await pool.submit(jobs.hang)
        await wait_until(lambda: waiting.status is JobStatus.RUNNING)
        assert await pool.cancel(waiting.id)
        assert waiting.progress is None
        assert not busy.done()
        await pool.cancel(busy.id)


@real
@both
@pytest.mark.parametrize("function", [jobs.hang_deaf, jobs.stop_self])
async def test_a_shutdown_ends_with_stuck_processes(process_pool, function):
    """They are killed, and no job leaks."""
    pool = process_pool(size=2, cancel_grace=HOUR)
    async with pool:
        stuck = [await pool.submit(function) for _ in range(2)]
        pids = [await begun(job) for job in stuck]
        report = await pool.shutdown(timeout=0)
        assert report.cancelled == 2
        assert not report.leaked
    assert not any(map(alive, pids))
    assert all(job.cancelled() for job in stuck)


# -- processes that die --------------------------------------------------------------------------------------------


@pytest.mark.long
@real
@both
@pytest.mark.parametrize(
    ("function", "args", "code", "text"),
    [
        (jobs.die, (3,), 3, "exit code 3"),
        (jobs.crash, (), -signal.SIGSEGV, "killed by SIGSEGV, exit code -11"),
        (jobs.cut, (), -signal.SIGKILL, "had closed its connection"),
    ],
)
async def test_a_process_that_dies_fails_its_own_job_only(process_pool, function, args, code, text):
    """The error has the exit code; a job in another process does not notice, and the next one runs."""
    async with process_pool(size=2, max_processes=2) as pool:
        neighbour = await pool.submit(jobs.hang)
        await begun(neighbour)
        with pytest.raises(ProcessDiedError, match=text) as caught:
            await pool.run(function, *args)
        assert caught.value.exitcode == code
        assert await pool.run(jobs.square, 3) == 9
        assert not neighbour.done()
        await pool.cancel(neighbour.id)


@pytest.mark.loops("real")
async def test_kill_9_from_outside(process_pool):
    """It is told, once; and an idle process that is killed is replaced without a word."""
    async with process_pool(max_processes=1) as pool:
        job = await pool.submit(jobs.hang)
        os.kill(await begun(job), signal.SIGKILL)
        with pytest.raises(ProcessDiedError, match="perhaps memory ran out") as caught:
            await job
        assert caught.value.exitcode == -signal.SIGKILL
        idle = await pool.run(jobs.pid)
        os.kill(idle, signal.SIGKILL)
        await wait_until(lambda: not psutil.pid_exists(idle))
        assert await pool.run(jobs.square, 3) == 9


@real
@both
async def test_a_death_is_retried_as_any_failure(process_pool):
    """The second attempt runs in a new process."""
    async with process_pool(retry=Retry(attempts=2, delay=0)) as pool:
        job = await pool.submit(jobs.die_once, 3)
        assert await job == 2
        assert [type(record.error) for record in job.outcome().history] == [ProcessDiedError]


@real
async def test_signals_for_the_whole_program_are_left_to_the_pool(process_pool):
    """SIGINT of a terminal and SIGTERM of systemd do nothing to the processes."""
    async with process_pool() as pool:
        assert await pool.run(jobs.survive) == "alive"


@real
async def test_a_system_without_processes_fails_the_jobs(process_pool, monkeypatch, caplog):
    """Those that wait for the process, and no others; when there is room again, jobs run."""

    def no_process(self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async with process_pool(size=3, max_processes=2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(multiprocessing.process.BaseProcess, "start", no_process)
            failed = [await pool.submit(jobs.square, n) for n in range(3)]
            for job in failed:
                with pytest.raises(ProcessDiedError, match="could not be started: BlockingIOError"):
                    await job
        assert await pool.run(jobs.square, 3) == 9
    assert "could not be started" in caplog.text


@real
async def test_without_threads_it_goes_on(process_pool):
    """A fork server is started, and a large result put together, on the time of the loop."""
    async with process_pool(max_processes=1) as pool:
        with FailingCall("Thread.start", error=RuntimeError, lasting=True):
            assert await pool.run(jobs.large, 1_000_000) == b"x" * 1_000_000
            assert (await pool.run(jobs.large_object)).thread == threading.current_thread().name


@pytest.mark.long
@real
async def test_an_exit_code_that_somebody_else_has_taken(process_pool):
    """Another `waitpid` in the program was quicker: the job fails all the same, and says that the code is unknown."""
    async with process_pool(start_method="spawn", max_processes=1) as pool:
        job = await pool.submit(jobs.hang)
        pid = await begun(job)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with pytest.raises(ProcessDiedError, match="its exit code is unknown") as caught:
            await job
        assert caught.value.exitcode is None
        assert await pool.run(jobs.square, 3) == 9


@real
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
async def test_a_kernel_without_pidfds(process_pool, monkeypatch, method):
    """A pipe of `multiprocessing` tells the end: a cancel, and a death."""

    def none(pid, flags=0):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", none)
    async with process_pool(start_method=method, max_processes=1, cancel_grace=HOUR) as pool:
        job = await pool.submit(jobs.hang)
        pid = await begun(job)
        assert await pool.cancel(job.id)
        assert not alive(pid)
        with pytest.raises(ProcessDiedError, match="exit code 3"):
            await pool.run(jobs.die, 3)


# -- what cannot be sent ---------------------------------------------------------------------------------------------


@real
async def test_a_call_that_cannot_be_sent_is_refused_before_anything_runs(process_pool):
    """The text names the function, the argument and its type, and the line to write."""

    def local(): ...

    lock = threading.Lock()
    calls = [
        (lambda: None, (), {}, "is a lambda, which another process cannot import: write `def` at the top"),
        (local, (), {}, "is defined inside of another function"),
        (functools.partial(local), (), {}, "is defined inside of another function"),
        (jobs.square, (lock,), {}, r'square: argument 1 \(lock\) cannot be sent.*offload="thread"'),
        (jobs.add, (1,), {"b": lock}, r"add: argument 'b' \(lock\) cannot be sent"),
        (functools.partial(jobs.add, b=lock), (1,), {}, r"add: argument 'b' \(lock\) cannot be sent"),
        (jobs.NeverLeaves(), (), {}, r"NeverLeaves cannot be sent to another process: LookupError.*in a thread"),
    ]
    async with process_pool() as pool:
        for function, args, kwargs, text in calls:
            for submit in (pool.submit_nowait, pool.with_options(id="one").submit_nowait):
                with pytest.raises(NotPicklableError, match=text):
                    submit(function, *args, **kwargs)
        with pytest.raises(TypeError, match=r"square\(x\) cannot be called so"):
            await pool.submit(jobs.square)
        assert pool.statistics().submitted == 0


@real
async def test_a_full_queue_refuses_what_cannot_be_sent_as_well(process_pool):
    """Also the way on which `submit` waits for room."""
    async with process_pool(size=1, queue_size=0) as pool:
        busy = await pool.submit(jobs.hang)
        await begun(busy)
        with pytest.raises(NotPicklableError):
            await pool.submit(jobs.square, threading.Lock())
        waiting = asyncio.create_task(pool.run(jobs.square, 4))
        await asyncio.sleep(0)
        await pool.cancel(busy.id)
        assert await waiting == 16


@real
@both
async def test_an_item_of_a_map_that_cannot_be_sent_fails_its_job(process_pool):
    """And no other."""
    async with process_pool() as pool:
        results = await pool.map(jobs.square, [2, threading.Lock(), 3], errors="yield").collect()
        assert [result.ok for result in results] == [True, False, True]
        assert type(results[1].error) is NotPicklableError


@real
@both
async def test_a_call_that_does_not_arrive(process_pool):
    """It pickles here, and not back in the other process: the error says so, and the process goes on."""
    async with process_pool(max_processes=1) as pool:
        before = await pool.run(jobs.pid)
        with pytest.raises(NotPicklableError, match=r"send_nothing: the call did not arrive .*: LookupError: not in"):
            await pool.run(jobs.send_nothing, jobs.StaysHere())
        assert await pool.run(jobs.pid) == before


@pytest.mark.long
@real
@both
@pytest.mark.parametrize(
    ("function", "text"),
    [
        (jobs.make_lambda, r"make_lambda returned a value \(function\) that cannot be sent back"),
        (jobs.make_foreign, "make_foreign has ended in its process, but what it returned .* cannot be read here: Mod"),
        (jobs.raise_unsendable, "raise_unsendable raised Unsendable: with a lock, and that exception cannot be sent"),
        (jobs.raise_one_way, r"raise_one_way raised OneWay: one and two, .*Give OneWay a __reduce__"),
    ],
)
async def test_an_outcome_that_cannot_be_sent_back(process_pool, function, text):
    """The error names the function and the type; of an exception the traceback is kept; the process goes on."""
    async with process_pool(max_processes=1) as pool:
        before = await pool.run(jobs.pid)
        with pytest.raises(NotPicklableError, match=text) as caught:
            await pool.run(function)
        assert function is jobs.make_foreign or any(function.__name__ in note for note in caught.value.__notes__)
        assert await pool.run(jobs.pid) == before


@real
async def test_arguments_are_sent_as_they_were_when_they_were_submitted(process_pool):
    """What happens to them later is not seen, in no attempt."""
    async with process_pool() as pool:
        items = [1, 2, 3]
        job = pool.submit_nowait(jobs.send_nothing, items)
        items.clear()
        assert await job == 3


@pytest.mark.loops("real")
async def test_large_things_go_through(process_pool):
    """Arguments and results of many megabytes; large ones are put together in a thread, not in the loop."""
    size = 30_000_000
    async with process_pool(max_processes=1) as pool:
        assert await pool.run(jobs.send_nothing, b"x" * size) == size
        assert await pool.run(jobs.large, size) == b"x" * size
        buffer = await pool.run(jobs.large_buffer, size)
        assert memoryview(buffer).nbytes == size
        result = await pool.run(jobs.large_object)
        assert "unpickle" in result.thread
        assert result.padding[-1].endswith("9999")


@real
async def test_a_cancel_while_a_large_call_is_sent(process_pool):
    """Half of it is in the pipe, and the process does not read."""
    async with process_pool(max_processes=1) as pool:
        pid = await pool.run(jobs.pid)
        os.kill(pid, signal.SIGSTOP)
        job = await pool.submit(jobs.send_nothing, b"x" * 10_000_000)
        await wait_until(lambda: job.status is JobStatus.RUNNING)
        assert await pool.cancel(job.id)
        assert not alive(pid)
        assert await pool.run(jobs.square, 3) == 9


# -- current_job() in a process ----------------------------------------------------------------------------------------


@pytest.mark.loops("real")
@both
async def test_progress_comes_back(process_pool, tmp_path):
    """While the job runs, and the last report always; from threads of the job, too."""
    async with process_pool(max_processes=1) as pool:
        job = await pool.submit(jobs.report_and_wait, tmp_path / "go")
        await wait_until(lambda: job.progress == (0.5, "half"))
        assert not job.done()
        (tmp_path / "go").touch()
        await job
        often = await pool.submit(jobs.report, 1000)
        await often
        assert often.progress == (1, "all")
        threads = await pool.submit(jobs.report_from_threads)
        assert await threads == 20
        assert threads.progress is not None


@real
async def test_a_job_knows_who_it_is(process_pool):
    """Its id, name and attempt; for the rest the error says where it is."""
    async with process_pool() as pool:
        assert await pool.with_options(id="mine", name="report").run(jobs.who) == ("mine", "report", 1)
        with pytest.raises(AttributeError, match=r"knows its `id`, `name`, `attempt` and .*\.group is in the process"):
            await pool.run(jobs.ask_too_much)


# -- how processes are made ----------------------------------------------------------------------------------------


@real
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
async def test_each_way_to_make_processes(process_pool, method):
    """Results, a cancel, a death; what a way cannot tell from another is tested with the quickest one."""
    async with process_pool(size=2, max_processes=2, start_method=method, cancel_grace=HOUR) as pool:
        assert await pool.map(jobs.square, range(50)).collect() == [n * n for n in range(50)]
        job = await pool.submit(jobs.hang)
        pid = await begun(job)
        assert await pool.cancel(job.id)
        assert not alive(pid)
        with pytest.raises(ProcessDiedError) as caught:
            await pool.run(jobs.die, 3)
        assert caught.value.exitcode == 3
        assert await pool.run(jobs.pid) != os.getpid()


def test_a_way_that_is_none_is_refused():
    """With the words that there are."""
    with pytest.raises(ValueError, match=r"start_method.*forkserver"):
        Pool(start_method="threads")
    with pytest.raises(ValueError, match="max_processes=0"):
        Pool(max_processes=0)


@real
async def test_a_pool_that_is_closed_while_its_first_process_starts(process_pool):
    """Nothing is left of it."""
    async with process_pool() as pool:
        job = await pool.submit(jobs.square, 3)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await pool.shutdown(timeout=0)
    assert job.cancelled()
    await wait_until(lambda: threading.active_count() == 1 or not any("start" in t.name for t in threading.enumerate()))


@real
async def test_a_pool_opened_again_has_new_processes(process_pool):
    """The old ones went with its first life."""
    pool = process_pool(max_processes=1)
    async with pool:
        first = await pool.run(jobs.pid)
    assert not alive(first)
    async with pool:
        assert await pool.run(jobs.pid) != first
