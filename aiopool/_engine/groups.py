"""`GroupRegistry`: the groups of a pool by their names: who is in them, which are paused, and the jobs that met the
pause.

A job of a paused group is *parked* when it comes out of the line, and goes back to its place there when the group goes
on. A name is known as long as it has live jobs or is paused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

from aiopool._engine.queue import JobQueue
from aiopool._jobs.job import Job, JobExtra

__all__ = ["GroupRegistry", "GroupState"]


@final
class GroupState:
    """The jobs of one group name: counted, paused and cancelled together.

    Attributes:
        name: the group's name.
        paused: its jobs do not start.
        line: the queued jobs that met the pause; None, if none did.
        members: its live jobs, oldest first.
    """

    __slots__ = ("line", "members", "name", "paused")

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.line: JobQueue | None = None
        self.members: dict[Job[Any], None] = {}


@final
class GroupRegistry:
    """The groups that there are; see the module.

    Attributes:
        parked: how many jobs are parked, in all groups.
    """

    __slots__ = ("_groups", "_queue", "parked")

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._groups: dict[str, GroupState] = {}
        self.parked = 0

    def __iter__(self) -> Iterator[GroupState]:
        return iter(tuple(self._groups.values()))

    def get(self, name: str) -> GroupState | None:
        """Return the group of a group that is known."""
        return self._groups.get(name)

    def join(self, job: Job[Any], extra: JobExtra, name: str) -> None:
        """Make a job a member of a group."""
        extra.group = self._state(name)
        extra.group.members[job] = None

    def leave(self, job: Job[Any], group: GroupState) -> None:
        """A member has ended."""
        group.members.pop(job, None)
        self._drop(group)

    def pause(self, name: str) -> None:
        """Let no job of a group start."""
        self._state(name).paused = True

    def resume(self, name: str) -> Iterator[None] | None:
        """Let the jobs of a group start again; parked ones go back to their places in line, one a step.

        None if the group was not paused.
        """
        group = self._groups.get(name)
        if group is None or not group.paused:
            return None
        group.paused = False
        return self._bring_back(group)

    def _bring_back(self, group: GroupState) -> Iterator[None]:
        while group.line is not None and not group.paused:  # it may have been paused again meanwhile
            job = group.line.pop()
            if job is None:
                group.line = None
                break
            self.parked -= 1
            job._extra.parked = None
            self._queue.push_in_order(job)
            yield
        self._drop(group)

    def park(self, job: Job[Any]) -> bool:
        """Park a job that came out of the line if its group is paused; whether it is."""
        extra = job._extra
        if extra is None or extra.group is None or not extra.group.paused:
            return False
        group: GroupState = extra.group
        if group.line is None:
            group.line = self._queue.another()
        group.line.push_in_order(job)
        extra.parked = group
        self.parked += 1
        return True

    def discard(self, job: Job[Any]) -> None:
        """Take a job out of the line in which it is parked."""
        assert job._extra is not None
        job._extra.group.line.discard(job)
        job._extra.parked = None
        self.parked -= 1

    def _state(self, name: str) -> GroupState:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = GroupState(name)
        return group

    def _drop(self, group: GroupState) -> None:
        if not group.members and not group.paused:
            self._groups.pop(group.name, None)
