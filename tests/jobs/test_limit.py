"""`Limit` and `Cooldown`: what they take, and the pure decisions: how many may start now, and when the next one may."""

import math
import random
from types import SimpleNamespace

import pytest

from aiopool import Cooldown, JobOptions, Limit, RetryAfter
from aiopool._jobs.limits import LaneKey, LimitRule, PoolLimits, Rate, is_overload


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "write Limit\\(max_at_once=2\\)"),
        ({"max_at_once": 0}, ValueError, "max_at_once=0: it must be at least 1"),
        ({"max_at_once": 1.5}, TypeError, "must be an int"),
        ({"max_at_once": True}, TypeError, "bool"),
        ({"max_per_second": 0}, ValueError, "must be above 0.*None any number"),
        ({"max_per_second": -1}, ValueError, "above 0"),
        ({"max_per_second": math.nan}, ValueError, "above 0"),
        ({"max_per_second": math.inf}, ValueError, "finite"),
        ({"max_per_second": "10/s"}, TypeError, "write a number"),
        ({"max_at_once": 1, "burst": 5}, ValueError, "write max_per_second"),
        ({"max_per_second": 1, "burst": 0}, ValueError, "burst=0"),
        ({"max_at_once": 1, "cooldown": 30}, TypeError, "write cooldown=Cooldown\\(seconds=5\\)"),
        ({"rate": 3}, TypeError, "rate"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(arguments, error, words):
    """Each wrong argument is refused where it is written, with what to write."""
    with pytest.raises(error, match=words):
        Limit(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"seconds": -1}, ValueError),
        ({"seconds": math.inf}, ValueError),
        ({"factor": 0.5}, ValueError),
        ({"max_seconds": "1m"}, TypeError),
        ({"on": 429}, TypeError),
    ],
)
def test_a_cooldown_that_makes_no_sense_is_refused(arguments, error):
    """Each wrong argument is refused where it is written."""
    with pytest.raises(error):
        Cooldown(**arguments)


@pytest.mark.parametrize("key", [1.5, True, None, (None,), ["a"], b"a"])
def test_a_key_is_a_text_or_a_number(key):
    """Anything else is refused; None means none, outside of a tuple."""
    if key is None:
        assert JobOptions(key=None).key is None
        return
    with pytest.raises(TypeError, match="a key is a str"):
        JobOptions(key=key)


def check_windows(starts, limit):
    """No window has more than it may, and the pace is kept: n starts take at least n - burst steps."""
    most, seconds = limit.window
    for earlier, later in zip(starts, starts[most:], strict=False):
        assert later - earlier >= seconds - 1e-9
    for n in range(limit.burst, min(len(starts), limit.burst + 5)):
        for earlier, later in zip(starts, starts[n:], strict=False):
            assert later - earlier >= (n + 1 - limit.burst) / limit.max_per_second - 1e-9


@pytest.mark.parametrize("burst", [1, 2, 3, 10])
@pytest.mark.parametrize("rate", [0.1, 1, 3, 7.5, 100])
def test_the_rate_is_true_in_every_window(burst, rate):
    """Whatever the moments at which jobs come: no window of a second has more than it may, and the pace is even.

    And none waits for longer than that asks for: it starts at the first moment that is allowed.
    """
    limit, rng = Limit(max_per_second=rate, burst=burst), random.Random(burst)
    clock, starts, line = Rate(), [], 0
    now = 0.0
    for _ in range(3000):
        now += rng.choice((0.0, 0.0, 1 / rate, 0.3 / rate, burst / rate)) * rng.random()
        line += 1
        while line and clock.next_at(limit, now, 0, waited=False) <= now:
            clock.started(limit, now, waited=False)
            starts.append(now)
            line -= 1
        if line:
            now = due = clock.next_at(limit, now, 0, waited=False)
            assert clock.next_at(limit, now, 0, waited=False) <= due
    check_windows(starts, limit)
    assert len(starts) > 1000


def test_a_late_timer_costs_no_pace():
    """Each start is late by some time, as timers are: a thousand starts take as long as they should all the same."""
    limit, rng, clock, now = Limit(max_per_second=200), random.Random(1), Rate(), 0.0
    starts = []
    for _ in range(1000):
        now = max(now, clock.next_at(limit, now, 0, waited=True)) + rng.random() * 0.004
        clock.started(limit, now, waited=True)
        starts.append(now)
    assert 999 / 200 - 0.01 <= starts[-1] - starts[0] <= 999 / 200 + 0.01
    most, seconds = limit.window
    assert all(later - earlier >= seconds for earlier, later in zip(starts, starts[most:], strict=False))


