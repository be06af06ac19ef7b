"""The tables of the pages on moving: each line that they tell to write is run where its names mean something.

(The programs of these pages are run as those of all pages are.)
"""

import ast
import asyncio
import inspect
import re
import subprocess
from pathlib import Path

import pytest

import aiopool
import aiopool.metrics
from aiopool import Limit, Pool, Priority, Retry
from aiopool.blocking import BlockingPool
from aiopool.health import HealthMonitor
from aiopool.services import Command, ServiceRegistry
from aiopool.settings import PoolSettings

PAGES = sorted((Path(__file__).parents[2] / "docs/how-to").glob("move-from-*.md"))
ROW = re.compile(r"^\| (?P<there>.+?) \| (?P<here>.+?) \| (?P<beside>.*?) ?\|$", re.M)


def rows():
    """Each row of a table, and the lines of its second column."""
    for page in PAGES:
        for row in ROW.finditer(page.read_text(encoding="utf-8")):
            if row["there"] not in ("there", "---"):
                yield pytest.param(re.findall(r"`([^`]+)`", row["here"]), id=f"{page.stem}: {row['there']}")


async def fetch(url):
    return url.upper()


def resize(image):
    return image.upper()


class Stoppable:
    """A queue system, or a worker."""

    running = True

    def is_running(self):
        return self.running

    async def stop(self):
        self.running = False


NAMED = (
    fetch,
    resize,
    Command,
    HealthMonitor,
    Limit,
    Pool,
    PoolSettings,
    Priority,
    Retry,
    BlockingPool,
    ServiceRegistry,
)
THINGS = {thing.__name__: thing for thing in NAMED} | {
    "aiopool": aiopool,
    "asyncio": asyncio,
    "close": lambda: None,
    "image": "i",
    "images": ["i", "j"],
    "mail": "m",
    "send": fetch,
    "url": "u",
    "urls": ["u", "v"],
}


async def run_lines(lines, tmp_path):
    """Run lines as a reader would who has a pool, a job, a registry and some functions."""
    config = tmp_path / "pool.yaml"
    config.write_text("size: 3\n")
    process = subprocess.Popen(["sleep", "600"])
    registry = ServiceRegistry()
    try:
        async with Pool(4) as pool:
            names = THINGS | {
                "pool": pool,
                "registry": registry,
                "process": process,
                "config": config,
                "job": await pool.submit(asyncio.sleep, 0.001),
                "queue_system": Stoppable(),
                "worker": Stoppable(),
            }
            for line in lines:
                code = compile(line, line, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                outcome = eval(code, names)
                if inspect.isawaitable(outcome):
                    await outcome
            await asyncio.sleep(0)
    finally:
        registry.uninstall_handlers()
        await registry.stop_all(timeout=5)
        process.kill()
        process.wait()


@pytest.mark.parametrize("lines", list(rows()))
def test_each_line_to_write_runs(lines, tmp_path):
    """A call of theirs, and ours in its place: which can be written so, and raises nothing."""
    assert lines, "a row without a line to write"
    asyncio.run(asyncio.wait_for(run_lines(lines, tmp_path), 30))


def test_there_are_tables():
    """Each page has one, and none is read as empty."""
    pages = {param.id.partition(":")[0] for param in rows()}
    assert pages == {page.stem for page in PAGES}
    assert len(list(rows())) > 100


def test_a_wrong_line_is_seen(tmp_path):
    """The test can fail."""
    with pytest.raises(AttributeError):
        asyncio.run(run_lines(["await pool.spawn(fetch, url)"], tmp_path))
