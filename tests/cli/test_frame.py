"""Frames of `aiopool top` as text: pure, so they are compared letter by letter."""

import dataclasses
from typing import Any

import pytest
from rich.cells import cell_len

from aiopool.cli._fit import clipped, column_widths, fitted_lines
from aiopool.cli._frame import HEAD, ORDERS, frame, head, table
from aiopool.cli._look import VIEWS, Look, Page, Wanted
from aiopool.cli._words import Refusal

HELLO = {"pid": 4711, "program": "app.py", "python": "3.13.0", "access": "admin"}
NUMBERS = {
    **dict.fromkeys(("submitted", "rejected", "waiting", "restarts", "threads_busy", "dropped"), 0),
    "queued": 1234,
    "scheduled": 3,
    "running": 3,
    "succeeded": 10234,
    "failed": 2,
    "timed_out": 1,
    "cancelled": 0,
    "retries": 17,
    "leaked": 1,
    "size": 8,
    "busy": 4,
    "idle": 4,
    "uptime": 7510.0,
}
STATUS: dict[str, Any] = {
    "pool": "mail",
    "time": 1795953603.0,
    "status": "open",
    "size": 8,
    "numbers": NUMBERS,
    "paused": False,
    "paused_by": None,
    "loop": {"lag": 0.0021, "blocked": None},
}
BLOCKED = {"seconds": 3.21, "where": "app.py:41 in fetch, job 'fetch' id 17", "time": "2026-11-29T12:00:00.000+00:00"}
RUNNING = [
    {"id": 17, "name": "fetch", "status": "running", "attempt": 1, "seconds": 75.2, "at": "app.py:41 in fetch"},
    {
        "id": "9b2f",
        "name": "a name that is long, and goes on and on and on",
        "status": "running",
        "attempt": 3,
        "seconds": 4.0,
        "at": None,
    },
    {
        "id": 19,
        "name": "build",
        "status": "running",
        "attempt": 2,
        "seconds": 0.4,
        "at": "build.py:7 in compile",
        "progress": {"fraction": 0.42, "message": "linking"},
    },
]
WAITING = [
    {
        "id": 20,
        "name": "fetch",
        "status": "queued",
        "priority": 1,
        "attempt": 0,
        "seconds": 60.0,
        "group": "a",
        "waiting_for": "slot",
    },
    {
        "id": 21,
        "name": "fetch",
        "status": "scheduled",
        "priority": 5,
        "attempt": 1,
        "seconds": 9.0,
        "group": None,
        "waiting_for": "backoff",
    },
]
FAILED = [
    {
        "id": 3,
        "name": "fetch",
        "status": "timed_out",
        "attempt": 2,
        "seconds": 10.0,
        "error": "JobTimeoutError: 10 s",
        "finished": "2026-11-29T12:00:00.000+00:00",
    }
]
GROUPS = [{"name": "host-1", "live": 40, "running": 2, "paused": True, "waiting": 38}]
SPELLS = [BLOCKED | {"stack": []}]
GUESSES = [
    {"size": 4, "wait_p50": 12.34, "wait_p95": 90.0, "queue": 1200, "busy": 1.0, "now": False},
    {"size": 8, "wait_p50": 0.0, "wait_p95": 0.25, "queue": 0, "busy": 0.34, "now": True},
]
ITEMS = {
    "running": RUNNING,
    "waiting": WAITING,
    "failed": FAILED,
    "groups": GROUPS,
    "loop": SPELLS,
    "what-if": GUESSES,
}


def look(view: str = "running", **more: Any) -> Look:
    """A look at a pool, with the rows of a view."""
    page = Page(ITEMS[view], STATUS["time"], complete=view not in ("waiting",))
    return Look(HELLO, STATUS, view, page, **more)


