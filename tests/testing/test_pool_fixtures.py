"""Pools in fixtures that users write: every scope of a fixture, every scope of a loop, under all who run async tests.

A fixture is opened in one task and closed in another, tests run in tasks of their own, and between two tests the loop
stands still. Each test here runs pytest on a suite with two tests for each fixture: the first leaves a job behind that
still runs, and the second finds it if it shares the pool. The suite notes which pools it opens and closes.
"""

import itertools
import re
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from helpers import BOTH

import aiopool

pytest_plugins = ["pytester"]

ROOT = Path(aiopool.__file__).parents[1]
SCOPES = ("function", "class", "module", "package", "session")
# A fixture may not outlive its loop.
PAIRS = [*itertools.combinations_with_replacement(SCOPES, 2)]

FIXTURES = f"""
    import asyncio
    import os

    import pytest
    from aiopool import Pool

    isolations = pytest.fixture(scope="session", params={BOTH}, name="isolation")(lambda request: request.param)

    def note(*words):
        with open(os.environ["NOTES"], "a") as file:  # several processes may write
            file.write(" ".join(map(str, words)) + "\\n")

    def fixture_function(name):
        async def opened(isolation):
            go = asyncio.Event()
            async with Pool(size=2, isolation=isolation) as pool:
                note("opened", name, isolation)
                yield pool, go
                go.set()
            assert pool.statistics().succeeded == pool.statistics().submitted > 0
            note("closed", name, isolation)
        return opened
"""
TESTS = """
    import asyncio

    import pytest

    class TestNAME:
        MARK
        async def test_first(self, NAME):
            pool, go = NAME
            assert await pool.run(asyncio.sleep, 0, "first") == "first"
            await pool.with_options(id="left", priority=1).submit(go.wait)
            assert await pool.run(asyncio.sleep, 0, "beside it") == "beside it"

        MARK
        async def test_second(self, NAME):
            pool, go = NAME
            left = pool.get_job("left")
            assert (left is not None) == SHARED
            assert await pool.run(asyncio.sleep, 0, "second") == "second"
            if left is not None:
                assert left.status == "running"
                go.set()
                assert await left
"""


