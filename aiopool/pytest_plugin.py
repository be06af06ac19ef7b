"""pytest fixtures: an open `pool`, and `virtual_time`.

    async def test_three_attempts(pool, virtual_time):
        job = await pool.with_options(retry=Retry(attempts=3)).submit(flaky)
        await virtual_time.advance(60)
        assert job.attempt == 3

Works with pytest-asyncio (1.4 or later, both modes) and with anyio's plugin on its asyncio backend. What it
knows is how each of them is told which event loop to use and in which loop a fixture has to run; what a
virtual clock is, `aiopool.testing` knows.

Invariant: a test that asks for nothing of this is run exactly as without the plugin, and nothing of
`aiopool` is imported for it
beyond what imports this module: everything else comes with the first use.
"""

from __future__ import annotations

import sys
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, final, get_args

import pytest

if TYPE_CHECKING:  # at run time these come with the first use
    from aiopool import Pool

    from .testing import VirtualLoop

__all__ = ["VirtualTime"]

_POOL_OPTIONS = pytest.StashKey[dict[str, Any]]()
_LOOPS_MADE = pytest.StashKey[list[str]]()
_LoopScope = Literal["function", "class", "module", "package", "session"]

# Jobs of a test that is over get this long to end by themselves, and as long again after they were
# cancelled. In virtual time exactly; otherwise long enough for a loaded machine, short enough for a suite
# full of failures.
_SHUTDOWN_TIMEOUT = 1.0


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, and the fixtures that need pytest-asyncio if it is there."""
    config.addinivalue_line("markers", "aiopool(**options): options of the Pool behind the fixture `pool`")
    config.addinivalue_line(
        "markers",
        "virtual_time(**options): run the test on a VirtualLoop(**options), e.g. seed=162, mode='tasks'",
    )
    if _has_pytest_asyncio(config):
        config.pluginmanager.register(_asyncio_fixtures(), "aiopool-asyncio")


# -- virtual time ------------------------------------------------------------------------------------------


@final
class VirtualTime:
    """The clock of the running test; the value of the fixture `virtual_time`.

    Example:
        @pytest.mark.virtual_time(seed=162, mode="tasks")
        async def test_an_hour(virtual_time):
            await virtual_time.advance(3600)
            assert virtual_time.now == 3600
    """

    @property
    def loop(self) -> VirtualLoop:
        """The running loop: its trace, its seed, `hold_clock()`.

        Raises:
            RuntimeError: no loop is running, or it is not a virtual one.
        """
        from .testing._runner import running_virtual_loop

        return running_virtual_loop("virtual_time")

    @property
    def now(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.loop.time()

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass; see `aiopool.testing.advance`."""
        from .testing import advance

        await advance(seconds)

    async def settle(self) -> None:
        """Let everything run that is ready, without moving the clock; see `aiopool.testing.settle`."""
        from .testing import settle

        await settle()


@pytest.fixture
def virtual_time() -> VirtualTime:
    """Run this test on a loop whose clock jumps: no waiting, exact times, deadlocks are found.

    Give the loop its options by the mark, which alone is enough, too: `@pytest.mark.virtual_time(seed=162,
    mode="tasks")`. For what threads and sockets do in virtual time see `aiopool.testing`.
    """
    return VirtualTime()


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Iterator[None]:
    """Tell both asynchronous plugins which loop a test in virtual time wants, each in its own way."""
    mark = metafunc.definition.get_closest_marker("virtual_time")
    if mark is None and "virtual_time" not in metafunc.fixturenames:
        return (yield)
    factory = _loop_factory(metafunc.config, mark)
    if "anyio_backend" in metafunc.fixturenames:
        _choose_anyio_backend(metafunc, factory)
    if not _has_pytest_asyncio(metafunc.config):
        return (yield)
    # pytest-asyncio asks a hook, and an implementation that stayed registered would answer for every test.
    chooser = _LoopChooser(factory)
    pluginmanager = metafunc.config.pluginmanager
    if not hasattr(metafunc.config.hook, "pytest_asyncio_loop_factories"):
        if "anyio_backend" in metafunc.fixturenames:
            return (yield)
        pytest.fail("virtual time needs pytest-asyncio 1.4 or later: older ones cannot be told a loop", pytrace=False)
    pluginmanager.register(chooser)
    try:
        return (yield)
    finally:
        pluginmanager.unregister(chooser)


@final
class _LoopChooser:
    """A plugin for the duration of one call: the answer to pytest-asyncio's question for a loop."""

    def __init__(self, factory: Callable[[], VirtualLoop]) -> None:
        self._factory = factory

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_asyncio_loop_factories(self) -> Mapping[str, Callable[[], VirtualLoop]]:
        return {"virtual": self._factory}


def _choose_anyio_backend(metafunc: pytest.Metafunc, factory: Callable[[], VirtualLoop]) -> None:
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
        if "anyio_backend" in (names.replace(",", " ").split() if isinstance(names, str) else names):
            pytest.fail(
                "virtual time chooses the backend itself: take `anyio_backend` out of this parametrize",
                pytrace=False,
            )
    # A mark, since only that takes the place of the parameters that the fixture itself may have.
    backend = ("asyncio", {"loop_factory": factory})
    hidden = getattr(pytest, "HIDDEN_PARAM", "virtual")  # pytest 8.4
    metafunc.definition.add_marker(pytest.mark.parametrize("anyio_backend", [backend], ids=[hidden]))


