"""Families of jobs: the answer of the verb `tree` in the order in which it is read, each job with its level. Pure."""

from __future__ import annotations

from typing import Any

__all__ = ["family"]

MAX_DEPTH = 12  # of what is drawn; deeper ones stand there, too


def family(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the nodes, each parent before its children, with what the tree says of them.

    `level` is how many stand above it, and `depth` the same, as far as a page can draw it; `children` is how many of
    its children live, `below` has the ids of all that descend from it, itself first. A circle, which no pool makes, is
    left out.
    """
    by_id = {str(node["id"]): node for node in nodes}
    children: dict[str, list[str]] = {}
    roots: list[str] = []
    for id, node in by_id.items():
        parent = node.get("parent")
        if parent is not None and str(parent) in by_id:
            children.setdefault(str(parent), []).append(id)
        else:
            roots.append(id)
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    stack = [(id, 0) for id in reversed(roots)]
    while stack:
        id, depth = stack.pop()
        if id in seen:
            continue
        seen.add(id)
        below = children.get(id, [])
        rows.append(by_id[id] | {"depth": min(depth, MAX_DEPTH), "level": depth, "children": len(below), "below": [id]})
        stack += [(child, depth + 1) for child in reversed(below)]
    _gather(rows)
    return rows


def _gather(rows: list[dict[str, Any]]) -> None:
    """Give each row the ids of all that stand below it: those that follow with a greater level."""
    open_rows: list[dict[str, Any]] = []
    for row in rows:
        while open_rows and open_rows[-1]["level"] >= row["level"]:
            open_rows.pop()
        for above in open_rows:
            above["below"].append(str(row["id"]))
        open_rows.append(row)
