"""What can be promised of jobs in a store, in plain words: for its engine, and for how durable it is set.

It knows the four engines and the words of `Store.durability`, and asks nobody. Not promised by any: effects that happen
exactly once, an order among retries, and that a thread can be stopped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

__all__ = ["Promise", "promises"]

Kept = Literal["yes", "no", "if"]
"""`if`: on the condition that is named."""


class Promise(NamedTuple):
    """What happens, or shall not, to a job that was accepted; whether that is so here; and what there is to say."""

    text: str
    kept: Kept
    note: str = ""


_OUR_DEATH: Final = "is kept when a process of yours is killed (kill -9)"
_ENGINE: Final = "is kept when the engine is killed (kill -9)"
_POWER: Final = "is kept when the machine loses power"
_MACHINE: Final = "is kept when the machine is lost"
_RESCUE: Final = "starts again elsewhere after its worker has died"
_TWICE: Final = "never runs while another copy of it still runs"
_EVICTS: Final = "as long as the server has memory left: then it throws jobs away"
_LEASE: Final = "unless the worker is cut off, or frozen, for longer than its lease; then its result is not taken"


def promises(
    engine: str, durability: str, lease: float | None, facts: Mapping[str, Any] = MappingProxyType({})
) -> list[Promise]:
    """Return what is promised.

    Args:
        engine: the scheme of the store's URL.
        durability: what the store says of itself, once it is open: the first of `power`, `process`, `nothing` and
            `unknown` in it.
        lease: seconds for which a worker lives after a heartbeat; None: the kernel tells.
        facts: what the store knows of its engine: settings of a server that make less of it than was asked for.
    """
    words = ("power", "process", "nothing", "unknown")
    word = next((word for word in re.findall(r"[a-z]+", durability) if word in words), "unknown")
    if facts.get("unlogged"):
        word = "nothing"
    elif word == "power" and (facts.get("fsync") == "off" or facts.get("file_system") == "tmpfs"):
        word = "process"
    kept = {"memory": _memory, "sqlite": _sqlite, "redis": _redis, "rediss": _redis, "valkey": _redis}.get(
        engine, _postgres
    )(word, "one lease" if lease is None else f"{lease:g} s at most")
    process = word in ("power", "process") or engine == "sqlite"
    evicts = str(facts.get("maxmemory_policy")).startswith("allkeys")
    lost = engine != "memory" and (evicts or not process)
    return [
        Promise("is kept when it raises, when its caller is cancelled, when another job is stuck", "yes"),
        *kept,
        Promise(
            "starts at least once, or is cancelled, timed out or parked; it is never silently gone",
            "if" if lost or engine == "memory" else "yes",
            "until this process ends"
            if engine == "memory"
            else _EVICTS
            if evicts
            else "as long as the engine runs"
            if lost
            else "",
        ),
        Promise("ends once: a final status is written once, and no other follows it", "yes"),
        Promise("never starts after it was cancelled while it waited", "yes"),
        Promise(
            "starts by priority, then in the order of submission",
            "yes",
            "exactly"
            if engine in ("memory", "sqlite")
            else "exactly within a claim; two claims do not wait for each other",
        ),
    ]


def _memory(word: str, wait: str) -> list[Promise]:
    return [
        *(Promise(text, "no", "it is in the memory of this process") for text in (_OUR_DEATH, _POWER, _MACHINE)),
        Promise(_TWICE, "yes"),
    ]


def _sqlite(word: str, wait: str) -> list[Promise]:
    power = word == "power"
    return [
        Promise(_OUR_DEATH, "yes"),
        Promise(
            _POWER,
            "if" if power else "no",
            "the disk writes what it is told to write (fsync)"
            if power
            else "the last moments before it may be missing; write ?durability=power, on a disk",
        ),
        Promise(_MACHINE, "no", "it is a file on this machine; back it up, or use PostgreSQL with a replica"),
        Promise(_RESCUE, "yes", "within a second, for the kernel tells who is alive"),
        Promise(_TWICE, "yes"),
    ]


def _postgres(word: str, wait: str) -> list[Promise]:
    power = word == "power"
    if word == "nothing":
        less = "the tables are UNLOGGED, and empty after a crash"
    else:
        less = "the last moments before it may be missing: synchronous_commit or fsync is off"
    return [
        Promise(_OUR_DEATH, "yes"),
        Promise(_ENGINE, "yes" if power else "no", "" if power else less),
        Promise(_POWER, "yes" if power else "no", "" if power else less),
        Promise(_MACHINE, "if", "there is a synchronous replica"),
        Promise(_RESCUE, "yes", wait),
        Promise(_TWICE, "if", _LEASE),
    ]


def _redis(word: str, wait: str) -> list[Promise]:
    off = "appendonly is off: a restart takes what the last snapshot has not"
    unknown = "the server has an append-only file, which it does not tell"
    engine, power = {
        "power": (Promise(_ENGINE, "yes"), Promise(_POWER, "yes")),
        "process": (
            Promise(_ENGINE, "yes"),
            Promise(_POWER, "no", "the last second before it may be missing; write ?durability=power"),
        ),
        "nothing": (Promise(_ENGINE, "no", off), Promise(_POWER, "no", off)),
        "unknown": (
            Promise(_ENGINE, "if", unknown),
            Promise(_POWER, "no", "the last second before it may be missing; write ?durability=power"),
        ),
    }[word]
    return [
        Promise(_OUR_DEATH, "yes"),
        engine,
        power,
        Promise(_MACHINE, "no", "a replica may be about a second behind"),
        Promise(_RESCUE, "yes", wait),
        Promise(_TWICE, "if", _LEASE),
    ]
