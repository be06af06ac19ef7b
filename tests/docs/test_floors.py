"""Imports point down, between the rooms and inside of each, and there is no circle.

`ROOMS` is the one table that is kept by hand: the packages and public modules, from the ground up. Everything else is
read from the syntax trees of all modules, type-only imports and those inside functions included.
"""

import ast
import functools
import graphlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiopool

PACKAGE = Path(aiopool.__file__).parent
FACE = "aiopool"

# From the ground up: a room may import what stands before it, and nothing behind it.
ROOMS = """
    errors _runtime stores from_thread _jobs layers events _observe _engine _pool fleet blocking metrics health
    records workers inspection _control settings services sizing _program _durable aiopool
    testing instrumentation avtomatika pytest_plugin _plan _torture web cli __main__
""".split()
# Rooms that stand above the face and use it as a user does.
DOORS = ROOMS[ROOMS.index(FACE) + 1 :]

# Imports of ours inside a function, each with its reason.
LATE = {
    ("_engine.supervisor", "_engine.scope_worker"): "a pool of tasks does not need anyio's event loop backend",
    (
        "_observe.observers",
        "_observe.emitter",
    ): "the classes of events take long to make, and most programs have no listener",
    ("_pool.pool", "_observe.finished_jobs"): "most programs do not ask for jobs that have ended",
    ("_engine.supervisor", "_engine.resource"): "few pools have workers that hold a resource",
    ("_pool.pool", "_engine.resource"): "the same",
    ("_pool.pool", "_engine.watchdog"): "few pools have one",
    ("_pool.pool", "_engine.worker_info"): "few programs count what each worker does",
    ("_pool.pool", "_pool.workers"): "few programs look at workers, and stop one by hand",
    ("_jobs.records", "_jobs.json_values"): "few programs make dicts of their records",
    ("_pool.submitter", "_jobs.schedules"): "few programs submit at moments",
    ("_pool.submitter", "_pool.once"): "few programs share calls",
    ("_pool.submitter", "_pool.periodic"): "few programs submit at moments",
    ("_pool.submitter", "_pool.executor"): "few programs hand in jobs by an executor",
    ("_pool.submitter", "_pool.thread_submitter"): "few programs hand in jobs from other threads",
    ("_pool.submitter", "_runtime.pickled_call"): "few programs send jobs to processes",
    ("_pool.runners", "_jobs.remote"): "the same",
    ("_pool.runners", "_runtime.processes"): "the same; `multiprocessing` takes as long to import as asyncio",
    ("_pool.runners", "_runtime.interpreters"): "the same",
    ("_pool.runners", "_runtime.dask"): "few programs have a Dask cluster",
    ("_pool.pool", "_runtime.dask"): "the same",
    ("_engine.resizing", "_engine.adapter"): "few pools have a size that changes by itself",
    ("_engine.resizing", "_engine.autoscaler"): "the same",
    ("_engine.resizing", "_jobs.adaptive"): "the same",
    ("_engine.resizing", "_jobs.autoscale"): "the same",
    ("_durable.handlers", "_durable.payloads"): "pydantic is loaded with the first job of a store",
    ("_durable.attempts", "_runtime.pickled_call"): "few functions run in processes",
    ("aiopool", "_durable.client"): "most programs have no store",
    ("_control.face", "_control.paths"): "few programs open the door",
    ("_control.face", "_control.server"): "the same",
    ("_control.face", "_control.verbs"): "the same",
    ("_program.run", "_program.orphans"): "only process 1 of a container reaps orphans",
    ("settings._pool_settings", "_observe.logs"): "logs are off until they are asked for",
    ("services._process", "services._process_posix"): "psutil is not loaded on Linux, where it is slow",
}


def short(module: str) -> str:
    """`aiopool._jobs.job` is `_jobs.job`, and `aiopool` itself is the face."""
    return module.removeprefix("aiopool.")


def room(module: str) -> str:
    """Return the room of a module: `_jobs` of `_jobs.job`."""
    return module.partition(".")[0]


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[short(".".join(parts[:-1] if parts[-1] == "__init__" else parts))] = path
    return found


