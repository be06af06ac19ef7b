"""Settings: where each value comes from, what is allowed, and that what is written is read back."""

import asyncio
import contextlib
import dataclasses
import inspect
import itertools
import json
import logging
import math
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aiopool
from aiopool import HealthLimits, Pool, Priority, Restart, Retry, RetryBudget
from aiopool.settings import PoolSettings, SettingsError, SettingsProblem
from aiopool.settings._kinds import Kind, Nested
from aiopool.settings._sources import RESERVED

ROOT = Path(aiopool.__file__).parents[1]
SCHEMA = PoolSettings._schema


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("AIOPOOL_"):
            monkeypatch.delenv(name)
    return tmp_path


def dotted(schema: Any = SCHEMA, above: str = "") -> list[str]:
    """The names of all single settings."""
    names = []
    for name, kind in schema.items():
        names += dotted(kind.fields, f"{above}{name}.") if isinstance(kind, Nested) else [above + name]
    return names


def kind_of(name: str) -> Kind:
    kind: Any = None
    for part in name.split("."):
        kind = (kind.fields if kind else SCHEMA)[part]
    return kind


def value_of(made: PoolSettings, name: str) -> Any:
    value: Any = made
    for part in name.split("."):
        value = getattr(value, part)
    return value


def variable(name: str) -> str:
    return f"AIOPOOL_{name.replace('.', '__').upper()}"


def nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def refused(make: Callable[..., object], *args: Any, told: int = 1000, **values: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        make(*args, **values)
    assert caught.value.problems
    for problem in caught.value.problems[:told]:
        assert str(problem) in str(caught.value)
    return caught.value


def only(make: Callable[..., object], *args: Any, **values: Any) -> SettingsProblem:
    (problem,) = refused(make, *args, **values).problems
    return problem


# -- the pool and its settings cannot drift apart ---------------------------------------------------------------------


def parameters(made: Callable[..., object]) -> dict[str, Any]:
    return {name: one.default for name, one in inspect.signature(made).parameters.items()}


def test_whatever_a_pool_takes_is_a_setting():
    """The same names, in the same order, with the same defaults. A new argument of Pool needs a field here."""
    fields = {name: field.default for name, field in PoolSettings.model_fields.items()}
    assert list(fields) == list(parameters(Pool)), (
        "give PoolSettings the same field, and docs/reference/settings.md a row"
    )
    assert fields == parameters(Pool)
    own = {*parameters(PoolSettings.load), *parameters(PoolSettings.load_all)}
    assert not own & set(fields), "load() and load_all() take these for themselves"
    assert PoolSettings().to_arguments() == parameters(Pool)


def groups(schema: Any = SCHEMA, above: str = "") -> dict[str, Nested]:
    """The settings that have fields of their own, by their names."""
    found: dict[str, Nested] = {}
    for name, kind in schema.items():
        if isinstance(kind, Nested):
            found |= {above + name: kind, **groups(kind.fields, f"{above}{name}.")}
    return found


@pytest.mark.parametrize("name", groups())
def test_whatever_a_policy_takes_is_a_setting(name):
    """The same for what stands under `retry`, `retry.budget`, `restart` and the like."""
    nested = groups()[name]
    assert list(nested.fields) == list(parameters(nested.made))


PROBES = [
    0,
    1,
    2,
    7,
    -1,
    0.0,
    0.5,
    1.0,
    -0.5,
    1.5,
    1e300,
    math.inf,
    math.nan,
    10**400,
    None,
    True,
    False,
    "task",
    "scope",
]
PROBES += [
    "reject",
    "replace",
    "linear",
    "nonsense",
    [],
    (),
    print,
    int,
    ValueError,
    (KeyError,),
    object(),
    Priority.LOW,
]


def accepts(make: Callable[..., object], *args: Any, **values: Any) -> bool:
    try:
        make(*args, **values)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


@pytest.mark.parametrize("name", dotted())
def test_what_settings_accept_the_pool_accepts(name):
    """A value that passes here cannot fail there."""
    for probe in PROBES:
        if accepts(PoolSettings.from_dict, nested(name, probe)):
            Pool(**PoolSettings.from_dict(nested(name, probe)).to_arguments())


@pytest.mark.parametrize("name", dotted())
def test_what_the_pool_accepts_settings_accept(name):
    """A value that code may use, a file may use. (The pool does not look closely at names, flags and functions.)"""
    if name in ("name", "on_error", "seed") or isinstance(parameters(Pool).get(name), bool):
        return
    group, _, field = name.rpartition(".")
    made: Callable[..., object] = groups()[group].made if group else Pool
    for probe in PROBES:
        if probe != 10**400 and accepts(made, **{field: probe}):  # no float can hold it
            assert accepts(PoolSettings.from_dict, nested(name, probe)), probe


# -- which source wins: a table over every setting --------------------------------------------------------------------


class Row(NamedTuple):
    """Four texts for a setting, from the highest source to the lowest, and what they mean."""

    texts: tuple[str, str, str, str]
    values: tuple[Any, Any, Any, Any]


TABLE = {
    "size": Row(("1", "2", "3", "4"), (1, 2, 3, 4)),
    "queue_size": Row(("0", "none", "0", "5"), (0, None, 0, 5)),
    "name": Row(("a", "b", "c", "d"), ("a", "b", "c", "d")),
    "priority": Row(("high", "1", "LOW", "-7"), (Priority.HIGH, 1, Priority.LOW, -7)),
    "timeout": Row(("0", "none", "5m", "1e9"), (0.0, None, 300.0, 1e9)),
    "queue_timeout": Row(("1.5s", "0", "none", "3"), (1.5, 0.0, None, 3.0)),
    "total_timeout": Row(("1d", "2h", "0", "null"), (86400.0, 7200.0, 0.0, None)),
    "retry.attempts": Row(("1", "2", "3", "4"), (1, 2, 3, 4)),
    "retry.on": Row(
        ("asyncio:QueueFull", "OSError", "OSError, ValueError", "KeyError"),
        (asyncio.QueueFull, OSError, (OSError, ValueError), KeyError),
    ),
    "retry.give_up_on": Row(
        ("asyncio:QueueFull", "none", "OSError,ValueError", "KeyError"),
        (asyncio.QueueFull, (), (OSError, ValueError), KeyError),
    ),
    "retry.backoff": Row(("linear", "fixed", "Random", "math:exp"), ("linear", "fixed", "random", math.exp)),
    "retry.delay": Row(("0", "1ms", "2", "3s"), (0.0, 0.001, 2.0, 3.0)),
    "retry.factor": Row(("1", "1.5", "2.5", "3"), (1.0, 1.5, 2.5, 3.0)),
    "retry.max_delay": Row(("1", "2", "3", "1h"), (1.0, 2.0, 3.0, 3600.0)),
    "retry.jitter": Row(("0", "1", ".5", "0.25"), (0.0, 1.0, 0.5, 0.25)),
    "retry.max_elapsed": Row(("0", "none", "1h30m", "9"), (0.0, None, 5400.0, 9.0)),
    "retry.budget.ratio": Row(("0", "1", "2", "0.5"), (0.0, 1.0, 2.0, 0.5)),
    "retry.budget.min_per_second": Row(("0", "1.5", "2", "0.5"), (0.0, 1.5, 2.0, 0.5)),
    "retry.budget.within": Row(("1", "2m", "3", "4"), (1.0, 120.0, 3.0, 4.0)),
    "isolation": Row(("task", "scope", "task", "scope"), ("task", "scope", "task", "scope")),
    "overflow": Row(("wait", "reject", "drop_oldest", "drop_lowest"), ("wait", "reject", "drop_oldest", "drop_lowest")),
    "aging": Row(("1", "none", "2", "3s"), (1.0, None, 2.0, 3.0)),
    "cancel_grace": Row(("0", "1.5", "2s", "3"), (0.0, 1.5, 2.0, 3.0)),
    "on_leak": Row(("hold", "replace", "hold", "replace"), ("hold", "replace", "hold", "replace")),
    "on_error": Row(("builtins:print", "none", "null", "logging:error"), (print, None, None, logging.error)),
    "max_threads": Row(("1", "none", "2", "3"), (1, None, 2, 3)),
    "restart.max_restarts": Row(("0", "1", "2", "3"), (0, 1, 2, 3)),
    "restart.within": Row(("1", "2", "3", "1d"), (1.0, 2.0, 3.0, 86400.0)),
    "restart.delay": Row(("0", "1", "2", "3"), (0.0, 1.0, 2.0, 3.0)),
    "restart.max_delay": Row(("1", "2", "3", "4"), (1.0, 2.0, 3.0, 4.0)),
    "handle_signals": Row(("true", "no", "on", "0"), (True, False, True, False)),
    "shutdown_timeout": Row(("0", "none", "30s", "inf"), (0.0, None, 30.0, math.inf)),
    "metrics": Row(("off", "1", "false", "yes"), (False, True, False, True)),
    "logs": Row(("json", "Console", "silent", "json"), ("json", "console", "silent", "json")),
    "log_level": Row(("error", "DEBUG", "info", "warning"), ("error", "debug", "info", "warning")),
    "health.window": Row(("1", "2m", "inf", "4"), (1.0, 120.0, math.inf, 4.0)),
    "health.max_wait": Row(("0", "none", "2", "3s"), (0.0, None, 2.0, 3.0)),
    "health.stuck_after": Row(("0", "none", "2h", "inf"), (0.0, None, 7200.0, math.inf)),
    "health.max_error_ratio": Row(("0", "1", "0.5", ".25"), (0.0, 1.0, 0.5, 0.25)),
    "health.failing_error_ratio": Row(("0", "1", "0.5", ".25"), (0.0, 1.0, 0.5, 0.25)),
    "health.min_jobs": Row(("0", "1", "2", "3"), (0, 1, 2, 3)),
    "health.max_restarts": Row(("0", "none", "2", "3"), (0, None, 2, 3)),
    "health.max_loop_lag": Row(("0", "none", "100ms", "3"), (0.0, None, 0.1, 3.0)),
    "health.failing_loop_lag": Row(("0", "none", "100ms", "3"), (0.0, None, 0.1, 3.0)),
    "seed": Row(("-1", "0", "none", "42"), (-1, 0, None, 42)),
}
SOURCES = ("argument", "environment variable ", ".env line 1, ", "aiopool.yaml line ")


def test_the_table_has_every_setting():
    assert list(TABLE) == dotted()


@pytest.mark.parametrize("highest", range(4), ids=["argument", "environment", "dotenv", "file"])
@pytest.mark.parametrize("name", TABLE)
def test_the_highest_source_wins(name, highest, here, monkeypatch):
    """ST4: arguments over environment over `.env` over file, for every setting, and each is told as the origin."""
    texts, values = TABLE[name]
    (here / "aiopool.yaml").write_text(_yaml(nested(name, texts[3])))
    if highest <= 2:
        (here / ".env").write_text(f"{variable(name)}={texts[2]}\n")
    if highest <= 1:
        monkeypatch.setenv(variable(name), texts[1])
    arguments = nested(name, texts[0]) if highest == 0 else {}
    made = PoolSettings.load("aiopool.yaml", **arguments)
    assert value_of(made, name) == values[highest]
    assert type(value_of(made, name)) is type(values[highest])
    assert made.origins[name].startswith(SOURCES[highest])
    if 0 < highest < 3:
        assert made.origins[name].endswith(variable(name))
    assert made.create_pool().name == made.name


def _yaml(tree: dict[str, Any], indent: str = "") -> str:
    lines = ""
    for key, value in tree.items():
        lines += f"{indent}{key}:" + (f"\n{_yaml(value, indent + '  ')}" if isinstance(value, dict) else f" {value}\n")
    return lines


@pytest.mark.parametrize("name", TABLE)
def test_defaults(name):
    """Nothing said: the default, and that is told."""
    made = PoolSettings()
    top = name.split(".")[0]
    assert made.origins[top] == "default"
    assert getattr(made, top) == parameters(Pool)[top]


def test_merged_field_by_field(here, monkeypatch):
    """Each field of `retry` has its own highest source."""
    Path("a.toml").write_text('[retry]\nattempts = 4\nbackoff = "linear"\ndelay = "2s"\n')
    Path(".env").write_text("AIOPOOL_RETRY__BACKOFF=fixed\n")
    monkeypatch.setenv("AIOPOOL_RETRY__ATTEMPTS", "6")
    made = PoolSettings.load("a.toml", retry={"jitter": 0})
    assert made.retry == Retry(attempts=6, backoff="fixed", delay=2, jitter=0)
    assert {name: origin for name, origin in made.origins.items() if origin != "default"} == {
        "retry.jitter": "argument",
        "retry.attempts": "environment variable AIOPOOL_RETRY__ATTEMPTS",
        "retry.backoff": ".env line 1, AIOPOOL_RETRY__BACKOFF",
        "retry.delay": "a.toml",
    }


def test_an_object_is_a_whole(monkeypatch):
    """A `Retry` says all of its fields, so nothing below it is merged in."""
    monkeypatch.setenv("AIOPOOL_RETRY__ATTEMPTS", "6")
    made = PoolSettings(retry=Retry(delay=3))
    assert made.retry == Retry(delay=3)
    assert made.origins["retry.attempts"] == "argument"


@pytest.mark.parametrize("nothing", ["none", "null", "NONE", "", " "])
def test_no_retry_by_a_variable(nothing, monkeypatch):
    """`none`, `null` and nothing at all take the retry of the file away."""
    Path("a.yaml").write_text("retry: {attempts: 4}\n")
    assert PoolSettings.load("a.yaml").retry == Retry(attempts=4)
    monkeypatch.setenv("AIOPOOL_RETRY", nothing)
    assert PoolSettings.load("a.yaml").retry is None
    assert PoolSettings.load("a.yaml").origins["retry"] == "environment variable AIOPOOL_RETRY"


@pytest.mark.parametrize("text", ["retry:", "retry: ~", "retry: null", "retry: none", "retry: {}", 'retry: ""'])
def test_an_empty_retry_is_none(text):
    Path("a.yaml").write_text(text)
    assert PoolSettings.load("a.yaml").retry is None


def test_an_empty_mapping_says_nothing(monkeypatch):
    """It hides nothing of what stands in lower sources."""
    Path("a.yaml").write_text("retry: {attempts: 4}\npools: {mail: {retry: {}}}")
    assert PoolSettings.load("a.yaml", pool="mail", retry={}).retry == Retry(attempts=4)


def test_fields_above_a_none_make_a_new_retry(monkeypatch):
    """Who says fields wants a retry; what he leaves out is default, and is told as that."""
    Path("a.yaml").write_text("retry: {delay: 9}\npools: {mail: {retry: none}}")
    monkeypatch.setenv("AIOPOOL_RETRY__ATTEMPTS", "2")
    made = PoolSettings.load("a.yaml", pool="mail")
    assert made.retry == Retry(attempts=2)
    assert made.origins["retry.delay"] == "default"


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        (" 30 ", 30),
        ("2.5", 2.5),
        ("30s", 30),
        ("30 s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1d2h3m4s5ms", 93784.005),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("0.1s", 0.1),
        ("100ms", 0.1),
        ("1e3", 1000),
        ("1_000", 1000),
        (".5", 0.5),
        ("0", 0),
        ("0s", 0),
        ("inf", math.inf),
        (".inf", math.inf),
        ("Infinity", math.inf),
        (30, 30),
        (2.5, 2.5),
        (timedelta(minutes=2), 120),
    ],
)
def test_durations(text, seconds):
    assert PoolSettings.from_dict({"timeout": text}).timeout == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "5x",
        "5 minutes",
        "30m1h",
        "5m5m",
        "-5s",
        "-5",
        "1:30",
        "1h-30m",
        "5M",
        "nan",
        "1e999",
        "9" * 200,
        "9" * 200 + "s",
        "0x10",
        "٣s",
        "1__0",
        "five",
        math.nan,
        -1,
        True,
        [],
        {},
        10**400,
        b"5",
    ],
)
def test_what_is_no_duration(text):
    problem = only(PoolSettings.from_dict, {"timeout": text})
    assert problem.name == "timeout"
    assert '"30s", "5m", "1h30m", or none' in problem.reason


