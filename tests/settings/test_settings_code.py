"""Settings that name code: classes, functions, exceptions."""

import sys
from pathlib import Path

import pytest
from settings.support import nested, only, transient, variable

import aiopool
from aiopool import Retry
from aiopool.settings import PoolSettings


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
    assert made.replace(on_error=None).to_dict()["retry"]["on"] == f"{transient.__module__}:transient"
    assert "its name must end in" in only(made.save, "a.txt").reason


@pytest.mark.parametrize(("value", "read_only"), [("true", False), ("read", True)])
def test_the_door_is_opened_as_the_settings_say(value, read_only):
    """Once for the program: what is open stays as it is, and no second pool fails for it."""
    made = PoolSettings(control=value)
    made.create_pool()
    door = aiopool.control(read_only=read_only)
    assert door.read_only is read_only
    PoolSettings(control="true").create_pool()
    assert aiopool.control(read_only=read_only) is door
