"""`SortedRows`: a sorted list, in blocks."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aiopool._runtime.sorted_rows import MAX_BLOCK, SortedRows


class Uncomparable:
    """Whoever compares it has lost."""

    def __lt__(self, other):
        raise AssertionError("a payload was compared")

    __gt__ = __le__ = __ge__ = __lt__


@given(st.lists(st.tuples(st.sampled_from(["add", "add", "add", "remove", "pop"]), st.integers(0, 5)), max_size=60))
@settings(max_examples=100, deadline=None)
def test_rows_are_those_of_a_sorted_list(steps):
    """Whatever comes and goes: the first, the last, the order and the count are those of a list that is sorted."""
    rows, model = SortedRows(), []
    for number, (verb, key) in enumerate(steps):
        if verb == "add":
            row = (key, number, Uncomparable())
            rows.add(row)
            model.append(row)
        elif model:
            row = min(model, key=lambda row: row[:2]) if verb == "pop" else model[key % len(model)]
            model.remove(row)
            if verb == "pop":
                assert rows.pop() is row
            else:
                rows.remove(row[:2])
        model.sort(key=lambda row: row[:2])
        assert [*rows] == model
        assert (rows.first(), rows.last()) == ((model[0], model[-1]) if model else (None, None))
        assert rows.count == len(model)
        assert rows.at_least((3,)) is next((row for row in model if row[0] >= 3), None)


class Counted(int):
    """A number that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other):
        Counted.comparisons += 1
        return int(self) < int(other)

    def __eq__(self, other):
        Counted.comparisons += 1
        return int(self) == int(other)

    __hash__ = int.__hash__


def test_no_call_looks_at_many_rows():
    """Of 20,000 rows that come in any order, and leave from the front or in between, each call compares few."""
    count, rows = 20_000, SortedRows()
    shuffled = [(number * 7919) % count for number in range(count)]

    def compared(call, *args):
        Counted.comparisons = 0
        call(*args)
        return Counted.comparisons

    costs = [compared(rows.add, (Counted(number), number)) for number in shuffled]
    assert [number for _, number in rows] == sorted(shuffled)
    assert max(map(len, rows._blocks)) <= MAX_BLOCK
    costs += [compared(rows.remove, (Counted(number), number)) for number in shuffled[: count // 2]]
    costs += [compared(rows.pop) for _ in range(count // 2)]
    assert rows.count == 0
    assert not rows._blocks
    assert max(costs) <= 2 * 2 * 20  # two bisections; of tuples: for each step an == and a <
