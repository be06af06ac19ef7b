"""`MapOptions`: what `aiopool map` was asked to do; checked, before anything is imported, opened or run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, final

from aiopool import Limit, Retry
from aiopool.cli._amounts import Halt, parse_arguments, parse_halt, parse_key_limit, parse_rate
from aiopool.cli._call import BadLineError
from aiopool.cli._output import OutputMode
from aiopool.cli._streams import STDOUT_NAMES
from aiopool.cli._words import Refusal

__all__ = ["BACKOFFS", "MapOptions"]

BACKOFFS = ("exponential", "linear", "fixed", "random", "decorrelated")


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """What to do with each line, and where the results go.

    Attributes:
        size: how many lines are worked on at once.
        processes: run a plain function in as many processes.
        timeout: seconds for each attempt; None: no limit.
        retry: after a failure; None: never.
        rate: how often jobs may start; None: any time.
        key_field: where the key of a line is; None: it has none.
        key_limit: the limit of each key.
        as_json: each line is a JSON value.
        null: lines end with a zero byte.
        arguments: further arguments of the function.
        setup: what is opened once, for all calls, as MODULE:FUNCTION; None: nothing.
        setup_per_worker: each worker opens its own, which no two calls have at once.
        priority_field: the field with the priority; None: it has none.
        ordered: results in the order of the lines.
        output: the file for results; None: standard output.
        mode: what becomes of a file that is there.
        retry_failed: with `mode="resume"`: run lines again that failed.
        raw: write values alone.
        halt: when there are too many failures; None: never.
        show_traceback: show the traceback of a failure, not only its last line.
        dry_run: write what would be called, and run nothing.
        total: how many lines there are; None: as many as the files have bytes for.
        every: seconds between lines of progress, where there is no terminal.
    """

    size: int
    processes: bool
    timeout: float | None
    retry: Retry | None
    rate: Limit | None
    key_field: str | None
    key_limit: Limit | None
    as_json: bool
    null: bool
    arguments: Mapping[str, Any]
    setup: str | None
    setup_per_worker: bool
    priority_field: str | None
    ordered: bool
    output: str | None
    mode: OutputMode
    retry_failed: bool
    raw: bool
    halt: Halt | None
    show_traceback: bool
    dry_run: bool
    total: int | None
    every: float

    @property
    def buffersize(self) -> int:
        """How many lines are between input and output, at most: priorities and keys matter among those."""
        wide = self.priority_field is not None or self.key_field is not None
        return max(1000 if wide else 100, 2 * self.size)

    @classmethod
    def checked(
        cls,
        *,
        size: int | None,
        retries: int,
        delay: float | None,
        backoff: str | None,
        rate: str | None,
        key_field: str | None,
        key_limit: str | None,
        arguments: Sequence[str],
        output: str | None,
        overwrite: bool,
        append: bool,
        resume: bool,
        retry_failed: bool,
        halt: str | None,
        fail_fast: bool,
        **plain: Any,
    ) -> MapOptions:
        """Return the options that were written.

        Raises:
            Refusal: one of them cannot be, or does not go with another.
        """
        if plain["priority_field"] is not None and not plain["as_json"]:
            raise Refusal("--priority-field takes the priority out of JSON objects: add --json")
        if (key_field is None) != (key_limit is None):
            missing = "--key-limit 2" if key_limit is None else "--key-field host"
            raise Refusal(f"--key-field says what the key of a line is, and --key-limit its limit: add {missing}")
        if key_field is not None and not plain["as_json"] and not _is_plain_key(key_field):
            raise Refusal(
                f"--key-field {key_field} is the name of a field of JSON objects: add --json; without it write the "
                "number of a column, from 1, or host for lines that are URLs"
            )
        if plain["setup_per_worker"] and plain["setup"] is None:
            raise Refusal("--setup-per-worker says how often --setup is done: add --setup MODULE:FUNCTION")
        if plain["setup_per_worker"] and plain["processes"]:
            raise Refusal("with --processes each process does its own --setup: leave out --setup-per-worker")
        if fail_fast and halt is not None:
            raise Refusal("--fail-fast is --halt fail=1: write one of them")
        halt = "fail=1" if fail_fast else halt
        output = None if output in STDOUT_NAMES else output
        mode = _mode(output, overwrite=overwrite, append=append, resume=resume, retry_failed=retry_failed)
        if mode == "resume" and plain["raw"]:
            raise Refusal("--raw writes no line numbers, so it cannot be resumed: leave out --raw")
        return cls(
            size=size or (_processors() if plain["processes"] else 10),
            retry=_retry(retries, delay, backoff),
            rate=None if rate is None else parse_rate(rate),
            key_field=key_field,
            key_limit=None if key_limit is None else parse_key_limit(key_limit),
            arguments=parse_arguments(arguments),
            output=output,
            mode=mode,
            retry_failed=retry_failed,
            halt=None if halt is None else parse_halt(halt),
            **plain,
        )


def _processors() -> int:
    """Return how many processors this program may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_plain_key(field: str) -> bool:
    return field == "host" or (field.isdecimal() and int(field) > 0)


def _mode(output: str | None, *, overwrite: bool, append: bool, resume: bool, retry_failed: bool) -> OutputMode:
    given = [name for name, wanted in (("overwrite", overwrite), ("append", append)) if wanted]
    given += ["retry-failed" if retry_failed else "resume"] if resume or retry_failed else []
    if len(given) > 1:
        raise Refusal(f"--{given[0]} and --{given[1]} exclude each other: write one of them")
    if given and output is None:
        raise Refusal(f"--{given[0]} is about a file of results: add --output results.jsonl")
    return cast(OutputMode, "resume" if resume or retry_failed else given[0] if given else "new")


def _retry(retries: int, delay: float | None, backoff: str | None) -> Retry | None:
    if not retries:
        for name, value in (("delay", delay), ("backoff", backoff)):
            if value is not None:
                raise Refusal(f"--{name} is about the wait before a retry: add --retries 3")
        return None
    if backoff is not None and backoff not in BACKOFFS:
        raise Refusal(f"--backoff {backoff}: write one of {', '.join(BACKOFFS)}")
    seconds = 1.0 if delay is None else delay
    return Retry(
        attempts=1 + retries,
        give_up_on=BadLineError,
        backoff=cast(Literal["exponential"], backoff or "exponential"),
        delay=seconds,
        max_delay=max(60.0, seconds),
    )
