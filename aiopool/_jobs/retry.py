"""Retry: which errors are worth another attempt, how many attempts there are, and how long to wait before the
next.

Everything here is a decision, taken from its arguments alone: the error, the number of the attempt, the
seconds since submission, the delay before, and a source of random numbers that the caller owns. Nothing
sleeps, nothing reads a clock, nothing is retried *here*. Who asks is the pool; a job that waits for its next
attempt holds no worker.

    attempt 1 ──fails──▶ next_delay(attempt=1) ──1.0──▶ attempt 2 ──fails──▶ next_delay(attempt=2) ──2.0──▶
    attempt 3 …
                                             └──None──▶ the job fails with its own error

`Retry.next_delay` does not touch the budget, so that it stays pure: the pool calls `deposit` when a job begins and
`withdraw` before it retries.

Invariant: a delay is a finite number, never negative, and never above `max_delay` – unless the job, its error or the
predicate named the number of seconds itself.
"""

import asyncio
import inspect
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, final

from aiopool._jobs.match import Match, ask, check_match, seconds_of, verdict, wrong_type
from aiopool._jobs.retry_budget import RetryBudget
from aiopool._runtime.faults import is_kind, members
from aiopool._runtime.keywords import explain_keywords
from aiopool._runtime.validation import number_given

__all__ = ["Backoff", "Retry", "RetryAfter"]

Backoff: TypeAlias = Literal["exponential", "linear", "fixed", "random", "decorrelated"] | Callable[[int], float]
"""How the delay grows: a name, or a function from the number of the failed attempt (from 1) to seconds."""

_BACKOFFS = ("exponential", "linear", "fixed", "random", "decorrelated")
_DRAWN = ("random", "decorrelated")  # already random: jitter is not added a second time

# To stop is not to fail. Retrying one of these would undo what the user, or the program, has just asked for.
_NEVER: tuple[type[BaseException], ...] = (
    asyncio.CancelledError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
)


class RetryAfter(Exception):  # noqa: N818 - read aloud in the job: `raise RetryAfter(30)`
    """Ask for another attempt of this job after a number of seconds; raise it inside a job.

    It is retried whatever `Retry.on` says, because the job itself asks for it; `give_up_on` still wins. The
    delay is obeyed exactly: no jitter is added and `max_delay` does not shorten it, because it is most often
    the word of a server, and coming earlier would be refused again. `attempts`, `max_elapsed` and the budget
    still bound it.

    An exception of your own (or of a library) that has an attribute `retry_after` – a number of seconds, or a
    `datetime.timedelta` – sets the delay in the same way, once `on` has said that it is retried at all.

    Args:
        seconds: how long to wait before the next attempt; 0 is "at once".
        message: what the error says when no attempt is left; made from `seconds` when empty.

    Raises:
        TypeError: `seconds` is not a number.
        ValueError: `seconds` is negative, infinite or not a number (nan).

    Example:
        >>> raise RetryAfter(float(response.headers["retry-after"]))  # doctest: +SKIP
    """

    def __init__(self, seconds: float, message: str = "") -> None:
        self.retry_after = number_given("RetryAfter", "seconds", seconds)
        super().__init__(message or f"asked to be tried again after {self.retry_after:g} s")

    @property
    def seconds(self) -> float:
        """The delay that was asked for, in seconds."""
        return self.retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.retry_after, self.args[0])


