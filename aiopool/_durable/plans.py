"""`Plans`: what the options of a job mean for its row, and what a row means for the job that is run; worked out once.

A view makes the spec of a function once, and all of its jobs share it (`_jobs/spec.py`). So do the texts of their rows.

Options that are code (`retry` with classes of errors, `layers`, where a function runs) are those of the worker's own
code: they cannot be written. What a view sets beside that (a time limit, a number of attempts) goes along with the job.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, final

from aiopool._durable.handlers import Handler, Handlers
from aiopool._durable.payloads import json_text
from aiopool._jobs.limits import LaneKey, LimitRule, PoolLimits, keys_of
from aiopool._jobs.options import JobOptions
from aiopool._jobs.retry import Retry
from aiopool._jobs.spec import JobOwner, JobSpec
from aiopool._pool.fleet import limit_row
from aiopool._pool.state import PoolState
from aiopool._pool.submitter import Submitter
from aiopool.errors import PayloadError
from aiopool.stores._rows import Claimed, LimitRow

__all__ = ["MAX_TEXT", "Plan", "Plans", "check_text", "limit_rows"]

# So many are kept: a view may be made for each job, with a key of its own.
MAX_PLANS = 512

_RETRY_FIELDS = ("attempts", "backoff", "delay", "factor", "max_delay", "jitter", "max_elapsed")


# It stands in an index of a database.
MAX_TEXT = 200
# It stands in a column of 64 bits, and in a number of Lua or JSON.
MAX_PRIORITY = 2**53 - 1


def check_text(option: str, text: str) -> str:
    """Return a text that a store can look up.

    Raises:
        ValueError: it cannot: in a batch it would fail the rows of others, too.
    """
    if len(text) > MAX_TEXT or "\0" in text or (not text.isascii() and not _is_unicode(text)):
        raise ValueError(
            f"{option}={text[:50]!r}: in a store this has at most {MAX_TEXT} characters, no NUL, and no half characters"
        )
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Plan(NamedTuple):
    """What all jobs of one spec have in common.

    Attributes:
        spec: what it was made from.
        handler: the registered function.
        handle: the spec of their handles.
        keys, metadata, options: JSON texts.
        lanes: the limits under which they stand.
    """

    spec: JobSpec
    handler: Handler
    handle: JobSpec
    keys: str | None
    metadata: str | None
    options: str | None
    lanes: tuple[str, ...]


@final
class Plans:
    """The plans of one open pool.

    Attributes:
        view: submits with the options of the pool and of the functions, and no others.
    """

    def __init__(self, state: PoolState, handlers: Handlers, owner: JobOwner) -> None:
        """`owner`: of the handles."""
        self._handlers = handlers
        self._owner = owner
        self.view = Submitter(state, JobOptions(), state.options)
        self._plans: dict[int, Plan] = {}
        self._specs: dict[tuple[Any, ...], JobSpec] = {}

    def of(self, spec: JobSpec, function: Any) -> Plan:
        """Return the plan of a spec.

        Raises:
            TypeError: the function is not registered, or an option cannot be written.
            ValueError: an option cannot stand in an index of a store: in a batch it would fail the rows of others.
            PayloadError: the metadata cannot.
        """
        found = self._plans.get(id(spec))
        if found is not None and found.spec is spec and found.handler.function is function:
            return found
        handler = self._handlers.of(function)
        if spec.group is not None:
            check_text("group", spec.group)
        if not -MAX_PRIORITY <= spec.priority <= MAX_PRIORITY:
            raise ValueError(f"priority={spec.priority!r}: in a store it is from -{MAX_PRIORITY:,} to {MAX_PRIORITY:,}")
        handle = spec.with_priority(spec.priority)
        handle.owner, handle.limits = self._owner, ()
        metadata = None if spec.metadata is None else json_text(dict(spec.metadata), "metadata")
        keys = None if spec.key is None else json.dumps([_key_text(key) for key in keys_of(spec.key)])
        lanes = tuple(_lane(rule, key) for rule, key in spec.limits)
        plan = Plan(spec, handler, handle, keys, metadata, self._options(spec, handler), lanes)
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        self._plans[id(spec)] = plan
        return plan

    def _options(self, spec: JobSpec, handler: Handler) -> str | None:
        """Return what a view, or a group, has set that the worker's code does not say, as JSON."""
        own = self.view._look_up(handler.function)
        if spec.name != handler.name:
            raise TypeError(
                f"name={spec.name!r}: a job of a store has the name under which its function is registered, "
                f"{handler.name!r}; write metadata={{...}} for what you want to know of one job"
            )
        if spec.layers != own.layers or spec.runner != own.runner:
            raise TypeError(
                f"layers and offload are code of the worker: write @handlers.register({handler.name!r}, layers=..., "
                "offload=...), not with_options"
            )
        options: dict[str, Any] = {}
        if spec.timeout != own.timeout:
            options["timeout"] = spec.timeout
        if spec.retry != own.retry:
            options["retry"] = None if spec.retry is None else _retry_numbers(spec.retry, handler.name)
        return json.dumps(options, separators=(",", ":")) if options else None

    def refuse(self, runner: str, why: str) -> None:
        """Raise if a function is to run where this pool cannot.

        Raises:
            ValueError: one is; `why` says what to write.
        """
        for handler in self._handlers:
            if self.view._look_up(handler.function).runner == runner:
                raise ValueError(f"{handler.name!r} {why}")

    def run_spec(self, handler: Handler, claimed: Claimed) -> JobSpec:
        """Return the spec with which an attempt runs here: limits, delays and total times are the store's business."""
        at = handler.name, claimed.priority, claimed.group, claimed.trace
        spec = self._specs.get(at)
        if spec is None:
            spec = self.view._look_up(handler.function).with_priority(claimed.priority)
            spec.name, spec.group, spec.key, spec.metadata, spec.limits = handler.name, claimed.group, None, None, ()
            spec.queue_timeout = None
            options = json.loads(claimed.trace) if claimed.trace else {}
            if "timeout" in options:
                spec.timeout = options["timeout"]
            if "retry" in options:
                spec.retry = None if options["retry"] is None else Retry(**options["retry"])
            spec._sum_up()
            if len(self._specs) >= MAX_PLANS:
                self._specs.clear()
            self._specs[at] = spec
        if claimed.keys is not None or claimed.metadata is not None:
            spec = spec.with_priority(spec.priority)
            keys = json.loads(claimed.keys) if claimed.keys else []
            spec.key = keys[0] if len(keys) == 1 else tuple(keys) or None
            spec.metadata = json.loads(claimed.metadata) if claimed.metadata else None
        return spec


