"""Text that is a value: durations, numbers, names; and text that is none."""

import math
from datetime import timedelta
from typing import Any

import pytest
from settings.support import SCHEMA, TABLE, accepts, nested, only, value_of, variable

from aiopool.settings import PoolSettings
from aiopool.settings._kinds import Kind


def kind_of(name: str) -> Kind:
    kind: Any = None
    for part in name.split("."):
        kind = (kind.fields if kind else SCHEMA)[part]
    return kind


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
    """The error names the variable, its value, and what is allowed."""
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
    "keep_finished": (0, -1),
    "max_processes": (1, 0),
    "recycle_after": (1, 0),
    "watchdog": (0.001, 0),
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
    """The last value that is allowed, zero among them, and the first that is not."""
    last, first = BOUNDS[name]
    assert value_of(PoolSettings.from_dict(nested(name, last)), name) == last
    assert only(PoolSettings.from_dict, nested(name, first)).name == name
