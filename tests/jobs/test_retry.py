"""Retry: the decisions, one by one, without a pool and without a clock."""

import asyncio
import dataclasses
import itertools
import math
import pickle
import random
import sys
import threading
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopool._jobs.match import retry_after
from aiopool._jobs.retry import Retry, RetryAfter
from aiopool._jobs.retry_budget import RetryBudget

INF, NAN = math.inf, math.nan
BACKOFFS = ["exponential", "linear", "fixed", "random", "decorrelated"]


def decide(
    retry: Retry,
    error: BaseException | None = None,
    *,
    attempt: int = 1,
    elapsed: float = 0.0,
    previous: float = 0.0,
    seed: int = 1,
) -> float | None:
    return retry.next_delay(
        error if error is not None else OSError("no"),
        attempt=attempt,
        elapsed=elapsed,
        previous=previous,
        rng=random.Random(seed),
    )


# ---- sequences -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        (Retry(attempts=4), [1.0, 2.0, 4.0]),
        (Retry(attempts=4, backoff="linear"), [1.0, 2.0, 3.0]),
        (Retry(attempts=4, backoff="fixed", delay=2), [2.0, 2.0, 2.0]),
        (Retry(attempts=9), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]),
        (Retry(attempts=4, factor=3, delay=0.5), [0.5, 1.5, 4.5]),
        (Retry(attempts=4, factor=1), [1.0, 1.0, 1.0]),
        (Retry(attempts=4, delay=0), [0.0, 0.0, 0.0]),
        (Retry(attempts=4, backoff="linear", delay=25), [25.0, 50.0, 60.0]),
        (Retry(attempts=4, backoff=lambda attempt: attempt**2), [1.0, 4.0, 9.0]),
        (Retry(attempts=3, backoff=lambda attempt: 1e9), [60.0, 60.0]),
        (Retry(attempts=1), []),
        (Retry(attempts=10, max_elapsed=7), [1.0, 2.0, 4.0]),
        (Retry(attempts=10, max_elapsed=6.9), [1.0, 2.0]),
        (Retry(attempts=10, max_elapsed=0), []),
    ],
)
def test_delays_without_jitter_are_exactly_the_formula(retry: Retry, expected: list[float]) -> None:
    """The sequence in the docs is the sequence in the code."""
    assert list(retry.delays()) == expected


@pytest.mark.parametrize("backoff", ["exponential", "linear", "fixed"])
def test_next_delay_agrees_with_the_listed_sequence(backoff: Any) -> None:
    """What is listed is what is decided, attempt by attempt."""
    retry = Retry(attempts=6, backoff=backoff, jitter=0)
    decided = [decide(retry, attempt=n) for n in range(1, 6)]
    assert decided == list(retry.delays())
    assert decide(retry, attempt=6) is None


def test_delays_with_jitter_stay_within_their_fraction_and_repeat_with_the_seed() -> None:
    """One seed, one sequence; another seed, another one."""
    retry = Retry(attempts=7, jitter=0.25)
    plain = list(retry.delays())
    shaken = list(retry.delays(random.Random(7)))
    assert shaken == list(retry.delays(random.Random(7)))
    assert shaken != list(retry.delays(random.Random(8)))
    assert all(abs(got - want) <= want * 0.25 for got, want in zip(shaken, plain, strict=True))
    assert shaken != plain


@pytest.mark.parametrize("backoff", ["random", "decorrelated"])
def test_a_backoff_that_is_random_by_nature_needs_an_rng_to_be_listed(backoff: Any) -> None:
    """No hidden source of random numbers: the error comes at the call, with the line to write."""
    retry = Retry(backoff=backoff)
    with pytest.raises(ValueError, match=r"delays\(random\.Random\(1\)\)"):
        retry.delays()
    assert len(list(retry.delays(random.Random(1)))) == 2


def test_decorrelated_follows_the_article() -> None:
    """sleep = min(cap, random_between(base, sleep * 3)), beginning with sleep = base."""
    retry = Retry(attempts=200, backoff="decorrelated", delay=2, max_delay=50)
    rng, sleep, expected = random.Random(3), 2.0, []
    for _ in range(199):
        sleep = min(50.0, rng.uniform(2.0, sleep * 3))
        expected.append(sleep)
    assert list(retry.delays(random.Random(3))) == expected


