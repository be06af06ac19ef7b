"""The face: each public name once, with a docstring and the public address; and one door for a job's status."""

import ast
import enum
import importlib
import importlib.metadata
import inspect
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest

import aiopool
from aiopool import events, testing
from aiopool.errors import JobTimeoutError

PACKAGE = Path(aiopool.__file__).parent
NAMES = [name for name in aiopool.__all__ if not isinstance(getattr(aiopool, name), types.ModuleType)]


def inner_modules():
    for path in sorted([*PACKAGE.glob("_*/*.py"), *PACKAGE.glob("services/_*.py")]):
        if path.stem not in ("__init__", "__main__"):
            yield importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))


def test_the_list_is_sorted_and_has_no_doubles():
    """Each public name stands in `__all__` once, in order."""
    assert list(aiopool.__all__) == sorted(set(aiopool.__all__), key=lambda name: (not name[0].isupper(), name))


def test_nothing_public_is_missing_in_the_list():
    """What the face has without an underscore, and is not a module, is in `__all__`."""
    public = {
        name
        for name, value in vars(aiopool).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(NAMES) == set(aiopool.__all__)
    assert len(aiopool.__all__) <= 40


@pytest.mark.parametrize("name", NAMES)
def test_each_name_comes_from_one_place(name):
    """A public name is exported by exactly one inner module (or by `errors`), and is the same object there."""
    thing = getattr(aiopool, name)
    homes = [
        module.__name__
        for module in (*inner_modules(), importlib.import_module("aiopool.errors"))
        if name in getattr(module, "__all__", ()) and getattr(module, name) is thing
    ]
    assert len(homes) == 1


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_explained(name):
    """A public class or function has a docstring of its own, and so has each of its public methods."""
    thing = getattr(aiopool, name)
    assert thing.__module__ == ("aiopool.errors" if name.endswith("Error") else "aiopool")
    doc = inspect.getdoc(thing)
    assert doc, name
    assert not doc.startswith(f"{name}("), "the docstring that dataclasses make up"
    if inspect.isclass(thing):
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{attribute}"


@pytest.mark.parametrize("module", [testing, events])
def test_the_other_public_modules_are_explained(module):
    """The doors and the other public modules have a list and docstrings, too."""
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name


def test_what_is_frozen_can_be_pickled_by_its_public_address():
    """Records and errors survive a pickle, and say `aiopool` in it."""
    error = JobTimeoutError("too long", "timeout", 3.0)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, copy.limit, copy.seconds) == (JobTimeoutError, error.args, "timeout", 3.0)
    assert b"aiopool._" not in pickle.dumps(aiopool.Priority.HIGH)
    assert pickle.loads(pickle.dumps(aiopool.JobStatus.QUEUED)) is aiopool.JobStatus.QUEUED


PUBLIC = "aiopool blocking errors events from_thread health layers metrics records services settings testing".split()
PUBLIC += ["sizing", "workers"]
PUBLIC += ["instrumentation." + name for name in "logging opentelemetry prometheus system tracing".split()]


@pytest.mark.parametrize("module", PUBLIC)
def test_what_a_public_module_lists_says_so(module):
    """Tracebacks, pickles and docs say `aiopool.Job` and `aiopool.health.Finding`: no private address is shown."""
    found = importlib.import_module(module if module == "aiopool" else f"aiopool.{module}")
    for name in found.__all__:
        thing = getattr(found, name)
        if isinstance(thing, (type, types.FunctionType)):
            assert "._" not in thing.__module__, name
            assert getattr(importlib.import_module(thing.__module__), name) is thing


RECORDS = """
import asyncio, pickle
from aiopool import Pool
from aiopool.health import HealthMonitor
from aiopool.metrics import observe

async def main():
    async with Pool() as pool:
        metrics = observe(pool)
        job = await pool.submit(asyncio.sleep, 0)
        await job
        return job.outcome(), await pool.cancel(job.id), metrics.snapshot()

outcome, cancelled, snapshot = asyncio.run(main())
report, jobs = HealthMonitor(Pool()).report(), snapshot.jobs["sleep"]
for record in (outcome, cancelled, snapshot.statistics, report, report.findings[0], report.status, jobs, jobs.run):
    assert b"aiopool._" not in pickle.dumps(record), record
    assert pickle.loads(pickle.dumps(record)) == record
"""


