"""The account of a torture finds what is wrong, and only that: journals and rows that were falsified by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aiopool._torture.account import Account, Conditions, account
from aiopool.stores._rows import StoredJob, StoredStatus

HOST, OTHER, PRODUCER, TORMENTOR = 11, 12, 21, 1


class Story:
    """Journals and rows in which all is well, unless a test says otherwise."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.rows: dict[str, StoredJob] = {}
        self.conditions = Conditions()
        self._tokens = 0

    def note(self, what: str, at: float, pid: int, **facts: Any) -> None:
        """Add a line to a journal."""
        self.events.append({"what": what, "at": at, "pid": pid, **facts})

    def submit(self, id: str, at: float, name: str = "quick", **options: Any) -> None:
        """A job is handed in, acknowledged, and in the store."""
        self.note("submit", at, PRODUCER, id=id, name=name, args=[], options=options)
        self.note("taken", at + 0.01, PRODUCER, id=id, other=None)
        self.rows[id] = _row(id, name, at, options)

    def run(self, id: str, start: float, end: float | None, *, pid: int = HOST, fence: int = 1, **more: Any) -> str:
        """A job is executed; no end: its process dies meanwhile. The last one that returns has written the result."""
        self._tokens += 1
        token = f"t{self._tokens}"
        row = self.rows[id]
        how = more.pop("how", "ok")
        who = {"id": id, "name": row.name, "token": token}
        self.note("start", start, pid, **who, attempt=fence, fence=fence, **more)
        self.rows[id] = row._replace(fence=max(row.fence, fence), attempt=max(row.attempt, fence), started_at=start)
        if end is not None:
            self.note("end", end, pid, **who, how=how)
            if how == "ok":
                self.change(id, status=StoredStatus.SUCCEEDED, result=f'"{token}"', finished_at=end)
        return token

    def die(self, pid: int, at: float) -> None:
        """A process is killed."""
        self.note("kill", at, TORMENTOR, victim=pid, how="SIGKILL")
        self.note("exit", at + 0.01, TORMENTOR, victim=pid, code=-9)

    def change(self, id: str, **fields: Any) -> None:
        """Change the row of a job."""
        self.rows[id] = self.rows[id]._replace(**fields)

    def account(self) -> Account:
        """Return the account."""
        return account(sorted(self.events, key=lambda event: event["at"]), self.rows.values(), self.conditions)

    def promises(self) -> set[str]:
        """Return the promises that were not kept."""
        return {violation.promise for violation in self.account().violations}


def _row(id: str, name: str, at: float, options: dict[str, Any]) -> StoredJob:
    fields: dict[str, Any] = dict.fromkeys(StoredJob._fields)
    fields |= {"id": id, "name": name, "status": StoredStatus.QUEUED, "payload": "{}", "priority": 5, "position": 1}
    fields |= {"attempt": 0, "crashes": 0, "max_crashes": 3, "created_at": at, "fence": 0, "lanes": (), "submitter": ""}
    fields |= {"unique": options.get("unique"), "priority": options.get("priority", 5)}
    return StoredJob(**fields)


@pytest.fixture
def story() -> Story:
    """One job that went well, and one whose host was killed."""
    made = Story()
    made.note("host", 0.0, HOST)
    made.note("host", 0.0, OTHER)
    made.submit("a", 1.0)
    made.run("a", 1.1, 1.2)
    made.submit("b", 1.0)
    made.run("b", 1.3, None, pid=OTHER)
    made.die(OTHER, 1.5)
    made.run("b", 2.0, 2.1, fence=2)
    made.change("b", crashes=1)
    return made


def test_a_story_without_faults_has_no_violations(story: Story) -> None:
    """All is well: a death, and the restart after it, are no faults."""
    found = story.account()
    assert found.violations == []
    assert (found.acknowledged, found.executions, found.crashes) == (2, 3, 1)


def _lost_id(story: Story) -> None:
    del story.rows["a"]


def _refused_for_itself(story: Story) -> None:
    story.note("refused", 1.05, PRODUCER, id="a", error="its id is taken")


def _not_done(story: Story) -> None:
    story.submit("c", 3.0)


def _cancelled_by_nobody(story: Story) -> None:
    story.submit("c", 3.0)
    story.change("c", status=StoredStatus.CANCELLED)


def _double_execution(story: Story) -> None:
    story.run("a", 1.15, 1.3, pid=OTHER, fence=2)
    story.change("a", crashes=1)


def _one_execution_too_many(story: Story) -> None:
    story.run("a", 2.15, 2.3, fence=2)


def _crash_of_the_living(story: Story) -> None:
    story.change("b", crashes=2)