def test_decorrelated_goes_on_from_the_cap_after_a_long_retry_after() -> None:
    """An hour that a server asked for is not tripled: the next delay is at most the cap."""
    retry = Retry(attempts=5, backoff="decorrelated", delay=1, max_delay=10)
    drawn = [decide(retry, attempt=2, previous=3600.0, seed=seed) for seed in range(300)]
    assert all(delay is not None and 1 <= delay <= 10 for delay in drawn)
    assert min(delay for delay in drawn if delay is not None) < 10


# ---- bounds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("backoff", [*BACKOFFS, lambda attempt: attempt * 0.3])
def test_a_hundred_thousand_draws_stay_in_bounds(backoff: Any, draws: int) -> None:
    """Neither negative nor above the cap, and not all the same."""
    retry = Retry(attempts=10**6 + 1, backoff=backoff, delay=0.5, max_delay=20, jitter=0.3)
    rng, previous, seen = random.Random(11), 0.0, set()
    for attempt in range(1, draws + 1):
        delay = retry.next_delay(ValueError(), attempt=attempt % 50 + 1, elapsed=0.0, previous=previous, rng=rng)
        assert delay is not None
        assert 0 <= delay <= 20
        if backoff in ("random", "decorrelated"):
            assert delay >= 0.5
        previous = delay
        seen.add(delay)
    assert len(seen) > 0.3 * draws


def test_jobs_at_the_cap_are_spread_as_well() -> None:
    """Ten thousand jobs that failed together do not come back together (no draw is cut to the cap)."""
    retry = Retry(attempts=100, jitter=0.1, max_delay=60)
    rng = random.Random(5)
    delays = [retry.next_delay(OSError(), attempt=50, elapsed=0.0, previous=60.0, rng=rng) for _ in range(10_000)]
    assert len(set(delays)) > 9_990
    assert all(delay is not None and 54 <= delay <= 60 for delay in delays)


@given(
    backoff=st.sampled_from(BACKOFFS),
    attempt=st.integers(1, 10**6),
    base=st.floats(0, 1e308),
    span=st.floats(0, 7e307),
    factor=st.floats(1, 1e308),
    jitter=st.floats(0, 1),
    previous=st.floats(0, 1.7e308),
    seed=st.integers(0, 2**32),
)
def test_every_delay_is_finite_and_between_zero_and_the_cap(
    backoff: Any,
    attempt: int,
    base: float,
    span: float,
    factor: float,
    jitter: float,
    previous: float,
    seed: int,
) -> None:
    """No numbers that are allowed make a delay that is not; attempt one million included."""
    retry = Retry(
        attempts=10**6 + 1,
        backoff=backoff,
        delay=base,
        factor=factor,
        max_delay=base + span,
        jitter=jitter,
    )
    delay = decide(retry, attempt=attempt, previous=previous, seed=seed)
    assert delay is not None
    assert 0 <= delay <= base + span
    assert delay == decide(retry, attempt=attempt, previous=previous, seed=seed)


@given(attempt=st.integers(1, 10**6), backoff=st.sampled_from(["exponential", "linear", "fixed"]))
def test_delays_without_jitter_never_shrink(attempt: int, backoff: Any) -> None:
    """A later attempt never waits less than an earlier one."""
    retry = Retry(attempts=10**6 + 2, backoff=backoff, jitter=0)
    first, second = decide(retry, attempt=attempt), decide(retry, attempt=attempt + 1)
    assert first is not None
    assert second is not None
    assert first <= second


@given(elapsed=st.floats(0, 100), limit=st.floats(0, 100), attempt=st.integers(1, 9))
def test_no_attempt_starts_after_max_elapsed(elapsed: float, limit: float, attempt: int) -> None:
    """Elapsed time and the delay together stay within the limit, or there is no retry."""
    retry = Retry(attempts=10, max_elapsed=limit, jitter=0)
    delay = decide(retry, attempt=attempt, elapsed=elapsed)
    unlimited = decide(dataclasses.replace(retry, max_elapsed=None), attempt=attempt)
    assert unlimited is not None
    assert delay == (unlimited if elapsed + unlimited <= limit else None)


# ---- what is retried -----------------------------------------------------------------------------------


def test_attempts_counts_runs_not_repetitions() -> None:
    """Three attempts are three runs; one is no retry."""
    retry = Retry(attempts=3)
    assert [decide(retry, attempt=n) is None for n in (1, 2, 3, 4)] == [False, False, True, True]
    assert decide(Retry(attempts=1)) is None


