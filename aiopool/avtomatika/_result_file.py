"""Results on the disk until the orchestrator has them: one table of SQLite, so that a kill tears nothing.

A row is a result without its time and signature, for those are made when it is sent. The file may be shared by workers
of several ids; each reads its own rows only.

Everything here runs in a thread of the caller's choice, one call at a time.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Final, final

from aiopool.avtomatika._task import Result

__all__ = ["ResultFile"]

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS aiopool_avtomatika_results ("
    "worker_id TEXT NOT NULL, task_id TEXT NOT NULL, job_id TEXT NOT NULL, body TEXT NOT NULL, "
    "kept_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (worker_id, task_id)) WITHOUT ROWID"
)


@final
class ResultFile:
    """The results of one worker on the disk."""

    def __init__(self, path: str | Path, worker_id: str) -> None:
        self._worker_id = worker_id
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(str(path), timeout=10, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            # A result that is said to be kept survives the loss of power.
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(_TABLE)
        except sqlite3.Error as error:
            raise OSError(
                f"results_file={str(path)!r} cannot be used: {error}. Name a file in a directory that exists and "
                "can be written to, on a local disk"
            ) from error

    def add(self, result: Result) -> None:
        """Keep a result; it is on the disk when this returns."""
        body = json.dumps({"status": result.status, "data": result.data, "error": result.error})
        with self._lock:
            self._connection.execute(
                "INSERT OR REPLACE INTO aiopool_avtomatika_results (worker_id, task_id, job_id, body) "
                "VALUES (?, ?, ?, ?)",
                (self._worker_id, result.task_id, result.job_id, body),
            )

    def remove(self, task_id: str) -> None:
        """Forget a result."""
        with self._lock:
            self._connection.execute(
                "DELETE FROM aiopool_avtomatika_results WHERE worker_id = ? AND task_id = ?", (self._worker_id, task_id)
            )

    def load(self) -> list[Result]:
        """Return all results that are kept, the oldest first."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT task_id, job_id, body FROM aiopool_avtomatika_results WHERE worker_id = ? "
                "ORDER BY kept_at, task_id",
                (self._worker_id,),
            ).fetchall()
        return [Result(task_id, job_id, **json.loads(body)) for task_id, job_id, body in rows]

    def close(self) -> None:
        """Close the file."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()
