"""Writes through a connection of the caller's, in the caller's transaction.

It knows: the connections of asyncpg, psycopg and SQLAlchemy. It imports none of them: who has an object of a library
has imported it.
"""

from __future__ import annotations

import re
import sys
from typing import Any

__all__ = ["fetch_within"]


def _is(thing: object, module: str, *names: str) -> bool:
    loaded = sys.modules.get(module)
    kinds = tuple(kind for name in names if isinstance(kind := getattr(loaded, name, None), type))
    return isinstance(thing, kinds)


async def fetch_within(within: object, sql: str, args: list[Any]) -> list[Any]:
    """Run a statement with arguments `$1`, `$2`, … through a connection, and return its rows.

    Raises:
        TypeError: it is no connection that we know.
    """
    connection: Any = within
    if _is(within, "sqlalchemy.ext.asyncio", "AsyncSession"):
        connection = await connection.connection()
    if _is(connection, "sqlalchemy.ext.asyncio", "AsyncConnection"):
        # A statement through SQLAlchemy begins the transaction, if there is none yet.
        await connection.exec_driver_sql("SELECT 1")
        raw = await connection.get_raw_connection()
        connection = raw.driver_connection
    if _is(connection, "asyncpg", "Connection") or _is(connection, "asyncpg.pool", "PoolConnectionProxy"):
        return list(await connection.fetch(sql, *args))
    if _is(connection, "psycopg", "AsyncConnection"):
        rows_of = sys.modules["psycopg.rows"]
        async with connection.cursor(row_factory=rows_of.tuple_row) as cursor:
            numbered: list[Any] = []

            def place(match: re.Match[str]) -> str:
                numbered.append(args[int(match[1]) - 1])
                return "%s"

            await cursor.execute(re.sub(r"\$(\d+)", place, sql), numbered)
            return list(await cursor.fetchall())
    raise TypeError(
        f"within={within!r}: a store in PostgreSQL writes through an asyncpg.Connection, a psycopg.AsyncConnection, or "
        "an AsyncConnection or AsyncSession of SQLAlchemy on one of these two; give one of them"
    )