def test_a_predicate_is_not_asked_after_the_last_attempt() -> None:
    """What it would say could change nothing."""
    asked: list[BaseException] = []

    def always(error: BaseException) -> bool:
        asked.append(error)
        return True

    retry = Retry(attempts=2, on=always)
    error = OSError()
    assert decide(retry, error, attempt=1) is not None
    assert decide(retry, error, attempt=2) is None
    assert asked == [error]


@pytest.mark.parametrize(
    ("on", "error", "retried"),
    [
        (Exception, ValueError(), True),
        (ConnectionError, ConnectionResetError(), True),
        (ConnectionError, ValueError(), False),
        ((ConnectionError, TimeoutError), TimeoutError(), True),
        ((), ValueError(), False),
        (BaseException, type("Odd", (BaseException,), {})(), True),
        (Exception, type("Odd", (BaseException,), {})(), False),
        (lambda error: error.args == (429,), ValueError(429), True),
        (lambda error: error.args == (429,), ValueError(404), False),
        (Exception, ExceptionGroup("two", [ValueError(), OSError()]), True),
    ],
)
def test_on_decides(on: Any, error: BaseException, retried: bool) -> None:
    """By class, by several classes, by a function."""
    assert (decide(Retry(on=on), error) is not None) is retried


@pytest.mark.parametrize("give_up_on", [FileNotFoundError, (KeyError, FileNotFoundError), lambda error: True])
def test_give_up_on_wins(give_up_on: Any) -> None:
    """The list that stops wins over the list that retries, and over RetryAfter."""
    assert decide(Retry(on=OSError, give_up_on=give_up_on), FileNotFoundError()) is None
    assert decide(Retry(give_up_on=lambda error: False), FileNotFoundError()) is not None
    assert decide(Retry(give_up_on=RetryAfter), RetryAfter(1)) is None


