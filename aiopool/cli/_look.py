"""What is asked of a program for one frame of `aiopool top`: a `Look`; and the `Watcher` who asks again and again.

A look is what was seen, and no text: `_frame` has the words. The numbers come first, from a verb that needs no event
loop. Lists of jobs need it: while it is blocked they are not asked for, and those of before are shown with their age.
"""

from __future__ import annotations

import dataclasses
import getpass
import math
import threading
import time
from typing import Any, Final, NamedTuple, Self, final

from aiopool._control.client import NoAnswerError, NoProgramError
from aiopool._control.problems import Problem
from aiopool.cli._door import Door
from aiopool.cli._words import Refusal

__all__ = ["MAX_ROWS", "VIEWS", "Look", "Page", "Wanted", "Watcher", "ended_text"]

VIEWS: Final = ("running", "waiting", "failed", "groups", "loop", "what-if")
MAX_ROWS: Final = 200
# Seconds in which a program that ends is gone.
_GOING: Final = 1.0
# What costs the program much is not asked for each second: by view, the seconds for which rows of before are shown
# whatever has happened since, and those for which they are shown if nothing has.
_CALM: Final = {"failed": 5.0}
_SAME: Final = {"loop": 10.0, "what-if": 60.0}


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows are wanted.

    Attributes:
        words: each must be somewhere in the row as it is shown, in upper or lower case.
        asked: what the program is asked to look for, among all of its jobs: `group=mail`.
    """

    KEYS = ("name", "group", "error", "label", "waits_for", "older_than")

    words: tuple[str, ...] = ()
    asked: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, text: str) -> Self:
        """Read it of what somebody has typed.

        Raises:
            Refusal: there is no such key.
        """
        words, asked = [], []
        for word in text.split():
            key, equals, value = word.partition("=")
            if equals and key not in cls.KEYS:
                raise Refusal(f"{word}: write a word of the row, or one of {', '.join(f'{one}=' for one in cls.KEYS)}")
            if equals:
                asked.append((key, value))
            else:
                words.append(word.lower())
        return cls(tuple(words), tuple(asked))

    def __str__(self) -> str:
        return " ".join((*(f"{key}={value}" for key, value in self.asked), *self.words))


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """The rows of a view.

    Attributes:
        items: as the program has sent them.
        at: when, in seconds since 1970.
        complete: whether there can be no more of them.
        kept: how many jobs that have ended the program remembers; None: that is no matter here.
        retry: whether they can be run again: the pool has a store, which keeps their arguments.
        note: why there are none, or why these are old.
    """

    items: list[dict[str, Any]]
    at: float
    complete: bool = True
    kept: int | None = None
    retry: bool = False
    note: str | None = None


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a pool at one moment.

    Attributes:
        hello: what the program says of itself.
        status: the answer to `status`.
        view: one of `VIEWS`.
        page: the rows of the view.
        wanted: which of them are wanted.
        done_rate: jobs that succeeded or were cancelled, in a second, of late; None: nobody has looked before.
        fail_rate: jobs that failed or timed out, in a minute, of late.
    """

    hello: dict[str, Any]
    status: dict[str, Any]
    view: str
    page: Page
    wanted: Wanted = Wanted()
    done_rate: float | None = None
    fail_rate: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        about = {name: self.hello[name] for name in ("pid", "program", "python", "access")}
        status = {name: value for name, value in self.status.items() if name != "running"}
        page = {"items": self.page.items, "complete": self.page.complete, "note": self.page.note}
        rates = {"done_per_second": self.done_rate, "failed_per_minute": self.fail_rate}
        return about | status | rates | {"view": self.view} | page


class _Kept(NamedTuple):
    """The rows of before, how many were asked for, and of what state they are."""

    mark: object
    rows: int
    page: Page


