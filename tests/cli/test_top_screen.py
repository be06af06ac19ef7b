"""The screen of `aiopool top`: Textual's Pilot presses keys, and real programs answer; and once on a real terminal."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from child_programs import wait_for, watched
from cli.doors import BLOCKED, ENDED, IDLE, STORED, busy, masked, running
from cli.support import command, environment
from services.support import until
from web.web_app import command as serving

from aiopool.cli._door import open_door
from aiopool.cli._look import Wanted, Watcher
from aiopool.cli._top_app import TopApp
from aiopool.cli._top_choose import Choose
from aiopool.cli._top_dialogs import Page, Question, SizeQuestion
from aiopool.cli._top_rows import Rows

SCREEN = """\
-c PID  pool mail  open  up T s  HH:MM:SSZ
4 queued  1 scheduled  0 done  2 failed
slots  [##]  2 of 2
loop   answers, N ms late at most
 running 3  waiting 5  failed 2  groups  loop  what-if"""


def text(app: TopApp) -> str:
    """What is on the screen."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in strips)


class Seat:
    """Somebody at the screen."""

    def __init__(self, app: TopApp, pilot: Any) -> None:
        self.app = app
        self.pilot = pilot

    async def sees(self, *words: str) -> str:
        """Wait until all of the words are on the screen."""
        await until(lambda: all(word in text(self.app) for word in words), what=f"{words} on:\n{text(self.app)}")
        return text(self.app)

    async def press(self, keys: str, *words: str) -> str:
        """Press keys, and wait for words."""
        await self.pilot.press(*keys.split())
        return await self.sees(*words)

    async def until(self, condition: Callable[[], object]) -> None:
        await until(condition, what=f"a condition on:\n{text(self.app)}")

    @property
    def rows(self) -> Rows:
        return self.app.screen_stack[0].query_one("#rows", Rows)


@contextlib.asynccontextmanager
async def seat(
    target: str | None = None,
    size: tuple[int, int] = (80, 24),
    *,
    read_only: bool = False,
    choose: bool = False,
    token_file: str | None = None,
) -> AsyncIterator[Seat]:
    """Sit down before a screen."""
    watcher = None if choose else Watcher(*open_door(target, token_file), read_only=read_only)
    app = TopApp(watcher, interval=0.05, view="running", wanted=Wanted(), read_only=read_only)
    try:
        async with app.run_test(size=size, notifications=True) as pilot:
            yield Seat(app, pilot)
    finally:
        app.let_go()


# -- looking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
async def test_a_screen(doors: Path, size: tuple[int, int]):
    """The numbers, the slots, the loop; a table, and below it the keys."""
    with busy():
        async with seat(size=size) as me:
            shown = await me.sees("in forever", "running 3", "waiting 5", "failed 2", "q Quit")
            first = masked(re.sub(r" \(\d+/(s|min)\)", "", shown))
            assert first.splitlines()[:5] == SCREEN.splitlines()
            lines = shown.split("\n")
            assert len(lines) == size[1]
            assert lines[6].split() == ["S", "id", "name", "runs", "attempt", "suspended", "at"]
            assert [line.split()[:3] for line in lines[7:9]] == [["R", "mum", "parent"], ["R", "long", "forever"]]
            for words in ("/ Filter", "s Sort", "t Tree", "w What if", "p Pause", "+ Size", "c Cancel", "q Quit"):
                assert words in lines[-1]


@pytest.mark.long
async def test_the_views(doors: Path):
    """Numbers and the tab key go from one to the other; names are shown as they are, and harmlessly."""
    with busy():
        async with seat() as me:
            await me.press("2", "waits for", "delay")
            assert "[bold]x[/] \\x1b[31m" in text(me.app)
            await me.press("tab", "ValueError: no such page")
            await me.press("tab", "host   3")
            await me.press("5", "the event loop was not blocked since somebody looks")
            await me.press("tab", "100 are needed")
            await me.press("tab", "suspended at")
            await me.press("shift+tab shift+tab", "blocked  at")


async def test_a_screen_that_changes_its_size(doors: Path):
    """Everything fits anew."""
    with busy():
        async with seat() as me:
            await me.sees("suspended at")
            await me.pilot.resize_terminal(40, 12)
            await me.until(lambda: len(text(me.app).splitlines()) == 12 and "…" in text(me.app))
            await me.pilot.resize_terminal(200, 50)
            await me.until(lambda: "in forever" in text(me.app) and len(text(me.app).splitlines()) == 50)
            assert me.app.return_value is None


@pytest.mark.long
async def test_a_filter(doors: Path):
    """Words look through the rows that are shown, `group=` through all jobs of the program; Esc takes it away."""
    with busy():
        async with seat() as me:
            await me.press("2", "q0", "odd")
            await me.press("slash g r o u p = h o s t space q 1 enter", "1 of 3 match group=host q1")
            assert [item["id"] for item in me.rows.items] == ["q1"]
            await me.press("escape", "later")
            await me.press("slash c o l o u r = r e d enter", "write a word of the row")
            await me.press("escape")
            assert me.app.wanted == Wanted()


async def test_rows_are_sorted(doors: Path):
    """By the next order with each press; the cursor stays on its job."""
    with busy():
        async with seat() as me:
            await me.sees("in forever")
            await me.pilot.press("down")
            await me.until(lambda: me.rows.item and me.rows.item["id"] == "long")
            await me.press("s", "by name")
            assert [item["name"] for item in me.rows.items] == ["forever", "forever", "parent"]
            assert me.rows.item["id"] == "long"
            await me.press("s s s", "suspended at")
            await me.until(lambda: [item["id"] for item in me.rows.items][:2] == ["mum", "long"])
            assert me.rows.item["id"] == "long"


@pytest.mark.long
async def test_details_and_the_tree(doors: Path):
    """Enter shows all that is known of a row, `t` which job has submitted which."""
    with busy():
        async with seat(size=(120, 50)) as me:
            await me.press("1", "in forever")
            await me.press("down enter", "╭─ job long forever", "submitted", 'File "<string>", line')
            await me.press("escape t", "jobs of jobs", "mum parent: running")
            await me.press("escape 3", "no such page")
            await me.press("enter", "ValueError: no such page", "Esc: back")
            await me.press("escape 2", "odd")
            await me.press("down down down enter", "╭─ job odd [bold]x[/] \\x1b[31m\\u202e")
            await me.press("escape 4", "host   3")
            await me.press("enter", "group host")
            await me.until(lambda: isinstance(me.app.screen, Page))


async def test_what_if(doors: Path):
    """`w` shows how long jobs would have waited at other sizes, beside the present one; Enter all of one size."""
    with running(ENDED):
        async with seat("mail") as me:
            await me.press("1", "q Quit")
            await me.press("w", "wait p95", "NOW", "of the last 120 jobs")
            assert [item["size"] for item in me.rows.items] == [1, 2, 4, 8]
            await me.press("down enter", "if the size were 2", "queue")
            await me.press("escape 1", "no job runs")


@pytest.mark.long
async def test_a_blocked_loop(doors: Path):
    """Who blocks it is on the screen; a list that needs the loop says so; a stack can be had all the same."""
    with running(BLOCKED):
        async with seat(size=(120, 40)) as me:
            shown = await me.sees("BLOCKED", " in block, job 'block' id 'bad'", "loop !")
            assert "calm" in shown
            await me.press("2", "the event loop does not answer: no list can be asked for")
            await me.press("1", "bad")
            await me.press("down enter", "╭─ job bad block", "in block")
            await me.press("escape 5", "block, job 'block'")
            await me.press("enter", 'File "<string>", line', "in block")


# -- verbs -------------------------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_verbs_ask_first(doors: Path):
    """No, and nothing is done; yes, and it is; each says what it has done."""
    with busy():
        async with seat(size=(120, 40)) as me:
            await me.press("1", "in forever")
            await me.press("p", "Pause pool mail? no job starts, and those that run go on")
            assert isinstance(me.app.screen, Question)
            await me.pilot.press("n")
            await me.press("p", "Pause pool mail?")
            assert me.app.look is not None
            assert not me.app.look.status["paused"]
            await me.press("y", "PAUSED by", "pool mail is paused")
            await me.press("p", "Resume pool mail?")
            await me.press("enter", "pool mail goes on")
            await me.until(lambda: me.app.look and not me.app.look.status["paused"])

            await me.press("plus plus plus minus", "Resize pool mail from 2 to 4?")
            assert isinstance(me.app.screen, SizeQuestion)
            await me.press("enter", "size 2 is now 4", "4 of 4")
            await me.press("minus escape", "4 of 4")

            await me.press("down c", "Cancel job long forever? It is running")
            await me.press("y", "job long was running")
            await me.until(lambda: me.rows.items and "long" not in [item["id"] for item in me.rows.items])
            await me.press("2", "later")
            await me.until(lambda: me.rows.items and me.rows.items[-1]["id"] == "later")
            await me.pilot.press(*["down"] * 9)
            await me.press("c", "Cancel job later forever? It is scheduled")
            await me.press("y", "job later was scheduled, and is cancelled")

            await me.press("4", "host")
            await me.press("p", "Pause group host?")
            await me.press("y", "group host is paused")
            await me.press("c", "Cancel all jobs of group host?")
            await me.press("y", "cancels", "jobs of group host")


async def test_what_is_refused_is_said(doors: Path):
    """A job that has ended meanwhile, or that the program refuses: its words are shown."""
    with busy():
        async with seat(size=(160, 40)) as me:
            await me.press("1", "in forever")
            await me.press("down c", "Cancel job long")
            assert me.app._watcher is not None
            await asyncio.to_thread(me.app._watcher.ask, "cancel", id="long")
            await me.until(lambda: "long" not in [item["id"] for item in me.rows.items])
            await me.press("y", "job long has ended: cancelled")


async def test_a_job_is_run_again(doors: Path, tmp_path: Path):
    """With a store, `r` puts a job that has failed back into the queue, after a question; the key is there for it."""
    with running(STORED, url=f"sqlite:///{tmp_path}/jobs.db") as process:
        async with seat(size=(120, 40)) as me:
            await me.press("1", "q Quit")
            assert "r Retry" not in text(me.app)
            await me.press("3", "no such page", "r Retry")
            await me.press("r", "Run job once fail again? It is failed")
            await me.pilot.press("n")
            await me.press("r", "Run job once fail again?")
            await me.press("y", "job once is in the queue again")
            await asyncio.to_thread(wait_for, process, "tried again")


async def test_a_pool_in_memory_cannot_retry(doors: Path):
    """The key is not there; whoever presses it is told why, and what to write."""
    with busy():
        async with seat(size=(120, 40)) as me:
            shown = await me.press("3", "no such page", "q Quit")
            assert "r Retry" not in shown
            await me.press("r", "Pool(store=..., handlers=...)")
            assert len(me.app.screen_stack) == 1


@pytest.mark.parametrize("by", ["the program", "the option"])
async def test_read_only(doors: Path, by: str):
    """Keys that steer are not there; and if they were, the program would refuse."""
    with busy(read_only=by == "the program"):
        async with seat(read_only=by == "the option") as me:
            shown = await me.sees("in forever", "q Quit")
            assert not re.search("Pause|Size|Cancel", shown)
            await me.press("3", "no such page")
            await me.pilot.press("r")
            assert not me.app._notifications
            await me.pilot.press("p", "plus", "minus", "c")
            assert len(me.app.screen_stack) == 1
            assert await me.app._ask("pause") is None
            await me.sees("pause takes operate access")
            assert me.app.look is not None
            assert not me.app.look.status["paused"]


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_leaving(doors: Path):
    """`q` leaves, with exit code 0."""
    with busy():
        async with seat() as me:
            await me.press("1", "in forever")
            await me.pilot.press("q")
        assert (me.app.return_code, me.app.left_because) == (0, None)


async def test_the_program_dies(doors: Path):
    """It is said, with exit code 1."""
    with busy() as process:
        async with seat() as me:
            await me.sees("in forever")
            process.kill()
            await until(lambda: me.app.left_because is not None, what="the end")
        assert me.app.return_code == 1
        assert me.app.left_because == f"-c {process.pid} has ended, or has closed its door"


@pytest.mark.long
async def test_a_program_that_does_not_answer(doors: Path):
    """What is old says so; the keys go on; whoever leaves need not wait for the answer."""
    with busy() as process:
        async with seat() as me:
            await me.sees("in forever")
            os.kill(process.pid, signal.SIGSTOP)
            try:
                await me.sees(f"NO ANSWER from -c {process.pid} for ")
                assert me.app.has_class("stale")
                await me.pilot.press("q")
            finally:
                os.kill(process.pid, signal.SIGCONT)
        assert me.app.return_code == 0


async def test_several_programs(doors: Path):
    """One of their pools is chosen from a list."""
    with busy() as one, running(IDLE, names="['eggs', 'spam']", seconds=3600) as other:
        async with seat(choose=True) as me:
            shown = await me.sees("mail", "eggs", "spam", "Pools of programs with an open door")
            assert isinstance(me.app.screen, Choose)
            assert all(str(process.pid) in shown for process in (one, other))
            pools = [key for _, key in me.app.screen.query_one(Rows).items]
            await me.pilot.press(*["down"] * pools.index("spam"))
            await me.press("enter", f"-c {other.pid}  pool spam  open", "in sleep")


@pytest.mark.long
async def test_over_http(doors: Path):
    """The screen is the same; it steers, and is left at once while the server owes an answer."""
    web = serving(doors.parent, "web", "--port", "0", "--token-file", "token")
    with busy() as process, web as server:
        async with seat(server.url, (120, 40), token_file=str(doors.parent / "token")) as me:
            await me.press("1", "in forever", "running 3", f"-c {process.pid}")
            await me.press("down enter", "╭─ job long forever", 'File "<string>", line')
            await me.press("escape t", "jobs of jobs", "mum parent: running")
            await me.press("escape p", "Pause pool mail?")
            await me.press("y", "PAUSED by token", "pool mail is paused")
            await me.press("plus enter", "size 2 is now 3")
            await me.press("3", "no such page")
            await me.press("r", "Pool(store=..., handlers=...)")
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                await me.sees(f"NO ANSWER from -c {process.pid} for ")
                await me.pilot.press("q")
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
        assert me.app.return_code == 0


# -- a real terminal ---------------------------------------------------------------------------------------------------


def on_terminal(here: Path, size: tuple[int, int], until: str, **env: str) -> tuple[int, str]:
    """Run `aiopool top` on a terminal until a word is there, press `q`; return the exit code and what was written."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    kept = {key: value for key, value in environment(TERM="xterm-256color", **env).items() if key != "COLUMNS"}
    process = subprocess.Popen(
        command("top"), cwd=here, env=kept, stdin=its, stdout=its, stderr=its, start_new_session=True
    )
    os.close(its)
    seen = b""
    with process, watched(process):
        pressed = False
        while True:
            try:
                chunk = os.read(mine, 65536)
            except OSError:  # nobody has the other end any more
                break
            if not chunk:
                break
            seen += chunk
            if until.encode() in seen and not pressed:
                pressed = True
                os.write(mine, b"q")
        code = process.wait(60)
    os.close(mine)
    return code, seen.decode(errors="replace")


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such terminals")
def test_on_a_terminal(here: Path, doors: Path):
    """It draws, and leaves the terminal as it was; NO_COLOR is respected."""
    with busy():
        code, shown = on_terminal(here, (80, 24), "in forever")
        assert code == 0, shown
        assert "\x1b[?1049h" in shown
        assert "\x1b[?1049l" in shown
        colour = re.compile(r"\x1b\[[\d;]*\b[34]8;")
        assert colour.search(shown)
        code, shown = on_terminal(here, (80, 24), "in forever", NO_COLOR="1")
        assert code == 0, shown
        shades = {tuple(map(int, found)) for found in re.findall(r"[34]8;2;(\d+);(\d+);(\d+)", shown)}
        assert all(max(shade) - min(shade) <= 1 for shade in shades), shades
