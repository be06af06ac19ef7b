"""The real `queuemgr` as a service: stopped when the call returns, from wherever, with all that it leaves behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from services.support import (
    HERE,
    environment,
    marked,
    nothing_left,  # noqa: F401 - a check around every test of this module
    wait_until,
)

pytest.importorskip("queuemgr", reason="the queue system itself is the partner of these tests: pip install queuemgr")


def host(mode: str, directory: Path) -> dict[str, Any]:
    """Run a program that has a queue system; what it told. Afterwards nothing of it may run."""
    mark = f"queue-host-{directory}"
    # Into files, not pipes: a leaked process would hold a pipe open, and the test would wait for it.
    with open(directory / "out", "w") as out, open(directory / "err", "w") as err:
        done = subprocess.run(
            [sys.executable, str(HERE / "queue_host.py"), mode, str(directory)],
            env={**environment(), "QUEUE_HOST_MARK": mark}, stdout=out, stderr=err, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, (directory / "err").read_text()
    wait_until(lambda: marked(mark) == [], what="the end of every process of the host")
    return json.loads((directory / "out").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    "mode", ["inside", *(pytest.param(mode, marks=pytest.mark.long) for mode in ("sync_inside", "thread", "outside"))]
)
def test_a_queue_system_is_stopped_when_the_call_returns(mode, tmp_path) -> None:
    """From inside its loop by await and by plain code, from another thread, and without its loop (B3.1, B3.2, B-09)."""
    told = host(mode, tmp_path)
    assert told["running"] is False
    assert told["report"]["success"], told
    assert told["report"]["stopped"] == 1
    assert told["killed"] == []
    assert told["status"] == [["queue", "stopped", False]]
    assert told.get("was", True) is True  # alive before, by `is_running()` (B-05)


@pytest.mark.long
def test_a_queue_system_with_a_stubborn_job_keeps_the_deadline(tmp_path) -> None:
    """Its own stop() would take 60 s and leave three processes; ours takes three seconds, and leaves none (B3.4)."""
    told = host("stubborn", tmp_path)
    assert told["took"] < 30, told
    assert told["left"] == []
    assert told["running"] is False
    assert told["killed"] == ["queue"]
    assert told["report"]["stopped"] == 1
    assert any("was not done in time" in error for error in told["report"]["errors"])
    assert told["turns"] > 20  # the event loop went on turning meanwhile


@pytest.mark.long
def test_a_queue_system_whose_manager_was_killed_is_started_again(tmp_path) -> None:
    """And the job that its manager left behind is ended before."""
    told = host("killed", tmp_path)
    assert told["gone"] is True
    assert told["was"] is True
    assert told["report"]["success"], told
    assert told["running"] is False