def _exceeded_limit(story: Story) -> None:
    for id in ("c", "d", "e"):
        story.submit(id, 3.0, "narrow")
        story.run(id, 3.1, 3.5, lanes=["narrow"])


def _exceeded_pace(story: Story) -> None:
    for number in range(60):
        story.submit(f"p{number}", 3.0, "paced")
        story.run(f"p{number}", 3.1 + number / 100, 3.11 + number / 100)


def _early_start(story: Story) -> None:
    story.submit("c", 3.0, delay=1.0)
    story.run("c", 3.9, 4.0)


def _late_write(story: Story) -> None:
    row = story.rows["a"]
    facts = {"status": "succeeded", "result": '"of another"', "finished_at": row.finished_at, "attempt": row.attempt}
    story.note("seen", 1.25, TORMENTOR, id="a", **facts)


def _waiter_got_something_else(story: Story) -> None:
    story.note("awaited", 1.3, PRODUCER, id="a", status="succeeded", value="of another")


def _timed_out_early(story: Story) -> None:
    story.submit("c", 3.0)
    story.change("c", status=StoredStatus.TIMED_OUT, total_until=4.0, finished_at=3.5)


def _result_of_a_lost_claim(story: Story) -> None:
    story.change("a", fence=2)


def _runs_after_its_cancel(story: Story) -> None:
    story.submit("c", 3.0)
    story.note("cancel", 3.1, PRODUCER, id="c")
    story.note("cancelled", 3.2, PRODUCER, id="c", was="queued", status="cancelled", ended=False)
    story.run("c", 3.3, 3.4, how="cancelled")
    story.change("c", status=StoredStatus.CANCELLED)


def _cancel_that_was_forgotten(story: Story) -> None:
    story.submit("c", 3.0)
    story.note("cancel", 3.1, PRODUCER, id="c")
    story.note("cancelled", 3.2, PRODUCER, id="c", was="running", status="cancelled", ended=False)
    story.run("c", 3.0, 3.4)


def _two_of_a_unique(story: Story) -> None:
    for id in ("c", "d"):
        story.submit(id, 3.0, unique="u")
        story.run(id, 3.1, 3.4)


def _out_of_order(story: Story) -> None:
    for id, priority, start in (("c", 7, 3.1), ("d", 2, 3.2)):
        story.submit(id, 3.0, priority=priority)
        story.events[-2]["line"] = True
        story.run(id, start, start + 0.1)


def _lost_child(story: Story) -> None:
    story.note("child", 1.15, HOST, id="a/0", parent="a")


def _poison_that_is_not_given_up(story: Story) -> None:
    story.submit("c", 3.0, "poison")
    story.run("c", 3.1, 3.2)


@pytest.mark.parametrize(
    ("falsify", "promise"),
    [
        (_lost_id, "accepted is kept"),
        (_refused_for_itself, "accepted once"),
        (_lost_child, "accepted is kept"),
        (_not_done, "ends"),
        (_cancelled_by_nobody, "ends"),
        (_poison_that_is_not_given_up, "ends"),
        (_double_execution, "one owner"),
        (_result_of_a_lost_claim, "one owner"),
        (_one_execution_too_many, "executions"),
        (_crash_of_the_living, "the living keep"),
        (_exceeded_limit, "limits hold"),
        (_exceeded_pace, "limits hold"),
        (_early_start, "never early"),
        (_timed_out_early, "never early"),
        (_waiter_got_something_else, "written once"),
        (_late_write, "written once"),
        (_cancel_that_was_forgotten, "written once"),
        (_runs_after_its_cancel, "cancelled never runs"),
        (_two_of_a_unique, "unique"),
        (_out_of_order, "in order"),
    ],
)
def test_a_fault_is_found_and_named(story: Story, falsify: Callable[[Story], None], promise: str) -> None:
    """Each falsified journal or row breaks one promise, and no other."""
    falsify(story)
    assert story.promises() == {promise}


def test_a_job_beside_itself_is_counted_apart_only_after_a_lost_lease(story: Story) -> None:
    """A host that was frozen may not know that its lease is over; one that nobody disturbed has no excuse."""
    story.conditions = Conditions(leases=True)
    story.submit("c", 3.0)
    story.run("c", 3.1, 9.0, pid=HOST)
    story.run("c", 8.0, 8.5, pid=OTHER + 1, fence=2)
    story.change("c", crashes=1, result='"t5"', finished_at=8.5)
    assert story.promises() == {"one owner"}
    story.note("disturb", 4.0, TORMENTOR, victim=HOST, how="SIGSTOP")
    found = story.account()
    assert (found.violations, found.overlaps) == ([], 1)
