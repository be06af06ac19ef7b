"""What is written is read back; whatever is read is taken or refused."""

import asyncio
import contextlib
import json
import logging
import math
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from settings.support import SCHEMA, Mine, transient, variables

import aiopool
from aiopool import Priority, Restart, Retry, RetryBudget
from aiopool.health import HealthLimits
from aiopool.settings import PoolSettings, SettingsError, SettingsProblem

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
    "offload": st.sampled_from(["thread", "process"]),
    "max_processes": st.none() | st.integers(1, 10**9),
    "start_method": st.sampled_from(["spawn", "forkserver", "fork"]),
    "restart": st.none() | restarts(),
    "handle_signals": st.booleans(),
    "shutdown_timeout": limits,
    "metrics": st.booleans(),
    "logs": st.sampled_from(["silent", "console", "json"]),
    "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
    "health": st.none() | healths,
    "control": st.sampled_from([True, False, "read"]),
    "seed": st.none() | st.integers(),
    "keep_finished": st.none() | st.integers(0, 10**9),
    "recycle_after": st.none() | st.integers(1, 10**9),
    "count_by_worker": st.booleans(),
    "watchdog": st.none() | st.floats(0.001, 1e9),
}


def test_every_setting_is_drawn():
    assert list(VALUES) == list(SCHEMA)


DEFAULTS = {name: field.default for name, field in PoolSettings.model_fields.items()}


def same(one: PoolSettings, other: PoolSettings) -> None:
    """Equal, and of the same types; a budget is equal to itself only, so it is compared by what it allows."""
    assert one.to_dict() == other.to_dict()
    for name in SCHEMA:
        value = getattr(one, name)
        assert type(value) is type(getattr(other, name)), name
    if one.retry is None or one.retry.budget is None:
        assert one == other
        assert hash(one) == hash(other)


@given(st.fixed_dictionaries({}, optional=VALUES))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_there_and_back(here, values):
    """What is written is read back as the same, enums included: as data, in each format, in variables."""
    made = PoolSettings.from_dict(values)
    assert {name: getattr(made, name) for name in SCHEMA} == {**DEFAULTS, **values}
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
    """Theirs came back as a string that was equal to no member."""
    for suffix, line in (
        ("yaml", 'priority: "high"\n'),
        ("toml", 'priority = "high"\n'),
        ("json", '"priority": "high"'),
    ):
        PoolSettings(priority=Priority.HIGH).save(f"a.{suffix}")
        assert line in Path(f"a.{suffix}").read_text()
        assert PoolSettings.load(f"a.{suffix}").priority is Priority.HIGH


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
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
