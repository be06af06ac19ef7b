"""Restart: given the crashes, when is the next start – if there is one."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopool._jobs.restart import Restart, RestartHistory

TIMES = st.lists(st.floats(0, 200), max_size=40).map(sorted)


def test_the_delay_doubles_and_then_the_pool_gives_up() -> None:
    """Five restarts by default, 0.1 s and doubling; the sixth crash within a minute is the end."""
    history = RestartHistory(Restart())
    answers = [history.crashed(now=float(n)) for n in range(6)]
    assert answers == [0.1, 0.2, 0.4, 0.8, 1.6, None]
    assert history.given_up


def test_the_delay_is_capped() -> None:
    """No restart waits longer than `max_delay`."""
    policy = Restart(max_restarts=2000, delay=1, max_delay=6)
    assert [policy.next_delay([0.0] * n, now=0.0) for n in (0, 1, 2, 3, 4, 1999)] == [1, 2, 4, 6, 6, 6]
    assert Restart(max_restarts=2000, delay=0).next_delay([0.0] * 1999, now=0.0) == 0.0


def test_zero_restarts_is_a_value() -> None:
    """`max_restarts=0` gives up at the first crash."""
    assert Restart(max_restarts=0).next_delay([], now=5.0) is None
    assert RestartHistory(Restart(max_restarts=0)).crashed(now=0.0) is None


def test_zero_delay_is_a_value() -> None:
    """`delay=0` restarts at once, every time."""
    history = RestartHistory(Restart(delay=0, max_delay=0))
    assert [history.crashed(now=0.0) for _ in range(6)] == [0.0] * 5 + [None]


def test_old_crashes_do_not_count() -> None:
    """A crash counts while it is at most `within` seconds old; then delay and count start anew."""
    policy = Restart(max_restarts=1, within=10)
    assert policy.next_delay([0.0], now=10.0) is None
    assert policy.next_delay([0.0], now=10.001) == 0.1
    history = RestartHistory(policy)
    assert [history.crashed(now=at) for at in (0.0, 11.0, 22.0)] == [0.1, 0.1, 0.1]
    assert history.crashes == (22.0,)


def test_giving_up_is_final_until_cleared() -> None:
    """A supervisor that asks once more, an hour later, is not told to start again."""
    history = RestartHistory(Restart(max_restarts=1))
    assert history.crashed(now=0.0) == 0.1
    assert history.crashed(now=1.0) is None
    assert history.crashed(now=3600.0) is None
    assert repr(history) == "<RestartHistory given up, within 60 s>"
    history.clear()
    assert not history.given_up
    assert history.crashed(now=3601.0) == 0.1
    assert repr(history) == "<RestartHistory 1 of 1 used, within 60 s>"


@given(times=TIMES, max_restarts=st.integers(0, 6), within=st.floats(0.1, 50), delay=st.sampled_from([0, 0.1, 3]))
def test_no_period_has_more_restarts_than_allowed(
    times: list[float], max_restarts: int, within: float, delay: float
) -> None:
    """The invariant of the module, for any crashes at all; and every delay is in bounds."""
    policy = Restart(max_restarts=max_restarts, within=within, delay=delay)
    history = RestartHistory(policy)
    restarts: list[float] = []
    remembered: list[float] = []
    for at in times:
        # Many workers may crash at once: the history must hold for equal times too.
        expected = policy.next_delay(remembered, now=at)
        answer = history.crashed(now=at)
        assert answer == expected
        remembered.append(at)
        if answer is None:
            break
        assert 0 <= answer <= policy.max_delay
        restarts.append(at)
        assert sum(1 for other in restarts if at - other <= within) <= max_restarts
    assert len(history.crashes) <= max_restarts + 1


@given(times=TIMES)
def test_the_answer_depends_on_the_crashes_not_on_their_order(times: list[float]) -> None:
    """Pure: any iterable, in any order, asked as often as you like."""
    policy = Restart(max_restarts=20)
    forward = policy.next_delay(times, now=200.0)
    assert policy.next_delay(reversed(times), now=200.0) == forward
    assert policy.next_delay(iter(times), now=200.0) == forward


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"max_restarts": -1}, ValueError, "must be 0 or more, got -1; 0 never restarts"),
        ({"max_restarts": True}, TypeError, "whole number, got True"),
        ({"max_restarts": 2.0}, TypeError, "whole number, got 2.0"),
        ({"within": 0}, ValueError, "within must be above 0"),
        ({"within": math.nan}, ValueError, "within must be a finite number of seconds, 0 or more, got nan"),
        ({"within": math.inf}, ValueError, "within must be a finite number"),
        ({"delay": -0.1}, ValueError, "delay must be a finite number of seconds, 0 or more, got -0.1"),
        ({"delay": "1"}, TypeError, "delay must be a number of seconds, got '1'"),
        ({"max_delay": False}, TypeError, "max_delay must be a number of seconds, got False"),
        ({"delay": 9}, ValueError, r"write Restart\(delay=9, max_delay=9\)"),
    ],
)
def test_construction_refuses_what_cannot_work(arguments: Any, kind: type[Exception], message: str) -> None:
    """With the name, the value and what is allowed."""
    with pytest.raises(kind, match=message):
        Restart(**arguments)


def test_a_restart_is_a_value() -> None:
    """Equal, hashable, frozen; positional as it is read: five within sixty seconds."""
    assert Restart(5, 60) == Restart()
    assert len({Restart(), Restart(5, 60.0), Restart(6)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Restart().within = 3  # type: ignore[misc]