@pytest.mark.parametrize("text", ["", " ", "four", "1e9", "0x10", "True", "4.0", "4 5", "😀", "４", "0", "-1", "none"])
def test_a_bad_variable_is_named(text, monkeypatch):
    """ST1: the error names the variable, its value, and what is allowed."""
    monkeypatch.setenv("AIOPOOL_SIZE", text)
    problem = only(PoolSettings)
    assert (problem.name, problem.source) == ("size", "environment variable AIOPOOL_SIZE")
    assert problem.value == repr(text.strip() if text == " " else text) or problem.value == repr(text)
    assert "a whole number, 1 or more" in problem.reason


@pytest.mark.parametrize(("text", "size"), [(" 4 ", 4), ("4", 4), ("+4", 4), ("1_000", 1000), ("04", 4), ("\t4\n", 4)])
def test_a_good_variable(text, size, monkeypatch):
    monkeypatch.setenv("AIOPOOL_SIZE", text)
    assert PoolSettings().size == size


@pytest.mark.parametrize("name", [name for name in TABLE if name != "name"])
@pytest.mark.parametrize("text", ["four", "😀", "4\0", "0x10", "\udcff", "1e9999", "-", "{", "[1"])
def test_nonsense_is_refused_everywhere(name, text):
    """Every setting refuses it, and names itself. (A NUL can stand in a file, not in a variable.)"""
    problem = only(PoolSettings.from_dict, nested(name, text))
    assert problem.name == name
    assert problem.reason.strip()


