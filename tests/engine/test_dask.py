"""Plain functions on a Dask cluster: outcomes, cancels, limits; and what is lost when a worker or the scheduler dies.

The scheduler and the workers are processes of their own, killed by SIGKILL. Jobs tell what they do by lines of a file.
"""

import asyncio
import functools
import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import dask_jobs as jobs
import process_jobs
import pytest
import pytest_asyncio

from aiopool import Handlers, JobCancelledError, JobTimeoutError, Limit, Pool, Retry
from aiopool.errors import ClusterLostError, NotPicklableError, ProcessDiedError
from aiopool.stores import Memory, StoredStatus
from aiopool.testing import wait_until

HERE = Path(__file__).parents[1]
PLACES = os.pathsep.join([str(HERE.parent), str(HERE)])

needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
ecosystem = pytest.mark.ecosystem


class Cluster:
    """A scheduler and workers, as processes."""

    def __init__(self, folder, **settings):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.environment = {**os.environ, "PYTHONPATH": PLACES, **settings}
        self.scheduler = None
        self.workers = []

    def _start(self, module, *arguments):
        log = open(self.folder / "dask.log", "ab")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--no-dashboard"],
                stdout=log, stderr=log, cwd=self.folder, env=self.environment,
            )  # fmt: skip

    def start_scheduler(self):
        self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port))

    def start_worker(self, threads=2):
        arguments = (self.address, "--nthreads", str(threads), "--no-nanny", "--death-timeout", "60")
        self.workers.append(self._start("dask_worker", *arguments))
        return self.workers[-1]

    def start(self, workers=1, threads=2):
        self.start_scheduler()
        for _ in range(workers):
            self.start_worker(threads)
        return self

    def kill(self):
        for process in [self.scheduler, *self.workers]:
            if process is not None:
                process.kill()
                process.wait()


@pytest.fixture
def new_cluster(tmp_path):
    """Make clusters, that are killed at the end."""
    made = []

    def make(**settings):
        made.append(Cluster(tmp_path, **settings))
        return made[-1]

    yield make
    for cluster in made:
        cluster.kill()


@pytest_asyncio.fixture
async def dask_pool(new_pool):
    """Make pools whose plain functions run on a cluster."""

    def make(cluster, **options):
        address = cluster.address if isinstance(cluster, Cluster) else cluster
        return new_pool(offload="dask", dask=address, **options)

    return make


async def told(folder, word, count=1):
    """Wait until so many lines with a word are there."""
    await wait_until(lambda: sum(line[1] == word for line in jobs.said(folder)) >= count, timeout=60)


# -- outcomes ----------------------------------------------------------------------------------------------------------


@ecosystem
@needs_dask
async def test_results_and_errors_come_home(new_cluster, dask_pool):
    """A result, an error, progress and the job's own data are as in a thread; a lambda and a partial travel, too."""
    async with dask_pool(new_cluster().start(), size=4) as pool:
        assert await pool.run(process_jobs.square, 7) == 49
        assert await pool.run(process_jobs.add, 1, b=2) == 3
        assert await pool.run(functools.partial(process_jobs.add, 1), b=4) == 5
        assert await pool.run(lambda x: x + 1, 1) == 2
        assert await pool.run(process_jobs.pid) != os.getpid()
        with pytest.raises(ValueError, match="no such thing"):
            await pool.run(process_jobs.fail, "no such thing")
        job = await pool.with_options(id="mine").submit(jobs.progress)
        assert await job == ("mine", 1)
        assert job.progress == (1, "")
        assert await pool.map(process_jobs.square, range(20)).collect() == [x * x for x in range(20)]


@ecosystem
@needs_dask
async def test_what_does_not_pickle_fails_its_job_alone(new_cluster, dask_pool):
    """An argument that cannot be sent is a failure of its job, and names it."""
    async with dask_pool(new_cluster().start()) as pool:
        with pytest.raises(NotPicklableError, match="square: the call cannot be sent to a Dask cluster"):
            await pool.run(process_jobs.square, threading.Lock())
        assert await pool.run(process_jobs.square, 2) == 4


@ecosystem
@needs_dask
async def test_an_exit_of_the_function_is_as_in_any_job(new_cluster, child):
    """It is no matter between the function and the worker of Dask: it ends the program, as it does in a thread."""
    program = child(
        """
        import asyncio, sys
        sys.path.append(sys.argv[2])
        import dask_jobs
        from aiopool import Pool

        async def main():
            async with Pool(offload="dask", dask=sys.argv[1]) as pool:
                await pool.run(dask_jobs.leave)

        asyncio.run(main())
        """,
        new_cluster().start().address,
        str(HERE),
    )
    await asyncio.to_thread(program.communicate, timeout=60)
    assert program.returncode == 3


