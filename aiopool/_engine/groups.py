"""`Labels`: the groups of a pool by their names: who is in them, which are paused, and the jobs that met the pause.

A job of a paused group is *parked* when it comes out of the line, and goes back to its place there when the group goes
on. A name is known as long as it has live jobs or is paused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

from aiopool._engine.queue import JobQueue
from aiopool._jobs.job import Job, JobExtra

__all__ = ["Label", "Labels"]


@final
class Label:
    """The jobs of one group name: counted, paused and cancelled together.

    Attributes:
        name: the group's name.
        paused: its jobs do not start.
        parked: the line of queued jobs that met the pause; None, if none ever did.
        members: its live jobs, oldest first.
    """

    __slots__ = ("members", "name", "parked", "paused")

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.parked: JobQueue | None = None
        self.members: dict[Job[Any], None] = {}


@final
class Labels:
    """The groups that there are; see the module.

    Attributes:
        parked: how many jobs are parked, in all groups.
    """

    __slots__ = ("_labels", "_queue", "parked")

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._labels: dict[str, Label] = {}
        self.parked = 0

    def __iter__(self) -> Iterator[Label]:
        return iter(tuple(self._labels.values()))

    def get(self, name: str) -> Label | None:
        """Return the label of a group that is known."""
        return self._labels.get(name)

    def join(self, job: Job[Any], extra: JobExtra, name: str) -> None:
        """Make a job a member of a group."""
        extra.label = self._label(name)
        extra.label.members[job] = None

    def leave(self, job: Job[Any], label: Label) -> None:
        """A member has ended."""
        label.members.pop(job, None)
        self._drop(label)

    def pause(self, name: str) -> None:
        """Let no job of a group start."""
        self._label(name).paused = True

    def resume(self, name: str) -> Iterator[None] | None:
        """Let the jobs of a group start again; parked ones go back to their places in line, one a step.

        None if the group was not paused.
        """
        label = self._labels.get(name)
        if label is None or not label.paused:
            return None
        label.paused = False
        return self._bring_back(label)

    def _bring_back(self, label: Label) -> Iterator[None]:
        while label.parked is not None and not label.paused:  # it may have been paused again meanwhile
            job = label.parked.pop()
            if job is None:
                label.parked = None
                break
            self.parked -= 1
            job._extra.parked = False
            self._queue.push_in_order(job)
            yield
        self._drop(label)

    def park(self, job: Job[Any]) -> bool:
        """Park a job that came out of the line if its group is paused; whether it is."""
        extra = job._extra
        if extra is None or extra.label is None or not extra.label.paused:
            return False
        label: Label = extra.label
        if label.parked is None:
            label.parked = self._queue.another()
        label.parked.push_in_order(job)
        extra.parked = True
        self.parked += 1
        return True

    def discard(self, job: Job[Any]) -> None:
        """Take a job out of the line in which it is parked."""
        assert job._extra is not None
        job._extra.label.parked.discard(job)
        job._extra.parked = False
        self.parked -= 1

    def _label(self, name: str) -> Label:
        label = self._labels.get(name)
        if label is None:
            label = self._labels[name] = Label(name)
        return label

    def _drop(self, label: Label) -> None:
        if not label.members and not label.paused:
            self._labels.pop(label.name, None)