@pytest.mark.parametrize(
    "stop",
    [
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(1),
        GeneratorExit(),
        type("Mine", (asyncio.CancelledError,), {})(),
        BaseExceptionGroup("in a task group", [ValueError(), KeyboardInterrupt()]),
        BaseExceptionGroup("nested", [BaseExceptionGroup("deep", [SystemExit()])]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_to_stop_is_never_retried(stop: BaseException) -> None:
    """A cancel and the ways out of the program are not failures, whatever the policy says."""

    def always(error: BaseException) -> float:
        raise AssertionError("must not be asked")

    stop.retry_after = 1.0  # type: ignore[attr-defined]
    for on in (BaseException, always, (BaseException, type(stop))):
        assert decide(Retry(on=on), stop) is None


# ---- delays that somebody names ------------------------------------------------------------------------


@pytest.mark.parametrize("named", [0, 0.0, 2.5, 3600])
def test_a_predicate_names_the_delay(named: float) -> None:
    """Zero is a value, an hour is not capped, and no jitter is added."""
    assert decide(Retry(on=lambda error: named, max_delay=10, jitter=0.5)) == named


@pytest.mark.parametrize("seconds", [0, 0.25, 3600])
def test_retry_after_is_obeyed_exactly(seconds: float) -> None:
    """The server's word: no jitter, not capped, and whatever `on` says."""
    assert decide(Retry(on=KeyError, max_delay=10, jitter=0.5), RetryAfter(seconds)) == seconds


def test_retry_after_is_bounded_by_attempts_and_max_elapsed() -> None:
    """Only what was promised to the submitter is above the server's word."""
    assert decide(Retry(attempts=2), RetryAfter(1), attempt=2) is None
    assert decide(Retry(max_elapsed=10), RetryAfter(5), elapsed=5.0) == 5.0
    assert decide(Retry(max_elapsed=10), RetryAfter(5), elapsed=5.1) is None


class Throttled(Exception):
    def __init__(self, retry_after: object) -> None:
        self.retry_after = retry_after


@pytest.mark.parametrize(
    ("told", "expected"),
    [(0, 0.0), (7, 7.0), (1.5, 1.5), (600, 600.0), (timedelta(minutes=2), 120.0), (timedelta(), 0.0)],
)
def test_the_attribute_retry_after_sets_the_delay(told: object, expected: float) -> None:
    """As the errors of many client libraries have it; a predicate that says True keeps it."""
    assert decide(Retry(), Throttled(told)) == expected
    assert decide(Retry(on=lambda error: True), Throttled(told)) == expected


def test_the_attribute_retry_after_does_not_make_an_error_retryable() -> None:
    """`on` decides whether; the attribute only how long. A number from the predicate is nearer."""
    assert decide(Retry(on=KeyError), Throttled(3)) is None
    assert decide(Retry(on=lambda error: False), Throttled(3)) is None
    assert decide(Retry(on=lambda error: 8), Throttled(3)) == 8


@pytest.mark.parametrize(
    "told",
    [None, NAN, -1, INF, -INF, "120", True, False, timedelta(seconds=-1), 10**400, -(10**400), object()],
)
def test_a_retry_after_that_makes_no_sense_falls_back_to_the_backoff(told: object) -> None:
    """A header that is garbage is no reason to fail the job, nor to come back at once."""
    assert decide(Retry(delay=3, jitter=0), Throttled(told)) == 3.0


def test_a_retry_after_property_that_raises_is_told() -> None:
    """A bug in the error class is not swallowed."""

    class Broken(Exception):
        @property
        def retry_after(self) -> float:
            raise LookupError("no header")

    with pytest.raises(ValueError, match="retry_after") as caught:
        decide(Retry(), Broken())
    assert isinstance(caught.value.__cause__, LookupError)


@pytest.mark.parametrize("seconds", [NAN, INF, -1, -0.001, 10**400])
def test_retry_after_refuses_bad_numbers(seconds: float) -> None:
    """With the name, the value and what is allowed."""
    with pytest.raises(ValueError, match="RetryAfter: seconds must be a finite number, 0 or more, got"):
        RetryAfter(seconds)


@pytest.mark.parametrize("seconds", ["5", None, True, timedelta(1)])
def test_retry_after_refuses_other_types(seconds: Any) -> None:
    """A header is text: it must be made a number first."""
    with pytest.raises(TypeError, match="RetryAfter: seconds must be a number, got"):
        RetryAfter(seconds)


def test_retry_after_reads_well_and_travels() -> None:
    """Message, number and pickle."""
    assert str(RetryAfter(5)) == "asked to be tried again after 5 s"
    error = pickle.loads(pickle.dumps(RetryAfter(2.5, "busy")))
    assert (str(error), error.seconds, error.retry_after) == ("busy", 2.5, 2.5)


# ---- functions of the user that misbehave --------------------------------------------------------------


@pytest.mark.parametrize("name", ["on", "give_up_on", "backoff"])
def test_a_function_that_raises_is_named_and_is_the_cause(name: str) -> None:
    """The job will fail with a cause; nothing is swallowed."""

    def broken(argument: object) -> float:
        raise LookupError("typo")

    with pytest.raises(ValueError, match=rf"{name}=<function .*broken.*OSError\('no'\).*typo") as caught:
        decide(Retry(**{name: broken}))  # type: ignore[arg-type]
    assert isinstance(caught.value.__cause__, LookupError)


@pytest.mark.parametrize("name", ["on", "backoff"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF, -1, -0.5, 10**400])
def test_a_function_that_returns_an_impossible_number_is_refused(name: str, bad: float) -> None:
    """The message names the argument and the value; the job's own error is the cause."""
    error = OSError("the job's own")
    with pytest.raises(ValueError, match=rf"{name}=.*a delay is a finite number of seconds") as caught:
        decide(Retry(**{name: lambda argument: bad}), error)  # type: ignore[arg-type]
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("on", None),
        ("on", "yes"),
        ("on", timedelta(1)),
        ("backoff", None),
        ("backoff", True),
        ("backoff", "1"),
        ("give_up_on", None),
        ("give_up_on", 1),
        ("give_up_on", 0.5),
    ],
)
def test_a_function_that_returns_the_wrong_type_is_refused(name: str, bad: object) -> None:
    """A predicate without `return` says None: that is a bug, not a No."""
    error = OSError("the job's own")
    with pytest.raises(TypeError, match=rf"{name}=.*expected") as caught:
        decide(Retry(**{name: lambda argument: bad}), error)  # type: ignore[arg-type]
    assert caught.value.__cause__ is error


def test_an_asynchronous_predicate_is_refused() -> None:
    """At construction where it can be seen, else at the first answer; never a "never awaited" warning."""

    async def predicate(error: BaseException) -> bool:
        return True

    class Callable:
        async def __call__(self, error: BaseException) -> bool:
            return True

    for name in ("on", "give_up_on", "backoff"):
        with pytest.raises(TypeError, match="plain function"):
            Retry(**{name: predicate})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected True, False or a number of seconds"):
        decide(Retry(on=Callable()))  # type: ignore[arg-type]


def test_the_programs_end_passes_through_a_predicate() -> None:
    """KeyboardInterrupt while a predicate runs is not a broken predicate."""

    def interrupted(error: BaseException) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide(Retry(on=interrupted))


# ---- construction --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["delay", "factor", "max_delay", "jitter", "max_elapsed"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF, -1])
def test_numbers_must_be_finite_and_not_negative(name: str, bad: float) -> None:
    """The message names the argument, the value and what is allowed."""
    with pytest.raises(ValueError, match=rf"Retry: {name} must be a finite number, 0 or more, got {bad!r}"):
        Retry(**{name: bad})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["delay", "factor", "max_delay", "jitter", "max_elapsed"])
