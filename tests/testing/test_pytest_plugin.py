"""The pytest plugin, in pytests of their own: under pytest-asyncio in both modes, and under anyio."""

import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import aiopool

pytest_plugins = ["pytester"]

_ROOT = Path(aiopool.__file__).parents[1]
_INSTALLED = any(entry.name == "aiopool" for entry in entry_points(group="pytest11"))

_OURS = ("-p", "aiopool.pytest_plugin")
_ASYNCIO = ("-p", "pytest_asyncio.plugin")
_ANYIO = ("-p", "anyio.pytest_plugin")

# name → the mark of a test, the decorator of an async fixture, the plugins (None: all that are installed), options
MODES = {
    "asyncio-strict": (
        "@pytest.mark.asyncio",
        "@pytest_asyncio.fixture",
        (*_OURS, *_ASYNCIO),
        ("--asyncio-mode=strict",),
    ),
    "asyncio-auto": ("", "@pytest.fixture", (*_OURS, *_ASYNCIO, *_ANYIO), ("--asyncio-mode=auto",)),
    "anyio": ("@pytest.mark.anyio", "@pytest.fixture", (*_ANYIO, *_OURS), ()),
    "anyio beside asyncio": ("@pytest.mark.anyio", "@pytest.fixture", None, ("--asyncio-mode=strict",)),
    "neither": ("", "", _OURS, ()),
}


class Inner:
    """A pytest run inside this one, in its own process, with one of the modes."""

    def __init__(self, pytester, monkeypatch, mode):
        self._pytester = pytester
        self.mark, self._fixture, plugins, self._args = MODES[mode]
        if plugins is None:  # as whoever installs us has them; to find and load them takes two seconds
            plugins = () if _INSTALLED else _OURS
        else:
            monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        self._plugins = plugins
        monkeypatch.setenv("PYTHONPATH", str(_ROOT))
        monkeypatch.delenv("AIOPOOL_SEEDS", raising=False)
        loop_scope = "asyncio_default_fixture_loop_scope = function"
        options = [loop_scope] if any("asyncio-mode" in option for option in self._args) else []
        pytester.makeini("\n".join(["[pytest]", "addopts = --strict-markers", "filterwarnings = error", *options]))

    def run(self, source, *args):
        """Run `source`, in which MARK and FIXTURE stand for what this mode wants."""
        head = "import asyncio\nimport pytest\n"
        if "pytest_asyncio" in self._fixture:
            head += "import pytest_asyncio\n"
        if "anyio" in self.mark:
            head += "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
        source = textwrap.dedent(source).replace("@MARK\n", f"{self.mark}\n" if self.mark else "")
        self._pytester.makepyfile(test_inner=head + source.replace("@FIXTURE\n", f"{self._fixture}\n"))
        return self._pytester.runpytest_subprocess(*self._plugins, *self._args, *args, timeout=60)


# The two others are long: many tests below run in the second mode, and whoever has all plugins waits for them to load.
@pytest.fixture(
    params=[
        "asyncio-strict",
        "anyio",
        pytest.param("asyncio-auto", marks=pytest.mark.long),
        pytest.param("anyio beside asyncio", marks=pytest.mark.long),
    ]
)
def inner(request, pytester, monkeypatch):
    return Inner(pytester, monkeypatch, request.param)


@pytest.fixture
def auto(pytester, monkeypatch):
    return Inner(pytester, monkeypatch, "asyncio-auto")


def test_virtual_time_reaches_the_test_and_its_fixtures_and_no_other_test(inner):
    """The mark, the fixture, both, and neither; an async fixture shares the loop of its test.

    A test that would hang for ever says where, and the next one runs. A failure names the seed that was drawn; in
    asyncio's own order there is nothing to tell.
    """
    result = inner.run("""
        from aiopool.testing import VirtualLoop

        @FIXTURE
        async def opened():
            await asyncio.sleep(60)
            loop = asyncio.get_running_loop()
            yield loop
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(60)

        @MARK
        async def test_before():
            assert not isinstance(asyncio.get_running_loop(), VirtualLoop)

        @MARK
        async def test_an_hour(virtual_time):
            await asyncio.sleep(3600)
            assert virtual_time.now == 3600
            await virtual_time.advance(60)
            await virtual_time.settle()
            assert virtual_time.now == 3660
            assert virtual_time.loop is asyncio.get_running_loop()
            assert virtual_time.loop.mode == "fifo"

        @MARK
        @pytest.mark.virtual_time(seed=162, mode="tasks")
        async def test_the_mark_alone():
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            assert (loop.seed, loop.mode) == (162, "tasks")
            await asyncio.sleep(10**9)

        @MARK
        @pytest.mark.virtual_time(seed=0)
        @pytest.mark.parametrize("number", [1, 2])
        async def test_both_with_parameters(virtual_time, opened, number):
            assert opened is virtual_time.loop
            assert virtual_time.loop.seed == 0
            assert virtual_time.now == 60

        @MARK
        async def test_stuck(virtual_time):
            await asyncio.Event().wait()

        @MARK
        @pytest.mark.virtual_time(mode="tasks")
        async def test_fails():
            print("seed", asyncio.get_running_loop().seed)
            assert not "here"

        @MARK
        async def test_fails_in_order(virtual_time):
            assert not "there"

        @MARK
        async def test_after():
            assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
    """)
    result.assert_outcomes(passed=6, failed=3)
    result.stdout.fnmatch_lines(["*DeadlockError: nothing is ready*", "*await asyncio.Event().wait()*"])
    seed = next(line.split()[1] for line in result.outlines if line.startswith("seed "))
    replays = [line for line in result.outlines if line.startswith("replay:")]
    assert replays == [f"replay: @pytest.mark.virtual_time(seed={seed}, mode='tasks')"]