@ecosystem
@needs_dask
async def test_the_program_of_the_page_runs(new_cluster, tmp_path):
    """`docs/how-to/compute-on-a-dask-cluster.md` shows a program that works."""
    program = HERE.parent / "docs" / "operations" / "on_dask.py"
    cluster = new_cluster(PYTHONPATH=os.pathsep.join([PLACES, str(program.parent)])).start()
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", program, cluster.address],
        cwd=tmp_path, env=cluster.environment, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert ran.stdout.splitlines() == [f"sea-{frame:04}.png" for frame in range(100)], ran.stderr


# -- stopping ----------------------------------------------------------------------------------------------------------


@ecosystem
@needs_dask
async def test_a_cancelled_call_that_runs_keeps_its_slot_until_it_ends(new_cluster, dask_pool, tmp_path):
    """Those who wait are released at once; another job gets the slot when the function has ended."""
    async with dask_pool(new_cluster().start(threads=4), size=1, cancel_grace=3600) as pool:
        job = await pool.submit(jobs.wait_for, str(tmp_path))
        await told(tmp_path, "begun")
        assert job.cancel()
        with pytest.raises(JobCancelledError):
            await job
        after = await pool.submit(jobs.nap, str(tmp_path), 0)
        (tmp_path / "gate").touch()
        assert await after == "slept"
    assert [word for _, word, _, _ in jobs.said(tmp_path)] == ["begun", "ended"] * 2


@ecosystem
@needs_dask
async def test_a_cancelled_call_that_has_not_begun_never_does(new_cluster, dask_pool, tmp_path):
    """A call that waits in the queue of the scheduler or a worker is forgotten there."""
    from distributed import Client

    cluster = new_cluster().start(threads=1)
    async with dask_pool(cluster, size=3) as pool:
        first = await pool.submit(jobs.wait_for, str(tmp_path))
        await told(tmp_path, "begun")
        others = [await pool.submit(jobs.nap, str(tmp_path), 0) for _ in range(2)]
        await wait_until(lambda: all(job.started_at is not None for job in others), timeout=30)
        for job in others:
            job.cancel()
            with pytest.raises(JobCancelledError):
                await job
        assert await pool.run(asyncio.sleep, 0, "a slot is free again") == "a slot is free again"
        async with Client(cluster.address, asynchronous=True) as client:
            held = {2}
            while held != {1}:  # the cancel is on its way: each look is a round trip to the worker
                held = set((await client.run(lambda dask_worker: len(dask_worker.state.tasks))).values())
        (tmp_path / "gate").touch()
        assert await first == "gate"
    assert {id for _, _, id, _ in jobs.said(tmp_path)} == {str(first.id)}


@ecosystem
@needs_dask
async def test_a_time_limit_ends_the_job(new_cluster, dask_pool, tmp_path):
    """A job whose time is over ends as such; its function ends when it likes."""
    async with dask_pool(new_cluster().start(), size=2) as pool:
        await pool.run(process_jobs.square, 1)  # connected
        job = await pool.with_options(timeout=0.5).submit(jobs.wait_for, str(tmp_path))
        with pytest.raises(JobTimeoutError):
            await job
        (tmp_path / "gate").touch()


@ecosystem
@needs_dask
async def test_limits_hold_on_a_cluster(new_cluster, dask_pool, tmp_path):
    """Never more functions run at once than a limit says."""
    pool = dask_pool(new_cluster().start(workers=2, threads=2), size=8, limits={"nap": Limit(max_at_once=2)})
    async with pool:
        await pool.map(functools.partial(jobs.nap, str(tmp_path)), [0.05] * 12).collect()
    running = most = 0
    for _, word, _, _ in sorted(jobs.said(tmp_path)):
        running += 1 if word == "begun" else -1
        most = max(most, running)
    assert most <= 2


# -- what is lost ------------------------------------------------------------------------------------------------------


@ecosystem
@needs_dask
async def test_the_calls_of_a_dead_worker_run_in_another(new_cluster, dask_pool, tmp_path):
    """Dask itself gives them to another worker; nobody notices."""
    async with dask_pool(new_cluster().start(workers=2)) as pool:
        assert await pool.run(jobs.die_the_first_time, str(tmp_path)) == "alive"