@pytest.mark.parametrize("bad", ["1", True, [1], timedelta(1)])
def test_numbers_must_be_numbers(name: str, bad: object) -> None:
    """No strings, no booleans."""
    with pytest.raises(TypeError, match=rf"Retry: {name} must be a number"):
        Retry(**{name: bad})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"attempts": 0}, ValueError, "for no retry write attempts=1"),
        ({"attempts": -1}, ValueError, "at least 1, got -1"),
        ({"attempts": True}, TypeError, "whole number, got True"),
        ({"attempts": 3.0}, TypeError, "whole number, got 3.0"),
        ({"attempts": None}, TypeError, "whole number, got None"),
        ({"factor": 0.5}, ValueError, "factor must be at least 1, got 0.5"),
        ({"jitter": 1.1}, ValueError, "between 0 and 1, got 1.1"),
        ({"delay": 120}, ValueError, r"write Retry\(delay=120, max_delay=120\)"),
        ({"backoff": "expo"}, ValueError, "one of exponential, linear, .* got 'expo'"),
        ({"backoff": 3}, TypeError, "got 3; write backoff=lambda"),
        ({"backoff": float}, TypeError, "plain function"),
        ({"on": "ValueError"}, TypeError, "write on="),
        ({"on": int}, TypeError, "exception class"),
        ({"on": [ValueError]}, TypeError, r"got \[<class 'ValueError'>\]"),
        ({"on": (ValueError, (OSError,))}, TypeError, "tuple of exception classes"),
        ({"on": None}, TypeError, "got None"),
        ({"give_up_on": None}, TypeError, "Retry: give_up_on must be .* write give_up_on="),
        ({"give_up_on": ValueError()}, TypeError, "exception class"),
        ({"budget": 0.1}, TypeError, "budget must be a RetryBudget or None, got 0.1"),
    ],
)
def test_construction_refuses_what_cannot_work(arguments: Any, kind: type[Exception], message: str) -> None:
    """Loudly, where it was written, not at three in the morning."""
    with pytest.raises(kind, match=message):
        Retry(**arguments)


def test_options_are_given_by_name() -> None:
    """`Retry(3)` would leave open whether that is three runs or three repetitions."""
    with pytest.raises(TypeError):
        Retry(3)  # type: ignore[call-arg]


