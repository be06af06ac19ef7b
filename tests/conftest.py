"""What the behaviour tests share: the loops that they run on, pools whose counters are checked, leaks, child processes.

`@pytest.mark.loops(...)` (or `pytestmark = ...` for a module) runs an async test once on each loop named:

    "virtual"  a clock that jumps, plain and with the eager task factory (3.12+): for all that has to do with time
    "real"     asyncio's own loop, the same with the eager task factory (3.12+), and uvloop: for all that has not
    "uvloop"   uvloop alone, beside "virtual", which is a loop of asyncio's too

`@pytest.mark.loops("real", long=("eager",))` leaves some of these loops, by name, to the long run.

After each of these tests nothing may be left: no task, timer, thread, signal handler, and no report to the loop's
exception handler. `@pytest.mark.leaves_behind(reason)` takes a test out of that check.

A test that asks for `isolation` or `new_pool` is run with the default isolation; under the mark `both_isolations`,
which modules and tests have where the two can differ, for both kinds of workers.
"""

import asyncio
import functools
import gc
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from helpers import BOTH, assert_counters_balance
from hypothesis import HealthCheck, settings

import aiopool
from aiopool import Pool, PoolStatus
from aiopool.testing import VirtualLoop, assert_no_leaks

try:
    import uvloop
except ImportError:  # not on every platform
    uvloop = None

# A machine that is busy makes examples slowly, and that is no fault of theirs.
settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")

# A shell lets what it runs in the background ignore SIGINT, and so would every program that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs are started by the hundred: none of them compiles the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

EAGER = sys.version_info >= (3, 12)
ROOT = Path(aiopool.__file__).parents[1]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def _eager(factory: LoopFactory) -> LoopFactory:
    def make() -> asyncio.AbstractEventLoop:
        loop = factory()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    return make


def _factories() -> dict[str, dict[str, LoopFactory]]:
    virtual: dict[str, LoopFactory] = {"virtual": VirtualLoop}
    real: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if EAGER:
        virtual["virtual-eager"] = _eager(VirtualLoop)
        real["eager"] = _eager(asyncio.new_event_loop)
    if uvloop is not None:
        real["uvloop"] = uvloop.new_event_loop
    return {"virtual": virtual, "real": real, "uvloop": {name: real[name] for name in real if name == "uvloop"}}


LOOPS = _factories()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", 'loops(*kinds, long=()): run on each loop of these kinds: "virtual", "real", "uvloop"'
    )
    config.addinivalue_line("markers", "both_isolations: run for both kinds of workers")
    config.addinivalue_line("markers", "leaves_behind(reason): no check for leaks after this test")
    # A shell's background jobs inherit that SIGINT is ignored, and so would each program that a test starts: those that
    # wait to be interrupted would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """With `-n auto`, two for each processor: a test of a program waits for a good part of its time."""
    return 2 * (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, whoever has nothing left to do takes over half of what another has: the slow files stand together."""
    if config.getoption("dist") != "load":
        return None  # as it was asked for
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Iterator[None]:
    mark = metafunc.definition.get_closest_marker("loops")
    kinds = [] if mark is None else mark.args
    # pytest-asyncio asks a hook, and an implementation that stayed would answer for every other test, too.
    chooser = _LoopChooser({name: loop for kind in kinds for name, loop in LOOPS[kind].items()})
    if mark is not None:
        metafunc.config.pluginmanager.register(chooser)
    try:
        result = yield
    finally:
        if mark is not None:
            metafunc.config.pluginmanager.unregister(chooser)
    # Last: the loop is the first parameter, by which those of the long run are known.
    if "isolation" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_isolations"):
        given = [name for mark in metafunc.definition.iter_markers("parametrize") for name in _names(mark.args[0])]
        if "isolation" not in given:
            metafunc.parametrize("isolation", BOTH, indirect=True)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        mark = item.get_closest_marker("loops")
        if mark is None or "long" not in mark.kwargs or not isinstance(item, pytest.Function):
            continue
        # The loop is the first parameter of a test, unless there is one loop only; and one name begins as another does.
        names = sorted((name for kind in mark.args for name in LOOPS[kind]), key=len, reverse=True)
        words = f"{item.callspec.id}-" if hasattr(item, "callspec") else ""
        if next((name for name in names if words.startswith(f"{name}-")), None) in mark.kwargs["long"]:
            item.add_marker("long")


def _names(arguments: str | Sequence[str]) -> list[str]:
    """The names of a `parametrize`, which takes them as one text, too."""
    return [name.strip() for name in arguments.split(",")] if isinstance(arguments, str) else list(arguments)


class _LoopChooser:
    def __init__(self, factories: dict[str, LoopFactory]) -> None:
        self._factories = factories

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_asyncio_loop_factories(self) -> Mapping[str, LoopFactory]:
        return self._factories


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[Any]:
    # What was there before a test need not be looked at: a collection of all test modules takes tenths of a second.
    gc.freeze()
    try:
        return (yield)
    finally:
        gc.unfreeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = item.get_closest_marker("loops") and not item.get_closest_marker("leaves_behind")
    if wanted and isinstance(item, pytest.Function) and pytest_asyncio.is_async_test(item):
        item.obj = _leaving_nothing(item.obj)


def _leaving_nothing(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def checked(*args: Any, **kwargs: Any) -> None:
        async with assert_no_leaks():
            await test(*args, **kwargs)

    return checked


@pytest.fixture
def isolation(request: pytest.FixtureRequest) -> str:
    """The kind of containment."""
    kind: str = getattr(request, "param", "task")
    return kind


@pytest.fixture(params=["a third", pytest.param("the others", marks=pytest.mark.long)])
def seeds(request: pytest.FixtureRequest) -> Callable[[int], range]:
    """Of so many seeds, a third every time, and the others in the long run."""
    if request.param == "a third":
        return lambda count: range(count // 3)
    return lambda count: range(count // 3, count)


@pytest.fixture
def new_pool(isolation: str) -> Iterator[Callable[..., Pool]]:
    """Make pools; at the end the counters of each balance, and no slot is missing."""
    made: list[Pool] = []

    def make(size: int = 2, queue_size: int | None = 1000, **options: Any) -> Pool:
        made.append(Pool(size, queue_size, isolation=options.pop("isolation", isolation), **options))
        return made[-1]

    yield make
    for pool in made:
        if pool.status is PoolStatus.NEW:
            continue
        assert_counters_balance(pool)
        if pool.status is PoolStatus.CLOSED and not (leaked := pool.statistics().leaked):
            assert pool.jobs() == []
            assert pool.statistics().busy == leaked
            assert pool.statistics().waiting == 0


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a script in a Python of its own; its output is in `stdout` and `stderr`."""

    def start(source: str, *args: str) -> subprocess.Popen[str]:
        script = tmp_path / "child.py"
        script.write_text(textwrap.dedent(source))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [sys.executable, "-W", "error", str(script), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    return start
