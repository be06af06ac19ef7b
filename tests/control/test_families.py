"""The answer of `tree` in the order in which it is read: pure."""

from aiopool._control.families import MAX_DEPTH, family


def test_each_stands_below_its_parent():
    """With its level, how many live children it has, and who descends from it; a parent that is gone is none."""
    pairs = [(3, "2"), (1, None), (2, "1"), (4, "1"), (5, "9")]
    rows = family([{"id": id, "parent": parent} for id, parent in pairs])
    assert [(row["id"], row["level"], row["children"], row["below"]) for row in rows] == [
        (1, 0, 2, ["1", "2", "3", "4"]),
        (2, 1, 1, ["2", "3"]),
        (3, 2, 0, ["3"]),
        (4, 1, 0, ["4"]),
        (5, 0, 0, ["5"]),
    ]


def test_a_long_chain_and_a_circle():
    """A chain is as long as it is, and drawn as deep as a page is wide; a circle ends nothing."""
    chain = [{"id": number, "parent": str(number - 1)} for number in range(1000)]
    rows = family([*chain, {"id": "a", "parent": "b"}, {"id": "b", "parent": "a"}])
    assert [row["level"] for row in rows] == [*range(1000)]
    assert max(row["depth"] for row in rows) == MAX_DEPTH
