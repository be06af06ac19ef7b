"""Logs: which line belongs to which job, and the one call that switches a readable or a JSON log on.

The core logs faults only, through `logging.getLogger("aiopool.…")`, and each once: a failure that nobody awaits, a job
that leaked, a worker that crashed, a listener that raised. Success is silent. `configure_logging` adds lines about what
happens in pools (the events), and puts `job_id, job, attempt, worker, pool` on each line that is written inside
of a job, by structlog or by `logging`, in the loop or in a thread.

Nothing is set for a job, so nothing can leak: the fields are read off the context variable that tells which job runs.

Invariant: whatever jobs, groups and pools are called and whatever exceptions and objects say, a line of the log begins
where we began one. Control characters are escaped, further lines are indented, names are cut.

structlog is imported when `configure_logging` is called.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO, final

from aiopool._jobs.job import Job, running_job
from aiopool._jobs.json_values import json_value
from aiopool._observe.metrics import label_text
from aiopool._observe.observers import listen_to_all_pools
from aiopool._runtime.faults import describe, describe_error
from aiopool.events import (
    JobCancelled,
    JobEvent,
    JobFailed,
    JobGivenBack,
    JobRetrying,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
    JobTimedOut,
    Listener,
    PoolClosed,
    PoolClosing,
    PoolEvent,
    PoolOpened,
    PoolPaused,
    PoolResized,
    PoolResumed,
    WorkerEvent,
    WorkerStarted,
    WorkerStopped,
)

__all__ = ["JobFieldsFilter", "add_job_fields", "configure_logging", "job_fields", "reset_logging"]

Renderer = Literal["console", "json"]

FIELDS: Final = ("job_id", "job", "attempt", "worker", "pool")
_NO_FIELDS: Final[Mapping[str, None]] = dict.fromkeys(FIELDS)
# What would begin a line, steer a terminal, turn the direction of writing, or cannot be encoded.
_UNSAFE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MAX_ERROR: Final = 500


# -- which job ---------------------------------------------------------------------------------------------------------


def job_fields() -> dict[str, Any]:
    """Return `job_id`, `job`, `attempt`, `worker`, `pool` of the job in which the caller runs, or nothing."""
    job = running_job.get()
    return {} if job is None else _fields_of(job)


def _fields_of(job: Job[Any]) -> dict[str, Any]:
    return {
        "job_id": _clean(job.id),
        "job": label_text(job.name),
        "attempt": job.attempt,
        "worker": job.worker_id,
        "pool": label_text(job.pool_name),
    }


def add_job_fields(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the fields of the running job to a line: a processor for a structlog configuration of your own.

    What the line has already is kept.

    Example:
        structlog.configure(processors=[add_job_fields, structlog.dev.ConsoleRenderer()])
    """
    job = running_job.get()
    if job is not None:
        for name, value in _fields_of(job).items():
            event_dict.setdefault(name, value)
    return event_dict


@final
class JobFieldsFilter(logging.Filter):
    """Add the fields of the running job to each record: for a `logging` configuration of your own.

    Put it on the handlers (on a `QueueHandler`, if there is one): a filter on a logger sees no records of its children.
    Outside of jobs the fields are there, too, as None, so that a format may name them.

    Example:
        handler.addFilter(JobFieldsFilter())
        handler.setFormatter(logging.Formatter("%(levelname)s %(job_id)s %(job)s %(message)s"))
    """

    def filter(self, record: logging.LogRecord) -> bool:
        job = running_job.get()
        have = record.__dict__
        for name, value in (_NO_FIELDS if job is None else _fields_of(job)).items():
            have.setdefault(name, value)
        return True


# -- one line, whatever it says ----------------------------------------------------------------------------------------


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "backslashreplace").decode()


def _safe(text: str) -> str:
    """Escape control characters, and indent every line but the first."""
    if _UNSAFE.search(text):
        text = _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))
    return text.replace("\n", "\n    ") if "\n" in text else text


def _clean(value: object) -> object:
    return label_text(value) if isinstance(value, str) else value