@final
@explain_keywords
@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Say how a job that fails is tried again.

    Frozen: share it, compare it, change it by `dataclasses.replace`. A cancel, `KeyboardInterrupt`,
    `SystemExit` and `GeneratorExit` are never retried, whatever `on` says; neither is an exception group that
    holds one of them.

    Args:
        attempts: how many runs there are in all, the first included; 1 is "no retry".
        on: what is retried: an exception class, a tuple of them, or a predicate. A predicate gets the error
            and returns `True` or `False`, or the delay to use in seconds: 0.0 means "again, at once". A
            number that it returns is used as it is: without jitter, and not capped by `max_delay`.
        give_up_on: what is never retried; it wins over `on`. A predicate here returns `True` or `False`.
        backoff: how the delay grows with the number *n* of the failed attempt (from 1):
            `"exponential"` is `delay * factor ** (n - 1)`; `"linear"` is `delay * n`; `"fixed"` is `delay`;
            `"random"` is drawn evenly between `delay` and `max_delay`; `"decorrelated"` is drawn evenly
            between `delay` and three times the delay before, as in Marc Brooker, "Exponential Backoff And
            Jitter", AWS Architecture Blog, 2015: `sleep = min(cap, random_between(base, sleep * 3))`.
            Or a function from *n* to seconds.
        delay: the base, in seconds; 0 retries at once.
        factor: how much `"exponential"` grows from one attempt to the next; at least 1.
        max_delay: no backoff waits longer than this many seconds. (A `RetryAfter` may.)
        jitter: the random part, as a fraction of the delay: 0.1 draws evenly from 90 % to 110 %, cut at
            `max_delay` *before* drawing, so that jobs at the cap are spread as well. 0 is none. Applies to
            your own backoff function too; not to `"random"` and `"decorrelated"`, which are drawn anyway.
        max_elapsed: no attempt starts later than this many seconds after submission; `None` is no limit.
        budget: a `RetryBudget`, usually shared; `None` is no budget.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed (negative, infinite, nan, `attempts=0`, …).

    Example:
        >>> list(Retry(attempts=4, delay=1).delays())
        [1.0, 2.0, 4.0]
        >>> Retry(attempts=5, on=(ConnectionError, TimeoutError), max_elapsed=120).backoff
        'exponential'
    """

    attempts: int = 3  # the first run and two more: a hiccup passes, a failure is told soon
    on: Match = Exception
    give_up_on: Match = ()
    backoff: Backoff = "exponential"
    delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.1
    max_elapsed: float | None = None
    budget: RetryBudget | None = None

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise TypeError(f"Retry: attempts must be a whole number, got {self.attempts!r}")
        if self.attempts < 1:
            raise ValueError(
                f"Retry: attempts counts all runs, the first included, so it is at least 1, "
                f"got {self.attempts}; for no retry write attempts=1"
            )
        check_match("Retry", "on", self.on)
        check_match("Retry", "give_up_on", self.give_up_on)
        _check_backoff(self.backoff)
        for name in ("delay", "factor", "max_delay", "jitter"):
            # Frozen: an int that was given is kept as a float by the one door that is left.
            object.__setattr__(self, name, number_given("Retry", name, getattr(self, name)))
        if self.factor < 1:
            raise ValueError(f"Retry: factor must be at least 1, got {self.factor:g}: a backoff never shrinks")
        if self.jitter > 1:
            raise ValueError(f"Retry: jitter is a fraction between 0 and 1, got {self.jitter:g}")
        if self.delay > self.max_delay:
            raise ValueError(
                f"Retry: delay={self.delay:g} is above max_delay={self.max_delay:g}; "
                f"write Retry(delay={self.delay:g}, max_delay={self.delay:g}) if you mean it"
            )
        if self.max_elapsed is not None:
            object.__setattr__(self, "max_elapsed", number_given("Retry", "max_elapsed", self.max_elapsed))
        if self.budget is not None and not isinstance(self.budget, RetryBudget):
            raise TypeError(f"Retry: budget must be a RetryBudget or None, got {self.budget!r}")

    def next_delay(
        self,
        error: BaseException,
        *,
        attempt: int,
        elapsed: float,
        previous: float,
        rng: random.Random,
    ) -> float | None:
        """Decide whether a failed attempt is followed by another one, and after how long.

        Pure: neither a clock nor the budget is touched. The predicates are not asked after the last attempt.

        Args:
            error: what the attempt failed with.
            attempt: the number of the attempt that failed, counted from 1.
            elapsed: seconds since the job was submitted.
            previous: the delay before this attempt, in seconds; 0.0 for the first.
            rng: where random numbers come from; seed it, and the answer repeats.

        Returns:
            Seconds to wait before the next attempt, or `None`: give up.

        Raises:
            TypeError: a predicate, or the backoff function, returned something of the wrong type; the
                `__cause__` is the job's error.
            ValueError: it returned nan, infinity or a negative number (the `__cause__` is the job's error),
                or it raised (the `__cause__` is what it raised).
        """
        if attempt >= self.attempts or _is_stop(error) or self._gives_up_on(error):
            return None
        verdict = self._verdict(error)
        if verdict is False:
            return None
        delay = self._backed_off(attempt, previous, rng, error) if verdict is True else verdict
        if self.max_elapsed is not None and elapsed + delay > self.max_elapsed:
            return None
        return delay

    def delays(self, rng: random.Random | None = None) -> Iterator[float]:
        """Give the delays of a job whose every attempt fails at once: for docs, tests and the curious.

        Args:
            rng: where the random part comes from; without it jitter is left out.

        Returns:
            `attempts - 1` delays in seconds, or fewer where `max_elapsed` comes first.

        Raises:
            ValueError: no `rng` for a backoff that is random by nature.
        """
        if rng is None and self.backoff in _DRAWN:
            raise ValueError(
                f"Retry: the delays of backoff={self.backoff!r} are random; write delays(random.Random(1))"
            )
        return self._delays(rng)

    def _delays(self, rng: random.Random | None) -> Iterator[float]:
        previous = elapsed = 0.0
        for attempt in range(1, self.attempts):
            previous = self._backed_off(attempt, previous, rng, None)
            elapsed += previous
            if self.max_elapsed is not None and elapsed > self.max_elapsed:
                return
            yield previous

    def _gives_up_on(self, error: BaseException) -> bool:
        match = self.give_up_on
        if isinstance(match, (type, tuple)):
            return is_kind(error, match)
        answer = ask("Retry", "give_up_on", match, error, error)
        if not isinstance(answer, bool):
            raise wrong_type("Retry", "give_up_on", match, answer, "True or False") from error
        return answer

    def _verdict(self, error: BaseException) -> bool | float:
        """Whether the error is retried: no, yes, or yes after the seconds that somebody named."""
        if is_kind(error, RetryAfter):
            return cast("RetryAfter", error).retry_after
        return verdict("Retry", "on", self.on, error)

    def _backed_off(
        self, attempt: int, previous: float, rng: random.Random | None, error: BaseException | None
    ) -> float:
        """The delay after a failed attempt by the rules of this `Retry` alone; no jitter without `rng`."""
        base, cap = self.delay, self.max_delay
        match self.backoff:
            case "random":
                assert rng is not None
                return min(cap, rng.uniform(base, cap))
            case "decorrelated":
                assert rng is not None
                # The delay before may have been a RetryAfter above the cap: the walk goes on from the cap.
                highest = min(3 * min(cap, max(base, previous)), sys.float_info.max)
                return min(cap, rng.uniform(base, highest))
            case "exponential":
                wanted = self._exponential(attempt)
            case "linear":
                wanted = base * attempt
            case "fixed":
                wanted = base
            case function:
                assert callable(function)
                answer = ask("Retry", "backoff", function, attempt, error)
                wanted = seconds_of("Retry", "backoff", function, answer, error, "a number of seconds")
        wanted = min(wanted, cap)
        if rng is None or self.jitter == 0:
            return wanted
        # Cut before drawing: cutting afterwards would give half of all jobs at the cap the very same delay.
        # (The outer min: uniform may round up past its end.)
        return min(cap, rng.uniform(wanted * (1 - self.jitter), min(wanted * (1 + self.jitter), cap)))

    def _exponential(self, attempt: int) -> float:
        try:
            return self.delay * self.factor ** (attempt - 1)
        except OverflowError:  # 2.0 ** 1024; zero times that is still zero
            return self.max_delay if self.delay else 0.0


def _is_stop(error: BaseException) -> bool:
    """Whether the error means "stop", itself or inside an exception group."""
    if is_kind(error, BaseExceptionGroup):
        return any(_is_stop(inner) for inner in members(error))
    return is_kind(error, _NEVER)


def _check_backoff(backoff: object) -> None:
    named = ", ".join(_BACKOFFS)
    if isinstance(backoff, str):
        if backoff not in _BACKOFFS:
            raise ValueError(f"Retry: backoff must be one of {named} or a function, got {backoff!r}")
    elif not callable(backoff) or isinstance(backoff, type) or inspect.iscoroutinefunction(backoff):
        raise TypeError(
            f"Retry: backoff must be one of {named} or a plain function, got {backoff!r}; "
            "write backoff=lambda attempt: 2 * attempt"
        )
