"""What the tests of settings share."""

import asyncio
import inspect
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import aiopool
from aiopool import Priority
from aiopool.settings import PoolSettings, SettingsError, SettingsProblem
from aiopool.settings._kinds import Nested

ROOT = Path(aiopool.__file__).parents[1]


SCHEMA = PoolSettings._schema


def dotted(schema: Any = SCHEMA, above: str = "") -> list[str]:
    """The names of all single settings."""
    names = []
    for name, kind in schema.items():
        names += dotted(kind.fields, f"{above}{name}.") if isinstance(kind, Nested) else [above + name]
    return names


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


def parameters(made: Callable[..., object]) -> dict[str, Any]:
    return {name: one.default for name, one in inspect.signature(made).parameters.items()}


def accepts(make: Callable[..., object], *args: Any, **values: Any) -> bool:
    try:
        make(*args, **values)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


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
    "offload": Row(("thread", "process", "thread", "process"), ("thread", "process", "thread", "process")),
    "max_processes": Row(("1", "none", "2", "3"), (1, None, 2, 3)),
    "start_method": Row(("spawn", "forkserver", "fork", "spawn"), ("spawn", "forkserver", "fork", "spawn")),
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
    "control": Row(("1", "no", "read", "Yes"), (True, False, "read", True)),
    "seed": Row(("-1", "0", "none", "42"), (-1, 0, None, 42)),
    "keep_finished": Row(("0", "1000", "none", "2"), (0, 1000, None, 2)),
    "recycle_after": Row(("1", "1000", "none", "2"), (1, 1000, None, 2)),
    "count_by_worker": Row(("true", "no", "on", "0"), (True, False, True, False)),
    "watchdog": Row(("1", "none", "100ms", "3s"), (1.0, None, 0.1, 3.0)),
}


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


def transient(error: BaseException) -> bool:
    return isinstance(error, LookupError)


class Mine(Exception):
    class Inner(Exception):
        pass


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
