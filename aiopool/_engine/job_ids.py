"""`JobIds`: which live job answers to which id.

Every job has a number; a user may give it an id of its own, a number or a text. The two are one namespace: 7 and "7"
are one id, two live jobs never answer to one, and a job that is submitted later gets no number that is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from aiopool._jobs.job import Job
from aiopool._jobs.options import id_key, id_number

__all__ = ["JobIds"]


@final
class JobIds:
    """The ids of one open pool.

    Attributes:
        next: numbers the next job.
    """

    __slots__ = ("_by_key", "_jobs", "_next_job", "_reserved", "next")

    def __init__(self, jobs: Mapping[int, Job[Any]], next_job: Callable[[], int]) -> None:
        """`jobs` are the live ones by their numbers; `next_job()` counts 1, 2, 3 …"""
        self._jobs = jobs
        self._next_job = self.next = next_job
        # By the keys of their ids: jobs with an id of the user's, and all that wait for room.
        self._by_key: dict[str, Job[Any]] = {}
        self._reserved: set[int] = set()  # ids of the user's that are numbers: no job gets them as its own

    def get(self, id: int | str) -> Job[Any] | None:
        """Return the live job that answers to an id, or None; also one that waits for room. From any thread."""
        key = id_key(id)
        job = self._by_key.get(key)
        if job is None and (number := id_number(key)) is not None:
            job = self._jobs.get(number)
            if job is not None and job.id != job._sequence:
                return None  # it has an id of its own, and answers to that
        return None if job is None or job._finished_at is not None else job

    def check(self, id: int | str) -> None:
        """Raise if a live job, or one that waits for room, answers to this id."""
        other = self.get(id)
        if other is not None:
            raise ValueError(
                f"id={id!r} is taken by a live job ({other!r}): cancel or await that one first, or choose another id"
            )

    def take(self, job: Job[Any]) -> None:
        """Let a job answer to its id from now on."""
        id = job.id
        key = id_key(id)
        self._by_key[key] = job
        if id != job._sequence and (number := id_number(key)) is not None:
            self._reserved.add(number)
            self.next = self._next_free

    def release(self, job: Job[Any]) -> None:
        """Let another job have the id, if it is still this one's."""
        id = job.id
        key = id_key(id)
        if self._by_key.get(key) is not job:
            return
        del self._by_key[key]
        if id != job._sequence and (number := id_number(key)) is not None:
            self._reserved.discard(number)
            if not self._reserved:
                self.next = self._next_job

    def _next_free(self) -> int:
        """Number the next job: `next` while a live job has a number for an id of its own."""
        while (number := self._next_job()) in self._reserved:
            pass
        return number
