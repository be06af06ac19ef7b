"""A plugin of pytest for `scripts/mutate`: note which lines of the core each test runs, or run tests by such a list.

    MUTATE_MAP=FILE     note it in FILE, one line of JSON for each test that passes
    MUTATE_TESTS=FILE   run the tests that FILE names, in its order, and no others

Asyncio's own loop is enough, except for the tests of the eager start.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import CodeType, FunctionType

import pytest

ROOMS = ("_runtime", "_jobs", "_engine", "_pool")
LOOPS = ("eager", "uvloop", "virtual-eager")
monitoring = sys.monitoring
TOOL = monitoring.PROFILER_ID


def pytest_configure(config: pytest.Config) -> None:
    if "MUTATE_MAP" in os.environ:
        config.pluginmanager.register(Recorder(Path(os.environ["MUTATE_MAP"])))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "MUTATE_TESTS" in os.environ:
        place = {name: n for n, name in enumerate(json.loads(Path(os.environ["MUTATE_TESTS"]).read_text()))}
        items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])
    else:
        items[:] = [item for item in items if not _on_another_loop(item)]


def _on_another_loop(item: pytest.Item) -> bool:
    words = item.callspec.id if hasattr(item, "callspec") else ""
    return words.startswith(LOOPS) and item.path.stem not in ("test_eager", "test_task_factory")


class Recorder:
    """Notes the lines of the core that each test runs."""

    def __init__(self, file: Path) -> None:
        self.file = file.open("w")
        self.known: set[CodeType] = set()
        self.modules = 0
        self.lines: dict[str, set[int]] = {}
        monitoring.use_tool_id(TOOL, "mutate")
        monitoring.register_callback(TOOL, monitoring.events.LINE, self._line)

    def _line(self, code: CodeType, line: int) -> object:
        self.lines.setdefault(code.co_filename, set()).add(line)
        return monitoring.DISABLE  # once a test is enough

    def _watch(self) -> None:
        """Have the functions of all modules of the core watched that are there by now."""
        if len(sys.modules) == self.modules:
            return
        self.modules = len(sys.modules)
        found = [it.__code__ for it in gc.get_objects() if type(it) is FunctionType]
        while found:
            code = found.pop()
            if code not in self.known and Path(code.co_filename).parent.name in ROOMS:
                self.known.add(code)
                monitoring.set_local_events(TOOL, code, monitoring.events.LINE)
                found += [it for it in code.co_consts if isinstance(it, CodeType)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._watch()
        self.lines, self.passed = {}, True
        monitoring.restart_events()
        began = time.process_time(), time.monotonic()
        result = yield
        seconds = time.process_time() - began[0], time.monotonic() - began[1]
        if self.passed:
            lines = {Path(file).parent.name + "/" + Path(file).name: sorted(n) for file, n in self.lines.items()}
            row = {"test": item.nodeid, "seconds": [round(n, 3) for n in seconds], "lines": lines}
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed = self.passed and report.outcome == "passed"
