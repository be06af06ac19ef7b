"""`aiopool doctor`: what a store is, and what is promised with it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli.support import run

from aiopool.cli._promises import promises

ENGINES = ["memory", "sqlite", "postgresql", "postgres", "redis", "rediss", "valkey"]


def kept(engine: str, durability: str, words: str) -> str:
    """Whether the promise with some words in it is kept."""
    (promise,) = (promise for promise in promises(engine, durability, 30.0) if words in promise.text)
    return promise.kept


def test_a_sqlite_file(here: Path):
    """It says the engine, its version, how durable it is, how long a commit takes and what is promised."""
    done = run(here, "doctor", "--store", "sqlite:///jobs.db")
    text = done.out.decode()
    for line in (
        r"store +sqlite:///.*jobs\.db",
        r"durability +power",
        r"engine +SQLite",
        r"version +3\.\d+\.\d+",
        r"file system +\w+",
        r"commit seconds +[\d.e-]+",
        r"  yes  is kept when a process of yours is killed \(kill -9\)",
        r"  if   is kept when the machine loses power: the disk writes what it is told to write \(fsync\)",
        r"  no   is kept when the machine is lost: .*",
    ):
        assert re.search(f"^{line}$", text, re.M), f"{line} is not in\n{text}"
    assert done.code == ("\nwarnings\n" in text)


def test_json(here: Path):
    """The same as one line of JSON."""
    done = run(here, "doctor", "--store", "sqlite:///jobs.db?durability=process", "--queue", "mail", "--json")
    (row,) = done.rows
    assert (row["queue"], row["durability"], row["engine"]) == ("mail", "process", "SQLite")
    assert {"text", "kept", "note"} == set(row["promises"][0])
    power = next(promise for promise in row["promises"] if "loses power" in promise["text"])
    assert power["kept"] == "no"
    assert done.code == bool(row["warnings"])


def test_a_store_in_memory(here: Path):
    """It promises nothing after the end of the process: there is a warning, and the exit code is 1."""
    done = run(here, "doctor", "--store", "memory://")
    assert done.code == 1
    assert "\n  no   is kept when a process of yours is killed (kill -9): " in done.out.decode()
    assert "\nwarnings\n" in done.out.decode()


def test_a_store_that_cannot_be_opened(here: Path):
    """One line says why, without the password; the exit code is 2."""
    done = run(here, "doctor", "--store", "sqlite:///no/such/directory/jobs.db")
    assert (done.code, len(done.lines)) == (2, 1)
    assert "no/such/directory" in done.err
    done = run(here, "doctor", "--store", "oracle://me:s3cretword@host/db")
    assert done.code == 2
    assert "s3cretword" not in done.err


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("durability", ["power", "process", "nothing survives a restart"])
def test_each_engine_has_its_promises(engine: str, durability: str):
    """Each says the same of what holds everywhere, and each text once."""
    texts = [promise.text for promise in promises(engine, durability, 30.0)]
    assert len(texts) == len(set(texts))
    assert kept(engine, durability, "ends once") == "yes"
    assert kept(engine, durability, "never starts after it was cancelled") == "yes"
    assert json.dumps([promise._asdict() for promise in promises(engine, durability, None)])


@pytest.mark.parametrize(
    ("engine", "durability", "words", "answer"),
    [
        ("sqlite", "power", "loses power", "if"),
        ("sqlite", "process", "loses power", "no"),
        ("sqlite", "process", "never silently gone", "yes"),
        ("postgresql", "power", "loses power", "yes"),
        ("postgresql", "process", "loses power", "no"),
        ("postgresql", "power", "engine is killed", "yes"),
        ("postgresql", "process", "engine is killed", "no"),
        ("postgresql", "process", "process of yours", "yes"),
        ("redis", "unknown", "engine is killed", "if"),
        ("redis", "power", "loses power", "yes"),
        ("redis", "process: not power", "loses power", "no"),
        ("redis", "process", "engine is killed", "yes"),
        ("redis", "nothing survives a restart of the process", "engine is killed", "no"),
        ("redis", "nothing", "never silently gone", "if"),
        ("memory", "nothing survives the process", "process of yours", "no"),
    ],
)
def test_what_settings_change(engine: str, durability: str, words: str, answer: str):
    """Durability decides what survives; the first of its words counts."""
    assert kept(engine, durability, words) == answer


@pytest.mark.parametrize(
    ("engine", "facts", "words"),
    [
        ("postgresql", {"fsync": "off"}, "loses power"),
        ("postgresql", {"unlogged": True}, "engine is killed"),
        ("sqlite", {"file_system": "tmpfs"}, "loses power"),
    ],
)
def test_settings_of_the_engine_count(engine: str, facts: dict[str, Any], words: str):
    """A store that was asked to survive more than its engine is set to does not promise it."""
    answers = [
        {promise.text: promise.kept for promise in promises(engine, "power", 30.0, told)} for told in ({}, facts)
    ]
    (text,) = (text for text in answers[0] if words in text)
    assert answers[0][text] in ("yes", "if")
    assert answers[1][text] == "no"