@pytest.mark.parametrize("name", TABLE)
def test_an_empty_variable_is_refused(name, monkeypatch):
    """`${UNSET}` in a deployment must not quietly change anything."""
    monkeypatch.setenv(variable(name), "")
    problem = only(PoolSettings)
    assert problem.source == f"environment variable {variable(name)}"
    assert "it is empty" in problem.reason


@pytest.mark.parametrize("name", [name for name in TABLE if name not in ("name", "retry.give_up_on")])
def test_none_only_where_it_is_allowed(name):
    """The same answer to None, to `none` and to `null`, in any case."""
    answers = {
        text: accepts(PoolSettings.from_dict, nested(name, text)) for text in (None, "none", "null", "None", "NULL")
    }
    assert set(answers.values()) == {kind_of(name).none}
    if kind_of(name).none:
        assert value_of(PoolSettings.from_dict(nested(name, "None")), name) is None


@pytest.mark.parametrize("name", ["", "   ", "a\0b", "a\nb", "a\x1b[31mb", "a\u2028b", "\ud800", 4, None, ["a"]])
def test_names_that_spoil_a_log(name):
    assert only(PoolSettings.from_dict, {"name": name}).name == "name"


@pytest.mark.parametrize(
    "name",
    [
        "mail",
        "none",
        "4",
        "true",
        "Почта",
        "😀",
        "👨‍👩‍👧",
        "a: b #c",
        "'\"\\",
        "~",
        "1e3",
        "0o7",
        "x\ufeff\ufffe\uffff",
        "-",
    ],
)
@pytest.mark.parametrize("suffix", ["yaml", "toml", "json"])
def test_names_that_look_like_something_else(name, suffix):
    PoolSettings.from_dict({"name": name}).save(f"a.{suffix}")
    assert PoolSettings.load(f"a.{suffix}").name == name


BOUNDS = {
    "size": (1, 0),
    "queue_size": (0, -1),
    "timeout": (0, -0.001),
    "queue_timeout": (0, -0.001),
    "total_timeout": (0, -0.001),
    "retry.attempts": (1, 0),
    "retry.delay": (0, -0.001),
    "retry.factor": (1, 0.999),
    "retry.jitter": (1, 1.001),
    "retry.max_elapsed": (0, math.inf),
    "retry.budget.ratio": (0, math.inf),
    "retry.budget.min_per_second": (0, -0.001),
    "retry.budget.within": (0.001, 0),
    "aging": (0.001, 0),
    "cancel_grace": (0, -0.001),
    "max_threads": (1, 0),
    "restart.max_restarts": (0, -1),
    "health.window": (0.001, 0),
    "health.max_error_ratio": (1, 1.001),
    "health.min_jobs": (0, -1),
    "restart.within": (0.001, 0),
    "restart.delay": (0, -0.001),
    "shutdown_timeout": (0, -0.001),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name):
    """ST9, F-10: the last value that is allowed, zero among them, and the first that is not."""
    last, first = BOUNDS[name]
    assert value_of(PoolSettings.from_dict(nested(name, last)), name) == last
    assert only(PoolSettings.from_dict, nested(name, first)).name == name


# -- errors -----------------------------------------------------------------------------------------------------------


def test_all_errors_at_once(monkeypatch):
    """Each with its name, value, source, and what is allowed."""
    Path("a.yaml").write_text("sise: 4\ntimeout: soon\nretry:\n  attempts: 0\n  backof: linear\n")
    Path(".env").write_text("OTHER=1\n\nAIOPOOL_ISOLATION=thread\nexport AIOPOOL_TIMOUT=3\n")
    monkeypatch.setenv("AIOPOOL_QUEUE_SIZE", "many")
    error = refused(PoolSettings.load, "a.yaml", size=0)
    assert [(problem.name, problem.value, problem.source) for problem in error.problems] == [
        ("timout", None, ".env line 4, AIOPOOL_TIMOUT"),
        ("sise", None, "a.yaml line 1"),
        ("retry.backof", None, "a.yaml line 5"),
        ("size", "0", "argument"),
        ("queue_size", "'many'", "environment variable AIOPOOL_QUEUE_SIZE"),
        ("timeout", "'soon'", "a.yaml line 2"),
        ("retry.attempts", "'0'", "a.yaml line 4"),
        ("isolation", "'thread'", ".env line 3, AIOPOOL_ISOLATION"),
    ]
    text = str(error)
    assert text.startswith("8 settings cannot be used:\n  ")
    assert "  isolation='thread' (.env line 3, AIOPOOL_ISOLATION): it must be one of task, scope" in text
    assert "  sise (a.yaml line 1): there is no such setting; did you mean 'size'?" in text
    assert "did you mean 'AIOPOOL_TIMEOUT'?" in text


def test_one_error_is_one_line():
    error = refused(PoolSettings, size="four")
    assert str(error) == "size='four' (argument): it must be a whole number, 1 or more"
    assert isinstance(error, ValueError)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.problems) == (str(error), error.problems)


def test_a_file_of_another_program():
    """All problems are in the error, and the text stays readable."""
    error = refused(PoolSettings.from_dict, {f"key{number}": number for number in range(60)}, told=50)
    assert len(error.problems) == 60
    assert str(error).endswith("\n  and 10 more")


def test_fields_that_do_not_go_together():
    problem = only(PoolSettings, retry={"delay": "2m"})
    assert problem.name == "retry"
    assert "delay=120 is above max_delay=60" in problem.reason


def test_a_long_value_is_shortened():
    assert len(str(refused(PoolSettings, size="x" * 10_000))) < 300
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    assert len(str(refused(PoolSettings, size=deep))) < 300


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("siez", "size"),
        ("max_workers", "size"),
        ("concurrency", "size"),
        ("queuesize", "queue_size"),
        ("time_out", "timeout"),
        ("max_retries", "retry.attempts"),
        ("attempts", "retry.attempts"),
        ("jitter", "retry.jitter"),
        ("give_up_on", "retry.give_up_on"),
        ("retry_attempts", "retry.attempts"),
        ("Size", "size"),
        ("_env_file", None),
        ("zzz", None),
    ],
)
def test_the_nearest_name(name, meant, monkeypatch):
    """ST2: an unknown name is refused wherever it stands, and the nearest one is told as it is written there."""
    reason = only(PoolSettings, **{name: 4}).reason
    assert reason.startswith("there is no such setting; ")
    assert f"did you mean {meant!r}?" in reason if meant else "there are size, queue_size" in reason
    if meant and name != "Size":
        monkeypatch.setenv(variable(name), "4")
        assert f"did you mean {variable(meant)!r}?" in only(PoolSettings).reason


def test_the_same_name_in_several_places(monkeypatch):
    """All of them are told."""
    assert "did you mean 'retry.delay' or 'restart.delay'?" in only(PoolSettings, delay=4).reason
    monkeypatch.setenv("AIOPOOL_DELAY", "4")
    assert "did you mean 'AIOPOOL_RETRY__DELAY' or 'AIOPOOL_RESTART__DELAY'?" in only(PoolSettings).reason


@pytest.mark.parametrize(
    "name", ["AIOPOOL_", "AIOPOOL___SIZE", "AIOPOOL_SIZE__X", "AIOPOOL_RETRY__", "AIOPOOL_RETRY__BUDGET__A__B"]
)
def test_odd_variables_are_refused(name, monkeypatch):
    monkeypatch.setenv(name, "4")
    assert only(PoolSettings).source == f"environment variable {name}"


def test_variables_in_any_case_but_only_once(monkeypatch):
    monkeypatch.setenv("aiopool_size", "4")
    assert PoolSettings().size == 4
    monkeypatch.setenv("AIOPOOL_SIZE", "5")
    problem = only(PoolSettings)
    assert problem.source == "environment variable aiopool_size"
    assert "environment variable AIOPOOL_SIZE says otherwise" in problem.reason


def test_a_whole_and_its_parts_contradict(monkeypatch):
    monkeypatch.setenv("AIOPOOL_RETRY", "none")
    monkeypatch.setenv("AIOPOOL_RETRY__ATTEMPTS", "4")
    problem = only(PoolSettings)
    assert problem.name == "retry.attempts"
    assert "AIOPOOL_RETRY says otherwise" in problem.reason


def test_what_kubernetes_sets_is_no_setting(monkeypatch):
    """A Service with the name "aiopool" must not keep every pod from starting."""
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"):
        monkeypatch.setenv(f"AIOPOOL_{name}", "10.0.0.1")
    assert PoolSettings() == PoolSettings.from_dict({})


def test_variables_of_ours_that_are_no_settings(monkeypatch):
    """Each that our code mentions is known here."""
    mentioned = {
        name
        for path in (ROOT / "aiopool").rglob("*.py")
        if "settings" not in path.name
        for name in re.findall(r'"(AIOPOOL_\w+)"', path.read_text(encoding="utf-8"))
    } - {"AIOPOOL_FILE", "AIOPOOL_POOL"}
    assert mentioned == RESERVED, "RESERVED in aiopool/settings/_sources.py lists the variables that are no settings"
    for name in RESERVED:
        monkeypatch.setenv(name, "7")
    assert PoolSettings() == PoolSettings.from_dict({})


