"""What settings refuse, and what the error says."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from settings.support import ROOT, only, refused, variable

from aiopool.settings import PoolSettings
from aiopool.settings._sources import RESERVED


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
    """An unknown name is refused wherever it stands, and the nearest one is told as it is written there."""
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
    } - {"AIOPOOL_FILE", "AIOPOOL_POOL", "AIOPOOL_CONTROL"}
    assert mentioned == RESERVED, "RESERVED in aiopool/settings/_sources.py lists the variables that are no settings"
    for name in RESERVED:
        monkeypatch.setenv(name, "7")
    assert PoolSettings() == PoolSettings.from_dict({})
