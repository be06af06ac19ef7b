"""`Labels`: the groups of a pool by their names: who is in them, which are paused, and the jobs that met the pause.

A job of a paused group is *parked* when it comes out of the line, and goes back to its place there when the group goes
on. A name is known as long as it has live jobs or is paused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

from aiopool._job import Job, JobExtra, Label
from aiopool._queue import JobQueue

__all__ = ["Labels"]


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

    def resume(self, name: str) -> bool:
        """Let the jobs of a group start again; parked ones go back to their places in line. Whether it was paused."""
        label = self._labels.get(name)
        if label is None or not label.paused:
            return False
        label.paused = False
        self.parked -= len(label.parked)
        for job in label.parked:
            self._queue.push_in_order(job)
        label.parked.clear()
        self._drop(label)
        return True

    def park(self, job: Job[Any]) -> bool:
        """Park a job that came out of the line if its group is paused; whether it is."""
        label = None if job._extra is None else job._extra.label
        if label is None or not label.paused:
            return False
        label.parked.append(job)
        self.parked += 1
        job._place = None
        return True

    def take_out(self, job: Job[Any]) -> None:
        """Take a job out of where it is parked, if it is."""
        label = None if job._extra is None else job._extra.label
        if label is not None and job in label.parked:
            label.parked.remove(job)
            self.parked -= 1

    def _label(self, name: str) -> Label:
        label = self._labels.get(name)
        if label is None:
            label = self._labels[name] = Label(name)
        return label

    def _drop(self, label: Label) -> None:
        if not label.members and not label.paused:
            self._labels.pop(label.name, None)
