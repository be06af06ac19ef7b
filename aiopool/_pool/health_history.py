"""`HealthHistory`: what a pool keeps for its health: the numbers of earlier probes, and the user's own checks.

At most one pulse for each sixtieth of the window is kept, for one window. Here they are only kept: they are judged in
`_observe/health.py`, which comes with the first probe.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

from aiopool._jobs.options import function_name, is_asynchronous

if TYPE_CHECKING:  # they come with the first probe, or with whoever sets limits
    from aiopool._observe.health import Check, HealthLimits, Sample

__all__ = ["HealthHistory"]


@final
class HealthHistory:
    """What is kept between probes.

    Attributes:
        limits: None: the usual ones.
        opened_at: when the pool was opened; 0.0 before.
        pulses: the numbers of earlier probes since then, the oldest first.
        checks: the user's own, by name.
    """

    __slots__ = ("checks", "limits", "opened_at", "pulses")

    def __init__(self, limits: HealthLimits | None) -> None:
        self.limits = limits
        self.opened_at = 0.0
        self.pulses: deque[Sample] = deque()
        self.checks: dict[str, Check] = {}

    def opened(self, at: float) -> None:
        """Begin anew: the pool has opened."""
        self.opened_at = at
        self.pulses.clear()

    def add(self, check: Check, name: str | None) -> None:
        """Add a check of the user's."""
        if not callable(check):
            raise TypeError(f"a health check is a function without arguments, not {check!r} ({type(check).__name__})")
        if is_asynchronous(check):
            raise TypeError(
                f"{check!r} is asynchronous, and health() does not wait. Have a task of your own ask, keep its answer, "
                "and add a plain function that returns it"
            )
        name = function_name(check) if name is None else name
        if name in self.checks:
            raise ValueError(f"there is a health check {name!r} already: give this one a name=")
        self.checks[name] = check

    def remove(self, check: Check) -> None:
        """Remove a check of the user's, whatever its name."""
        names = [name for name, known in self.checks.items() if known == check]
        if not names:
            raise ValueError(f"{check!r} is no health check of this pool")
        for name in names:
            del self.checks[name]