def test_the_fixture_outside_virtual_time_says_what_to_do(auto):
    """`getfixturevalue` inside the test comes too late to choose a loop."""
    result = auto.run("""
        async def test_too_late(request):
            with pytest.raises(RuntimeError, match="give the test the fixture `virtual_time`"):
                await request.getfixturevalue("virtual_time").advance(1)

        def test_without_a_loop(virtual_time):
            with pytest.raises(RuntimeError, match="no running event loop"):
                virtual_time.now
    """)
    result.assert_outcomes(passed=2)


def test_wrong_marks_are_refused_with_the_line_to_write(auto):
    """Positional arguments, and options that do not exist."""
    result = auto.run("""
        @pytest.mark.virtual_time(162)
        async def test_positional():
            pass
    """)
    result.stdout.fnmatch_lines(["*virtual_time takes keywords only: write seed=162*"])
    result = auto.run("""
        @pytest.mark.virtual_time(sed=162)
        async def test_misspelt():
            pass

        @pytest.mark.aiopool(3)
        async def test_positional(pool):
            pass
    """)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*unexpected keyword argument 'sed'*"])
    result.stdout.fnmatch_lines(["*aiopool takes keywords only: write size=3*"])


def test_a_parametrized_backend_and_virtual_time_do_not_mix(pytester, monkeypatch):
    """The message says which of the two to drop."""
    result = Inner(pytester, monkeypatch, "anyio").run("""
        @MARK
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_two_choices(virtual_time):
            pass
    """)
    result.stdout.fnmatch_lines(["*take `anyio_backend` out of this parametrize*"])


def test_backends_of_the_fixture_give_way_to_virtual_time(pytester, monkeypatch):
    """A module that runs on several backends runs its virtual tests once."""
    result = Inner(pytester, monkeypatch, "anyio").run("""
        from aiopool.testing import VirtualLoop

        @pytest.fixture(scope="module", params=[
            pytest.param(("asyncio", {"debug": True}), id="debug"), pytest.param(("asyncio", {}), id="plain"),
        ])
        def anyio_backend(request):
            return request.param

        @MARK
        async def test_twice():
            assert not isinstance(asyncio.get_running_loop(), VirtualLoop)

        @MARK
        async def test_once(virtual_time):
            assert isinstance(asyncio.get_running_loop(), VirtualLoop)
    """)
    result.assert_outcomes(passed=3)


def test_a_loop_shared_by_a_module_may_be_virtual(auto):
    """Time goes on from test to test."""
    result = auto.run("""
        pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.virtual_time]
        loops = []

        async def test_first():
            await asyncio.sleep(60)
            loops.append(asyncio.get_running_loop())

        async def test_second():
            loops.append(asyncio.get_running_loop())
            assert loops[-1].time() in (0, 60)
    """)
    result.assert_outcomes(passed=2)


# -- the pool ----------------------------------------------------------------------------------------------


def test_the_pool_is_open_and_is_closed_after_the_test(inner):
    """Options by mark and by parameter, the nearest mark wins; a job that still runs is ended, not waited for."""
    result = inner.run("""
        import aiopool

        pytestmark = pytest.mark.aiopool(size=3)
        seen = []

        async def double(x):
            await asyncio.sleep(0)
            return 2 * x

        @MARK
        async def test_module_mark(pool):
            seen.append(pool)
            assert await pool.run(double, 21) == 42
            job = await pool.submit(double, 4)
            assert await job == 8
            assert pool.size == 3

        def test_closed_by_now():
            assert seen[0].status == "closed"

        @MARK
        @pytest.mark.aiopool(size=1)
        async def test_nearest_mark(pool):
            assert pool.size == 1
            assert await pool.run(double, 1) == 2

        @MARK
        @pytest.mark.parametrize("pool", [{"size": 5}], indirect=True)
        async def test_parameter(pool):
            assert pool.size == 5
            assert await pool.run(double, 1) == 2

        @MARK
        async def test_virtual(pool, virtual_time):
            job = await pool.submit(asyncio.sleep, 3600, "slept")
            await virtual_time.advance(3599)
            assert not job.done()
            await virtual_time.advance(1)
            assert await job == "slept"

        ended = []

        async def endless():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(asyncio.get_running_loop().time())

        @MARK
        async def test_leaves_a_job(pool, virtual_time):
            await pool.submit(endless)
            await virtual_time.settle()

        def test_ended_by_now():
            assert ended == [1]
    """)
    result.assert_outcomes(passed=7)