# -- .env -------------------------------------------------------------------------------------------------------------


def test_dotenv(monkeypatch):
    """Comments, quotes, `export`, a byte order mark; what is not ours is not looked at."""
    Path(".env").write_text(
        "\ufeffAIOPOOL_NAME='a b' # comment\n\n# no\nexport AIOPOOL_SIZE=12\nURL=${NOWHERE}\nPASSWORD=x y z\n"
        "AIOPOOL_SEED=1\nAIOPOOL_SEED=2\n",
        encoding="utf-8",
    )
    made = PoolSettings()
    assert (made.name, made.size, made.seed) == ("a b", 12, 2)
    assert made.origins["size"] == ".env line 4, AIOPOOL_SIZE"
    assert made.origins["seed"] == ".env line 8, AIOPOOL_SEED"
    assert PoolSettings.load(env_file=None) == PoolSettings.from_dict({})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("AIOPOOL_SIZE", "it has no value"),
        ("AIOPOOL_SIZE 4", "cannot be read"),
        ("AIOPOOL_SIZE='4", "cannot be read"),
        ("AIOPOOL_SIZE=", "it is empty"),
        ("AIOPOOL_NAME=a\0b", "control characters"),
        ("AIOPOOL_FILE=evil.yaml", "cannot choose"),
        ("AIOPOOL_ON_ERROR=os:system", "names code"),
        ("AIOPOOL_NAME=${DATABASE_PASSWORD}", "refers to another variable"),
        ("AIOPOOL_NAME='a ${FINE} b'", "refers to another variable"),
        ("aiopool_name=${NOWHERE:-default}", "refers to another variable"),
    ],
)
def test_bad_lines_of_dotenv(text, reason, monkeypatch):
    """The reason says what to write; the secret of another variable goes nowhere."""
    monkeypatch.setenv("DATABASE_PASSWORD", SECRET)
    Path(".env").write_text(f"\nFINE=1\n{text}\n")
    problem = only(PoolSettings)
    assert problem.source.startswith(".env line 3")
    assert reason in problem.reason


def test_a_bad_line_of_somebody_else_is_not_our_business():
    Path(".env").write_text("what is this\nAIOPOOL_SIZE=4\n")
    assert PoolSettings().size == 4


def test_env_files(here):
    """`.env` may be missing, or a virtual environment; one that was asked for may not."""
    (here / ".env").mkdir()
    assert PoolSettings().size == 10
    (here / "b.env").write_text("AIOPOOL_SIZE=4")
    assert PoolSettings.load(env_file=here / "b.env").size == 4
    assert only(PoolSettings.load, env_file="none.env").reason == "there is no such file"
    assert only(PoolSettings.load, env_file=".env").reason == "it is a directory"
    (here / "c.env").write_bytes(b"AIOPOOL_SIZE=\xff")
    assert "not UTF-8" in only(PoolSettings.load, env_file="c.env").reason


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "size: 4\nretry: {attempts: 2}\n"),
        ("a.yml", "size: 4\nretry:\n  attempts: 2\n"),
        ("a.toml", "size = 4\n[retry]\nattempts = 2\n"),
        ("a.json", '{"size": 4, "retry": {"attempts": 2}}'),
        ("A.JSON", '{"size": "4", "retry": {"attempts": "2"}}'),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "bom"])
def test_the_three_formats(name, text, mark, monkeypatch):
    Path(name).write_text(mark + text, encoding="utf-8")
    expected = PoolSettings.from_dict({"size": 4, "retry": {"attempts": 2}})
    assert PoolSettings.load(name) == expected
    assert PoolSettings.load(Path(name)) == expected
    monkeypatch.setenv("AIOPOOL_FILE", name)
    assert PoolSettings() == PoolSettings.load() == expected
    (Path(name).parent / "other.json").write_text('{"size": 7}')
    assert PoolSettings.load("other.json").size == 7  # the argument chooses, not the variable


YAML_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{','.join([f'*{chr(97 + level)}'] * 9)}]\n" for level in range(8)
)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.ini", "", "its name must end in one of .yaml, .yml, .toml, .json"),
        ("a", "", "its name must end in"),
        ("a.yaml", "!!python/object/apply:os.system ['touch pwned']", "the tag"),
        ("a.yaml", "size: !!python/object/apply:os.system ['touch pwned']", "line 1: the tag"),
        ("a.yaml", "size: !!python/name:os.system", "the tag"),
        ("a.yaml", "size: !mine 4", "the tag '!mine' is not read"),
        ("a.yaml", YAML_BOMB, "more than 20000 values, aliases included"),
        ("a.yaml", "a: &a {b: *a}", "nested too deeply"),
        ("a.yaml", "a: &a [*a]", "nested too deeply"),
        ("a.yaml", "a: " + "[" * 5000, "nested too deeply"),
        ("a.yaml", "a: " + "[" * 50 + "]" * 50, "nested too deeply"),
        ("a.yaml", "size: 4\nname: x\nsize: 5", "line 3: the key 'size' stands there twice"),
        ("a.yaml", "retry: {delay: 1, delay: 2}", "the key 'delay' stands there twice"),
        ("a.yaml", "- size\n- 4", "mapping of settings, such as `size: 4`, not a list"),
        ("a.yaml", "size", "not a str"),
        ("a.yaml", "retry:\n\tattempts: 4", "cannot start any token; YAML is indented by spaces"),
        ("a.yaml", "size: [4", "it is not YAML, line 1"),
        ("a.yaml", "size: *nothing", "undefined alias"),
        ("a.yaml", "size: 4\n---\nsize: 5", "single document"),
        ("a.yaml", "? [a]\n: 4", "a key must be a word"),
        ("a.yaml", "<<: 4", "<< merges mappings only"),
        ("a.yaml", "name: a\0b", "not YAML"),
        ("a.yaml", "#" * 10_000_000, "larger than 64 KiB"),
        ("a.yaml", b"size: \xff", "not UTF-8"),
        ("a.yaml", "size: 4".encode("utf-16"), "not UTF-8"),
        ("a.json", "", "not JSON"),
        ("a.json", "[4]", "not a list"),
        ("a.json", '{"size": 4, "size": 5}', "the key 'size' stands there twice"),
        ("a.json", '{"timeout": Infinity}', 'write "inf"'),
        ("a.json", '{"timeout": NaN}', "not JSON"),
        ("a.json", '{"a": ' + "[" * 30_000, "nested too deeply"),
        ("a.json", '{"seed": ' + "9" * 10_000 + "}", "cannot be read"),
        ("a.json", '{"size": 4} x', "not JSON"),
        ("a.toml", "size = ", "not TOML"),
        ("a.toml", "size = 4\nsize = 5", "not TOML"),
        ("a.toml", "a = " + "[" * 50_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_bad_files(name, content, reason, here):
    """ST3, A-70: each is refused with a reason, quickly, and nothing in it runs."""
    (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    error = refused(PoolSettings.load, name, size=0)
    assert [problem.name for problem in error.problems] == ["file", "size"]  # the others are told nevertheless
    assert error.problems[0].value == repr(name)
    assert reason in error.problems[0].reason
    assert not (here / "pwned").exists()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "there is no such file"),
        (Path.mkdir, "it is a directory"),
        (os.mkfifo, "it is no regular file"),
        (lambda path: path.symlink_to(path), "it cannot be opened: Too many levels"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
    ],
    ids=["missing", "directory", "fifo", "circle", "device"],
)
def test_what_is_no_file(make, reason, here, monkeypatch):
    """ST6: nothing hangs."""
    make(here / "a.yaml")
    assert reason in only(PoolSettings.load, "a.yaml").reason
    monkeypatch.setenv("AIOPOOL_FILE", "a.yaml")
    problem = only(PoolSettings)
    assert problem.source == "environment variable AIOPOOL_FILE"
    assert reason in problem.reason


def test_odd_file_names(here, monkeypatch):
    for name in ("a\0.yaml", "x" * 5000 + ".yaml"):
        assert "it cannot be opened" in only(PoolSettings.load, name).reason
    monkeypatch.setenv("AIOPOOL_FILE", "")
    assert "it is empty" in only(PoolSettings).reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(here):
    (here / "a.yaml").touch(mode=0)
    assert "it cannot be opened: Permission denied" in only(PoolSettings.load, "a.yaml").reason


NOBODY = 65534


def _give_away(path: Path, **options: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, NOBODY, NOBODY, **options)


def _share(path: Path, mode: int) -> None:
    _give_away(path)
    os.chown(path, 0, -1)
    path.chmod(mode)


def _behind_a_link(path: Path) -> None:
    path.rename(path.with_name("real.yaml"))
    path.symlink_to("real.yaml")
    _give_away(path, follow_symlinks=False)