def imports(source: str, module: str, known: set[str], *, package: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Each import of ours: what, in which line, and whether inside a function; type-only ones count."""
    tree = ast.parse(source)
    late = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(outer)
    }
    full = FACE if module == FACE else f"{FACE}.{module}"
    home = full if package else full.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = home.rsplit(".", node.level - 1)[0] if node.level > 1 else home
                base = f"{above}.{base}" if base else above
            names = []
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                names.append(inner if short(inner) in known and base.split(".")[0] == FACE else base)
        else:
            continue
        for name in names:
            if name == FACE or name.startswith(f"{FACE}."):
                yield short(name), node.lineno, node in late


@functools.cache
def arrows() -> list[tuple[str, str, int, bool]]:
    known = modules()
    return [
        (module, target, line, late)
        for module, path in known.items()
        for target, line, late in imports(path.read_text(), module, set(known), package=path.name == "__init__.py")
        if target != module
    ]


def test_each_module_has_its_room():
    """The table names each room once, and no room that is not there."""
    assert len(ROOMS) == len(set(ROOMS))
    assert {room(module) for module in modules()} == set(ROOMS)


def test_imports_between_rooms_point_down():
    """No room imports one that stands above it."""
    floor = {name: number for number, name in enumerate(ROOMS)}
    wrong = [
        f"{module}:{line} imports {target}: {room(target)} stands above {room(module)}"
        for module, target, line, _ in arrows()
        if floor[room(target)] > floor[room(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle_inside_a_room():
    """The modules of a room can be put in an order in which each uses only those before it."""
    graph: defaultdict[str, set[str]] = defaultdict(set)
    for module, target, _, _ in arrows():
        # A package's `__init__` gathers what is in it: that is its use, and no arrow back.
        if room(module) == room(target) and target != room(target):
            graph[module].add(target)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_nothing_inside_imports_the_face():
    """The face re-exports; only the doors import it."""
    wrong = [f"{module}:{line}" for module, target, line, _ in arrows() if target == FACE and not door(module)]
    assert not wrong


def door(module: str) -> bool:
    return room(module) in DOORS


def test_inside_functions_only_with_a_reason():
    """An import of ours inside a function hides an arrow: each is listed with its reason. (The doors load lazily.)"""
    late = {(module, target) for module, target, _, inside in arrows() if inside and not door(module)}
    assert late == set(LATE)


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("import aiopool", False, "aiopool"),
        ("import aiopool._pool.pool as p", False, "_pool.pool"),
        ("from aiopool import _pool", False, "_pool"),
        ("from aiopool import Pool", False, "aiopool"),
        ("from aiopool._pool.pool import Pool", False, "_pool.pool"),
        ("from aiopool._pool import pool", False, "_pool.pool"),
        ("from .. import _pool", False, "_pool"),
        ("from .._pool.pool import Pool", False, "_pool.pool"),
        ("from .testing import _loop", True, "testing._loop"),
        ("if TYPE_CHECKING:\n    from aiopool._pool.pool import Pool", False, "_pool.pool"),
        ("def f():\n    import aiopool._pool.pool", False, "_pool.pool"),
        ("import asyncio, aiopoolish", False, None),
    ],
)
def test_every_way_to_write_an_import_is_seen(source, package, found):
    """The test tests itself: an upward arrow is found, however it is written."""
    module = FACE if package else "_jobs.job"
    seen = [target for target, _, _ in imports(source, module, set(modules()), package=package)]
    assert seen == ([] if found is None else [found])


# What `import aiopool` loads of ours: what a pool needs to run jobs, and nothing that only some programs use. A module
# that is added here costs every program its time, and start-up is promised to be short (docs: what a job costs).
LOADED = """
    _control _control.face _durable _durable.handlers _engine _engine.admission _engine.caller _engine.chores
    _engine.current_worker _engine.deadlines _engine.endings _engine.engine _engine.error_reporter _engine.groups
    _engine.job_ids
    _engine.join_waiters _engine.lanes _engine.lending _engine.outside _engine.queue _engine.resizing _engine.slots
    _engine.supervisor _engine.walk _engine.worker _jobs _jobs.callables _jobs.checks _jobs.fair_shares _jobs.job
    _jobs.layered _jobs.lease _jobs.limits _jobs.match _jobs.options _jobs.outcome _jobs.records _jobs.restart
    _jobs.retry _jobs.retry_budget _jobs.size_rule _jobs.spec _jobs.statistics _jobs.status _jobs.stop _jobs.waiters
    _observe _observe.observer _observe.observers _pool _pool.block _pool.bulk_cancel _pool.cancel_report
    _pool.completed _pool.durability _pool.group _pool.job_scan _pool.lanes _pool.map _pool.map_feed _pool.open_pools
    _pool.pool _pool.runners _pool.shutdown _pool.state _pool.submitter _program _program.run _program.service_sequence
    _program.systemd _runtime _runtime.eager _runtime.faults _runtime.hooks _runtime.keywords _runtime.loop_lag
    _runtime.public _runtime.registration _runtime.runners _runtime.runtime _runtime.signals _runtime.sorted_rows
    _runtime.threads _runtime.timers _runtime.validation errors events from_thread
"""


def run_alone(script: str) -> set[str]:
    """Run a script in a fresh interpreter, and return the words that it prints."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_import_is_light():
    """`import aiopool` loads the standard library and anyio, and starts nothing."""
    others = run_alone(
        "import sys, threading; before = set(sys.modules); import aiopool; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names)); "
        "assert threading.active_count() == 1"
    )
    assert others <= {"aiopool", "anyio", "idna", "sniffio", "typing_extensions", "exceptiongroup"}


def test_the_import_loads_what_every_pool_needs_and_nothing_else():
    """Metrics, health, logs and services come with their import, and so does what stands on other libraries."""
    ours = run_alone("import sys, aiopool; print(*(m for m in sys.modules if m.startswith('aiopool.')))")
    assert {short(module) for module in ours} == set(LOADED.split())


def test_a_pool_of_the_fast_lane_loads_anyios_backend_when_it_opens():
    """With the first job it would hold the event loop for as long as an import takes."""
    loaded = run_alone(
        "import asyncio, sys, aiopool\n"
        "async def main():\n"
        "    async with aiopool.Pool(isolation='scope'): print(*sys.modules)\n"
        "asyncio.run(main())"
    )
    assert "anyio._backends._asyncio" in loaded


WHOLE_LIFE = """
import asyncio, sys, time
import aiopool

async def main():
    async with aiopool.Pool(2, retry=aiopool.Retry(attempts=2)) as pool:
        await pool.map(asyncio.sleep, [0] * 10).collect()
        await pool.run(time.sleep, 0)
        await pool.submit(asyncio.sleep, 60)
        pool.resize(1)
        pool.statistics()
        await pool.cancel_all("enough")
        await pool.shutdown(timeout=1)

asyncio.run(main())
print(*(m for m in sys.modules if m.startswith("aiopool.")))
"""


def test_the_life_of_a_pool_loads_nothing_more():
    """Where nobody listens, measures or asks, a pool needs no more from its opening to its end than the import gave."""
    assert {short(module) for module in run_alone(WHOLE_LIFE)} == set(LOADED.split())


def test_no_two_files_of_tests_have_one_name():
    """pytest imports them by their names alone: of two, one would not be collected."""
    names = [path.name for path in (PACKAGE.parent / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})