def test_a_job_that_cannot_be_ended_fails_the_teardown(auto):
    """It is named; the next test is not hurt."""
    result = auto.run("""
        async def stubborn():
            loop = asyncio.get_running_loop()
            while loop.time() < 1000:
                try:
                    await asyncio.sleep(1000 - loop.time())
                except asyncio.CancelledError:
                    pass

        async def test_leaves_it(pool, virtual_time):
            await pool.submit(stubborn)
            await virtual_time.settle()

        async def test_next(pool):
            assert await pool.run(asyncio.sleep, 0, "fine") == "fine"
    """)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*jobs of the fixture `pool` could not be ended:*", "*stubborn*"])


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["task", "scope"])
@pytest.mark.parametrize("mode", ["asyncio-auto", "anyio"])
def test_a_job_that_ignores_its_cancel_fails_the_test_and_does_not_hang(pytester, monkeypatch, mode, isolation):
    """The loop of the test is closed without it, and the next test runs."""
    inner = Inner(pytester, monkeypatch, mode)
    result = inner.run(
        f"""
        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass

        @pytest.mark.aiopool(cancel_grace=0.05, isolation={isolation!r})
        @MARK
        async def test_leaks(pool):
            await pool.submit(stubborn)
            await asyncio.sleep(0)

        @MARK
        async def test_next(pool):
            assert await pool.run(asyncio.sleep, 0, 42) == 42
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*jobs of the fixture `pool` could not be ended:*", "*stubborn*"])


def test_the_pool_lives_in_the_loop_of_its_test(auto):
    """A loop for a class, a module or more, as pytest-asyncio offers it; the pool is a new one for each test."""
    result = auto.run("""
        seen = set()

        @pytest.mark.parametrize("number", [1, 2])
        class TestLoops:
            @pytest.mark.asyncio(loop_scope="class")
            async def test_class_loop(self, pool, number):
                assert await pool.run(asyncio.sleep, 0, "ok") == "ok"
                assert pool not in seen
                seen.add(pool)

            @pytest.mark.asyncio(loop_scope="module")
            async def test_module_loop(self, pool, number):
                await self.test_class_loop(pool, number)

            @pytest.mark.asyncio(loop_scope="package")
            async def test_package_loop(self, pool, number):
                await self.test_class_loop(pool, number)

            @pytest.mark.asyncio(loop_scope="session")
            async def test_session_loop(self, pool, number):
                await self.test_class_loop(pool, number)

            async def test_own_loop(self, pool, number):
                await self.test_class_loop(pool, number)
    """)
    result.assert_outcomes(passed=10)


def test_the_pool_in_a_test_without_a_loop_says_what_to_write(auto):
    """A plain `def` test has no loop to open a pool in."""
    result = auto.run("""
        def test_plain(pool):
            pass
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the fixture `pool` needs an async test*"])


# -- being there costs nothing -----------------------------------------------------------------------------


def test_loading_the_plugin_imports_nothing_of_ours():
    """Beyond the package itself: no test kit, no second plugin, no asyncio."""
    script = """
        import sys
        import aiopool, pytest
        before = set(sys.modules)
        import aiopool.pytest_plugin
        watched = ("aiopool", "anyio", "asyncio", "pytest_asyncio")
        new = {name for name in set(sys.modules) - before if name.partition(".")[0] in watched}
        assert new == {"aiopool.pytest_plugin"}, new
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=_ROOT, check=True, timeout=60)


def test_a_run_without_asyncio_plugins_is_left_alone(pytester, monkeypatch):
    """Plain tests, neither plugin loaded: nothing is imported, nothing fails."""
    result = Inner(pytester, monkeypatch, "neither").run("""
        import sys

        def test_plain():
            assert "aiopool.testing" not in sys.modules
    """)
    result.assert_outcomes(passed=1)


def test_a_pool_under_trio_says_which_backend_to_choose(pytester, monkeypatch):
    """anyio runs a test on trio, too, unless it is told not to: the fixture says so before any loop is looked for."""
    pytest.importorskip("trio")
    result = Inner(pytester, monkeypatch, "anyio").run("""
        @pytest.fixture(params=["asyncio", "trio", ("trio", {})])
        def anyio_backend(request):
            return request.param

        @MARK
        async def test_pool(pool):
            assert await pool.run(len, "abc") == 3
        """)
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(['*`pool` runs on asyncio, and this test on trio: * returns "asyncio"'])
