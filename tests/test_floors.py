"""Imports point down, and there is no circle: the table of floors, held against the syntax trees of all modules."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiopool

PACKAGE = Path(aiopool.__file__).parent

# From the ground up. A module may import what stands on a lower floor, nothing beside it and nothing above.
# A new module gets a place here: as low as its imports allow.
FLOORS = [
    # words, rules and tools: they import nothing of ours
    "_faults",
    "_hooks",
    "errors _status _numbers _eager _queue _waiters _statistics _bridge _signals _notifier _file_trust",
    "services._process_posix _daemon_thread",
    "_restart _retry_budget _runtime services._calls services._process services._die_with_parent services._status",
    "settings._files settings._text settings._layer",
    "_retry",
    # what can be said about a job
    "events _options _scope _timetable from_thread",
    "_plan _health _limits _orphans _loop_lag",
    "_health_watch",
    "settings._kinds",
    "_job settings._sources",
    "_metrics _loans _labels _error_sink _ending",
    "_teller _joiners",
    "_listeners _room",
    "_logs",
    # the books
    "_engine",
    # hands
    "_worker",
    "_scope_worker",
    "_supervisor",
    # the pool
    "_home _shutdown",
    "_survey _block",
    "_map_feed",
    "_map",
    "_submitter",
    "_group",
    "_pool",
    "settings._pool_settings",
    "settings",
    # companions
    "services._families services._pidfile services._exit_handlers",
    "services._command services._kind",
    "services._service services._object_kind services._task_kinds services._process_kinds",
    "services._adapt services._stop services._table",
    "services._monitor",
    "services._leftovers",
    "services._registry",
    "services",
    # the program
    "_companions",
    "_lifecycle",
    # the face
    "aiopool",
    # doors: they knock at the face
    "testing._parts testing._report testing._schedule testing._threads cli._board cli._words",
    "testing._loop cli._source instrumentation",
    "testing._runner cli._results cli._target",
    "instrumentation.logging instrumentation.opentelemetry instrumentation.prometheus instrumentation.system",
    "testing._explore testing._failing testing._leaks testing._waiting cli._work",
    "testing cli._map cli._settings",
    "pytest_plugin cli._app",
    "cli",
    "__main__",
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names.split()}
FACE = "aiopool"
DOORS = ("testing", "cli", "instrumentation", "pytest_plugin", "__main__")

# Imports of ours inside a function, each with its reason.
LATE = {
    ("_listeners", "_teller"): "the classes of events take long to make, and most programs have no listener",
    ("_pool", "_logs"): "it names all classes of events, and logs are off until they are asked for",
    ("_pool", "_survey"): "metrics and health are off until they are asked for",
    ("_survey", "_metrics"): "a probe of health does not load what measures jobs",
    ("services._process", "services._process_posix"): "psutil is not loaded on Linux, where it is slow",
    ("_supervisor", "_scope_worker"): "a pool of tasks does not need anyio's event loop backend",
}


def short(module: str) -> str:
    """`aiopool._job` is `_job`, and `aiopool` itself is the face."""
    return module.removeprefix("aiopool.")


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


def test_each_module_has_its_floor():
    """Each module stands in the table, once, and the table names no module that is not there."""
    listed = [name for names in FLOORS for name in names.split()]
    assert len(listed) == len(set(listed))
    missing = modules().keys() - set(listed)
    assert not missing, f"give {sorted(missing)} a floor in tests/test_floors.py"
    assert not set(listed) - modules().keys()


def test_imports_point_down():
    """Design rule 2: no import points upward or sideways, type-only imports and those inside functions included."""
    wrong = [
        f"{module}:{line} imports {target}, which stands on floor {FLOOR[target]}, from floor {FLOOR[module]}"
        for module, target, line, _ in arrows()
        if FLOOR.get(target, -1) >= FLOOR.get(module, 99)
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_inside_imports_the_face():
    """Design rule 3: the face re-exports; only the doors import it."""
    wrong = [f"{module}:{line}" for module, target, line, _ in arrows() if target == FACE and not door(module)]
    assert not wrong


def door(module: str) -> bool:
    return module.split(".")[0] in DOORS


def test_inside_functions_only_with_a_reason():
    """An import of ours inside a function hides an arrow: each is listed with its reason. (The doors load lazily.)"""
    late = {(module, target) for module, target, _, inside in arrows() if inside and not door(module)}
    assert late == set(LATE)


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("import aiopool", False, "aiopool"),
        ("import aiopool._pool as p", False, "_pool"),
        ("from aiopool import _pool", False, "_pool"),
        ("from aiopool import Pool", False, "aiopool"),
        ("from aiopool._pool import Pool", False, "_pool"),
        ("from . import _pool", False, "_pool"),
        ("from ._pool import Pool", False, "_pool"),
        ("from .testing import _loop", True, "testing._loop"),
        ("if TYPE_CHECKING:\n    from aiopool._pool import Pool", False, "_pool"),
        ("def f():\n    import aiopool._pool", False, "_pool"),
        ("import asyncio, aiopoolish", False, None),
    ],
)
def test_every_way_to_write_an_import_is_seen(source, package, found):
    """The test tests itself: an upward arrow is found, however it is written."""
    module = FACE if package else "_job"
    seen = [target for target, _, _ in imports(source, module, set(modules()), package=package)]
    assert seen == ([] if found is None else [found])


# What `import aiopool` loads of ours: what a pool needs to run jobs, and nothing that only some programs use. A module
# that is added here costs every program its time, and start-up is promised to be short (docs: what a job costs).
LOADED = """
    errors from_thread _block _bridge _eager _ending _engine _error_sink _faults _group _health_watch _home _hooks _job
    _joiners _labels _limits _listeners _loans _loop_lag _map _map_feed _numbers _options _plan _pool _queue _restart
    _retry _retry_budget _room _runtime _scope _shutdown _signals _statistics _status _submitter _supervisor
    _timetable _waiters _worker
"""


def run_alone(script: str) -> set[str]:
    """Run a script in a fresh interpreter, and return the words that it prints."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_import_is_light():
    """Design §5, SC5: `import aiopool` loads the standard library and anyio, and starts nothing."""
    others = run_alone(
        "import sys, threading; before = set(sys.modules); import aiopool; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names)); "
        "assert threading.active_count() == 1"
    )
    assert others <= {"aiopool", "anyio", "idna", "sniffio", "typing_extensions", "exceptiongroup"}


def test_the_import_loads_what_every_pool_needs_and_nothing_else():
    """Events, metrics, health, logs and `run` come with their first use, and so does what stands on other libraries."""
    ours = run_alone("import sys, aiopool; print(*(m for m in sys.modules if m.startswith('aiopool.')))")
    assert {short(module) for module in ours} == set(LOADED.split())


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


def test_a_child_that_dies_with_its_parent_starts_quickly():
    """`die_with_parent` comes without the registry: nothing but ctypes is loaded for it."""
    script = (
        "import sys, aiopool; before = set(sys.modules); aiopool.die_with_parent; "
        "print(*sorted({m for m in set(sys.modules) - before if 'ctypes' not in m}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert run.stdout.split() == ["aiopool.services", "aiopool.services._die_with_parent"]
