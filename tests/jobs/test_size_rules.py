"""What an `Autoscale` and an `Adaptive` decide, and what they refuse; without a pool."""

import math

import pytest

from aiopool import JobTimeoutError, Pool, RetryAfter
from aiopool._jobs.adaptive import MIN_SECONDS, PROBE_AFTER, Adaptation
from aiopool._jobs.autoscale import PERIODS, Autoscaling
from aiopool.sizing import Adaptive, Autoscale


@pytest.mark.parametrize(
    ("size", "queued", "starts", "decided"),
    [
        (4, 0, 0, 4),  # nobody waits
        (4, 10, 10, 4),  # all of them start in time
        (4, 10, 11, 4),
        (4, 5, 0, 9),  # none starts: each needs a slot
        (4, 5, -2, 9),  # free slots were taken, and no other
        (4, 10, 4, 10),  # one round a time: each that is late needs one
        (4, 80, 40, 8),  # ten rounds: twice the slots start twice as many
        (4, 41, 40, 5),  # any that is late counts
        (4, 10_000, 0, 100),
        (100, 5, 0, 100),
        (120, 5, 0, 120),  # made larger by hand, before
    ],
)
def test_how_far_it_grows(size, queued, starts, decided):
    """In proportion to those that are late, by no more than one slot for each, and never beyond the largest size."""
    decisions = Autoscaling(Autoscale(1, 100))
    decisions.starts = starts
    assert decisions.grown(size, queued) == decided


def test_it_shrinks_to_the_most_that_was_used():
    """A peak counts for the whole of `idle_timeout`, and the least size stays."""
    decisions, size = Autoscaling(Autoscale(2, 100)), 50
    decisions.busy(30)
    decisions.busy(10)
    found = [size := decisions.shrunk(size, 5) for _ in range(PERIODS + 1)]
    assert found == [50] * (PERIODS - 1) + [30, 5]
    assert [decisions.shrunk(5, 0) for _ in range(PERIODS + 1)][-1] == 2


class Windows:
    """An `Adaptation`, window by window."""

    def __init__(self, *args):
        self.now = 0.0
        self.decisions = Adaptation(Adaptive(*args), 0.0)

    def window(self, seconds, *, filled=True):
        """Watch one window of jobs that take so long, and return the size that follows."""
        self.decisions.filled = filled
        begin, self.now = self.now, self.now + max(seconds, 2 * MIN_SECONDS)
        while not self.decisions.succeeded(max(begin, self.now - seconds), self.now):
            pass
        return self.decisions.decide(self.now)


def test_it_doubles_until_the_time_grows():
    """As long as jobs take no longer for it, the size doubles; then it follows the gradient."""
    windows = Windows(1, 1000)
    assert [windows.window(1.0) for _ in range(4)] == [2, 4, 8, 16]
    assert windows.window(1.6) == 12
    assert windows.window(1.0) == 14  # by the headroom, from now on
    # Twice the time without load: a little more than half.
    assert 9 <= windows.window(2.0) * 2 <= 20


def test_it_stays_within_its_bounds():
    """Neither a good time nor a bad one leads out of them."""
    windows = Windows(3, 10)
    assert windows.decisions.size == 3
    assert [windows.window(1.0) for _ in range(4)] == [6, 10, 10, 10]
    sizes = [windows.window(seconds) for seconds in (2, 4, 8, 16, 32, 64, 128, 256)]
    assert min(sizes) == 3
    for _ in range(50):
        windows.now += 1
        windows.decisions.overloaded(windows.now, windows.now)
    assert windows.decisions.size == 3


def test_a_window_that_was_not_filled_changes_nothing():
    """Nobody can know whether more would be borne."""
    windows = Windows(4, 100)
    assert [windows.window(seconds, filled=False) for seconds in (1, 1, 3, 1)] == [4] * 4


def test_one_overload_counts_once():
    """Jobs that ran together have met the same one; those that have started since meet another."""
    windows = Windows(100, 1000)
    windows.window(1.0)
    assert windows.decisions.size == 200
    at = windows.now
    assert windows.decisions.overloaded(at, at + 1)
    assert not windows.decisions.overloaded(at + 0.5, at + 1.5)
    assert windows.decisions.size == 180
    assert windows.decisions.overloaded(at + 1, at + 2)
    assert windows.decisions.size == 162
    # What has started before is of another size.
    assert not windows.decisions.succeeded(at + 1.5, at + 3)


def test_a_job_that_started_before_the_window_does_not_count():
    """Its time is that of another size."""
    windows = Windows(4, 100)
    windows.window(1.0)
    before = windows.now - 0.5
    assert not any(windows.decisions.succeeded(before, windows.now + 100) for _ in range(1000))


def test_from_time_to_time_it_probes():
    """One window runs at half of the size, and what it finds is the time without load."""
    windows = Windows(64, 64)
    assert {windows.window(1.0) for _ in range(5)} == {64}
    windows = Windows(8, 64)
    sizes = [windows.window(1.0) for _ in range(2 * PROBE_AFTER + 8)]
    assert sizes.count(32) == 2 + 1  # two probes, and the way up
    # A server that has become slower as such is found out, and borne.
    slow = [windows.window(2.0) for _ in range(30)]
    assert min(slow) < 32
    assert slow[-1] == 64


def test_jobs_that_take_no_time_at_all_are_no_fault():
    """Zero is a value."""
    windows = Windows(1, 8)
    assert [windows.window(0.0) for _ in range(5)] == [2, 4, 8, 8, 8]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Autoscale(0, 5), ValueError, "min_size=0: it must be at least 1"),
        (lambda: Autoscale(5, 2), ValueError, r"write Autoscale\(2, 5\)"),
        (lambda: Adaptive(5, 2), ValueError, r"write Adaptive\(2, 5\)"),
        (lambda: Autoscale(1, 10**8), ValueError, "max_size must be at most 10_000_000"),
        (lambda: Autoscale(1, 2, target_wait=math.inf), ValueError, r"write Pool\(size=1\)"),
        (lambda: Autoscale(1, 2, target_wait="1s"), TypeError, "write a number of seconds"),
        (lambda: Autoscale(1, 2, idle_timeout=0), ValueError, "write some seconds"),
        (lambda: Autoscale(1, 2, idle=3), TypeError, "no argument 'idle'"),
        (lambda: Adaptive(1, 2, on="429"), TypeError, "on must be an exception class"),
        (lambda: Pool(size="4"), TypeError, "size='4' is a str"),
    ],
)
def test_what_is_refused(make, error, words):
    """Where it is written, with what to write instead."""
    with pytest.raises(error, match=words):
        make()


class _Status(Exception):
    def __init__(self, status):
        self.status = status


def test_which_errors_mean_overload():
    """Those that say so, and time limits; or what you say."""
    rule = Adaptive(1, 2)
    told = [
        _Status(429),
        _Status(503),
        RetryAfter(3),
        JobTimeoutError("late", "timeout", 1.0),
        _Status(404),
        ValueError(),
    ]
    assert [rule.means_overload(error) for error in told] == [True] * 4 + [False] * 2
    own = Adaptive(1, 2, on=(ValueError, KeyError))
    assert [own.means_overload(error) for error in told] == [False] * 5 + [True]
    assert Adaptive(1, 2, on=lambda error: 2.5).means_overload(ValueError())