def _behind_an_open_directory(path: Path) -> None:
    (directory := path.with_name("open")).mkdir()
    path.rename(directory / path.name)
    path.symlink_to(f"open/../open/{path.name}")
    directory.chmod(0o777)


@pytest.mark.parametrize(
    ("spoil", "who"),
    [
        (lambda path: path.chmod(0o602), "can be changed by everybody"),
        (lambda path: path.parent.chmod(0o777), "can be changed by everybody"),
        (_behind_an_open_directory, "open' can be changed by everybody"),
        (_give_away, "a.yaml' belongs to the user nobody"),
        (lambda path: _give_away(path.parent), "belongs to the user nobody"),
        (_behind_a_link, "a.yaml' belongs to the user nobody"),
        (lambda path: _share(path, 0o664), "a.yaml' can be changed by its group"),
        (lambda path: _share(path.parent, 0o775), "can be changed by its group"),
    ],
    ids=["mode", "directory", "a directory behind a link", "owner", "owner above", "link", "group", "group above"],
)
def test_a_file_that_others_can_change(spoil, who, tmp_path, monkeypatch):
    """It is read, with a warning, but it may name no code: nothing is imported."""
    directory = tmp_path / "settings"
    directory.mkdir()
    path = directory / "a.yaml"
    path.write_text("size: 4")
    (tmp_path / "evil.py").write_text("open('pwned', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    spoil(path)
    with pytest.warns(RuntimeWarning, match=rf"{who}.*, so a\.yaml may name no code to import; .*chmod go-w"):
        assert PoolSettings.load(path).size == 4
    path.write_text("on_error: 'evil:thing'")
    with pytest.warns(RuntimeWarning):
        assert "it names code to import" in only(PoolSettings.load, path).reason
    assert "evil" not in sys.modules
    assert not Path("pwned").exists()


def test_the_way_to_a_file_is_the_one_that_the_system_goes(tmp_path):
    """`link/..` is the directory above the one that the link leads to."""
    inner = tmp_path / "open" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inner)
    (tmp_path / "open" / "a.yaml").write_text("size: 4")
    (tmp_path / "open").chmod(0o777)
    with pytest.warns(RuntimeWarning, match="open' can be changed by everybody"):
        assert PoolSettings.load(tmp_path / "link" / ".." / "a.yaml").size == 4


def test_a_file_that_nobody_else_can_change(tmp_path, recwarn):
    """Of our own, or of root; in a directory with the sticky bit; for a group that is nobody else."""
    directory = tmp_path / "sticky"
    directory.mkdir()
    directory.chmod(0o1777)
    path = directory / "a.yaml"
    path.write_text("on_error: 'logging:error'")
    (tmp_path / "link.yaml").symlink_to(path)
    assert PoolSettings.load(tmp_path / "link.yaml").on_error is logging.error
    if os.geteuid() == 0:
        path.chmod(0o660)  # root's own group
        assert PoolSettings.load(path).on_error is logging.error
    assert not recwarn.list


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_dotenv_of_somebody_else(here):
    """Whoever plants one where a program is started is named in a warning."""
    (here / ".env").write_text("AIOPOOL_SIZE=4")
    os.chown(here / ".env", NOBODY, NOBODY)
    with pytest.warns(RuntimeWarning, match=r"env' belongs to the user nobody, and with it the settings"):
        assert PoolSettings().size == 4


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("environ", "dotenv", "file"),
    [
        ({"AIOPOOL_PASSWORD": SECRET}, "", ""),
        ({"AIOPOOL_RETRY__PASSWORD": SECRET}, "", ""),
        ({"AIOPOOL_PASSWORD": SECRET, "aiopool_password": SECRET}, "", ""),
        ({"AIOPOOL_SIZE__PASSWORD": SECRET}, "", ""),
        ({"AIOPOOL_POOLS__MAIL__PASSWORD": SECRET}, "", ""),
        ({"AIOPOOL_POOLS": SECRET}, "", ""),
        ({"TOKEN": SECRET}, "AIOPOOL_NAME=${TOKEN}", ""),
        ({}, f"AIOPOOL_PASSWORD='{SECRET}", ""),
        ({}, f"AIOPOOL_PASSWORD={SECRET}", ""),
        ({}, "", f"password: {SECRET}"),
        ({}, "", f"database: {{password: {SECRET}}}"),
        ({}, "", f"pools: {{mail: {SECRET}}}"),
    ],
)
def test_no_error_shows_a_secret(environ, dotenv, file, here, monkeypatch):
    """The value of what is none of our settings is never shown."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (here / ".env").write_text(dotenv)
    (here / "a.yaml").write_text(file)
    error = refused(PoolSettings.load, "a.yaml")
    assert SECRET not in str(error)
    assert SECRET not in repr(error.problems)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "a." * 30_000 + "a = 1"),
        ("a.toml", "[" + "a." * 30_000 + "a]"),
        ("a.toml", "a = {" + "a . " * 15_000 + "a = 1}"),
        ("a.toml", '"a".' * 15_000 + "a = 1"),
        ("a.toml", f"{'a.' * 200}a = 1\n" * 150),
        ("a.env", "AIOPOOL_" + "A__" * 20_000 + "A=1"),
        ("a.env", "AIOPOOL_NAME=" + "${" * 30_000),
        ("a.env", "AIOPOOL_" + "A" * 60_000 + "=1"),
    ],
)
def test_no_file_takes_long(name, text, here):
    """The time for a file grows with its size, and never with the square of that; nor does what an error says."""
    (here / name).write_text(text)
    began = time.process_time()
    error = refused(PoolSettings.load, **{"env_file" if name.endswith("env") else "file": name})
    assert time.process_time() - began < 2
    assert len(str(error)) < 2000


def test_no_variable_takes_long(monkeypatch):
    """A name with thousands of parts is refused like any other."""
    environ = {"AIOPOOL_" + "A__" * 20_000 + "A": "1"}
    assert "nested too deeply" in only(PoolSettings.load, environ=environ).reason


def test_a_reload_of_a_bad_file_changes_nothing():
    """ST7."""
    Path("a.yaml").write_text("size: 4")
    before = PoolSettings.load("a.yaml")
    Path("a.yaml").write_text("size: four")
    refused(PoolSettings.load, "a.yaml")
    assert before.size == 4


def test_yaml_is_not_guessed_at():
    """YAML 1.1 makes True of `on`, 90 of `1:30`, 8 of `010`. Here, the setting decides."""
    Path("a.yaml").write_text(
        "retry:\n  on: [ConnectionError, OSError]\nname: no\nhandle_signals: yes\nsize: 010\nseed: 1_0\ntimeout: 1e3\n"
    )
    made = PoolSettings.load("a.yaml")
    assert made.retry is not None
    assert made.retry.on == (ConnectionError, OSError)
    assert (made.name, made.handle_signals, made.size, made.seed, made.timeout) == ("no", True, 10, 10, 1000)
    Path("a.yaml").write_text("timeout: 1:30")
    assert only(PoolSettings.load, "a.yaml").value == "'1:30'"


def test_aliases_and_merges_are_read():
    Path("a.yaml").write_text(
        "retry: &patient {attempts: 9, delay: 2}\npools:\n  a:\n    retry: *patient\n"
        "  b:\n    retry: {<<: *patient, delay: 3}\n  c:\n    retry: {<<: [{delay: 5}, *patient]}\n"
    )
    pools = PoolSettings.load_all("a.yaml")
    assert [pools[name].retry for name in "abc"] == [Retry(attempts=9, delay=delay) for delay in (2, 3, 5)]
    assert pools["b"].origins["retry.delay"] == "a.yaml line 6"


@pytest.mark.parametrize("text", ["", "# nothing", "---\n", "{}"])
def test_an_empty_yaml_says_nothing(text):
    Path("a.yaml").write_text(text)
    assert PoolSettings.load("a.yaml") == PoolSettings()


# -- several pools ----------------------------------------------------------------------------------------------------

POOLS = {
    "yaml": """\
size: 3
timeout: 5
pools:
  mail:
    size: 4
    retry: {attempts: 2}
  web-eu:
    name: w
  idle:
""",
    "toml": """\
