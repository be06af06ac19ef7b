"""`Results`: when lines are written."""

import asyncio
import os
from pathlib import Path
from queue import SimpleQueue

import pytest

from aiopool.cli import _results
from aiopool.cli._results import Results


async def test_a_line_that_comes_alone_is_written_at_once_and_those_that_follow_are_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """However many turns of the event loop they come in; what is not due yet is written when it is waited for."""
    monkeypatch.setattr(_results, "PAUSE", 60.0)
    handed_over: list[bytes | None] = []

    class Noting(SimpleQueue[bytes | None]):
        def put(self, item: bytes | None, block: bool = True, timeout: float | None = None) -> None:
            handed_over.append(item)
            super().put(item, block, timeout)

    results = Results(os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT), "out")
    results._queue = Noting()
    try:
        results.add("alone")
        await asyncio.sleep(0)
        for number in range(100):
            results.add(str(number))
            await asyncio.sleep(0)
        assert handed_over == [b"alone\n"]
        await results.drained(0)
        assert handed_over == [b"alone\n", b"".join(b"%d\n" % number for number in range(100))]
    finally:
        results.close()
    assert (tmp_path / "out").read_text().count("\n") == 101


async def test_lines_that_follow_are_written_when_the_pause_is_over(tmp_path: Path):
    """Nobody has to wait for them, or to add another."""
    results = Results(os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT), "out")
    try:
        for line in ("first", "second"):
            results.add(line)
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            while results.written < 2:
                await asyncio.sleep(0.001)
    finally:
        results.close()
    assert (tmp_path / "out").read_text() == "first\nsecond\n"
