"""What is sent and what is answered, for the schema: each number and each text has a bound."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic.config import JsonDict

__all__ = [
    "Batch",
    "Change",
    "Changed",
    "Copy",
    "EndPool",
    "JobChange",
    "JobFilter",
    "JobList",
    "JobPage",
    "JobResult",
    "JobView",
    "Listing",
    "Many",
    "OperationView",
    "PlainCancelled",
    "PlainJob",
    "PlainQueued",
    "PlainStatistics",
    "PoolView",
    "ProblemView",
    "Reason",
    "Retries",
    "Submission",
    "Submitted",
]

MAX_BATCH = 1000
YEAR = 31_536_000

Text = Annotated[str, Field(max_length=500)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Priority = Annotated[int, Field(strict=True, ge=-1_000_000_000, le=1_000_000_000, description="Lower goes first.")]
Seconds = Annotated[float, Field(strict=True, ge=0, le=YEAR, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Status = Literal["scheduled", "queued", "running", "succeeded", "failed", "timed_out", "cancelled"]
AnyStatus = Status | Literal["limited", "parked", "moving", "dead"]  # a store has some more


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid")


# What the classes below check by hand, in the words of a schema.
_DELAY_OR_AT: JsonDict = {"not": {"required": ["delay", "at"]}}
_FILTER_OR_IDS: JsonDict = {
    "oneOf": [{"required": ["filter"]}, {"required": ["ids"]}],
    "if": {"properties": {"verb": {"const": "reprioritize"}}},
    "then": {"required": ["priority"]},
}


class Retries(_Sent):
    """How often a job is tried."""

    attempts: Annotated[int, Field(strict=True, ge=1, le=100)]
    delay: Annotated[Seconds, Field(description="Seconds before the first retry.")] = 1.0


class Submission(_Sent):
    """A job to run: a function by the name under which it is registered, and its arguments by theirs."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_DELAY_OR_AT)

    function: Name
    params: Annotated[dict[str, JsonValue], Field(max_length=200)] = {}
    priority: Priority | None = None
    delay: Seconds | None = None
    at: AwareDatetime | None = None
    timeout: Seconds | None = None
    retry: Retries | None = None
    group: Name | None = None
    labels: Annotated[dict[Annotated[str, Field(max_length=100)], Text], Field(max_length=20)] = {}

    @model_validator(mode="after")
    def _once(self) -> Submission:
        if {"delay", "at"} <= self.model_fields_set:
            raise ValueError("delay and at exclude each other: write one of them")
        return self


class Copy(_Sent):
    """How a job is run once more."""

    params: Annotated[dict[str, JsonValue], Field(max_length=200, description="As they were, if left out.")] | None = (
        None
    )


class Batch(_Sent):
    """Many jobs; each is taken or refused by itself."""

    jobs: Annotated[list[Submission], Field(min_length=1, max_length=MAX_BATCH)]


class Change(_Sent):
    """What to change of a pool."""

    size: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    paused: Flag | None = None
    cancel_excess: Flag = False


class JobChange(_Sent):
    """What to change of a job that waits."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    priority: Priority = 0
    timeout: Annotated[Seconds | None, Field(description="Of each attempt to come; null: none.")] = None

    @model_validator(mode="after")
    def _something(self) -> JobChange:
        if not self.model_fields_set:
            raise ValueError("write priority, timeout, or both")
        return self


class Reason(_Sent):
    """Why, for the log."""

    reason: Text | None = None


class EndPool(_Sent):
    """How to end a pool."""

    timeout: Annotated[float, Field(strict=True, ge=0, le=3600, allow_inf_nan=False)] = 0.0


class JobFilter(_Sent):
    """Which jobs; to retry some, those of a store that ended with this status."""

    status: Status | Literal["dead"] | None = None
    name: Text | None = None
    group: Text | None = None
    waits_for: Text | None = None
    error: Text | None = None
    label: Text | None = None
    older_than: Annotated[float, Field(strict=True, ge=0, le=1e9, allow_inf_nan=False)] | None = None


class JobList(_Sent):
    """Which jobs, and how they are listed."""

    status: Status | None = None
    name: Text | None = None
    group: Text | None = None
    waits_for: Text | None = None
    error: Text | None = None
    label: Text | None = None
    older_than: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    order: Literal["newest", "oldest", "next"] = "newest"
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(max_length=18)] | None = None


class Many(_Sent):
    """What to do with many jobs: those of `ids`, or all that a filter is about."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_FILTER_OR_IDS)

    verb: Literal["cancel", "reprioritize", "retry"]
    filter: JobFilter = JobFilter()
    ids: Annotated[list[Text], Field(min_length=1, max_length=1000)] = []
    dry_run: Flag = False
    expect: Annotated[int, Field(strict=True, ge=0, le=2**53)] | None = None
    reason: Text | None = None
    priority: Priority = 0

    @model_validator(mode="after")
    def _whole(self) -> Many:
        given = self.model_fields_set
        if ("filter" in given) == ("ids" in given):
            raise ValueError("write filter or ids, one of them; filter={} is about all jobs")
        if self.verb == "reprioritize" and "priority" not in given:
            raise ValueError("reprioritize needs priority")
        return self


# -- answers: what is always there; more may come ----------------------------------------------------------------------


class _Shown(BaseModel):
    model_config = ConfigDict(extra="allow")


class ProblemView(_Shown):
    """Why it was refused, or did not work: RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []


class PoolView(_Shown):
    """A pool in numbers."""

    pool: str
    time: float
    status: str
    size: int
    paused: bool
    numbers: dict[str, float]


class JobView(_Shown):
    """A job."""

    id: int | str
    name: str
    status: AnyStatus
    priority: int
    group: str | None
    attempt: int


class Submitted(_Shown):
    """A job that was taken."""

    id: int | str
    name: str
    status: AnyStatus
    pool: str


class JobResult(_Shown):
    """How a job ended: `result` if it succeeded, `error` otherwise."""

    id: int | str
    status: str
    result: Any = None
    error: str | None = None


class Listing(_Shown):
    """A list."""

    items: list[dict[str, Any]]


class JobPage(_Shown):
    """A page of jobs, the cursor of the next one, and how many jobs were looked at for it."""

    items: list[JobView]
    next: str | None
    searched: int
    complete: bool


class OperationView(_Shown):
    """How far something is that is done to many jobs; of a dry run, the count."""

    total: int


class PlainJob(_Sent):
    """A job for the default pool: 1 is the highest priority, 10 the lowest."""

    name: Name
    priority: Annotated[int, Field(strict=True, ge=1, le=10)] = 5
    params: Annotated[dict[str, JsonValue], Field(max_length=200)] = {}


class PlainQueued(BaseModel):
    """A job that was taken."""

    job_id: str
    status: Literal["queued"]


class PlainCancelled(BaseModel):
    """A job that was cancelled."""

    message: str


class PlainStatistics(BaseModel):
    """The default pool in numbers; a duration is written as 5m30s."""

    total_submitted: int
    total_completed: int
    total_failed: int
    total_cancelled: int
    active_workers: int
    queued_tasks: int
    average_exec_time: str


class Changed(_Shown):
    """A job that waits, as it is now."""

    id: int | str
    priority: int
    timeout: float | None
