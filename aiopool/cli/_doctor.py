"""`aiopool doctor`: open a store, and say what it is, what can be promised with it, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aiopool.cli._board import printable
from aiopool.cli._job_text import to_line
from aiopool.cli._promises import Promise, promises
from aiopool.cli._store import hidden, on_store
from aiopool.cli._streams import write_output
from aiopool.cli._table import name_value_lines
from aiopool.cli._words import FAILED, FINE
from aiopool.stores._protocol import Store

__all__ = ["examine_store"]


def examine_store(url: str, queue: str, *, as_json: bool) -> int:
    """Print what there is to know of a store, and return the exit code: 1, if it cannot keep what it promises."""

    async def work(store: Store) -> int:
        facts = {name: _clean(value, url) for name, value in (await store.facts()).items()}
        warnings, notes = (list(map(str, facts.pop(name, ()))) for name in ("warnings", "notes"))
        engine = url.partition(":")[0]
        kept = promises(engine, store.durability, store.lease, facts)
        if as_json:
            text = to_line(
                {
                    "store": store.url,
                    "queue": queue,
                    "durability": store.durability,
                    **{name: value if _is_json(value) else str(value) for name, value in facts.items()},
                    "promises": [promise._asdict() for promise in kept],
                    "warnings": warnings,
                    "notes": notes,
                }
            )
        else:
            text = "".join(_page(store, queue, facts, kept, warnings, notes))
        return write_output(text) or (FAILED if warnings else FINE)

    return on_store(url, queue, work, made=True, private=True)


def _page(
    store: Store, queue: str, facts: dict[str, Any], kept: list[Promise], warnings: list[str], notes: list[str]
) -> Iterator[str]:
    rows = [("store", store.url), ("queue", queue), ("durability", store.durability)]
    rows += [(name.replace("_", " "), _word(value)) for name, value in facts.items() if name != "durability"]
    rows += [("largest payload", f"{store.max_payload:,} bytes")]
    yield from name_value_lines(rows)
    yield "\na job that was accepted\n"
    for promise in kept:
        yield f"  {promise.kept:<3}  {promise.text}{': ' if promise.note else ''}{promise.note}\n"
    for title, texts in (("warnings", warnings), ("notes", notes)):
        if texts:
            yield f"\n{title}\n"
            yield from (f"  {printable(text)}\n" for text in texts)


def _clean(value: Any, url: str) -> Any:
    if isinstance(value, str):
        return hidden(value, url)
    return [_clean(one, url) for one in value] if isinstance(value, (list, tuple)) else value


def _word(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
