"""Plain functions in interpreters of their own, on Pythons that have them; on the others the option is refused."""

import sys
import types

import anyio.to_interpreter
import process_jobs as jobs
import pytest

from aiopool import JobCancelledError, JobStatus, Pool
from aiopool._runtime.pickled_call import check_sendable
from aiopool.errors import NotPicklableError, ProcessDiedError
from aiopool.testing import wait_until

real = pytest.mark.loops("real", long=("eager", "uvloop"))
new = pytest.mark.skipif(sys.version_info < (3, 13), reason="Python 3.13 has interpreters for this")


@pytest.fixture(autouse=True)
def none_is_left(monkeypatch):
    """End the interpreters: anyio keeps them until the program ends, and a program that has some cannot fork."""
    ends = []
    if sys.version_info >= (3, 13):
        monkeypatch.setattr(
            anyio.to_interpreter, "atexit", types.SimpleNamespace(register=lambda *end: ends.append(end))
        )
    yield
    for end, *arguments in ends:
        end(*arguments)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="this Python has interpreters")
def test_an_older_python_refuses_the_option():
    """Where it is written, with the word to write instead."""
    with pytest.raises(ValueError, match=r'needs Python 3\.13 or newer: write offload="process"'):
        Pool().with_options(offload="interpreter")
    with pytest.raises(ValueError, match=r"needs Python 3\.13"):
        Pool(offload="interpreter")


@new
@real
@pytest.mark.both_isolations
async def test_a_function_runs_in_an_interpreter(new_pool):
    """Not in ours; values and exceptions come back, for more jobs than there are interpreters."""
    async with new_pool(size=4, offload="interpreter", max_processes=2) as pool:
        assert await pool.run(jobs.interpreter_id) != jobs.interpreter_id()
        assert await pool.map(jobs.square, range(20)).collect() == [n * n for n in range(20)]
        assert await pool.run(jobs.add, 1, b=2) == 3
        with pytest.raises(ValueError, match="no"):
            await pool.run(jobs.fail, "no")


@new
@real
async def test_what_cannot_be_sent_to_an_interpreter(new_pool, monkeypatch):
    """It is refused where it is submitted, as for processes."""
    async with new_pool(offload="interpreter") as pool:
        with pytest.raises(NotPicklableError, match="is a lambda"):
            await pool.submit(lambda: None)
        main = types.FunctionType(jobs.square.__code__, {}, "square")
        main.__module__ = "__main__"
        monkeypatch.setattr(sys.modules["__main__"], "square", main, raising=False)
        with pytest.raises(NotPicklableError, match=r"is in the main file .*move it to a module"):
            await pool.submit(main, 3)


def test_a_function_of_the_main_file_is_found_by_no_interpreter(monkeypatch):
    """The check stands on each Python."""
    main = types.FunctionType(jobs.square.__code__, {}, "square")
    main.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "square", main, raising=False)
    with pytest.raises(NotPicklableError, match=r"is in the main file .*move it to a module"):
        check_sendable(main, "interpreter")


@new
@real
@pytest.mark.both_isolations
async def test_a_cancel_releases_who_waits_and_the_slot_comes_back_later(new_pool, tmp_path):
    """An interpreter cannot be stopped: it is as with a thread."""
    go = tmp_path / "go"
    async with new_pool(size=1, offload="interpreter") as pool:
        job = await pool.submit(jobs.wait_for_file, str(tmp_path / "here"), str(go))
        await wait_until((tmp_path / "here").exists)
        assert job.cancel()
        with pytest.raises(JobCancelledError):
            await job
        assert pool.statistics().busy == 1
        go.touch()
        assert await pool.run(jobs.square, 3) == 9
        assert pool.statistics().busy == 0


@new
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_program_with_interpreters_is_not_forked():
    """CPython would end the child by a signal before it runs a line; the text says what to write."""
    import _interpreters

    held = _interpreters.create()
    try:
        async with Pool(1, offload="process", start_method="fork") as pool:
            with pytest.raises(ProcessDiedError, match=r'has interpreters.* write start_method="forkserver"'):
                await pool.run(jobs.square, 3)
    finally:
        _interpreters.destroy(held)
    async with Pool(1, offload="process", start_method="fork") as pool:
        assert await pool.run(jobs.square, 3) == 9


@new
@real
async def test_an_interpreter_job_that_waits_is_withdrawn(new_pool, tmp_path):
    """It never runs."""
    go = tmp_path / "go"
    async with new_pool(size=2, offload="interpreter", max_processes=1) as pool:
        first = await pool.submit(jobs.wait_for_file, str(tmp_path / "here"), str(go))
        await wait_until((tmp_path / "here").exists)
        second = await pool.submit(jobs.wait_for_file, str(tmp_path / "never"), str(go))
        await wait_until(lambda: second.status is JobStatus.RUNNING)
        await pool.cancel(second.id)
        go.touch()
        await first
        assert second.cancelled()
    assert not (tmp_path / "never").exists()