@final
class Watcher:
    """Asks one program about one pool. `look` is for one thread, `ask` for any other."""

    def __init__(self, connection: Door, pool: str | None, *, read_only: bool = False) -> None:
        self.hello = connection.hello
        self.pool = pool
        # The program itself refuses what this one may not do: hidden keys are no protection.
        self._behalf = {"who": getpass.getuser(), "access": "read"} if read_only else None
        self.read_only = read_only or connection.hello["access"] == "read"
        self._door = connection
        self._connection: Door | None = connection
        self._aborted = False
        self._second: Door | None = None
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, Wanted], _Kept] = {}

    def look(self, view: str, rows: int, wanted: Wanted = Wanted()) -> Look:
        """Look once.

        Args:
            view: one of `VIEWS`.
            rows: so many rows of it at most.
            wanted: which of them.

        Raises:
            NoProgramError: it has ended.
            NoAnswerError: it does not answer.
            Problem: it has refused; "not-found": the pool has closed.
        """
        rows = max(1, min(rows, MAX_ROWS))
        try:
            if self._connection is None:
                self._connection = self._door.again()
            status = self._ask("status", rows=rows if view == "running" else None)
            self.pool = status["pool"]
            page = self._page(view, rows, wanted, status)
        except NoAnswerError:
            # An answer that comes after all would be taken for that of the next question.
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._tell_gone_from_slow()
            raise
        return Look(self.hello, status, view, page, wanted, *_rates(status["rates"]))

    def _tell_gone_from_slow(self) -> None:
        """Raise a `NoProgramError` if the program has ended."""
        until = time.monotonic() + _GOING
        while time.monotonic() < until and not self._aborted:
            try:
                self._door.again(_GOING).close()
                return
            except NoAnswerError:  # it is stopped; or it is just about to go, and its socket has not gone yet
                time.sleep(0.01)
            except (PermissionError, Problem):
                return

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Ask something else, on a connection of its own: a look does not wait for it.

        Raises:
            Problem: it was refused, or did not work.
            NoProgramError: the program has ended.
            NoAnswerError: there was no answer.
        """
        with self._lock:
            if self._second is None:
                self._second = self._door.again()
            try:
                return self._second.ask(verb, self.pool, on_behalf_of=self._behalf, **arguments)
            except NoAnswerError:
                self._second.close()
                self._second = None
                raise

    def abort(self) -> None:
        """End what is asked at this moment, from another thread."""
        self._aborted = True
        for connection in (self._connection, self._second):
            if connection is not None:
                connection.abort()

    def close(self) -> None:
        """Close the connections."""
        for connection in (self._connection, self._second):
            if connection is not None:
                connection.close()

    def _ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        assert self._connection is not None
        return self._connection.ask(verb, self.pool, on_behalf_of=self._behalf, **arguments)

    # -- the rows of a view --------------------------------------------------------------------------------------------

    def _page(self, view: str, rows: int, wanted: Wanted, status: dict[str, Any]) -> Page:
        """Return the rows of a view; those of before, if the event loop is blocked."""
        if view == "running" and not wanted.asked:
            return Page(status["running"], status["time"], len(status["running"]) == status["numbers"]["running"])
        if status["loop"]["blocked"] is None or view == "loop":
            try:
                return self._fresh(view, rows, wanted, status)
            except Problem as problem:
                if problem.kind != "loop-blocked":
                    return Page([], status["time"], note=problem.detail)
        kept = self._kept.get((view, wanted))
        before = Page([], status["time"], complete=False) if kept is None else kept.page
        age = "no list can be asked for" if not before.items else f"this list is {status['time'] - before.at:.0f} s old"
        return dataclasses.replace(before, note=f"the event loop does not answer: {age}")

    def _fresh(self, view: str, rows: int, wanted: Wanted, status: dict[str, Any]) -> Page:
        asked = dict(wanted.asked)
        mark = _mark(view, status)
        kept = self._kept.get((view, wanted))
        if kept is not None and kept.rows >= rows:
            age = status["time"] - kept.page.at
            if 0 <= age < _CALM.get(view, 0.0) or (kept.mark == mark and 0 <= age < _SAME.get(view, math.inf)):
                return kept.page
        if view == "groups":
            page = Page(self._ask("list_groups")["items"], status["time"])
        elif view == "failed":
            page = self._failed(rows, asked, status)
        elif view == "waiting":
            page = self._waiting(rows, asked, status)
        elif view == "loop":
            page = Page(self._ask("blocked")["spells"][::-1], status["time"])
        elif view == "what-if":
            page = self._what_if(status)
        else:
            page = _page_of([self._ask("jobs", status="running", limit=rows, **asked)], status["time"])
        # These have all rows that there are, however many are asked for.
        self._kept = {(view, wanted): _Kept(mark, MAX_ROWS if view in _SAME else rows, page)}
        return page

    def _failed(self, rows: int, asked: dict[str, str], status: dict[str, Any]) -> Page:
        # The program looks at each job that has ended: not for a status that none has.
        statuses = [one for one in ("failed", "timed_out") if status["numbers"][one]] or ["failed"]
        answers = [self._ask("jobs", status=one, limit=rows, **asked) for one in statuses]
        page = _page_of(answers, status["time"])
        newest = sorted(page.items, key=lambda item: str(item["finished"]), reverse=True)
        retry = bool(newest) and self._can_retry(str(newest[0]["id"]))
        return dataclasses.replace(page, items=newest[:rows], kept=answers[0].get("kept"), retry=retry)

    def _can_retry(self, id: str) -> bool:
        try:
            return "retry" in self._ask("job", id=id).get("may", ())
        except Problem:  # it is forgotten meanwhile
            return False

    def _what_if(self, status: dict[str, Any]) -> Page:
        answer = self._ask("what_if")
        items = [item | {"now": item["size"] == answer["size"]} for item in answer["items"]]
        return Page(items, status["time"], note=f"of the last {answer['jobs']:,} jobs; assumes {answer['assumes']}")

    def _waiting(self, rows: int, asked: dict[str, str], status: dict[str, Any]) -> Page:
        """The first of the line, then those that wait beside it: for a limit, a paused group, a moment."""
        numbers = status["numbers"]
        if asked:
            answers = [
                self._ask("jobs", status=one, order="oldest", limit=rows, **asked) for one in ("queued", "scheduled")
            ]
            page = _page_of(answers, status["time"])
            return dataclasses.replace(page, items=page.items[:rows])
        answers = [self._ask("jobs", order="next", limit=rows)]
        if len(answers[0]["items"]) < min(rows, numbers["queued"]):
            answers.append(self._ask("jobs", status="queued", order="oldest", limit=rows))
        if numbers["scheduled"]:
            answers.append(self._ask("jobs", status="scheduled", order="oldest", limit=rows))
        once = {str(item["id"]): item for answer in answers[::-1] for item in answer["items"][::-1]}
        items = list(once.values())[::-1]
        total = numbers["queued"] + numbers["scheduled"]
        return Page(items[:rows], status["time"], len(items) >= total)


def _mark(view: str, status: dict[str, Any]) -> object:
    """Return what is the same as long as the rows of a view are; of most views they never are."""
    numbers, blocked = status["numbers"], status["loop"]["blocked"]
    marks: dict[str, object] = {
        "failed": (numbers["failed"], numbers["timed_out"]),
        "loop": None if blocked is None else object(),
        "what-if": status["size"],
    }
    return marks.get(view, object())


def _rates(rates: dict[str, float] | None) -> tuple[float | None, float | None]:
    """Return jobs a second that did not fail, and a minute that did, as the program has counted them of late."""
    return (None, None) if rates is None else (rates["ended"] - rates["failed"], rates["failed"] * 60)


def _page_of(answers: list[dict[str, Any]], now: float) -> Page:
    items = [item for answer in answers for item in answer["items"]]
    left = [answer["searched"] for answer in answers if not answer["complete"]]
    note = f"searched {sum(left):,} jobs: there are more" if left else None
    return Page(items, now, not left, note=note)


def ended_text(error: Exception, watcher: Watcher) -> str:
    """Return why there is nothing more to see of a program."""
    program = f"{watcher.hello['program']} {watcher.hello['pid']}"
    if isinstance(error, NoProgramError):
        return f"{program} has ended, or has closed its door"
    if isinstance(error, Problem) and error.kind == "not-found":
        return f"pool {watcher.pool!r} of {program} has closed"
    return str(error)