def _loop_factory(config: pytest.Config, mark: pytest.Mark | None) -> Callable[[], VirtualLoop]:
    if mark is not None and mark.args:
        pytest.fail(f"pytest.mark.virtual_time takes keywords only: write seed={mark.args[0]!r}", pytrace=False)
    options = {} if mark is None else dict(mark.kwargs)

    def virtual_loop() -> VirtualLoop:
        from .testing import VirtualLoop

        loop = VirtualLoop(**options)
        if loop.mode != "fifo":
            config.stash.setdefault(_LOOPS_MADE, []).append(
                f"replay: @pytest.mark.virtual_time(seed={loop.seed}, mode={loop.mode!r})"
            )
        return loop

    return virtual_loop


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget the loops of the test before."""
    item.config.stash[_LOOPS_MADE] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say with which seed a failed test ran, if a schedule was drawn for it."""
    report = yield
    loops = item.config.stash.get(_LOOPS_MADE, [])
    if report.failed and loops:
        report.sections.append(("virtual time", "\n".join(loops)))
    return report


# -- the pool ----------------------------------------------------------------------------------------------


@pytest.fixture
def pool(request: pytest.FixtureRequest) -> Pool:
    """An open `Pool`, shut down after the test: its jobs get a second to end, and one more after they were
    cancelled.

    The options come from the mark `@pytest.mark.aiopool(size=3)` (class and module marks too; the nearest
    one wins, option by option), and from an
    indirect parameter: `@pytest.mark.parametrize("pool", [{"size": 1}], indirect=True)`.

    The teardown fails the test if a job could not be ended, and leaves it behind.
    """
    options: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("aiopool"))):
        if mark.args:
            pytest.fail(f"pytest.mark.aiopool takes keywords only: write size={mark.args[0]!r}", pytrace=False)
        options |= mark.kwargs
    options |= getattr(request, "param", {})
    request.node.stash[_POOL_OPTIONS] = options
    opened: Pool = request.getfixturevalue(_pool_fixture(request))
    return opened


def _pool_fixture(request: pytest.FixtureRequest) -> str:
    """Return the name of the fixture that opens a pool in the loop in which this test will run."""
    if _has_pytest_asyncio(request.config):
        import pytest_asyncio

        if pytest_asyncio.is_async_test(request.node):
            mark = request.node.get_closest_marker("asyncio")
            given = None if mark is None else mark.kwargs.get("loop_scope") or mark.kwargs.get("scope")
            return f"_aiopool_in_{given or request.config.getini('asyncio_default_test_loop_scope')}_loop"
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        name = backend if isinstance(backend, str) else backend[0]
        if name != "asyncio":
            pytest.fail(
                f"the fixture `pool` runs on asyncio, and this test on {name}: write a fixture `anyio_backend` that "
                'returns "asyncio"',
                pytrace=False,
            )
        return "_aiopool_in_anyio"
    pytest.fail(
        "the fixture `pool` needs an async test that pytest-asyncio or anyio runs: "
        "write `async def test_…` and mark it with @pytest.mark.asyncio or @pytest.mark.anyio",
        pytrace=False,
    )


async def _opened(request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    import asyncio

    from aiopool import Pool

    # On a virtual loop the pool's own chance (jitter) comes from the seed of the schedule, so that a run repeats.
    chance = {"seed": getattr(asyncio.get_running_loop(), "seed", None)}
    pool = Pool(**chance | request.node.stash[_POOL_OPTIONS])
    await pool.__aenter__()
    yield pool
    report = await pool.shutdown(timeout=_SHUTDOWN_TIMEOUT, grace=_SHUTDOWN_TIMEOUT)
    if report.leaked:
        _forget_leaked(pool)
        jobs = "\n".join(f"{job.name} (id {job.id!r})\n{job.stack}" for job in report.leaked)
        pytest.fail(f"jobs of the fixture `pool` could not be ended:\n{jobs}", pytrace=False)


def _forget_leaked(pool: Pool) -> None:
    """Take the tasks of leaked jobs off asyncio's list: closing the loop would wait for them without a limit."""
    import asyncio

    from aiopool._jobs.job import running_job

    assert pool._state.supervisor is not None
    workers = pool._state.supervisor.busy()
    jobs = {worker.job for worker in workers}
    leaked = {worker.task for worker in workers}
    if sys.version_info >= (3, 12):  # with the tasks that they have started; on 3.11 a task does not tell its context
        leaked |= {task for task in asyncio.all_tasks() if task.get_context().get(running_job) in jobs}
    for task in leaked:
        if task is not None:
            asyncio._unregister_task(task)


@pytest.fixture
async def _aiopool_in_anyio(anyio_backend: object, request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    async for opened in _opened(request):
        yield opened


def _has_pytest_asyncio(config: pytest.Config) -> bool:
    return any(config.pluginmanager.has_plugin(name) for name in ("asyncio", "pytest_asyncio", "pytest_asyncio.plugin"))


def _asyncio_fixtures() -> types.ModuleType:
    """Return a plugin with one pool fixture per scope that a loop of pytest-asyncio may have."""
    import pytest_asyncio

    plugin = types.ModuleType("aiopool.pytest_plugin.asyncio")
    for scope in get_args(_LoopScope):
        name = f"_aiopool_in_{scope}_loop"
        setattr(plugin, name, pytest_asyncio.fixture(loop_scope=scope, name=name)(_opened_afresh()))
    return plugin


def _opened_afresh() -> Callable[[pytest.FixtureRequest], AsyncIterator[Pool]]:
    """Return a new function each time: pytest-asyncio notes the scope in the function itself."""

    async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
        async for pool in _opened(request):
            yield pool

    return opened
