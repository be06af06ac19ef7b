"""`aiopool settings`: the values that a pool would get here and now, and where each of them comes from."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from aiopool.cli._streams import write_output
from aiopool.cli._words import MISUSED
from aiopool.settings import PoolSettings, SettingsError

__all__ = ["show_settings"]


def show_settings(file: str | None, pool: str | None, *, as_json: bool) -> int:
    """Print the effective settings, and return the exit code."""
    if os.getcwd() not in sys.path:  # a file may name code, as `aiopool map` does
        sys.path.insert(0, os.getcwd())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = PoolSettings._shown(file, pool)
            text = "".join(_json(found) if as_json else _table(found))
        except SettingsError as error:
            print(f"aiopool: {error}", file=sys.stderr)
            return MISUSED
        finally:
            for warning in caught:
                print(f"aiopool: warning: {warning.message}", file=sys.stderr)
    return write_output(text)


def _rows(settings: PoolSettings) -> Iterator[tuple[str, Any, str]]:
    """The name, the value and the source of each setting."""
    data = settings.to_dict()
    for name, origin in settings.origins.items():
        value: Any = data
        for part in name.split("."):
            value = value[part]
        yield name, value, origin


def _json(found: dict[str | None, PoolSettings]) -> Iterator[str]:
    for pool, settings in found.items():
        values = {name: {"value": value, "source": origin} for name, value, origin in _rows(settings)}
        yield json.dumps({"pool": pool, "settings": values}, ensure_ascii=False) + "\n"


def _table(found: dict[str | None, PoolSettings]) -> Iterator[str]:
    tables = {pool: [(name, _word(value), origin) for name, value, origin in _rows(one)] for pool, one in found.items()}
    rows = [row for table in tables.values() for row in table]
    names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    for number, (pool, table) in enumerate(tables.items()):
        if pool is not None or len(tables) > 1:
            yield ("\n" if number else "") + (f"[{pool}]\n" if pool is not None else "[every pool]\n")
        for name, value, origin in table:
            yield f"{name:{names}}  {value:{values}}  {origin}\n"


def _word(value: Any) -> str:
    """Return a value as it may be written in a variable."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, list) else str(value)