def test_records_are_pickled_by_their_public_address():
    """What a pool reports can be sent to another process, and says `aiopool` in its pickle."""
    run = subprocess.run([sys.executable, "-c", RECORDS], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert run.returncode == 0, run.stderr


def test_the_version_is_that_of_the_package():
    """`aiopool.__version__` and the metadata of the installed package say the same."""
    assert aiopool.__version__ == importlib.metadata.version("aiopool")


def assigned(source: str, attribute: str) -> list[int]:
    """The lines in which an attribute of that name is assigned or deleted, `setattr` included."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == attribute and not isinstance(node.ctx, ast.Load):
            lines.append(node.lineno)
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", getattr(node.func, "attr", "")) in ("setattr", "__setattr__")
            and any(isinstance(arg, ast.Constant) and arg.value == attribute for arg in node.args)
        ):
            lines.append(node.lineno)
    return lines


def test_only_the_job_moves_a_job():
    """No line outside of `_jobs/job.py` assigns a job's status; the ast knows."""
    for path in PACKAGE.rglob("*.py"):
        lines = assigned(path.read_text(), "_status")
        assert bool(lines) == (path == PACKAGE / "_jobs" / "job.py"), f"{path.name}: {lines}"


@pytest.mark.parametrize(
    "source",
    ["job._status = 1", "a.job._status += 1", "setattr(job, '_status', 1)", "object.__setattr__(job, '_status', 1)"],
)
def test_every_way_to_assign_it_is_seen(source):
    """The test tests itself."""
    assert assigned(source, "_status") == [1]
    assert not assigned("print(job._status); job.status_ = 1", "_status")


SUBMITTER = "as_executor every from_thread map once run submit submit_nowait with_options"
# What users may call or read, class by class. A new name is a promise: it comes here on purpose.
MEMBERS = {
    "AttemptRecord": "delay ended_time error number seconds started_time to_dict",
    "CancelReport": "ended_ago id leaked status was",
    "Cooldown": "factor hold max_seconds on seconds",
    "Group": f"{SUBMITTER} cancel errors jobs name pause resume",
    "Handlers": "get include names of register",
    "Job": """
        add_done_callback attempt cancel cancelled done exception finished_at finished_time group history id
        idempotency_key key leaked metadata name outcome parent pool_name priority progress remove_done_callback
        report_progress result set_timeout stack started_at started_time status submitted_at submitted_time timeout
        wait waiting_for worker_id
    """,
    "JobOptions": """
        delay group id key layers metadata name offload over priority queue_timeout retry run_at timeout total_timeout
        unique
    """,
    "JobOutcome": """
        attempts error finished_time group history id leaked metadata name ok parent priority reason seconds
        started_time status submitted_time to_dict value waited
    """,
    "LeakedJob": "id name stack",
    "MapResult": "attempts error input job ok seconds value",
    "MapStream": "aclose collect done failed running submitted",
    "Limit": "burst cooldown max_at_once max_per_second window",
    "Pool": f"""
        {SUBMITTER} as_completed cancel cancel_all change_timeout events find finished_jobs fleet get_job group jobs
        join lanes listen name next_jobs on_shutdown pause paused reprioritize resize resized restart_worker resume
        running_jobs scan serve set_limit shutdown size statistics status stop_worker wait_closed workers
    """,
    "Restart": "delay max_delay max_restarts next_delay within",
    "Retry": "attempts backoff budget delay delays factor give_up_on jitter max_delay max_elapsed next_delay on",
    "RetryBudget": "available deposit min_per_second ratio withdraw within",
    "ShutdownReport": "callback_errors cancelled clean failed leaked never_started seconds succeeded timed_out",
    "Submitter": SUBMITTER,
}


@pytest.mark.parametrize("name", MEMBERS)
def test_nothing_is_public_by_accident(name):
    """A class of the face shows what users may call, and nothing of how the pool works."""
    shown = {member for member in dir(getattr(aiopool, name)) if not member.startswith("_")}
    assert shown == set(MEMBERS[name].split())


def test_the_table_has_every_class_with_members_of_its_own():
    """But those of enums, errors and counters, whose members are what they say."""
    plain = (enum.Enum, BaseException, aiopool.Statistics)
    classes = {name for name in NAMES if isinstance(getattr(aiopool, name), type)}
    assert {name for name in classes if not issubclass(getattr(aiopool, name), plain)} == set(MEMBERS)