size = 3
timeout = 5
[pools.mail]
size = 4
retry.attempts = 2
[pools.web-eu]
name = "w"
[pools.idle]
""",
    "json": """
{"size": 3, "timeout": 5, "pools": {
    "mail": {"size": 4, "retry": {"attempts": 2}}, "web-eu": {"name": "w"}, "idle": null
}}
""",
}


@pytest.mark.parametrize("suffix", POOLS)
def test_several_pools_in_one_file(suffix, monkeypatch):
    """The top is for all, a branch for one; chosen by argument or by AIOPOOL_POOL."""
    Path(f"a.{suffix}").write_text(POOLS[suffix])
    mail = PoolSettings.load(f"a.{suffix}", pool="mail")
    assert mail == PoolSettings.from_dict({"size": 4, "timeout": 5, "retry": {"attempts": 2}, "name": "mail"})
    line = {"yaml": " line 5", "toml": ", pools.mail", "json": ", pools.mail"}[suffix]
    assert mail.origins["size"] == f"a.{suffix}{line}"
    assert mail.origins["timeout"] == ("a.yaml line 2" if suffix == "yaml" else f"a.{suffix}")
    assert mail.origins["name"] == f"a.{suffix}, the name under pools"
    top = PoolSettings.load(f"a.{suffix}")
    assert (top.size, top.name, top.retry) == (3, "pool", None)
    web = PoolSettings.load(f"a.{suffix}", pool="web-eu")
    assert (web.size, web.name) == (3, "w")
    assert PoolSettings.load_all(f"a.{suffix}") == {
        "mail": mail,
        "web-eu": web,
        "idle": PoolSettings.from_dict({"size": 3, "timeout": 5, "name": "idle"}),
    }
    monkeypatch.setenv("AIOPOOL_POOL", "mail")
    assert PoolSettings.load(f"a.{suffix}") == mail
    assert PoolSettings.load(f"a.{suffix}", pool="web-eu") == web
    assert PoolSettings.load(f"a.{suffix}", pool="mail", name="x").name == "x"
    assert PoolSettings.load(f"a.{suffix}", size=9).create_pool().name == "mail"


def test_variables_for_one_pool(monkeypatch):
    """AIOPOOL_SIZE beats every file; AIOPOOL_POOLS__MAIL__SIZE beats AIOPOOL_SIZE, for this one."""
    Path("a.yaml").write_text(POOLS["yaml"])
    Path(".env").write_text("AIOPOOL_POOLS__MAIL__TIMEOUT=9\n")
    monkeypatch.setenv("AIOPOOL_SIZE", "20")
    monkeypatch.setenv("AIOPOOL_POOLS__MAIL__SIZE", "30")
    monkeypatch.setenv("AIOPOOL_POOLS__WEB_EU__RETRY__ATTEMPTS", "7")
    pools = PoolSettings.load_all("a.yaml")
    assert {name: one.size for name, one in pools.items()} == {"mail": 30, "web-eu": 20, "idle": 20}
    assert pools["web-eu"].retry == Retry(attempts=7)
    assert pools["mail"].timeout == 9
    assert pools["mail"].origins["size"] == "environment variable AIOPOOL_POOLS__MAIL__SIZE"
    assert pools["mail"].origins["timeout"] == ".env line 1, AIOPOOL_POOLS__MAIL__TIMEOUT"


def test_a_pool_of_variables_alone(monkeypatch):
    monkeypatch.setenv("AIOPOOL_POOLS__MAIL__SIZE", "30")
    monkeypatch.setenv("AIOPOOL_POOL", "mail")
    assert (PoolSettings().size, PoolSettings().name) == (30, "mail")


def test_no_such_pool(monkeypatch):
    Path("a.yaml").write_text(POOLS["yaml"])
    problem = only(PoolSettings.load, "a.yaml", pool="mial")
    assert (problem.name, problem.value, problem.source) == ("pool", "'mial'", "argument")
    assert problem.reason == "there is no such pool; there are mail, web-eu, idle; did you mean 'mail'?"
    assert "no source has settings under `pools`" in only(PoolSettings.load, pool="mail").reason
    monkeypatch.setenv("AIOPOOL_POOL", "mial")
    assert only(PoolSettings.load, "a.yaml").source == "environment variable AIOPOOL_POOL"
    monkeypatch.setenv("AIOPOOL_POOL", " ")
    assert "it is empty" in only(PoolSettings.load, "a.yaml").reason
    monkeypatch.delenv("AIOPOOL_POOL")
    monkeypatch.setenv("AIOPOOL_POOLS__MIAL__SIZE", "4")
    problem = only(PoolSettings.load, "a.yaml")
    assert problem.source == "environment variable AIOPOOL_POOLS__MIAL__SIZE"
    assert "did you mean 'mail'?" in problem.reason
    error = refused(PoolSettings.load, "none.yaml", pool="mail")  # the missing file is the reason, and the only one
    assert "file" in [problem.name for problem in error.problems]
    assert "pool" not in [problem.name for problem in error.problems]


def test_errors_in_pools():
    """Unknown names are refused in all of them, values where they are used; `load_all` uses all, and says each once."""
    Path("a.yaml").write_text("timeout: soon\npools:\n  a: {sise: 4}\n  b: {size: four}\n  c: {pools: {}}\n")
    found = refused(PoolSettings.load, "a.yaml").problems
    assert [problem.name for problem in found] == ["pools.a.sise", "pools.c.pools", "timeout"]
    assert "did you mean 'pools.a.size'?" in found[0].reason
    found = refused(PoolSettings.load_all, "a.yaml").problems
    assert [problem.name for problem in found] == ["pools.a.sise", "pools.c.pools", "timeout", "size"]
    for text in ("pools: [a]", "pools: 4", "pools: {a: 4}", "pools: {a: [4]}"):
        Path("a.yaml").write_text(text)
        assert "a mapping from the names of pools" in only(PoolSettings.load, "a.yaml").reason
    Path("a.yaml").write_text("pools:\n")
    assert PoolSettings.load("a.yaml") == PoolSettings()
    assert PoolSettings.load_all("a.yaml") == {}


def test_choosers_are_no_settings():
    """Who writes `pool:` into a file is told how a pool is chosen."""
    Path("a.yaml").write_text("pool: mail\nfile: b.yaml\n")
    first, second = refused(PoolSettings.load, "a.yaml").problems
    assert 'PoolSettings.load(pool="mail") or AIOPOOL_POOL=mail' in first.reason
    assert "AIOPOOL_FILE" in second.reason


# -- code -------------------------------------------------------------------------------------------------------------


def transient(error: BaseException) -> bool:
    return isinstance(error, LookupError)


class Mine(Exception):
    class Inner(Exception):
        pass


def test_names_of_code(here, monkeypatch):
    """A file and an argument may name functions and exceptions."""
    monkeypatch.syspath_prepend(here)
    (here / "their_errors.py").write_text("class Busy(Exception): pass\ndef report(job, error): ...\n")
    (here / "a.yaml").write_text(
        "on_error: their_errors:report\nretry:\n  on: [their_errors:Busy, OSError]\n  give_up_on: their_errors:Busy\n"
    )
    made = PoolSettings.load("a.yaml")
    their = sys.modules["their_errors"]
    assert made.on_error is their.report
    assert made.retry == Retry(on=(their.Busy, OSError), give_up_on=their.Busy)
    assert PoolSettings(on_error="their_errors:report").on_error is their.report
    assert made.to_dict()["retry"]["on"] == ["their_errors:Busy", "OSError"]


@pytest.mark.parametrize("name", ["on_error", "retry.on", "retry.give_up_on", "retry.backoff"])
def test_the_environment_names_no_code(name, here, monkeypatch):
    """Nothing is imported for it."""
    monkeypatch.syspath_prepend(here)
    (here / "evil.py").write_text("open('pwned', 'w')")
    monkeypatch.setenv(variable(name), "evil:thing")
    assert "it names code to import" in only(PoolSettings).reason
    monkeypatch.setenv(variable(name), "OSError, evil:thing")
    assert "it names code to import" in only(PoolSettings).reason
    assert not (here / "pwned").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nowhere:thing", "nowhere cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("leaves:thing", "leaves cannot be imported: SystemExit: 3"),
        ("breaks:thing", "breaks cannot be imported: ZeroDivisionError"),
        ("logging:eror", "logging has no 'eror'; did you mean 'error'?"),
        ("logging:", 'must be written "module:name"'),
        (":error", 'must be written "module:name"'),
        (".logging:error", 'must be written "module:name"'),
        ("logging:error()", 'must be written "module:name"'),
        ("a:b:c", 'must be written "module:name"'),
        ("logging:INFO", "it must be"),
    ],
)
@pytest.mark.parametrize("name", ["on_error", "retry.on", "retry.give_up_on", "retry.backoff"])
def test_code_that_cannot_be_had(name, text, reason, here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    (here / "leaves.py").write_text("raise SystemExit(3)")
    (here / "breaks.py").write_text("1 / 0")
    problem = only(PoolSettings.from_dict, nested(name, text))
    assert problem.name == name
    assert reason in problem.reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("ConectionError", "did you mean 'ConnectionError'?"),
        ("print", "no exception 'print'"),
        ("builtins:int", "it must"),
    ],
)
def test_what_is_no_exception(value, reason):
    assert reason in only(PoolSettings.from_dict, {"retry": {"on": value}}).reason
    assert reason in only(PoolSettings.from_dict, {"retry": {"on": [value]}}).reason


def test_what_cannot_be_written():
    """A lambda has no name; the error says so before a file is touched."""
    Path("a.yaml").write_text("size: 4")
    made = PoolSettings(on_error=lambda job, error: None, retry=Retry(on=transient))
    for wrong in (made.to_dict, lambda: made.save("a.yaml")):
        problem = only(wrong)
        assert problem.name == "on_error"
        assert "give it in code" in problem.reason
    assert Path("a.yaml").read_text() == "size: 4"
    assert made.replace(on_error=None).to_dict()["retry"]["on"] == f"{__name__}:transient"
    assert "its name must end in" in only(made.save, "a.txt").reason


# -- there and back ---------------------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1).map(str.strip).filter(bool)
durations = st.floats(0, 1e18) | st.integers(0, 10**15)
limits = st.none() | durations | st.just(math.inf)
exceptions = st.sampled_from([OSError, ValueError, asyncio.QueueFull, aiopool.JobTimeoutError, Mine, Mine.Inner])
matches = exceptions | st.lists(exceptions, max_size=3).map(tuple) | st.just(transient)
ordered = st.tuples(durations, durations).map(sorted)
budgets = st.builds(
    RetryBudget, ratio=st.floats(0, 1e9), min_per_second=st.floats(0, 1e9), within=st.floats(0.001, 1e9)
)


@st.composite
def retries(draw):
    delay, max_delay = draw(ordered)
    return Retry(
        attempts=draw(st.integers(1, 10**20)),
        on=draw(matches),
        give_up_on=draw(matches),
        backoff=draw(st.sampled_from(["exponential", "linear", "fixed", "random", "decorrelated", math.exp])),
        delay=delay,
        factor=draw(st.floats(1, 1e9)),
        max_delay=max_delay,
        jitter=draw(st.floats(0, 1)),
        max_elapsed=draw(st.none() | durations),
        budget=draw(st.none() | budgets),
    )


@st.composite
def restarts(draw):
    delay, max_delay = draw(ordered)
    within = draw(st.floats(0.001, 1e9))
    return Restart(max_restarts=draw(st.integers(0, 10**9)), within=within, delay=delay, max_delay=max_delay)


healths = st.builds(
    HealthLimits,
    window=st.floats(0.001, 1e9),
    max_wait=limits,
    stuck_after=limits,
    max_error_ratio=st.floats(0, 1),
    failing_error_ratio=st.floats(0, 1),
    min_jobs=st.integers(0, 10**9),
    max_restarts=st.none() | st.integers(0, 10**9),
    max_loop_lag=limits,
    failing_loop_lag=limits,
)

VALUES = {
    "size": st.integers(1, 10**7),
    "queue_size": st.none() | st.integers(0, 10**9),
    "name": names,
    "priority": st.integers() | st.sampled_from(Priority),
    "timeout": limits,
    "queue_timeout": limits,
    "total_timeout": limits,
    "retry": st.none() | retries(),
    "isolation": st.sampled_from(["task", "scope"]),
    "overflow": st.sampled_from(["wait", "reject", "drop_oldest", "drop_lowest"]),
    "aging": st.none() | st.floats(0.001, 1e9),
    "cancel_grace": durations,
    "on_leak": st.sampled_from(["hold", "replace"]),
    "on_error": st.none() | st.sampled_from([print, logging.error]),
    "max_threads": st.none() | st.integers(1, 10**9),
    "restart": st.none() | restarts(),
    "handle_signals": st.booleans(),
    "shutdown_timeout": limits,
    "metrics": st.booleans(),
    "logs": st.sampled_from(["silent", "console", "json"]),
    "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
    "health": st.none() | healths,
    "seed": st.none() | st.integers(),
}


def test_every_setting_is_drawn():
    assert list(VALUES) == list(SCHEMA)


def same(one: PoolSettings, other: PoolSettings) -> None:
    """Equal, and of the same types; a budget is equal to itself only, so it is compared by what it allows."""
    assert one.to_dict() == other.to_dict()
    for name, value in one.to_arguments().items():
        assert type(value) is type(getattr(other, name)), name
    if one.retry is None or one.retry.budget is None:
        assert one == other
        assert hash(one) == hash(other)


def variables(data: dict[str, Any], above: str = "AIOPOOL_") -> dict[str, str]:
    """Settings as a user would write them into the environment."""
    found: dict[str, str] = {}
    for name, value in data.items():
        key = above + name.upper()
        if isinstance(value, dict):
            found |= variables(value, f"{key}__")
        elif value is None or isinstance(value, bool):
            found[key] = "none" if value is None else str(value).lower()
        else:
            found[key] = (", ".join(value) or "none") if isinstance(value, list) else str(value)
    return found


@given(st.fixed_dictionaries({}, optional=VALUES))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_there_and_back(here, values):
    """F-11, A-73: what is written is read back as the same, enums included: as data, in each format, in variables."""
    made = PoolSettings.from_dict(values)
    assert made.to_arguments() == {**parameters(Pool), **values}
    data = made.to_dict()
    json.dumps(data, allow_nan=False)
    same(PoolSettings.from_dict(data), made)
    for suffix in ("yaml", "toml", "json"):
        made.save(here / f"a.{suffix}")
        same(PoolSettings.load(here / f"a.{suffix}", environ={}, env_file=None), made)
    if not any(":" in text for name, text in variables(data).items() if name != "AIOPOOL_NAME"):
        # In a variable, one exception is an exception, not a list of one; and there is no way to retry on nothing.
        if data["retry"] is not None:
            data["retry"] = {
                name: value[0] if isinstance(value, list) and len(value) == 1 else value
                for name, value in data["retry"].items()
                if (name, value) != ("on", [])
            }
        same(PoolSettings.load(environ=variables(data), env_file=None), PoolSettings.from_dict(data))


def test_a_saved_enum_keeps_its_name():
    """A3-14: theirs came back as a string that was equal to no member."""
    for suffix, line in (
        ("yaml", 'priority: "high"\n'),
        ("toml", 'priority = "high"\n'),
        ("json", '"priority": "high"'),
    ):
        PoolSettings(priority=Priority.HIGH).save(f"a.{suffix}")
        assert line in Path(f"a.{suffix}").read_text()
        assert PoolSettings.load(f"a.{suffix}").priority is Priority.HIGH


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_read_or_refused(here, text):
    """Nothing but a SettingsError comes out of any file."""
    for suffix in ("yaml", "toml", "json"):
        (here / f"a.{suffix}").write_bytes(text.encode("utf-8", "surrogatepass"))
        with contextlib.suppress(SettingsError):
            assert PoolSettings.load(here / f"a.{suffix}", environ={}, env_file=None)


@given(
    st.dictionaries(
        st.sampled_from(["size", "retry", "retry__on", "name", "pools__a__size", "x"]), st.text(), min_size=1
    )
)
@settings(max_examples=100, deadline=None)
def test_any_environment_is_read_or_refused(texts):
    """And what is wrong is told by the name of its variable."""
    problems: tuple[SettingsProblem, ...] = ()
    try:
        PoolSettings.load(environ={f"AIOPOOL_{name}": text for name, text in texts.items()}, env_file=None)
    except SettingsError as error:
        problems = error.problems
    assert all(problem.source.startswith("environment variable AIOPOOL_") for problem in problems)


# -- using ------------------------------------------------------------------------------------------------------------


def test_replace():
    """A-73: a recursive merge; the values that stay keep their origins."""
    Path("a.yaml").write_text("size: 4\nretry: {attempts: 9, budget: {ratio: 0.5}}\n")
    before = PoolSettings.load("a.yaml")
    assert before.retry is not None
    after = before.replace(retry={"delay": "2s"}, timeout=None, queue_size=0)
    assert after.retry == dataclasses.replace(before.retry, delay=2)
    assert after.retry is not None
    assert after.retry.budget is before.retry.budget  # the same budget goes on
    assert after.origins["retry.delay"] == "argument"
    assert after.origins["retry.attempts"] == "a.yaml line 2"
    assert after.origins["size"] == "a.yaml line 1"
    deeper = before.replace(retry={"budget": {"within": 5}})
    assert deeper.to_dict()["retry"]["budget"] == {"ratio": 0.5, "min_per_second": 1, "within": 5}
    assert before.replace() == before
    assert before.replace(retry=None).retry is None
    assert PoolSettings().replace(retry={"attempts": 2}).retry == Retry(attempts=2)
    assert only(before.replace, sise=4).source == "argument"
    assert before.retry.delay == 1


def test_settings_are_frozen_and_say_what_is_special():
    made = PoolSettings(size=4, retry={"attempts": 2})
    with pytest.raises(ValueError, match="frozen"):
        made.size = 5  # type: ignore[misc]
    assert repr(PoolSettings()) == "PoolSettings()"
    assert repr(PoolSettings(size=4, timeout="30s")) == "PoolSettings(size=4, timeout=30.0)"
    copy = pickle.loads(pickle.dumps(made))
    assert copy == made
    assert copy.origins == made.origins
    made.origins.clear()
    assert made.origins["size"] == "argument"
    assert made != PoolSettings()
    assert made != 4


async def test_a_pool_from_settings(monkeypatch):
    """The values arrive: a job is tried as often as a variable says, and the size is the one of the file."""
    Path("a.toml").write_text('size = 3\n[retry]\ndelay = 0\non = "LookupError"\n')
    monkeypatch.setenv("AIOPOOL_FILE", "a.toml")
    monkeypatch.setenv("AIOPOOL_RETRY__ATTEMPTS", "4")
    calls = []

    async def fail() -> None:
        calls.append(1)
        raise KeyError

    async with PoolSettings(name="x").create_pool() as pool:
        assert (pool.size, pool.name) == (3, "x")
        with pytest.raises(KeyError):
            await pool.run(fail)
    assert len(calls) == 4


def test_each_call_creates_another_pool():
    """Of the same values; `replace` changes some of them."""
    made = PoolSettings(size=4)
    first, second = made.create_pool(), made.create_pool()
    assert first is not second
    assert (first.size, second.size) == (4, 4)
    changed = made.replace(size="5", name="n").create_pool()
    assert (changed.size, changed.name) == (5, "n")


def test_from_dict_reads_nothing_else(monkeypatch):
    monkeypatch.setenv("AIOPOOL_SIZE", "4")
    Path(".env").write_text("AIOPOOL_SIZE=5")
    assert PoolSettings.from_dict({}).size == 10
    assert PoolSettings.load(environ={}, env_file=None).size == 10
    for key in ("_env_file", "_layers", "\0layers", 4):
        assert only(PoolSettings.from_dict, {key: 1}).reason.startswith("there is no such setting")


# -- in processes of their own ----------------------------------------------------------------------------------------


def child(here: Path, *arguments: str, stdout: int = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIOPOOL_")}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=here,
        env={**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **env},
        timeout=100,
    )


def in_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[Any, str, str]:
    """The command in this process: its exit code, and what it wrote."""
    from aiopool.cli import main

    monkeypatch.setattr(sys, "argv", ["aiopool", *arguments])
    try:
        main()
        code: Any = 0
    except SystemExit as end:
        code = end.code or 0
    return code, *capfd.readouterr()


def test_the_package_does_not_load_pydantic(here):
    done = child(here, "-c", "import sys, aiopool; aiopool.Pool(); print([m for m in sys.modules if 'pydantic' in m])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_without_pyyaml(here):
    """The error says what to write; the other formats are read."""
    (here / "a.yaml").write_text("size: 4")
    (here / "a.toml").write_text("size = 4")
    script = (
        "import sys; sys.modules['yaml'] = None\n"
        "from aiopool.settings import *\n"
        "print(PoolSettings.load('a.toml').size)\n"
        "PoolSettings(size=5).save('b.yaml')\n"
        "try: PoolSettings.load('a.yaml')\n"
        "except SettingsError as error: print(error)"
    )
    done = child(here, "-c", script)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "4"
    assert 'pip install -e ".[yaml]"' in done.stdout
    assert PoolSettings.load("b.yaml").size == 5


def rows(text: str) -> dict[str, tuple[str, str]]:
    return {line.split()[0]: tuple(re.split(r"  +", line)[1:]) for line in text.splitlines() if "  " in line}  # type: ignore[misc]


def test_the_command(here):
    """Every setting, its value, and where it comes from."""
    (here / ".env").write_text("AIOPOOL_NAME=😀\n")
    (here / "a.yaml").write_text("size: 4\nretry:\n  on: [OSError, here_only:Mine]\n  give_up_on: []\n")
    (here / "here_only.py").write_text("class Mine(Exception): pass")
    done = child(
        here, "-m", "aiopool", "settings", "--file", "a.yaml", AIOPOOL_TIMEOUT="1h30m", AIOPOOL_PRIORITY="HIGH"
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = rows(done.stdout)
    assert found["size"] == ("4", "a.yaml line 1")
    assert found["name"] == ("😀", ".env line 1, AIOPOOL_NAME")
    assert found["timeout"] == ("5400", "environment variable AIOPOOL_TIMEOUT")
    assert found["priority"] == ("high", "environment variable AIOPOOL_PRIORITY")
    assert found["retry.on"] == ("OSError, here_only:Mine", "a.yaml line 3")
    assert found["retry.give_up_on"] == ("none", "a.yaml line 4")
    assert found["queue_timeout"] == ("none", "default")
    assert found["handle_signals"] == ("false", "default")
    assert [name.split(".")[0] for name in found if "." not in name or name == "retry.attempts"] == list(SCHEMA)
    ascii_only = child(here, "-m", "aiopool", "settings", PYTHONIOENCODING="ascii")
    assert (ascii_only.returncode, ascii_only.stderr) == (0, "")
    assert "\\U0001f600" in ascii_only.stdout


def test_what_the_command_prints_can_be_used(here):
    """Each value, as printed, is a value for the variable of its setting."""
    printed = rows(child(here, "-m", "aiopool", "settings").stdout)
    environ = {variable(name): value for name, (value, _) in printed.items()}
    assert PoolSettings.load(environ=environ, env_file=None) == PoolSettings.from_dict({})


def test_the_command_with_pools(here, monkeypatch, capfd):
    (here / "a.yaml").write_text(POOLS["yaml"])
    _, one, _ = in_here(monkeypatch, capfd, "settings", "-f", "a.yaml", "--pool", "mail")
    assert re.findall(r"^\[(.*)\]$", one, re.M) == ["mail"]
    _, lines, _ = in_here(monkeypatch, capfd, "settings", "-f", "a.yaml", "--json")
    monkeypatch.setenv("AIOPOOL_FILE", "a.yaml")
    _, every, _ = in_here(monkeypatch, capfd, "settings")
    assert re.findall(r"^\[(.*)\]$", every, re.M) == ["every pool", "mail", "web-eu", "idle"]
    monkeypatch.setenv("AIOPOOL_POOL", "mail")
    assert in_here(monkeypatch, capfd, "settings") == (0, one, "")
    found = {row["pool"]: row["settings"] for row in map(json.loads, lines.splitlines())}
    assert list(found) == [None, "mail", "web-eu", "idle"]
    assert found["mail"]["size"] == {"value": 4, "source": "a.yaml line 5"}
    assert found[None]["retry"] == {"value": None, "source": "default"}


def test_the_command_refuses(here, monkeypatch, capfd):
    """Exit code 2, every reason, no traceback."""
    (here / "a.yaml").write_text("sise: 4\n")
    done = child(here, "-m", "aiopool", "settings", "--file", "a.yaml", AIOPOOL_SIZE="four")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "aiopool: 2 settings cannot be used:",
        "  sise (a.yaml line 1): there is no such setting; did you mean 'size'?",
        "  size='four' (environment variable AIOPOOL_SIZE): it must be a whole number, 1 or more",
    ]
    code, _, said = in_here(monkeypatch, capfd, "settings", "--file", "none.yaml")
    assert (code, said) == (2, "aiopool: file='none.yaml' (argument): there is no such file\n")
    assert in_here(monkeypatch, capfd, "settings", "--sise", "4")[0] == 2
    (here / "a.yaml").write_text("size: 4\n")
    (here / "a.yaml").chmod(0o666)
    code, _, said = in_here(monkeypatch, capfd, "settings", "--file", "a.yaml")
    assert code == 0
    assert said.startswith("aiopool: warning: ")
    assert "a.yaml' can be changed by everybody" in said


def test_the_command_with_nobody_reading(here):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = child(here, "-m", "aiopool", "settings", stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


# -- the pages --------------------------------------------------------------------------------------------------------


def full(kind: Kind | Nested) -> Any:
    """The default object of a group, with the default objects of the groups in it."""
    assert isinstance(kind, Nested)
    return kind.made(**{name: full(inner) for name, inner in kind.fields.items() if isinstance(inner, Nested)})


def test_the_reference_has_every_setting():
    """The table of the page: the name, the variable and the default of each, in order."""
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w.]+)` \| `(\w+)` \| (.*?) \| (.*?) \|$", page, re.M)
    assert [name for name, *_ in listed] == dotted()
    defaults = variables(
        PoolSettings.from_dict(
            {name: full(kind) for name, kind in SCHEMA.items() if isinstance(kind, Nested)}
        ).to_dict()
    )
    for name, key, _, default in listed:
        assert key == variable(name)
        assert default == f"`{defaults[key]}`"
    assert all(itertools.starmap(lambda *row: row[2].strip(), listed))


def test_the_page_says_what_replaces_the_variables_of_others():
    """Each row of the how-to page names variables that there are, or says why there is none."""
    page = (ROOT / "docs" / "how-to" / "settings.md").read_text(encoding="utf-8")
    table = page.partition("## Coming from another pool")[2]
    rows = re.findall(r"^\| (`[^|]+`) \| (.+) \|$", table, re.MULTILINE)
    assert len(rows) >= 20
    known = {variable(name) for name in dotted()}
    for _, ours in rows:
        named = set(re.findall(r"\bAIOPOOL_\w+", ours))
        assert named or ours.startswith("none: ")
        assert named <= known
