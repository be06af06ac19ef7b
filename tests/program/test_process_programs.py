"""Whole programs with jobs in processes: the guard of the main file, a prompt, the end of the program, its output."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

from aiopool.testing import wait_until

WORK = """
import asyncio, os, sys, time
import aiopool
from aiopool import Pool, current_job

def square(x):
    return x * x

def hang():
    current_job().report_progress(0, str(os.getpid()))
    while True:
        time.sleep(60)

def say(word):
    print(word)

async def begun(job):
    while job.progress is None and not job.done():
        await asyncio.sleep(0.01)
    return job.progress[1]
"""


def write(path, body):
    path.write_text(WORK + textwrap.dedent(body))
    return path


def run(path, *, code=0, **options):
    done = subprocess.run(
        [sys.executable, "-W", "error", path], capture_output=True, text=True, timeout=60, check=False, **options
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_main_file_with_a_guard(tmp_path):
    """Functions of the main file run in processes, and what they print is seen."""
    path = write(
        tmp_path / "main.py",
        """
        async def main():
            async with Pool(offload="process", max_processes=1) as pool:
                print(await pool.run(square, 3), flush=True)
                await pool.run(say, "printed in the process")

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    done = run(path)
    assert done.stdout.splitlines() == ["9", "printed in the process"]
    assert done.stderr == ""


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.long)])
def test_a_main_file_without_a_guard(tmp_path, method):
    """It is not started again and again: the process says what to write, and so does the error of the job."""
    path = write(
        tmp_path / "main.py",
        f"""
        async def main():
            async with Pool(offload="process", start_method={method!r}) as pool:
                print(await pool.run(square, 3))

        asyncio.run(main())
        """,
    )
    done = run(path, code=1)
    assert done.stdout == ""
    assert "ProcessDiedError: there is no process to run the job" in done.stderr
    assert done.stderr.count("this process was started to run jobs, and imports the file of the program") == 1
    assert done.stderr.count('if __name__ == "__main__":') >= 2


@pytest.mark.parametrize("how", ["-c", "stdin"])
def test_a_function_of_a_prompt_is_refused(how):
    """No other process can import it: it is refused where it is submitted, and the line says what to do."""
    code = WORK + textwrap.dedent(
        """
        async def main():
            async with Pool(offload="process") as pool:
                try:
                    await pool.submit(square, 3)
                except aiopool.errors.NotPicklableError as error:
                    print(error)

        asyncio.run(main())
        """
    )
    given = {"args": [sys.executable, "-c", code]} if how == "-c" else {"args": [sys.executable, "-"], "input": code}
    done = subprocess.run(capture_output=True, text=True, timeout=60, check=True, **given)
    assert done.stdout.startswith("square was defined in an interactive session")
    assert "from work import square" in done.stdout


HANGING = """
async def main():
    pool = Pool(offload="process", size=2, start_method=sys.argv[1], cancel_grace=3600)
    async with pool:
        jobs = [await pool.submit(hang) for _ in range(2)]
        print(*[await begun(job) for job in jobs], flush=True)
        await asyncio.wait(jobs)
"""


@pytest.mark.long
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux tells the children")
async def test_processes_die_with_the_program(tmp_path, method):
    """By `kill -9`, when nobody can tell them."""
    path = write(tmp_path / "main.py", HANGING + "\nif __name__ == '__main__':\n    asyncio.run(main())\n")
    with subprocess.Popen(
        [sys.executable, path, method], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as program:
        assert program.stdout is not None
        children = [psutil.Process(int(pid)) for pid in program.stdout.readline().split()]
        assert len(children) == 2
        os.kill(program.pid, signal.SIGKILL)
        program.wait()
        await wait_until(lambda: not any(child.is_running() for child in children))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_for_the_whole_program_ends_it(tmp_path, number):
    """As a terminal or systemd sends it, to each process: the pool shuts down, and nothing is left."""
    path = write(
        tmp_path / "main.py",
        HANGING + "\nif __name__ == '__main__':\n    aiopool.run(main, timeout=0.2)\n",
    )
    with subprocess.Popen(
        [sys.executable, path, "spawn"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        children = [psutil.Process(int(pid)) for pid in program.stdout.readline().split()]
        for child in children:
            os.kill(child.pid, number)
        program.send_signal(number)
        _, errors = program.communicate(timeout=30)
        assert program.returncode == 128 + number, errors
    assert not any(child.is_running() for child in children)


def test_a_pool_that_nobody_closes_does_not_hold_up_the_exit(tmp_path):
    """The loop ended with the pool open, with one process idle and one at work: both are gone with the program."""
    path = write(
        tmp_path / "main.py",
        """
        async def main():
            pool = await Pool(offload="process", max_processes=2).__aenter__()
            await asyncio.gather(*[pool.run(square, n) for n in range(20)])
            job = await pool.submit(hang)
            print(await begun(job), flush=True)
            os._keep = pool  # from the collector

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=True)
    assert not psutil.pid_exists(int(done.stdout))


def test_a_pool_in_a_process_of_a_pool(tmp_path):
    """A job may open a pool with processes of its own, and use `multiprocessing`."""
    path = write(
        tmp_path / "main.py",
        """
        import json, multiprocessing

        async def inner():
            async with Pool(offload="process", max_processes=1) as pool:
                return await pool.run(square, 4)

        def outer():
            return asyncio.run(inner())

        def old_way():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return pool.map(square, [1, 2, 3])

        async def main():
            async with Pool(offload="process", max_processes=1) as pool:
                print(json.dumps([await pool.run(outer), await pool.run(old_way)]))

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    assert json.loads(run(path).stdout) == [16, [1, 4, 9]]