def test_those_ahead_count():
    """With so many allowed before it, the next one is due later; or nobody knows, if they have not started."""
    limit, clock = Limit(max_per_second=2, burst=2), Rate()
    assert [clock.next_at(limit, 10, ahead, waited=False) for ahead in range(4)] == [9.5, 10, math.inf, math.inf]
    clock.started(limit, 10, waited=False)
    assert [clock.next_at(limit, 10, ahead, waited=False) for ahead in range(3)] == [10, 11, math.inf]
    clock.started(limit, 10, waited=False)
    assert clock.next_at(limit, 10, 0, waited=False) == 11


@pytest.mark.parametrize(
    ("rate", "burst", "window"),
    [(10, 1, (10, 1)), (2.5, 1, (3, 1.2)), (0.5, 1, (1, 2)), (0.5, 3, (3, 6)), (10, 20, (20, 2)), (1000, 5, (1000, 1))],
)
def test_the_window(rate, burst, window):
    """A second, or longer where that has no whole number of starts."""
    assert Limit(max_per_second=rate, burst=burst).window == pytest.approx(window)


def test_a_start_after_a_rest_counts_no_more():
    """What lies further back than the window is forgotten."""
    limit, clock = Limit(max_per_second=10, burst=5), Rate()
    for n in range(1000):
        now = n * 1.5
        assert clock.next_at(limit, now, 4, waited=False) <= now
        clock.started(limit, now, waited=False)
        assert clock.rested_at(limit) == now + 1
    assert len(clock._starts) == 1


def test_a_cooldown_grows_with_failures_in_a_row_up_to_its_maximum():
    """Exponential, capped, and 2.0 ** 5000 is no overflow; a named number of seconds is obeyed."""
    cooldown = Cooldown(on=OSError, seconds=2, factor=3, max_seconds=50)
    error = OSError()
    assert [cooldown.hold(error, row) for row in (0, 1, 2, 3, 5000)] == [2, 6, 18, 50, 50]
    assert cooldown.hold(ValueError(), 0) is None
    error.retry_after = 120
    assert cooldown.hold(error, 0) == 120
    assert Cooldown(on=lambda error: 7.5).hold(error, 3) == 7.5
    assert Cooldown(on=lambda error: False).hold(error, 3) is None
    assert Cooldown(seconds=0).hold(RetryAfter(0), 0) == 0


def error_with(**attributes):
    error = RuntimeError()
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RetryAfter(1), True),
        (error_with(retry_after=3), True),
        (error_with(retry_after=None), False),
        (error_with(status=429), True),
        (error_with(status_code=503), True),
        (error_with(code=429), True),
        (error_with(response=SimpleNamespace(status_code=429)), True),
        (error_with(response=SimpleNamespace(status=503)), True),
        (error_with(status=500), False),
        (error_with(response=None), False),
        (ValueError(429), False),
    ],
)
def test_overload_is_told_from_other_errors(error, expected):
    """The attributes that the errors of the usual clients have."""
    assert is_overload(error) is expected


def test_which_lanes_a_job_has():
    """All jobs; its name and its group; its keys: by their own limit, else by that of each key. Each lane once."""
    limit = Limit(max_at_once=1)
    rule = LimitRule("lanes", limit)
    limits = PoolLimits(limit, {"mail": limit, "vip": limit, "7": limit}, limit)

    def lanes(name="f", group=None, key=None):
        return [(rule.name, key) for rule, key in limits.of(name, group, key)]

    assert lanes() == [("pool", None)]
    assert lanes("mail", "mail") == lanes("main.<locals>.mail") == [("mail", None), ("pool", None)]
    assert lanes("f", "mail", "t") == [("key", "t"), ("mail", None), ("pool", None)]
    keys = ("vip", "a", "a", 7, LaneKey(rule, "h"))
    assert set(lanes(key=keys)) == {("lanes", "h"), ("key", "a"), ("7", None), ("vip", None), ("pool", None)}
    assert lanes(key=keys) == lanes(key=keys[::-1])
    assert PoolLimits().of("mail", "mail", "t") == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"all_jobs": 3}, "limit=3 is no Limit: write Limit\\(max_at_once=3\\)"),
        ({"each_key": "x"}, "key_limit='x' is no Limit"),
        ({"named": {"mail": 3}}, "limits\\['mail'\\]=3 is no Limit"),
        ({"named": {3: Limit(max_at_once=1)}}, "a name is a str"),
        ({"named": [Limit(max_at_once=1)]}, "no mapping"),
    ],
)
def test_what_is_no_limit_is_refused(arguments, words):
    """With the line to write."""
    with pytest.raises(TypeError, match=words):
        PoolLimits(**arguments)
