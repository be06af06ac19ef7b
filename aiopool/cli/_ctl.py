"""`aiopool ctl`: ask a program something at its door, or have it do something, by one of its verbs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from aiopool._control.client import NoAnswerError, NoProgramError
from aiopool._control.problems import Problem
from aiopool.cli._answer_text import answer_lines
from aiopool.cli._door import Door, at_door, open_door
from aiopool.cli._job_text import to_line
from aiopool.cli._store import complain
from aiopool.cli._streams import write_output
from aiopool.cli._table import name_value_lines
from aiopool.cli._words import FINE, Refusal

__all__ = ["control", "read_words"]

# What `--wait` can wait for: the end of the pool, or of what is done to many jobs.
_ENDING: Final = ("drain", "shutdown")
_MANY: Final = ("operation", "cancel_group")
# Those that are about one job, by its id.
_OF_A_JOB: Final = ("job", "stack", "cancel", "reprioritize", "retry")
# Seconds between two questions, and between two lines of progress.
_EVERY: Final = 0.1
_SAY_EVERY: Final = 5.0


def control(verb: str | None, words: Sequence[str], *, as_json: bool, wait: bool, token_file: str | None) -> int:
    """Ask by a verb, and print the answer; without a verb, or with `help`, print which there are."""

    def work() -> int:
        target, arguments = read_words(words)
        if verb is None or verb == "help":
            return _list_verbs(target, token_file, as_json=as_json)
        name = verb.replace("-", "_")
        if wait and name not in (*_ENDING, *_MANY):
            raise Refusal(
                f"{name} --wait: it is over when it has answered; {', '.join(_ENDING + _MANY)} can be waited for"
            )
        try:
            connection, pool = open_door(target, token_file)
        except NoProgramError as error:
            if name in _OF_A_JOB and target is not None and "id" not in arguments:
                raise NoProgramError(f"{error}; the id of a job is written as id={target}") from None
            raise
        with connection:
            if wait and name in _ENDING:
                pool = connection.ask("status", pool)["pool"]  # its name, as long as it has one
            answer = connection.ask(name, pool, **arguments)
            if code := _print(name, answer, as_json=as_json):
                return code
            if wait and name in _ENDING:
                return _wait_for_end(connection, str(pool))
            if wait and not answer.get("dry_run"):
                return _wait_for_operation(connection, pool, int(answer["id"]), as_json=as_json)
        return FINE

    return at_door(work)


def read_words(words: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """Return which program is meant, and the arguments: `key=text`, `key:=JSON`; a key that comes twice is a list.

    Raises:
        Refusal: two programs are named, or a value is no JSON.
    """
    target: str | None = None
    arguments: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            if target is not None:
                raise Refusal(f"{target!r} and {word!r}: name one program, and write what is meant as key=value")
            target = word
            continue
        value: Any = text
        if key.endswith(":"):
            key = key[:-1]
            try:
                value = json.loads(text)
            except ValueError:
                raise Refusal(f"{word}: what stands after := is JSON; write {key}={text} for a text") from None
        if not key.isidentifier():
            raise Refusal(f"{word}: write key=value")
        if key in arguments:
            before = arguments[key]
            value = [*before, value] if isinstance(before, list) else [before, value]
        arguments[key] = value
    clash = {"self", "verb", "pool", "on_behalf_of"} & set(arguments)
    if clash:
        raise Refusal(f"{min(clash)}= is no argument of a verb: a pool is named before them: aiopool ctl status mail")
    return target, arguments


def _list_verbs(target: str | None, token_file: str | None, *, as_json: bool) -> int:
    connection, _ = open_door(target, token_file)
    with connection:
        verbs = connection.hello["verbs"]
    return write_output(to_line(verbs) if as_json else "".join(name_value_lines(list(verbs.items()))))


def _print(verb: str, answer: dict[str, Any], *, as_json: bool) -> int:
    code = write_output(to_line(answer) if as_json else "".join(answer_lines(verb, answer)))
    if not as_json and "searched" in answer and answer.get("next"):
        complain(f"searched {answer['searched']:,}, and there are more: cursor={answer['next']}")
    return code


def _wait_for_end(door: Door, pool: str) -> int:
    """Wait until a pool has closed, or its program has ended."""
    say = _Said()
    closing = False
    while True:
        try:
            with door.again() as connection:
                while True:
                    status = connection.ask("status", pool)
                    if closing and status["status"] == "open":
                        return _closed(pool)  # and has opened anew
                    closing = closing or status["status"] == "closing"
                    numbers = status["numbers"]
                    say.now_and_then(f"{numbers['running']:,} running, {numbers['queued']:,} queued")
                    time.sleep(_EVERY)
        except NoProgramError:
            complain(f"the program of pool {pool!r} has ended")
            return FINE
        except Problem as problem:
            if problem.kind == "not-found":
                return _closed(pool)
            raise
        except NoAnswerError:
            # Whether it has gone, or is slow, is told by whether it can be reached.
            say.now_and_then("no answer")
            time.sleep(_EVERY)


def _closed(pool: str) -> int:
    complain(f"pool {pool!r} has closed")
    return FINE


def _wait_for_operation(connection: Door, pool: str | None, id: int, *, as_json: bool) -> int:
    """Wait until something is done to all of the jobs that it is for."""
    say = _Said()
    while True:
        answer = connection.ask("operations", pool, id=id)
        if answer["ended"]:
            return _print("operations", answer, as_json=as_json)
        say.now_and_then(f"{answer['done']:,} of {answer['total']:,} done")
        time.sleep(_EVERY)


class _Said:
    """Says a line of progress now and then."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _SAY_EVERY

    def now_and_then(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SAY_EVERY
            print(f"aiopool: {text}", file=sys.stderr, flush=True)