def _guard(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make sure that a line of the console log is one."""
    for name, value in list(event_dict.items()):
        if not name.isprintable():
            del event_dict[name]
            name = label_text(name)
        if name in FIELDS:
            event_dict[name] = _clean(value)
        elif isinstance(value, str):
            event_dict[name] = _safe(value)
        elif value is not None and not isinstance(value, (int, float)):
            # The renderer would ask it for its words later, behind our back.
            words = str(value) if name == "event" else describe(value)
            event_dict[name] = value if words.isprintable() and name != "event" else _safe(words)
    return event_dict


def _drop_fields_of_nothing(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take the fields off a line that belongs to no job; a filter has put them there as None."""
    if event_dict.get("job_id", 0) is None:
        for name in FIELDS:
            if event_dict.get(name, "") is None:
                del event_dict[name]
    return event_dict


# -- switching on ------------------------------------------------------------------------------------------------------


@final
class _Installed:
    """What `configure_logging` has put where."""

    handler: logging.Handler | None = None
    level_before: int = logging.WARNING
    listener: Listener | None = None
    choice: tuple[object, ...] | None = None


def configure_logging(
    level: int | str = "INFO",
    *,
    renderer: Renderer = "console",
    stream: TextIO | None = None,
    colors: bool | None = None,
) -> None:
    """Switch logs on, for the whole program: for aiopool, for structlog and for `logging`, in one form.

    Every line that is written inside of a job carries `job_id, job, attempt, worker, pool`. Of the pools
    themselves, a line tells at `DEBUG` of each job that is submitted, started and done; at `INFO` of jobs that failed,
    timed out or were cancelled, and of pools that open, close, pause and change their size; at `WARNING` of attempts
    that will be repeated; at `ERROR` of failures that nobody awaits, with the traceback, and of what should not happen.

    Calling it again changes the configuration. `aiopool.instrumentation.logging` has the parts, for a configuration of
    your own, and `reset_logging`.

    Args:
        level: the lowest level that is written, a name or a number.
        renderer: `"console"`: lines to read. `"json"`: one object a line.
        stream: where to; `sys.stderr` by default.
        colors: with `"console"`: colored lines; by default, if the stream is a terminal.

    Raises:
        ValueError: there is no such level or renderer.
        TypeError: nothing can be written to `stream`.

    Example:
        configure_logging("DEBUG", renderer="json")
    """
    number = _level(level)
    if renderer not in ("console", "json"):
        raise ValueError(f'renderer={renderer!r}: it must be "console" or "json"')
    stream = sys.stderr if stream is None else stream
    if stream is not None and not hasattr(stream, "write"):
        raise TypeError(f"stream={stream!r}: it must be an open text file, such as sys.stdout or open(path, 'a')")
    choice = (number, renderer, stream, colors)
    if _Installed.choice == choice and _Installed.handler in logging.getLogger().handlers:
        return
    reset_logging()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_structlog(renderer, _is_terminal(stream) if colors is None else colors))
    root = logging.getLogger()
    root.addHandler(handler)
    _Installed.handler, _Installed.level_before, _Installed.choice = handler, root.level, choice
    root.setLevel(number)
    heard = tuple(kind for kind, (line_level, _) in _LINES.items() if line_level >= number)
    if heard:
        _Installed.listener = listen_to_all_pools(_log_event, heard)


def _is_terminal(stream: TextIO | None) -> bool:
    ask = getattr(stream, "isatty", None)  # a program without a console has no stderr; some streams do not tell
    return ask is not None and ask()


def reset_logging() -> None:
    """Undo `configure_logging`: its handler is gone, the level is what it was, structlog has its defaults."""
    if _Installed.listener is not None:
        _Installed.listener.remove()
    if _Installed.handler is not None:
        import structlog

        logging.getLogger().removeHandler(_Installed.handler)
        logging.getLogger().setLevel(_Installed.level_before)
        structlog.reset_defaults()
    _Installed.handler = _Installed.listener = _Installed.choice = None