def _retry_numbers(retry: Retry, name: str) -> dict[str, Any]:
    default = Retry()
    if retry.on != default.on or retry.give_up_on != default.give_up_on or retry.budget or callable(retry.backoff):
        raise TypeError(
            f"retry={retry!r} has code in it, which cannot be kept with a job: write "
            f"@handlers.register({name!r}, retry=...), not with_options"
        )
    return {field: getattr(retry, field) for field in _RETRY_FIELDS}


def _key_text(key: Any) -> str | int:
    if isinstance(key, LaneKey):
        raise PayloadError(
            f"key={key!r}: pool.lanes(...) is a limit of this process; for the whole fleet write "
            "Pool(limits={name: Limit(...)}) or Pool(key_limit=Limit(...))"
        )
    return key if type(key) is int else check_text("key", str(key))


# -- limits ------------------------------------------------------------------------------------------------------------


def _lane(rule: LimitRule, key: Any) -> str:
    return rule.name if key is None else f"{rule.name}\x1f{key}"


def limit_rows(limits: PoolLimits) -> list[LimitRow]:
    """Return all limits of a pool."""
    rules = [*limits.named.values(), *(rule for rule in (limits.each_key, limits.all_jobs) if rule is not None)]
    names = [rule.name for rule in rules]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(
            f"limits has the name {sorted(twice)[0]!r}, which stands for the limit of "
            f"{'each key' if 'key' in twice else 'all jobs'} in a store: choose another name"
        )
    return [limit_row(rule.name, rule.limit) for rule in rules]
