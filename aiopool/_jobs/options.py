"""What can be said about a job before it runs: `JobOptions`, merged from four places.

The nearest place wins: `with_options(...)` over `@aiopool.job(...)` over `pool.group(...)` over `Pool(...)`. A field
that was not given is `UNSET`, so that `timeout=None` ("no limit here, whatever the pool says") and `timeout=0` are
values like any other.

Everything is checked where it is written, never in a worker.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import InitVar
from datetime import datetime
from typing import Any, Final, Literal, ParamSpec, TypeVar, final

from aiopool._jobs.checks import (
    Offload,
    check_count,
    check_id,
    check_metadata,
    check_moment,
    check_offload,
    check_seconds,
    check_unique,
)
from aiopool._jobs.layered import Layer, check_layers
from aiopool._jobs.limits import Key, check_key
from aiopool._jobs.retry import Retry
from aiopool._runtime.keywords import explain_keywords

__all__ = [
    "DEFAULTS",
    "MAX_SIZE",
    "UNSET",
    "JobOptions",
    "Offload",
    "Overflow",
    "Priority",
    "Unset",
    "check_count",
    "check_id",
    "check_seconds",
    "check_unique",
    "function_options",
    "id_key",
    "id_number",
    "is_for_one_job",
    "job",
]

P = ParamSpec("P")
R = TypeVar("R")

Overflow = Literal["wait", "reject", "drop_oldest", "drop_lowest"]
"""What happens to a submission that finds the queue full."""


class Priority(enum.IntEnum):
    """Names for five usual priorities. Any int is one; lower goes first."""

    CRITICAL = 1
    HIGH = 3
    NORMAL = 5
    LOW = 8
    BACKGROUND = 10


class Unset(enum.Enum):
    """The type of `UNSET`: the option was not given here."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET


@final
@explain_keywords
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Options of a job; each is a value or `UNSET`.

    Attributes:
        priority: lower first; equal ones in the order of submission.
        timeout: seconds that one attempt may run, from its start. `None`: no limit.
        queue_timeout: seconds that the job may wait in the queue, before its first attempt.
        total_timeout: seconds from submission to the end, attempts and delays included.
        retry: when to try again; `None`: never.
        delay: seconds until the job enters the queue; after `run_at` was given, the moment.
        run_at: the moment at which the job enters the queue, as a datetime with a time zone, in place of a delay.
        unique: at most one live job of the store has this text; a second submission gets the job that has it.
        id: the user's own name for this one job, a text or a number; unique among the live jobs of a pool, where `"7"`
            and `7` are the same.
        name: what the job is called in logs; the function's name by default.
        group: the name of the group that the job belongs to.
        key: what the job has to do with, such as a tenant or a host, for limits by key; several, as a tuple.
        metadata: what you want to know of the job later (`job.metadata`): a small mapping with texts for keys. It is
            copied. The nearest place wins as a whole; mappings are not merged.
        offload: where a plain function runs: in a `"thread"` (as with `None`); in a `"process"` that the pool keeps,
            and kills if the job is cancelled or its time is over; in an `"interpreter"` of its own (Python 3.13); or
            on the `"dask"` cluster of the pool.
        layers: what is done around each attempt: `async def layer(job, call)`, the outermost first. Those of the pool,
            the group, the function and the view add up; None: none at all.
    """

    priority: int | Unset = UNSET
    timeout: float | Unset | None = UNSET
    queue_timeout: float | Unset | None = UNSET
    total_timeout: float | Unset | None = UNSET
    retry: Retry | Unset | None = UNSET
    delay: float | datetime | Unset | None = UNSET
    id: str | int | Unset | None = UNSET
    unique: str | Unset | None = UNSET
    name: str | Unset | None = UNSET
    group: str | Unset | None = UNSET
    key: Key | Unset | None = UNSET
    metadata: Mapping[str, Any] | Unset | None = UNSET
    offload: Offload | Unset | None = UNSET
    layers: Iterable[Layer] | Unset | None = UNSET
    run_at: InitVar[datetime | Unset | None] = UNSET

    def __post_init__(self, run_at: datetime | Unset | None) -> None:
        # One by one: a view may be made for each job, and most of this is not given.
        if self.timeout is not UNSET and self.timeout is not None:
            check_seconds("timeout", self.timeout)
        if self.queue_timeout is not UNSET and self.queue_timeout is not None:
            check_seconds("queue_timeout", self.queue_timeout)
        if self.total_timeout is not UNSET and self.total_timeout is not None:
            check_seconds("total_timeout", self.total_timeout)
        if run_at is not UNSET and run_at is not None:
            if self.delay is not UNSET and self.delay is not None:
                raise ValueError(f"delay={self.delay!r} and run_at={run_at!r} both say when: give one of them")
            object.__setattr__(self, "delay", check_moment("run_at", run_at))
        elif self.delay is not UNSET and self.delay is not None and not isinstance(self.delay, datetime):
            check_seconds("delay", self.delay)
        if self.priority is not UNSET and (not isinstance(self.priority, int) or isinstance(self.priority, bool)):
            raise TypeError(
                f"priority={self.priority!r} is a {type(self.priority).__name__}: a priority is an int, lower first, "
                "such as Priority.HIGH"
            )
        if self.retry is not UNSET and self.retry is not None and not isinstance(self.retry, Retry):
            raise TypeError(
                f"retry={self.retry!r} is no Retry: write retry=Retry(attempts="
                f"{self.retry if type(self.retry) is int and self.retry > 0 else 3}), or None"
            )
        if self.id is not UNSET and self.id is not None:
            check_id(self.id)
        if self.unique is not UNSET and self.unique is not None:
            check_unique(self.unique)
        if self.name is not UNSET and self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name={self.name!r} is a {type(self.name).__name__}: it must be a str")
        if self.group is not UNSET and self.group is not None and not isinstance(self.group, str):
            raise TypeError(f"group={self.group!r} is a {type(self.group).__name__}: it must be a str")
        if self.key is not UNSET and self.key is not None:
            check_key(self.key)
        if self.metadata is not UNSET and self.metadata is not None:
            object.__setattr__(self, "metadata", check_metadata(self.metadata))
        if self.offload is not UNSET and self.offload is not None:
            check_offload(self.offload)
        if self.layers is not UNSET and self.layers is not None:
            object.__setattr__(self, "layers", check_layers(self.layers))

    def over(self, other: JobOptions) -> JobOptions:
        """Return these options with the gaps filled from `other`."""
        merged = object.__new__(JobOptions)  # what it holds has been checked
        for read, write in _FIELDS:
            mine = read(self)
            write(merged, mine if mine is not UNSET else read(other))
        object.__setattr__(merged, "layers", _added_up(other.layers, self.layers))
        return merged


def _added_up(outer: Any, inner: Any) -> Any:
    """Return the layers of two places. `None` in front of some: none of those further out count."""
    if inner is UNSET:
        return outer
    if inner is None or outer is UNSET or inner[:1] == (None,):
        return inner
    return (*((None,) if outer is None else outer), *inner)


# How each field is read and written: by the slots themselves, for the class is frozen.
_FIELDS: Final = tuple(
    (slot.__get__, slot.__set__) for field in dataclasses.fields(JobOptions) for slot in [vars(JobOptions)[field.name]]
)

_SHARED: Final = tuple(
    vars(JobOptions)[field.name].__get__
    for field in dataclasses.fields(JobOptions)
    if field.name not in ("id", "delay", "key", "unique")
)


def is_for_one_job(options: JobOptions) -> bool:
    """Return whether nothing is said but what mostly differs from job to job: an id, a delay, a key, `unique`."""
    return all(read(options) is UNSET for read in _SHARED)


DEFAULTS: Final = JobOptions(
    priority=Priority.NORMAL.value,
    timeout=None,
    queue_timeout=None,
    total_timeout=None,
    retry=None,
    delay=None,
    id=None,
    unique=None,
    name=None,
    group=None,
    key=None,
    metadata=None,
    offload=None,
    layers=None,
)


def id_key(id: int | str) -> str:
    """Return what an id is looked up by: `7` and `"7"` are one id.

    Raises:
        TypeError: it is neither a text nor a number.
    """
    if isinstance(id, str):
        return str.__str__(id)
    if isinstance(id, int) and not isinstance(id, bool):
        return int.__repr__(id)
    raise TypeError(f"{id!r} ({type(id).__name__}) is not the id of a job: write `job.id`, a str or an int")


def id_number(key: str) -> int | None:
    """Return the number that a key stands for, if a pool may give that number to a job."""
    if key.isdecimal() and key.isascii() and len(key) <= _MAX_DIGITS and key[0] != "0":
        return int(key)
    return None


# A job that runs takes some 3 KiB: so many take 30 GiB.
MAX_SIZE: Final = 10_000_000
_MAX_DIGITS: Final = 18  # a pool that makes a million jobs a second gets there in 30,000 years


_ATTRIBUTE: Final = "__aiopool_options__"


@explain_keywords
def job(
    *,
    priority: int | Unset = UNSET,
    timeout: float | Unset | None = UNSET,
    queue_timeout: float | Unset | None = UNSET,
    total_timeout: float | Unset | None = UNSET,
    retry: Retry | Unset | None = UNSET,
    name: str | Unset | None = UNSET,
    group: str | Unset | None = UNSET,
    key: Key | Unset | None = UNSET,
    metadata: Mapping[str, Any] | Unset | None = UNSET,
    offload: Offload | Unset | None = UNSET,
    layers: Iterable[Layer] | Unset | None = UNSET,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a function its own job options; it stays the same function, called and typed as before.

    Options of `with_options(...)` win over these, and these win over those of the group and the pool.

    Args: as in `Pool.with_options`.

    Returns:
        A decorator that returns its function.

    Example:
        @aiopool.job(timeout=5, retry=Retry(attempts=3))
        async def fetch(url: str) -> bytes: ...
    """
    options = JobOptions(
        priority=priority,
        timeout=timeout,
        queue_timeout=queue_timeout,
        total_timeout=total_timeout,
        retry=retry,
        name=name,
        group=group,
        key=key,
        metadata=metadata,
        offload=offload,
        layers=layers,
    )

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        setattr(function, _ATTRIBUTE, options)
        return function

    return decorate


def function_options(function: Callable[..., object]) -> JobOptions | None:
    """Return the options that `@job` gave to the function, or None."""
    options: JobOptions | None = getattr(function, _ATTRIBUTE, None)
    return options
