"""`SortedRows`: rows in order; any of them may leave at any time, and no call looks at all of them.

A list of blocks, each of them a sorted list of at most `MAX_BLOCK` rows. A row finds its block, and its place in the
block, by bisection. Unlike in a heap with rows that are crossed out, what leaves is gone: nothing is swept later, so
nothing takes long. A block that has become small is left alone, and goes when it is empty.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Any, final

__all__ = ["Row", "SortedRows"]

Row = tuple[Any, ...]

# To insert into a list, or to pop its first, moves up to 4 KB: 50 ns.
MAX_BLOCK = 512


@final
class SortedRows:
    """Tuples in order. No two are equal, and they differ before the first item that cannot be compared.

    Attributes:
        count: how many rows there are.
    """

    __slots__ = ("_blocks", "_lasts", "count")

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        ordered = sorted(rows)
        self.count = len(ordered)
        self._blocks = [ordered[at : at + MAX_BLOCK] for at in range(0, self.count, MAX_BLOCK)]
        self._lasts = [block[-1] for block in self._blocks]

    def __iter__(self) -> Iterator[Row]:
        for block in self._blocks:
            yield from block

    def first(self) -> Row | None:
        """Return the first row, or None."""
        return self._blocks[0][0] if self._blocks else None

    def last(self) -> Row | None:
        """Return the last row, or None."""
        return self._lasts[-1] if self._lasts else None

    def at_least(self, row: Row) -> Row | None:
        """Return the first row that is not below another, of which the first items will do; None: there is none."""
        at = bisect_left(self._lasts, row)
        if at == len(self._lasts):
            return None
        block = self._blocks[at]
        return block[bisect_left(block, row)]

    def add(self, row: Row) -> None:
        """Put a row in its place."""
        blocks, lasts = self._blocks, self._lasts
        at = bisect_left(lasts, row)
        if at < len(lasts):
            block = blocks[at]
            insort(block, row)
        elif at:  # behind all others, as most are
            at -= 1
            block = blocks[at]
            block.append(row)
            lasts[at] = row
        else:
            block = [row]
            blocks.append(block)
            lasts.append(row)
        self.count += 1
        if len(block) > MAX_BLOCK:
            blocks.insert(at, block[: MAX_BLOCK // 2])
            lasts.insert(at, blocks[at][-1])
            del block[: MAX_BLOCK // 2]

    def remove(self, row: Row) -> None:
        """Take a row out that is there; a row of which only the items up to the one that differs are known will do."""
        at = bisect_left(self._lasts, row)
        block = self._blocks[at]
        self._take(at, block, bisect_left(block, row))

    def pop(self) -> Any:
        """Take the first row out, and return it; there is one."""
        return self._take(0, self._blocks[0], 0)

    def _take(self, at: int, block: list[Row], place: int) -> Row:
        self.count -= 1
        row = block.pop(place)
        if not block:
            del self._blocks[at], self._lasts[at]
        elif place == len(block):
            self._lasts[at] = block[-1]
        return row