def test_a_retry_is_a_value() -> None:
    """Equal, hashable, frozen, replaceable."""
    assert Retry(delay=1) == Retry(delay=1.0)
    assert len({Retry(), Retry(attempts=3), Retry(attempts=4)}) == 2
    assert dataclasses.replace(Retry(), attempts=7).attempts == 7
    assert pickle.loads(pickle.dumps(Retry(max_elapsed=5))) == Retry(max_elapsed=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Retry().attempts = 5  # type: ignore[misc]


# ---- the budget ----------------------------------------------------------------------------------------


def test_a_budget_gives_a_share_of_the_jobs() -> None:
    """Ten jobs pay for one retry at a ratio of a tenth – exactly, not nearly."""
    budget = RetryBudget(ratio=0.1, min_per_second=0, within=10)
    assert not budget.withdraw(now=0.0)
    for _ in range(9):
        budget.deposit(now=0.0)
    assert not budget.withdraw(now=0.0)
    budget.deposit(now=0.0)
    assert budget.withdraw(now=0.0)
    assert not budget.withdraw(now=0.0)


def test_a_budget_lets_a_quiet_pool_retry_too() -> None:
    """`min_per_second` is there without any job, and comes back when the period has passed."""
    budget = RetryBudget(ratio=0, min_per_second=0.5, within=10)
    assert [budget.withdraw(now=0.0) for _ in range(6)] == [True] * 5 + [False]
    assert not budget.withdraw(now=10.0)
    assert budget.withdraw(now=11.0)


def test_a_budget_forgets() -> None:
    """Jobs of long ago pay for nothing."""
    budget = RetryBudget(ratio=1, min_per_second=0, within=10)
    budget.deposit(now=0.0)
    assert budget.available(now=9.9) == pytest.approx(1)
    assert budget.available(now=1e9) == pytest.approx(0)
    assert not budget.withdraw(now=1e9)


def test_a_budget_survives_a_clock_that_steps_back() -> None:
    """Two loops share a budget and disagree a little: nothing is lost, nothing raises."""
    budget = RetryBudget(ratio=1, min_per_second=0, within=10)
    budget.deposit(now=100.0)
    budget.deposit(now=1.0)
    assert [budget.withdraw(now=50.0), budget.withdraw(now=0.0), budget.withdraw(now=100.0)] == [
        True,
        True,
        False,
    ]


@given(
    ratio=st.sampled_from([0.0, 0.1, 0.25, 1.0]),
    minimum=st.sampled_from([0.0, 0.3, 1.0]),
    start=st.floats(-1e6, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=150),
)
def test_no_period_has_more_retries_than_the_budget_promises(
    ratio: float, minimum: float, start: float, steps: list[tuple[float, bool]]
) -> None:
    """In any `within` seconds: at most min_per_second * within + ratio * jobs of the last 1.1 * within."""
    within, now = 5.0, start
    budget = RetryBudget(ratio=ratio, min_per_second=minimum, within=within)
    jobs: list[float] = []
    retries: list[float] = []
    for step, deposit in steps:
        now += step
        if deposit:
            budget.deposit(now=now)
            jobs.append(now)
        elif budget.withdraw(now=now):
            retries.append(now)
            inside = sum(1 for at in retries if now - at < within)
            paid = sum(1 for at in jobs if now - at < within * 1.1 + 1e-6)
            assert inside <= minimum * within + ratio * paid + 1e-6


@given(steps=st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=60))
def test_a_budget_is_never_meaner_than_promised(steps: list[tuple[float, bool]]) -> None:
    """A retry is refused only when the jobs of the last `within` seconds do not pay for it."""
    budget, now = RetryBudget(ratio=0.5, min_per_second=0.4, within=10), 0.0
    jobs: list[float] = []
    retries: list[float] = []
    for step, deposit in steps:
        now += step
        if deposit:
            budget.deposit(now=now)
            jobs.append(now)
        elif budget.withdraw(now=now):
            retries.append(now)
        else:
            paid = 4 + 0.5 * sum(1 for at in jobs if now - at <= 10 - 1e-6)
            assert sum(1 for at in retries if now - at <= 11 + 1e-6) + 1 > paid - 1e-6


def test_a_budget_holds_between_threads() -> None:
    """Not one retry too many, with the interpreter switching as often as it can."""
    budget = RetryBudget(ratio=0, min_per_second=100, within=10)
    taken = itertools.count()

    def take() -> None:
        for _ in range(1000):
            if budget.withdraw(now=1.0):
                next(taken)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert next(taken) == 1000


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"ratio": -0.1}, ValueError, "ratio must be a finite number"),
        ({"ratio": NAN}, ValueError, "ratio must be a finite number"),
        ({"min_per_second": INF}, ValueError, "min_per_second must be a finite number"),
        ({"within": 0}, ValueError, "within must be above 0"),
        ({"within": "10"}, TypeError, "within must be a number, got '10'"),
        ({"ratio": True}, TypeError, "ratio must be a number, got True"),
    ],
)
def test_a_budget_refuses_what_cannot_work(arguments: Any, kind: type[Exception], message: str) -> None:
    """With the name, the value and what is allowed."""
    with pytest.raises(kind, match=message):
        RetryBudget(**arguments)


def test_next_delay_leaves_the_budget_alone() -> None:
    """The decision is pure; who retries withdraws."""
    budget = RetryBudget(ratio=0, min_per_second=0.1, within=10)
    retry = Retry(attempts=5, budget=budget)
    assert [decide(retry) is not None for _ in range(4)] == [True] * 4
    assert budget.available(now=0.0) == pytest.approx(1)
    assert budget.withdraw(now=0.0)
    assert repr(budget) == "<RetryBudget ratio=0 min_per_second=0.1 within=10: 1 retries for 0 jobs of late>"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_property_that_ends_the_program_is_not_told_as_a_fault(kind):
    """Ctrl-C may come while `retry_after` of an error is read: it goes through."""

    class Slow(Exception):
        @property
        def retry_after(self):
            raise kind

    with pytest.raises(kind):
        retry_after("Retry", Slow())