def _structlog(renderer: Renderer, colors: bool) -> logging.Formatter:
    """Configure structlog, and return the formatter through which its lines and those of `logging` go."""
    import structlog

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        add_job_fields,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _drop_fields_of_nothing,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared[:3],
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared[3:],
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    last: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if renderer == "json":
        # By default everything that is not ASCII is escaped: no character of a name can end the line.
        last += [_clean_fields, structlog.processors.JSONRenderer(default=describe)]
    else:
        plain = structlog.dev.plain_traceback
        last += [_guard, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, pad_event_to=0)]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[_add_extra, *shared], processors=last)


# What a record has without anybody's `extra`; a formatter of another handler adds two more.
_OF_A_RECORD: Final = frozenset((*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"))
# What a line has of ours: an `extra` of the same name stands beside it.
_OF_A_LINE: Final = frozenset(("event", "level", "logger", "timestamp", "exception", "stack"))


def _add_extra(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add what was passed to `logging` as `extra`."""
    for name, value in event_dict["_record"].__dict__.items():
        if name not in _OF_A_RECORD and name not in ("_record", "_from_structlog"):
            event_dict[f"{name}_" if name in _OF_A_LINE else name] = value
    return event_dict


def _clean_fields(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in FIELDS:
        if name in event_dict:
            event_dict[name] = _clean(event_dict[name])
    return event_dict


def _level(level: int | str) -> int:
    number = logging.getLevelNamesMapping().get(level.upper()) if isinstance(level, str) else level
    if isinstance(number, bool) or not isinstance(number, int):
        names = ", ".join(name for name in logging.getLevelNamesMapping() if name not in ("NOTSET", "WARN", "FATAL"))
        raise ValueError(f"level={level!r}: it must be one of {names}, or a number")
    return number


# -- lines about events ------------------------------------------------------------------------------------------------

_pool_logger = logging.getLogger("aiopool.pool")
_job_logger = logging.getLogger("aiopool.job")

# A failure that nobody awaits, a leak and a crash are not here: the core logs them, once, configured or not.
_LINES: Final[dict[type[PoolEvent], tuple[int, str]]] = {
    JobSubmitted: (logging.DEBUG, "job submitted"),
    JobStarted: (logging.DEBUG, "job started"),
    JobSucceeded: (logging.DEBUG, "job succeeded"),
    JobRetrying: (logging.WARNING, "job failed, and is tried again"),
    JobFailed: (logging.INFO, "job failed"),
    JobTimedOut: (logging.INFO, "job timed out"),
    JobCancelled: (logging.INFO, "job cancelled"),
    JobGivenBack: (logging.INFO, "job given back to the store"),
    WorkerStarted: (logging.DEBUG, "worker started"),
    WorkerStopped: (logging.DEBUG, "worker stopped"),
    PoolOpened: (logging.INFO, "pool opened"),
    PoolResized: (logging.INFO, "pool resized"),
    PoolPaused: (logging.INFO, "pool paused"),
    PoolResumed: (logging.INFO, "pool resumed"),
    PoolClosing: (logging.INFO, "pool closing"),
    PoolClosed: (logging.INFO, "pool closed"),
}
_DETAILS: Final = ("delay", "waited", "seconds", "reason", "size", "before", "timeout", "leaked")


def _log_event(event: Any) -> None:
    """Write the line about one event."""
    if isinstance(event, (JobFailed, JobTimedOut)) and not event.awaited:
        return
    level, text = _LINES[type(event)]
    fields: dict[str, Any] = {}
    if isinstance(event, JobEvent):
        logger = _job_logger
        fields.update(
            job_id=event.job_id,
            job=event.name,
            attempt=event.attempt,
            worker=getattr(event, "worker", None),
        )
        if event.metadata:
            fields["metadata"] = json_value(dict(event.metadata))
    else:
        logger = _pool_logger
        if isinstance(event, WorkerEvent):
            fields["worker"] = event.worker
    fields["pool"] = event.pool
    for name in _DETAILS:
        value = getattr(event, name, None)
        if value is not None and not (name == "delay" and value == 0):
            fields[name] = round(value, 6) if isinstance(value, float) else value
    error = getattr(event, "error", None)
    if error is not None and not isinstance(event, JobCancelled):
        fields["error"] = describe_error(error)[:_MAX_ERROR]
    logger.log(level, text, extra=fields)
