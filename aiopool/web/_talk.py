"""What a client says, and what it makes of the answers; not how it is sent: the two clients share it.

Each function is a generator: it yields a `Send` and gets the answer, or a `Sleep`, and returns what was asked for.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, final

from aiopool.errors import JobError, PoolError

__all__ = ["ApiError", "PoolEvents", "RemoteEvent", "RemoteJob", "RemoteJobError", "Talk"]

T = TypeVar("T")

# Seconds that one question may wait for a result: proxies cut what takes longer.
WAIT = 20
MAX_BATCH = 100
# Seconds between two tries to reach a server.
AGAIN = 0.5


@final
@dataclasses.dataclass(frozen=True, slots=True)
class RemoteJob:
    """A job that was submitted over HTTP.

    Attributes:
        id: its id.
        name: the name under which its function is registered.
        pool: the key of its pool.
    """

    id: int | str
    name: str
    pool: str


@final
@dataclasses.dataclass(frozen=True, slots=True)
class RemoteEvent:
    """Something that a stream has sent.

    Attributes:
        kind: `state` (the pool in numbers, or the job), `job` (an event of it), `gap` (events are missing), `problem`,
            `bye`.
        data: as it was sent.
    """

    kind: str
    data: dict[str, Any]


class ApiError(PoolError):
    """A server has refused a request, or could not carry it out.

    Attributes:
        kind: what it is, in one word: `not-found`, `queue-full`, …
        status: the status that HTTP has for it.
        problem: all that was said.
    """

    def __init__(self, message: str, kind: str, status: int, problem: dict[str, Any]) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.problem = problem

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.kind, self.status, self.problem)


class RemoteJobError(JobError):
    """A job that was submitted over HTTP has not succeeded.

    Attributes:
        id: its id.
        status: how it ended: `failed`, `timed_out`, `cancelled`.
    """

    def __init__(self, message: str, id: int | str, status: str) -> None:
        super().__init__(message)
        self.id = id
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.id, self.status)


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    """A request; the client answers with an `Answer`, or throws a `ConnectionError`."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Sleep:
    """Wait a moment."""

    seconds: float


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a server has said."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        """Return it, read."""
        try:
            return json.loads(self.text)
        except ValueError:
            raise ApiError(f"this is no answer of aiopool: {self.text[:200]!r}", "error", self.status, {}) from None


Steps: TypeAlias = Generator[Send | Sleep, Any, T]


@final
class Talk:
    """Says what is wanted of one pool.

    Attributes:
        pool: the key of the pool.
        patience: seconds for which something is tried while a server cannot be reached, or has no room.
    """

    def __init__(self, pool: str, patience: float) -> None:
        self.pool = pool
        self.patience = patience

    def path(self, *parts: object) -> str:
        """Return the path of something of the pool."""
        from urllib.parse import quote

        return "/".join(["pools", quote(self.pool, safe=""), *(quote(str(part), safe="") for part in parts)])

    def events(self, job: RemoteJob | int | str | None) -> str:
        """Return the path of what happens in the pool, or to a job."""
        return self.path("events") if job is None else self.path("jobs", _id(job), "events")

    def ask(self, method: str, path: str, body: Any = None, *, safe: bool = True, **headers: str) -> Steps[Answer]:
        """Ask, and again while it cannot be answered, if that does no harm.

        Args:
            method, path, body, headers: the request.
            safe: it may be carried out twice, or is known by its key.

        Raises:
            ApiError: it was refused.
            ConnectionError: there is no server.
        """
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        end = time.monotonic() + self.patience
        while True:
            try:
                answer: Answer = yield Send(method, path, body, sent)
            except ConnectionError:
                if not safe or time.monotonic() >= end:
                    raise
                yield Sleep(AGAIN)
                continue
            if answer.status < 400:
                return answer
            wait = answer.headers.get("retry-after", "")
            if not safe or not wait.isdecimal() or time.monotonic() + int(wait) >= end:
                raise refused(answer)
            yield Sleep(int(wait))

    def submit(self, wanted: dict[str, Any], key: str | None) -> Steps[RemoteJob]:
        """Submit a job; one whose answer was lost is found again by its key."""
        answer = yield from self.ask("POST", self.path("jobs"), wanted, idempotency_key=key or uuid.uuid4().hex)
        return _job(answer.json())

    def submit_many(self, wanted: Sequence[dict[str, Any]]) -> Steps[list[RemoteJob]]:
        """Submit jobs, and again those for which there was no room."""
        found: dict[int, RemoteJob] = {}
        end = time.monotonic() + self.patience
        while len(found) < len(wanted):
            left = [place for place in range(len(wanted)) if place not in found]
            body = {"jobs": [wanted[place] for place in left]}
            answer = yield from self.ask("POST", self.path("batches"), body, idempotency_key=uuid.uuid4().hex)
            for place, entry in zip(left, answer.json()["items"], strict=True):
                if "job" in entry:
                    found[place] = _job(entry["job"])
                elif entry["status"] not in (429, 503) or time.monotonic() >= end:
                    raise _problem(entry["problem"], entry["status"])
            if len(found) < len(wanted):
                yield Sleep(AGAIN)
        return [found[place] for place in range(len(wanted))]

    def wait(self, job: RemoteJob | int | str, timeout: float | None) -> Steps[Any]:
        """Wait for a result."""
        id = _id(job)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = WAIT if end is None else max(0.0, min(WAIT, end - time.monotonic()))
            answer = yield from self.ask("GET", self.path("jobs", id, "result"), prefer=f"wait={round(left)}")
            found = answer.json()
            if answer.status == 200:
                if found["status"] == "succeeded":
                    return found["result"]
                raise RemoteJobError(
                    f"job {id!r} of pool {self.pool!r} is {found['status']}: {found['error'] or 'nobody says why'}",
                    id,
                    found["status"],
                )
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"job {id!r} of pool {self.pool!r} is {found['status']} after {timeout:g} s")
            if round(left) == 0:
                yield Sleep(0.05)

    def cancel(self, job: RemoteJob | int | str, reason: str | None) -> Steps[str]:
        """Cancel a job."""
        id = _id(job)
        answer = yield from self.ask("POST", self.path("jobs", id, "cancel"), {"reason": reason}, safe=False)
        return str(answer.json()["status"])

    def retry(self, job: RemoteJob | int | str, params: Mapping[str, Any] | None) -> Steps[RemoteJob]:
        """Run a job once more; a copy whose answer was lost is found again by its key."""
        body = {} if params is None else {"params": dict(params)}
        answer = yield from self.ask(
            "POST", self.path("jobs", _id(job), "retry"), body, idempotency_key=uuid.uuid4().hex
        )
        return _job(answer.json())

    def status(self) -> Steps[dict[str, Any]]:
        """Return the pool in numbers."""
        answer = yield from self.ask("GET", self.path())
        found: dict[str, Any] = answer.json()
        return found


def submission(function: str, params: Mapping[str, Any] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a submission."""
    given = {name: value for name, value in options.items() if value is not None}
    return {"function": function, "params": dict(params or {})} | given


