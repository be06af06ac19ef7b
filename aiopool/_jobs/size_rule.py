"""`SizeRule`: what the size of a pool may be in place of a number: a rule that changes it, between two bounds."""

from __future__ import annotations

from aiopool._jobs.checks import check_count
from aiopool._jobs.options import MAX_SIZE

__all__ = ["SizeRule"]


class SizeRule:
    """A size that changes while the pool runs, from `min_size` to `max_size`: an `Autoscale`, or an `Adaptive`.

    Attributes:
        min_size, max_size: the bounds; a pool opens with the first.
    """

    __slots__ = ()
    min_size: int
    max_size: int

    def _check_bounds(self) -> None:
        check_count("min_size", self.min_size, least=1)
        check_count("max_size", self.max_size, least=1, most=MAX_SIZE)
        if self.max_size < self.min_size:
            name = type(self).__name__
            raise ValueError(
                f"{name}({self.min_size}, {self.max_size}): the least size comes first: write "
                f"{name}({self.max_size}, {self.min_size})"
            )