SMALL = """\
app.py 4711  pool mail  open  up 2:05:10  12:00:03Z
1,234 queued  3 scheduled  10,234 done  3 failed  17 retries  1 leaked
slots  [###!....]  4 of 8
loop   answers, 2 ms late at most
[running 3]   waiting 1,237   failed 3   groups   loop   what-if
S  id    name                        runs   attempt  suspended at
R  17    fetch                       1:15   1        app.py:41 in fetch
R  9b2f  a name that is long, and …  4.0 s  3        in a process, or not known
R  19    build                       0.4 s  2        42% linking, build.py:7 in…"""

LARGE = """\
app.py 4711  pool mail  PAUSED by alice (process 12)  up 2:05:10  12:00:03Z
1,234 queued  3 scheduled  10,234 done (12/s)  3 failed (2/min)  17 retries  1 leaked
slots  [###!....]  4 of 8
loop   BLOCKED 3.2 s at app.py:41 in fetch, job 'fetch' id 17
running 3   [waiting 1,237]   failed 3   groups   loop !   what-if
S  id  name   waits  priority  attempt  group  waits for
Q  20  fetch  1:00   1         0        a      slot
S  21  fetch  9.0 s  5         1               backoff
1,235 more"""


def test_a_frame_of_80_by_24():
    """A long name gives way, and says so; each job has the letter of its status."""
    lines = frame(look(), 80, 24)
    assert [*map(str, lines)] == SMALL.splitlines()
    assert max(map(cell_len, lines)) <= 80


def test_a_frame_of_200_by_50():
    """Who has paused the pool, who blocks the loop, how fast it goes."""
    status = STATUS | {
        "paused": True,
        "paused_by": {"who": "alice (process 12)"},
        "loop": {"lag": 0.0, "blocked": BLOCKED},
    }
    seen = dataclasses.replace(look("waiting", done_rate=12.3, fail_rate=1.8), status=status)
    assert "\n".join(frame(seen, 200, 50)) == LARGE


@pytest.mark.parametrize(
    ("view", "lines"),
    [
        (
            "failed",
            [
                "S  id  name   ended ago  ran   attempt  error",
                "T  3   fetch  3.0 s      10 s  2        JobTimeoutError: 10 s",
            ],
        ),
        ("groups", ["group   live  running  waiting  paused", "host-1  40    2        38       PAUSED"]),
        ("loop", ["from       blocked  at", "12:00:00Z  3.2 s    app.py:41 in fetch, job 'fetch' id 17"]),
        (
            "what-if",
            [
                "size  wait p50  wait p95  longest queue  idle  now",
                "4     12 s      1:30      1,200          0%",
                "8     0.0 s     0.2 s     0              66%   NOW",
            ],
        ),
    ],
)
def test_the_other_views(view: str, lines: list[str]):
    """Each has columns of its own."""
    assert frame(look(view), 0, 0)[HEAD + 1 :] == lines


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width", [0, 1, 10, 40, 80])
@pytest.mark.parametrize("height", [0, 1, 6, 8, 24])
def test_a_frame_fits(view: str, width: int, height: int):
    """Whatever the size of the terminal, from a useful height on."""
    rows = ITEMS[view] * 50
    seen = dataclasses.replace(look(view), page=Page(rows, STATUS["time"]))
    lines = frame(seen, width, height)
    assert not width or max(map(cell_len, lines)) <= width
    assert not height or len(lines) <= max(height, HEAD + 3)


def test_what_does_not_fit_is_counted():
    """Those that were not asked for, and those that have no room."""
    assert frame(look("waiting"), 80, HEAD + 4)[-1] == "1,236 more"


@pytest.mark.parametrize("view", VIEWS)
def test_an_empty_view_says_so(view: str):
    """A line in place of rows, and how to have some."""
    status = STATUS | {"numbers": NUMBERS | dict.fromkeys(("running", "queued", "scheduled"), 0)}
    page = Page([], STATUS["time"], kept=0 if view == "failed" else None)
    seen = dataclasses.replace(look(view), status=status, page=page)
    *_, last = frame(seen, 0, 0)
    assert last.startswith(("no ", "the event loop was not blocked"))
    assert ("Pool(keep_finished=1000)" in last) == (view == "failed")


