"""Settings of a pool: nothing that a pool takes is missing, and how they are used."""

import dataclasses
import itertools
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from settings.support import ROOT, SCHEMA, accepts, dotted, nested, only, parameters, variable, variables

import aiopool
from aiopool import Pool, Priority, Retry
from aiopool.settings import PoolSettings
from aiopool.settings._kinds import Kind, Nested

# -- the pool and its settings cannot drift apart ----------------------------------------------------------------------


# What only a program can say: objects with functions in them, and names of its own.
IN_CODE = {"limit", "limits", "key_limit", "fair_keys", "layers", "worker_context", "dask", "store"}
IN_CODE |= {"handlers", "role"}


def plain_parameters():
    """What `Pool` takes that a file can say."""
    return {name: default for name, default in parameters(Pool).items() if name not in IN_CODE}


def test_whatever_a_pool_takes_is_a_setting():
    """The same names, in the same order, with the same defaults. A new argument of Pool needs a field here."""
    fields = {name: field.default for name, field in PoolSettings.model_fields.items()}
    watching = {name: fields.pop(name) for name in ("metrics", "logs", "log_level", "health", "control")}
    assert watching == {"metrics": False, "logs": "silent", "log_level": "info", "health": None, "control": False}
    assert list(fields) == list(plain_parameters()), (
        "give PoolSettings the same field, and docs/reference/settings.md a row"
    )
    assert fields == plain_parameters()
    own = {*parameters(PoolSettings.load), *parameters(PoolSettings.load_all)}
    assert not own & {*fields, *watching}, "load() and load_all() take these for themselves"
    assert PoolSettings().to_arguments() == plain_parameters()


def test_what_is_code_is_given_to_create_pool():
    """A store and its handlers, and limits."""
    handlers = aiopool.Handlers()
    pool = PoolSettings(size=3).create_pool(store="memory://", handlers=handlers, role="producer")
    assert (pool.size, pool.fleet.store.url) == (3, "memory://")
    with pytest.raises(TypeError, match="size"):
        PoolSettings().create_pool(size=3)


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


# -- using -------------------------------------------------------------------------------------------------------------


def test_replace():
    """A recursive merge; the values that stay keep their origins."""
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


# -- the pages ---------------------------------------------------------------------------------------------------------


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
