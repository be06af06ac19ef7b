"""Which source wins: arguments, environment, `.env`, file; for every setting."""

from pathlib import Path
from typing import Any

import pytest
from settings.support import TABLE, dotted, nested, value_of, variable

from aiopool import Retry
from aiopool.settings import PoolSettings

SOURCES = ("argument", "environment variable ", ".env line 1, ", "aiopool.yaml line ")


def test_the_table_has_every_setting():
    assert list(TABLE) == dotted()


@pytest.mark.parametrize("highest", range(4), ids=["argument", "environment", "dotenv", "file"])
@pytest.mark.parametrize("name", TABLE)
def test_the_highest_source_wins(name, highest, here, monkeypatch):
    """Arguments over environment over `.env` over file, for every setting, and each is told as the origin."""
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
    assert getattr(made, top) == PoolSettings.model_fields[top].default


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