def test_nothing_steers_the_terminal():
    """Names, groups and errors may hold anything."""
    nasty = "\x1b[31m\n\t\u202e[bold]"
    for view, items in ITEMS.items():
        rows = [
            {key: nasty if type(value) is str and key != "finished" else value for key, value in item.items()}
            for item in items
        ]
        rows = [row | ({"status": "running"} if "status" in row else {}) for row in rows]
        seen = dataclasses.replace(look(view), page=Page(rows, STATUS["time"], note=nasty))
        seen = dataclasses.replace(seen, status=STATUS | {"pool": nasty}, hello=HELLO | {"program": nasty})
        assert all(line.isprintable() for line in frame(seen, 0, 0))


@pytest.mark.parametrize("view", VIEWS)
def test_rows_can_be_sorted(view: str):
    """By each of the orders of the view; the items go with their rows."""
    for order in ORDERS[view]:
        found = table(look(view), order)
        assert len(found.rows) == len(found.items) == len(ITEMS[view])
    assert [item["id"] for item in table(look(), "name").items] == ["9b2f", 19, 17]
    assert [item["id"] for item in table(look(), "attempt").items] == ["9b2f", 19, 17]
    assert [item["id"] for item in table(look(), "seconds").items] == [17, "9b2f", 19]


def test_words_filter_what_is_shown():
    """Each word must be somewhere in the row; how many match is said."""
    seen = dataclasses.replace(look(), wanted=Wanted.of("FETCH app.py"))
    assert [item["id"] for item in table(seen).items] == [17]
    assert table(seen).summary() == "1 of 3 match fetch app.py"


def test_a_filter_is_read():
    """Words, and what the program is asked to look for; a key that nobody knows is refused."""
    assert Wanted.of(" group=mail Slow ") == Wanted(("slow",), (("group", "mail"),))
    assert str(Wanted.of("slow group=mail")) == "group=mail slow"
    with pytest.raises(Refusal, match="colour=red: write a word of the row, or one of name=, group="):
        Wanted.of("colour=red")


@pytest.mark.parametrize(
    ("busy", "leaked", "bar"), [(0, 0, "."), (1, 0, "#"), (9999, 0, "#"), (10000, 10000, "!"), (1, 1, "!")]
)
def test_a_bar_of_many_slots(busy: int, leaked: int, bar: str):
    """One that is taken is seen, however many there are; and so is one that is free."""
    numbers = NUMBERS | {"size": 10_000, "busy": busy, "leaked": leaked}
    line = head(dataclasses.replace(look(), status=STATUS | {"size": 10_000, "numbers": numbers}), 80)[2]
    assert line.startswith(f"slots  [{bar}")
    assert (".]" in line) == (busy < 10_000)
    assert cell_len(line) <= 80


@pytest.mark.parametrize(
    ("text", "width", "found"),
    [("abc", 0, "abc"), ("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 4, "日 …"), ("ab", 1, "…")],
)
def test_a_text_is_clipped(text: str, width: int, found: str):
    """By the cells that it takes; what is cut ends in a mark."""
    assert clipped(text, width) == found


def test_the_widest_column_gives_way():
    """Until all fit, or none can give way any more."""
    rows = [["x", "y" * 50, "z" * 30]]
    assert sum(column_widths(["a", "b", "c"], rows, 60)) == 56
    assert column_widths(["a", "b", "c"], rows, 0) == [1, 50, 30]
    assert column_widths(["a", "b", "c"], rows, 5) == [1, 6, 6]
    _, line = fitted_lines(["a", "b", "c"], rows, 40)
    assert (cell_len(line), line.count("…")) == (40, 2)
