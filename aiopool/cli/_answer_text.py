"""What a door has answered, as text: pure. Nothing in it can steer a terminal."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from aiopool._control.families import family
from aiopool.cli._board import printable
from aiopool.cli._door import blocked_text
from aiopool.cli._fit import clean_cell
from aiopool.cli._job_text import period
from aiopool.cli._table import name_value_lines, table_lines

__all__ = ["answer_lines", "stack_lines", "tree_lines"]

_SECONDS: Final = (
    "seconds",
    "waited",
    "uptime",
    "lag",
    "delay",
    "wait_p50",
    "wait_p95",
    "run_p50",
    "run_p95",
    "timeout",
)


def answer_lines(verb: str, answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of an answer, with their line ends."""
    yield from _BY_VERB.get(verb, _page)(answer)


def stack_lines(frames: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a stack as Python writes them, with the source where it can be read."""
    rows = [(str(frame["file"]), int(frame["line"]), str(frame["function"])) for frame in frames]
    summary = traceback.StackSummary.from_list(
        [traceback.FrameSummary(file, line, function, lookup_line=False) for file, line, function in rows]
    )
    for text in summary.format():
        for line in text.splitlines():
            yield printable(line) + "\n"


def tree_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield the jobs that others have submitted, each below its parent."""
    for node in family(answer["nodes"]):
        words = [f"{node['id']} {node['name']}: {node['status']} {period(node['seconds'])}"]
        words += [f"waits for {node['waiting_for']}"] if node["waiting_for"] else []
        words += [f"at {node['at']}"] if node.get("at") else []
        yield f"{'  ' * node['level']}{clean_cell(', '.join(words))}\n"
    if not answer["nodes"]:
        yield "no live job was submitted by another one\n"
    if not answer["complete"]:
        yield f"searched {answer['searched']:,} jobs: there are more\n"


def _page(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield an answer of any kind: what is one value first, then what is a list, each below its name."""
    sections = {name: value for name, value in answer.items() if _is_rows(value)}
    rows = [row for name, value in answer.items() if name not in sections for row in _values(name, value)]
    yield from name_value_lines(rows)
    for name, value in sections.items():
        if value:
            yield f"\n{clean_cell(name)}\n"
            yield from (f"  {line}" for line in (stack_lines(value) if _is_stack(value) else _table(value)))


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_stack(rows: list[dict[str, Any]]) -> bool:
    return bool(rows) and all(set(row) == {"file", "line", "function"} for row in rows)


def _values(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for inner, one in value.items():
            yield from _values(f"{name} {inner}", one)
    else:
        yield clean_cell(name), _word(name, value)


def _word(name: str, value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) and name.rpartition(" ")[2] in _SECONDS:
        return f"{value:.3g} s" if value < 10 else period(value)
    if isinstance(value, list):
        return ", ".join(_word("", item) for item in value) or "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={_word('', item)}" for key, item in value.items()) or "none"
    return str(value)


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table of what is in any of the rows."""
    names = list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))
    cells = [["" if row.get(name) is None else _word(name, row[name]) for name in names] for row in rows]
    return table_lines(names, [[clean_cell(cell) for cell in row] for row in cells])


def _items(answer: Mapping[str, Any]) -> Iterator[str]:
    yield from _table(answer["items"]) if answer["items"] else ()


def _status(answer: Mapping[str, Any]) -> Iterator[str]:
    by, loop = answer["paused_by"], answer["loop"]
    paused = "no" if not answer.get("paused") else "yes" if by is None else f"by {by['who']}, {by['time']}"
    numbers = [(name, value) for name, value in answer["numbers"].items() if name != "size"]
    rows = [("pool", str(answer["pool"])), ("status", str(answer["status"])), ("paused", paused)]
    rows += [("size", f"{answer['size']:,}"), *((name, _word(name, value)) for name, value in numbers)]
    rows.append(
        ("loop", blocked_text(loop["blocked"]) if loop["blocked"] else f"{loop['lag'] * 1000:.1f} ms late at most")
    )
    yield from name_value_lines(rows)
    if answer.get("running"):
        yield "\nrunning\n"
        yield from (f"  {line}" for line in _table(answer["running"]))


def _job(answer: Mapping[str, Any]) -> Iterator[str]:
    rest = {name: value for name, value in answer.items() if name != "traceback"}
    yield from _page(rest)
    if answer.get("traceback"):
        yield "\ntraceback\n"
        yield from (f"  {printable(line)}\n" for line in str(answer["traceback"]).splitlines())


def _stack(answer: Mapping[str, Any]) -> Iterator[str]:
    if answer["frames"]:
        yield from stack_lines(answer["frames"])
    elif "id" in answer:
        yield "it has no frames here: it runs in a process, or has not begun\n"
    else:
        yield "the event loop is idle\n"


def _blocked(answer: Mapping[str, Any]) -> Iterator[str]:
    now = answer["now"]
    if now is None:
        worst = max((lag for _, lag in answer["lags"]), default=0.0)
        yield f"the event loop answers; {worst * 1000:.1f} ms late at most, of late\n"
    else:
        yield f"{printable(blocked_text(now))}\n"
        yield from stack_lines(now["stack"])
    if answer["spells"]:
        yield "\nblocked before\n"
        rows = [{name: spell[name] for name in ("time", "seconds", "where")} for spell in reversed(answer["spells"])]
        yield from (f"  {line}" for line in _table(rows))


def _events(answer: Mapping[str, Any]) -> Iterator[str]:
    if answer["gap"]:
        yield "(what happened before is not kept)\n"
    for event in answer["items"]:
        facts = {name: value for name, value in event.items() if name not in ("number", "time", "type")}
        yield clean_cell(f"{event['number']} {event['time']} {event['type']} {_word('', facts)}") + "\n"


_BY_VERB: Final[dict[str, Callable[[Mapping[str, Any]], Iterator[str]]]] = {
    "status": _status,
    "job": _job,
    "stack": _stack,
    "blocked": _blocked,
    "tree": tree_lines,
    "events": _events,
    "jobs": _items,
    "actions": _items,
    "list_groups": _items,
    "metrics": _items,
}