class Suite:
    """A package with a module of tests for each fixture, in a pytest of its own."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        self.notes = pytester.path / "notes.txt"
        self.room = pytester.mkpydir("room")
        pytester.makeini("[pytest]\nfilterwarnings = error\n")
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("NOTES", str(self.notes))
        self.conftest = textwrap.dedent(FIXTURES)

    def add(self, name: str, scope: str, decorator: str, mark: str) -> None:
        """Add a fixture and its tests."""
        self.conftest += f"{name} = {decorator}(fixture_function({name!r}))\n"
        tests = textwrap.dedent(TESTS).replace("NAME", name).replace("MARK", mark)
        (self.room / f"test_{name}.py").write_text(tests.replace("SHARED", str(scope != "function")))

    def run(self, *options: str) -> pytest.RunResult:
        """Run it, with the plugins and options that are named."""
        (self.room / "conftest.py").write_text(self.conftest)
        if "pytest_asyncio.plugin" in options:
            options += ("-o", "asyncio_default_fixture_loop_scope=function")
        return self.pytester.runpytest_subprocess("-p", "aiopool.pytest_plugin", *options, timeout=100)

    def opened(self) -> Counter[str]:
        """Return how often each fixture was opened; each of these pools was closed, without a job too few."""
        lines = self.notes.read_text().splitlines()
        pools = {
            word: Counter(re.findall(rf"^{word} (.*)$", "\n".join(lines), re.MULTILINE))
            for word in ("opened", "closed")
        }
        assert pools["opened"] == pools["closed"]
        return pools["opened"]


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    return Suite(pytester, monkeypatch)


def add_all_of_asyncio(suite: Suite) -> None:
    suite.conftest += "import pytest_asyncio\n"
    for scope, loop in PAIRS:
        suite.add(
            f"{scope}_in_{loop}",
            scope,
            f"pytest_asyncio.fixture(scope={scope!r}, loop_scope={loop!r}, name='{scope}_in_{loop}')",
            f"@pytest.mark.asyncio(loop_scope={loop!r})",
        )


def once_for(scope: str) -> int:
    """How many pools a fixture of a scope opens for its two tests."""
    return 2 if scope == "function" else 1


def test_pytest_asyncio_with_every_scope_of_fixture_and_loop(suite: Suite) -> None:
    """All fifteen that can be, with both kinds of workers; each pool is opened once for its scope."""
    add_all_of_asyncio(suite)
    suite.run("-p", "pytest_asyncio.plugin").assert_outcomes(passed=4 * len(PAIRS))
    wanted = {f"{scope}_in_{loop} {isolation}": once_for(scope) for scope, loop in PAIRS for isolation in BOTH}
    assert suite.opened() == wanted


def test_under_xdist_each_process_opens_its_own(suite: Suite) -> None:
    """Two processes, and the tests of a module together: every pool that is opened is closed."""
    add_all_of_asyncio(suite)
    result = suite.run("-p", "pytest_asyncio.plugin", "-p", "xdist", "-n", "2", "--dist", "loadfile")
    result.assert_outcomes(passed=4 * len(PAIRS))
    assert suite.opened().total() == sum(len(BOTH) * once_for(scope) for scope, _ in PAIRS)


@pytest.mark.parametrize("plugins", [["anyio.pytest_plugin"], ["anyio.pytest_plugin", "pytest_asyncio.plugin"]])
def test_anyio_with_every_scope_of_fixture(suite: Suite, plugins: list[str]) -> None:
    """With anyio's own plugin, which runs all fixtures and tests of a loop in turn, alone and beside pytest-asyncio."""
    suite.conftest += "anyio_backend = pytest.fixture(scope='session', name='anyio_backend')(lambda: 'asyncio')\n"
    suite.conftest = suite.conftest.replace("opened(isolation)", "opened(isolation, anyio_backend)")
    for scope in SCOPES:
        suite.add(
            f"{scope}_of_anyio",
            scope,
            f"pytest.fixture(scope={scope!r}, name='{scope}_of_anyio')",
            "@pytest.mark.anyio",
        )
    suite.run(*[word for plugin in plugins for word in ("-p", plugin)]).assert_outcomes(passed=4 * len(SCOPES))
    wanted = {f"{scope}_of_anyio {isolation}": once_for(scope) for scope in SCOPES for isolation in BOTH}
    assert suite.opened() == wanted


def test_a_fixture_under_trio_says_that_the_pool_needs_asyncio(suite: Suite) -> None:
    """Of the two backends that anyio offers, one works, and the other says what to write."""
    pytest.importorskip("trio")
    suite.conftest = suite.conftest.replace("opened(isolation)", "opened(isolation, anyio_backend)")
    suite.add("mine", "function", "pytest.fixture(name='mine')", "@pytest.mark.anyio")
    result = suite.run("-p", "anyio.pytest_plugin", "--tb=short")
    result.assert_outcomes(passed=4, errors=4)
    result.stdout.fnmatch_lines(['*RuntimeError: pool * runs on asyncio, * anyio.run(main, backend="asyncio") *'])


def test_a_pool_whose_loop_is_not_that_of_the_test_says_so(suite: Suite) -> None:
    """The classic mistake: a fixture for the session, in the session's loop, and a test in a loop of its own."""
    (suite.room / "test_mine.py").write_text(
        textwrap.dedent("""
            import pytest
            import pytest_asyncio
            from aiopool import Pool

            @pytest_asyncio.fixture(scope="session", loop_scope="session")
            async def mine():
                async with Pool() as pool:
                    yield pool

            @pytest.mark.asyncio
            async def test_one(mine):
                await mine.run(len, "abc")

            @pytest.mark.asyncio(loop_scope="session")
            async def test_two(mine):
                assert await mine.run(len, "abc") == 3
        """)
    )
    result = suite.run("-p", "pytest_asyncio.plugin", "--tb=short")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*RuntimeError: submit() was called in another event loop than that of the pool, *"])