@ecosystem
@needs_dask
async def test_a_call_that_kills_its_workers_fails_and_others_do_not(new_cluster, dask_pool):
    """What Dask gives up is a `ProcessDiedError`, a failure as others."""
    cluster = new_cluster(DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0").start(workers=1)
    async with dask_pool(cluster) as pool:
        with pytest.raises(ProcessDiedError, match="the workers of Dask that ran die died"):
            await pool.run(jobs.die)
        cluster.start_worker()
        assert await pool.run(process_jobs.square, 2) == 4


@ecosystem
@needs_dask
async def test_a_cancelled_call_ends_with_its_worker(new_cluster, dask_pool, tmp_path):
    """The slot of a call that was cancelled is free when the worker that runs it has died."""
    cluster = new_cluster().start()
    async with dask_pool(cluster, size=1, cancel_grace=3600) as pool:
        job = await pool.submit(jobs.wait_for, str(tmp_path), "never")
        await told(tmp_path, "begun")
        job.cancel()
        after = await pool.submit(process_jobs.square, 3)
        cluster.workers[0].kill()
        cluster.start_worker()
        assert await after == 9


@ecosystem
@needs_dask
@pytest.mark.leaves_behind("the client of Dask logs by callbacks of its own that its scheduler is gone")
async def test_without_a_store_a_lost_scheduler_fails_the_job_and_retry_tries_again(new_cluster, dask_pool, tmp_path):
    """A job ends with `ClusterLostError`; with a `Retry` it runs again, when there is a scheduler."""
    cluster = new_cluster().start()
    async with dask_pool(cluster, size=2) as pool:
        plain = await pool.submit(jobs.wait_for, str(tmp_path))
        retried = await pool.with_options(retry=Retry(attempts=20, on=ClusterLostError, delay=0.1)).submit(
            jobs.wait_for, str(tmp_path)
        )
        await told(tmp_path, "begun", 2)
        cluster.kill()
        with pytest.raises(ClusterLostError, match="the connection to its scheduler is lost"):
            await plain
        (tmp_path / "gate").touch()
        cluster.start()
        assert await retried == "gate"
        assert retried.attempt > 1


@ecosystem
@needs_dask
@pytest.mark.timeout(180)
@pytest.mark.leaves_behind("the client of Dask logs by callbacks of its own that its scheduler is gone")
async def test_with_a_store_no_job_is_lost_whatever_dies(new_cluster, tmp_path):
    """A worker and the scheduler are killed in the middle: each job succeeds, in its first attempt, for a lost cluster
    is no failure; and none begins after its end was written."""
    handlers = Handlers()
    nap = handlers.register("nap", offload="dask")(jobs.nap)
    cluster = new_cluster().start(workers=2)
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    async with Pool(size=4, store=url, handlers=handlers, dask=cluster.address) as pool:
        submitted = [await pool.submit(nap, str(tmp_path), 0.3) for _ in range(40)]
        await told(tmp_path, "begun", 6)
        cluster.workers[0].kill()
        await told(tmp_path, "ended", 12)
        cluster.kill()
        ended = len([line for line in jobs.said(tmp_path) if line[1] == "ended"])
        cluster.start(workers=2)
        await told(tmp_path, "ended", ended + 1)
        for job in submitted:
            assert await job == "slept"
        rows = [await pool.fleet.find(job.id) for job in submitted]
    assert [row.status for row in rows] == [StoredStatus.SUCCEEDED] * 40
    assert {row.attempt for row in rows} == {1}
    ends = {row.id: row.finished_at for row in rows}
    begun = [(moment, id) for moment, word, id, _ in jobs.said(tmp_path) if word == "begun"]
    assert {id for _, id in begun} == set(ends)
    assert [id for moment, id in begun if moment > ends[id]] == []


@ecosystem
@needs_dask
async def test_a_pool_that_closes_gives_the_job_of_a_store_back(new_cluster, tmp_path):
    """Another process runs it: its function could not be stopped, and its end counts for nobody."""
    handlers = Handlers()

    @handlers.register("wait", offload="dask")
    def wait(folder: str) -> str:
        return jobs.wait_for(folder)

    options = {
        "store": f"sqlite:///{tmp_path / 'jobs.db'}",
        "handlers": handlers,
        "dask": new_cluster().start().address,
    }
    async with Pool(shutdown_timeout=0, cancel_grace=0.1, **options) as pool:
        job = await pool.submit(wait, str(tmp_path))
        await told(tmp_path, "begun")
    async with Pool(**options) as pool:
        await told(tmp_path, "begun", 2)
        (tmp_path / "gate").touch()
        assert await (await pool.fleet.job(job.id)) == "gate"
        assert (await pool.fleet.find(job.id)).status is StoredStatus.SUCCEEDED


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_without_distributed_the_error_names_the_extra(monkeypatch):
    """A pool with a cluster says what to install."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ModuleNotFoundError, match="pip install distributed, or the extra dask"):
        Pool(dask="tcp://127.0.0.1:8786")


def test_what_is_no_cluster_is_refused():
    """The error shows the line to write."""
    with pytest.raises(TypeError, match='dask="tcp://scheduler:8786"'):
        Pool(dask=8786)


async def test_a_pool_without_a_cluster_refuses_the_call(new_pool):
    """A function that is to run on a cluster is refused where it is submitted, if there is none."""
    async with new_pool() as pool:
        with pytest.raises(ValueError, match=re.escape('Pool(dask="tcp://scheduler:8786")')):
            await pool.with_options(offload="dask").submit(process_jobs.square, 2)


async def test_a_worker_without_a_cluster_does_not_open_and_a_producer_does():
    """A producer submits what others run; a worker that could not run its functions takes no jobs."""
    handlers = Handlers()

    @handlers.register("square", offload="dask")
    def square(x: int) -> int:
        return x * x

    held = Memory("dask")
    async with Pool(store=held, handlers=handlers, role="producer") as pool:
        await pool.submit(square, 2)
    with pytest.raises(ValueError, match="'square' is to run on a Dask cluster"):
        async with Pool(store=held, handlers=handlers):
            pass
