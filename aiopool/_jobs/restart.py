"""Restart: whether a worker that crashed is started again, after which delay, or whether the pool gives up.

A worker that crashes is a fault of the machinery or of what it owns (a resource that does not open), not of a
job. Starting it again at once and for ever would turn one fault into a busy loop that looks alive from
outside. So crashes are counted within a sliding period, as OTP's supervisors count them: up to `max_restarts`
of them are answered by a restart, after a delay that doubles from crash to crash; one more, and the answer is
"give up".

Pure: times are arguments, nothing sleeps, nothing is started here. The supervisor acts.

Invariant: in any period of `within` seconds there are at most `max_restarts` restarts.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from aiopool._runtime.keywords import explain_keywords
from aiopool._runtime.validation import number_given

__all__ = ["Restart", "RestartHistory"]


@final
@explain_keywords
@dataclass(frozen=True, slots=True)
class Restart:
    """Say how often crashed workers are started again before the pool gives up.

    Choose `max_restarts` for the worst burst that you would sit out (a database that fails over kills several
    workers at once: allow at least one for each), and `within` for how long such a burst may last. The delays
    take time as well: with the default `max_delay` of 5 s, workers that crash at once crash only some 17
    times within 60 s, so `max_restarts` above that never gives up.

    Args:
        max_restarts: this many crashes within the period are answered by a restart; the next one makes the
            pool give up. 0 never restarts.
        within: the period, in seconds. A crash that is exactly this old still counts.
        delay: seconds before the first restart; doubles with every further crash within the period. 0 is "at
            once".
        max_delay: no restart waits longer than this many seconds.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is negative, infinite or nan, `within` is 0, or `delay` is above `max_delay`.

    Example:
        >>> policy = Restart(max_restarts=2, within=60, delay=0.5)
        >>> policy.next_delay([], now=0.0), policy.next_delay([0.0], now=1.0)
        (0.5, 1.0)
        >>> policy.next_delay([0.0, 1.0], now=2.0)  # one too many: give up
    """

    max_restarts: int = 5
    within: float = 60.0
    delay: float = 0.1
    max_delay: float = 5.0

    def __post_init__(self) -> None:
        if isinstance(self.max_restarts, bool) or not isinstance(self.max_restarts, int):
            raise TypeError(f"Restart: max_restarts must be a whole number, got {self.max_restarts!r}")
        if self.max_restarts < 0:
            raise ValueError(f"Restart: max_restarts must be 0 or more, got {self.max_restarts}; 0 never restarts")
        for name in ("within", "delay", "max_delay"):
            number_given("Restart", name, getattr(self, name), "seconds")
        if self.within == 0:
            raise ValueError("Restart: within must be above 0 seconds, got 0: no crash would ever count")
        if self.delay > self.max_delay:
            raise ValueError(
                f"Restart: delay={self.delay:g} is above max_delay={self.max_delay:g}; "
                f"write Restart(delay={self.delay:g}, max_delay={self.delay:g}) if you mean it"
            )

    def next_delay(self, crashes: Iterable[float], *, now: float) -> float | None:
        """Decide what follows a crash that happens now.

        Args:
            crashes: when the earlier crashes were, in the seconds of any monotonic clock; this one is not
                among them.
            now: the same clock, at this crash.

        Returns:
            Seconds to wait before the restart, or `None`: give up.
        """
        return self._after(sum(1 for at in crashes if now - at <= self.within))

    def _after(self, earlier: int) -> float | None:
        """The delay when `earlier` other crashes count."""
        if earlier >= self.max_restarts:
            return None
        try:
            return float(min(self.max_delay, self.delay * 2.0**earlier))
        except OverflowError:  # 2.0 ** 1024
            return float(self.max_delay) if self.delay else 0.0


@final
class RestartHistory:
    """Remember the crashes of one supervisor, and ask its `Restart` after each.

    Keeps the times of the crashes within the period, oldest first, and nothing else: crashes that are too old
    are forgotten when the next one comes. Once the policy has given up it stays so: a supervisor that asks
    again is told `None` until `clear` is called.

    Args:
        policy: the `Restart` to ask.

    Example:
        >>> history = RestartHistory(Restart(max_restarts=1, within=60))
        >>> history.crashed(now=0.0), history.crashed(now=100.0), history.crashed(now=101.0)
        (0.1, 0.1, None)
    """

    # The mutable state of a history is `_crashes` and `_given_up`.
    __slots__ = ("_crashes", "_given_up", "policy")

    def __init__(self, policy: Restart) -> None:
        self.policy = policy
        self._crashes: deque[float] = deque()
        self._given_up = False

    @property
    def crashes(self) -> tuple[float, ...]:
        """When the crashes were that count at the last one, oldest first; the last one included."""
        return tuple(self._crashes)

    @property
    def given_up(self) -> bool:
        """Whether the policy has given up."""
        return self._given_up

    def crashed(self, *, now: float) -> float | None:
        """Record a crash, and decide what follows.

        Args:
            now: monotonic seconds.

        Returns:
            Seconds to wait before the restart, or `None`: give up.
        """
        crashes = self._crashes
        while crashes and now - crashes[0] > self.policy.within:
            crashes.popleft()
        answer = None if self._given_up else self.policy.next_delay(crashes, now=now)
        crashes.append(now)
        self._given_up = answer is None
        return answer

    def clear(self) -> None:
        """Forget all crashes: the pool was opened anew, or resized by hand."""
        self._crashes.clear()
        self._given_up = False

    def __repr__(self) -> str:
        state = "given up" if self._given_up else f"{len(self._crashes)} of {self.policy.max_restarts} used"
        return f"<RestartHistory {state}, within {self.policy.within:g} s>"
