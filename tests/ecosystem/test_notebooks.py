"""A pool in a notebook: cells of a real kernel of IPython, that are run, run again and interrupted as users do it."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import blocks

import aiopool

pytestmark = pytest.mark.ecosystem

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed; it is in the extra `ecosystem`")
pytest.importorskip("ipykernel", reason="ipykernel is not installed; it is in the extra `ecosystem`")
import nbformat  # noqa: E402 - it comes with nbclient

ROOT = Path(aiopool.__file__).parents[1]

# On some systems a signal does not wake a loop that waits, without a pool either: this one is never asleep for long.
AWAKE = """
import asyncio, time
from aiopool import Pool

async def tick():
    while True:
        await asyncio.sleep(0.02)

ticking = asyncio.create_task(tick())
"""


class Notebook:
    """A notebook with a kernel of its own."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._cells = 0

    async def run(self, code: str, *, interrupt_at: str | None = None) -> str:
        """Run a cell, and return all that stands below it: what was printed, the result, the name of the error."""
        cell = nbformat.v4.new_code_cell(code)
        self._client.nb.cells.append(cell)
        running = asyncio.ensure_future(self._client.async_execute_cell(cell, self._cells))
        self._cells += 1
        while interrupt_at is not None and not running.done():
            if interrupt_at in self._below(cell):
                await self._client.km.interrupt_kernel()
                break
            await asyncio.sleep(0.01)
        await running
        return self._below(cell)

    @staticmethod
    def _below(cell: Any) -> str:
        parts = [
            output.get("text") or output.get("ename") or output["data"]["text/plain"] + "\n"
            for output in cell.outputs
            if output.get("name") != "stderr"  # the log
        ]
        return "".join(parts)


@contextlib.asynccontextmanager
async def kernel() -> AsyncIterator[Any]:
    """Start a kernel, and shut it down as Jupyter does."""
    empty = nbformat.v4.new_notebook()
    client = nbclient.NotebookClient(empty, kernel_name="python3", timeout=90, allow_errors=True)
    async with client.async_setup_kernel():
        yield client


@pytest.fixture
async def notebook(environment: None) -> AsyncIterator[Notebook]:
    async with kernel() as client:
        opened = Notebook(client)
        assert await opened.run(AWAKE) == ""
        yield opened


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def cells_of_the_page() -> Iterator[tuple[str, str]]:
    """Return each line of the page, and what the page says below it."""
    for block in blocks(ROOT / "docs/how-to/notebooks.md"):
        if block.info == "pycon":
            for part in re.split(r"^>>> ", block.body, flags=re.MULTILINE)[1:]:
                code, _, expected = part.partition("\n")
                yield code, expected


async def test_the_cells_of_the_page(notebook: Notebook) -> None:
    """Each line is a cell, and what the page says stands below it."""
    cells = [*cells_of_the_page()]
    assert len(cells) > 10
    for code, expected in cells:
        assert await notebook.run(code) == expected, code


async def test_a_pool_lives_from_cell_to_cell(notebook: Notebook) -> None:
    """Jobs go on between the cells; a block in one cell is a pool for that cell."""
    await notebook.run("pool = await Pool(size=4).__aenter__()")
    await notebook.run("went_on = asyncio.Event()\njob = await pool.submit(went_on.wait)")
    assert await notebook.run("job.status.value") == "'running'\n"
    await notebook.run("went_on.set()")
    assert await notebook.run("await job") == "True\n"
    assert await notebook.run(
        "async with Pool() as inner:\n    print(await inner.run(len, 'abc'))\ninner.status.value"
    ) == ("3\n'closed'\n")
    assert await notebook.run("(await pool.shutdown()).clean") == "True\n"


async def test_a_cell_that_waits_for_a_job_is_interrupted_and_the_job_goes_on(notebook: Notebook) -> None:
    """The wait is cancelled, no more: the job can be awaited again, and the pool goes on."""
    await notebook.run("pool = await Pool(size=4).__aenter__()\ngo = asyncio.Event()")
    waiting = "job = await pool.submit(go.wait)\nprint('waits', flush=True)\nawait job"
    assert await notebook.run(waiting, interrupt_at="waits") == "waits\nCancelledError"
    assert await notebook.run("print(job.status); go.set()") == "running\n"
    assert await notebook.run("await job") == "True\n"


async def test_a_cell_that_runs_its_job_itself_is_interrupted_and_the_job_ends(notebook: Notebook) -> None:
    """`pool.run` is the call itself: it ends with its caller. A cell that blocks takes no job with it."""
    await notebook.run("pool = await Pool(size=4).__aenter__()\njob = await pool.submit(asyncio.sleep, 3600)")
    calling = "print('calls', flush=True)\nawait pool.run(asyncio.sleep, 3600)"
    assert await notebook.run(calling, interrupt_at="calls") == "calls\nCancelledError"
    blocking = "print('blocks', flush=True)\ntime.sleep(3600)"
    assert await notebook.run(blocking, interrupt_at="blocks") == "blocks\nKeyboardInterrupt"
    assert await notebook.run("pool.statistics().running") == "1\n"
    assert await notebook.run("await pool.run(asyncio.sleep, 0, 'works')") == "'works'\n"


async def test_an_interrupted_block_shuts_its_pool_down(notebook: Notebook) -> None:
    """In the time that was set; the jobs are cancelled, and the next cell runs."""
    block = "async with Pool(size=2, shutdown_timeout=0) as pool:\n    job = await pool.submit(asyncio.sleep, 3600)\n"
    block += "    print('open', flush=True)\n    await job"
    assert await notebook.run(block, interrupt_at="open") == "open\nCancelledError"
    assert await notebook.run("print(pool.status, job.status)") == "closed cancelled\n"


async def test_a_cell_that_opens_a_pool_is_run_again(notebook: Notebook) -> None:
    """The first pool is still open, and its jobs go on; the cell of the page shuts it down first."""
    opens = "pool = await Pool(size=4).__aenter__()"
    await notebook.run(f"{opens}\nfirst, job = pool, await pool.submit(asyncio.sleep, 3600)")
    await notebook.run(opens)
    assert await notebook.run("print(first.status, job.status)") == "open running\n"
    await notebook.run("pool = first")
    [closes] = {code for code, _ in cells_of_the_page() if "globals()" in code}
    for _ in range(2):
        await notebook.run(f"{closes}\n{opens}")
        assert await notebook.run("print(first.status, job.status, pool.status)") == "closed cancelled open\n"


async def test_a_kernel_ends_though_a_pool_is_open(environment: None) -> None:
    """What was left open is lost with the kernel, and does not hold it: nobody has to kill it."""
    async with kernel() as client:
        notebook = Notebook(client)
        await notebook.run(AWAKE)
        await notebook.run("pool = await Pool(size=4).__aenter__()")
        await notebook.run("for function in [time.sleep, asyncio.sleep] * 4: await pool.submit(function, 3600)")
        assert await notebook.run("pool.statistics().running") == "4\n"
        process = client.km.provisioner.process
    assert process.wait(60) == 0