def job_options(
    priority: int | None,
    delay: float | None,
    at: datetime.datetime | None,
    timeout: float | None,
    group: str | None,
    labels: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the options of a job, as they are sent."""
    return {
        "priority": priority,
        "delay": delay,
        "at": None if at is None else at.isoformat(),
        "timeout": timeout,
        "group": group,
        "labels": None if labels is None else dict(labels),
    }


def _id(job: RemoteJob | int | str) -> int | str:
    return job.id if isinstance(job, RemoteJob) else job


def _job(said: dict[str, Any]) -> RemoteJob:
    return RemoteJob(said["id"], said["name"], said["pool"])


def refused(answer: Answer) -> ApiError:
    """Return why a server has refused something."""
    said = answer.json()
    return _problem(said if isinstance(said, dict) else {}, answer.status)


def _problem(said: dict[str, Any], status: int) -> ApiError:
    kind = str(said.get("type", "error"))
    return ApiError(f"{kind}: {said.get('detail') or f'status {status}'}", kind, status, said)


@final
class PoolEvents:
    """Reads a stream of events, line by line.

    Attributes:
        query: what the stream is asked for.
    """

    def __init__(self, rows: int, types: Iterable[str] | None) -> None:
        self.query = {"rows": str(rows)} | ({} if types is None else {"types": ",".join(types) or "*"})
        self.last: str | None = None  # the number of the last event
        self._kind = ""
        self._data: list[str] = []

    def read(self, line: str) -> RemoteEvent | None:
        """Take a line, and return the event that it ends."""
        if not line:
            kind, text = self._kind, "\n".join(self._data)
            self._kind, self._data = "", []
            return RemoteEvent(kind, json.loads(text)) if text else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            self.last = value
        return None

    @property
    def headers(self) -> dict[str, str]:
        """What a stream is asked with."""
        return {} if self.last is None else {"last-event-id": self.last}
