"""The tables of the SQLite store, how a connection is opened, and what an error of SQLite means for the caller.

What it knows: columns, indexes, pragmas, error codes. What it refuses to know: what a claim or a settlement is.

Rule 1: live jobs are rows of `jobs`, ended ones of `history`; a job is in exactly one of them, and moves in the
transaction that ends it. So the hot table stays small, however long the history is.

Rule 2: each index has one reader. `jobs_line` is the line in which jobs wait (and counts them); the others are partial,
so that a plain job pays for none of them.

Rule 3: `PRAGMA user_version` is the number of the last migration. Migrations only ever get added, and run under the
lock of all writers: of two processes that open an old file at once, one migrates it and the other finds it done.

Rule 4: a file is never made anew in place of one that is damaged, empty or gone while its log is still there.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from aiopool._runtime import failpoints
from aiopool.errors import StoreError, StoreUnavailableError

__all__ = ["LEAST_VERSION", "SCHEMA_VERSION", "connect", "is_fatal", "migrate", "story_of"]

LEAST_VERSION: Final = (3, 35, 0)  # RETURNING, and everything else that the statements need

_APPLICATION_ID: Final = 0x61696F70  # "aiop", for `file`
_BUSY_MS: Final = 5000
_WAL_LIMIT: Final = 64 << 20

_MIGRATIONS: Final = (
    """
    CREATE TABLE queues (
        q INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        next_position INTEGER NOT NULL DEFAULT 1,
        rescued INTEGER NOT NULL DEFAULT 0,
        paused INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE incarnations (
        id TEXT PRIMARY KEY,
        q INTEGER NOT NULL,
        host TEXT NOT NULL,
        pid INTEGER NOT NULL,
        runs_jobs INTEGER NOT NULL,
        started_at REAL NOT NULL
    );
    CREATE TABLE jobs (
        q INTEGER NOT NULL,
        id TEXT NOT NULL,
        status TEXT NOT NULL,
        priority INTEGER NOT NULL,
        position INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        crashes INTEGER NOT NULL,
        max_crashes INTEGER NOT NULL,
        fence INTEGER NOT NULL,
        created_at REAL NOT NULL,
        run_at REAL,
        queue_until REAL,
        total_until REAL,
        expires REAL, -- while it waits: the first of the two that counts
        started_at REAL,
        seconds REAL, -- that the last attempt ran
        owner TEXT,
        cancel_asked INTEGER,
        held TEXT, -- the lane that has no place for it (limited), or has called it back (queued)
        name TEXT NOT NULL,
        unique_key TEXT,
        group_name TEXT,
        keys TEXT,
        lanes TEXT,
        metadata TEXT,
        trace TEXT,
        parent TEXT,
        submitter TEXT NOT NULL,
        progress REAL,
        progress_text TEXT,
        error TEXT, -- of the last attempt
        reason TEXT,
        payload TEXT NOT NULL
    );
    CREATE UNIQUE INDEX jobs_id ON jobs (id, q);
    CREATE INDEX jobs_line ON jobs (q, status, priority, position);
    CREATE INDEX jobs_due ON jobs (q, run_at) WHERE status = 'scheduled';
    CREATE INDEX jobs_expires ON jobs (q, expires) WHERE expires IS NOT NULL;
    CREATE INDEX jobs_held ON jobs (q, held, priority, position) WHERE held IS NOT NULL;
    CREATE INDEX jobs_parked ON jobs (q, name) WHERE status = 'parked';
    CREATE INDEX jobs_cancelled ON jobs (owner) WHERE cancel_asked = 1;
    CREATE UNIQUE INDEX jobs_unique ON jobs (q, unique_key) WHERE unique_key IS NOT NULL;
    CREATE TABLE history (
        number INTEGER PRIMARY KEY, -- grows with each end
        q INTEGER NOT NULL,
        id TEXT NOT NULL,
        status TEXT NOT NULL,
        priority INTEGER NOT NULL,
        position INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        crashes INTEGER NOT NULL,
        max_crashes INTEGER NOT NULL,
        fence INTEGER NOT NULL,
        created_at REAL NOT NULL,
        run_at REAL,
        queue_until REAL,
        total_until REAL,
        started_at REAL,
        finished_at REAL NOT NULL,
        seconds REAL NOT NULL,
        name TEXT NOT NULL,
        unique_key TEXT,
        group_name TEXT,
        keys TEXT,
        lanes TEXT,
        metadata TEXT,
        trace TEXT,
        parent TEXT,
        submitter TEXT NOT NULL,
        progress REAL,
        progress_text TEXT,
        reason TEXT,
        error TEXT,
        result TEXT,
        payload TEXT NOT NULL
    );
    CREATE UNIQUE INDEX history_id ON history (id, q);
    CREATE INDEX history_ended ON history (q, status, finished_at);
    CREATE TABLE limits (
        q INTEGER NOT NULL,
        rule TEXT NOT NULL,
        max_at_once INTEGER,
        max_per_second REAL,
        burst INTEGER NOT NULL,
        PRIMARY KEY (q, rule)
    ) WITHOUT ROWID;
    CREATE TABLE lanes (
        q INTEGER NOT NULL,
        lane TEXT NOT NULL,
        running INTEGER NOT NULL,
        next_at REAL NOT NULL, -- when the next start is due by the pace
        starts TEXT, -- the last starts, as [[moment, how many], ...]
        look_at REAL, -- when its rate opens for those that are held
        forget_at REAL, -- when its last starts count no more, and nothing else is in it
        PRIMARY KEY (q, lane)
    ) WITHOUT ROWID;
    CREATE INDEX lanes_look ON lanes (q, look_at) WHERE look_at IS NOT NULL;
    CREATE INDEX lanes_forget ON lanes (q, forget_at) WHERE forget_at IS NOT NULL;
    CREATE TABLE schedules (
        q INTEGER NOT NULL,
        schedule TEXT NOT NULL,
        last REAL NOT NULL,
        PRIMARY KEY (q, schedule)
    ) WITHOUT ROWID;
    """,
)
SCHEMA_VERSION: Final = len(_MIGRATIONS)


def connect(path: Path, *, full: bool, reads_only: bool = False) -> sqlite3.Connection:
    """Return a connection, set as the store needs it; writers call this under the lock of all writers."""
    connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None, cached_statements=256)
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreError(
                f"opened {path} as a store, and SQLite cannot write ahead there (its journal mode stays {mode!r}): the "
                "file system has no shared memory; put the file on a local disk"
            )
        connection.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -16384")
        if reads_only:
            connection.execute("PRAGMA query_only = 1")
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or bring them up to date. Called under the lock of all writers."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    ours = connection.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION_ID
    if not ours and (version or connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()):
        raise StoreError(f"opened {path} as a store, but it is the database of another program; name a file of its own")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"opened {path} as a store, but a newer aiopool has written it (its tables have version {version}, this "
            f"aiopool knows {SCHEMA_VERSION}); install at least that aiopool, or name another file"
        )
    if version == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for script in _MIGRATIONS[version:]:
            for statement in script.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
        if failpoints.ACTIVE:
            failpoints.reach("migrate.inside")
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


_FSYNC: Final = frozenset({"SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC"})
_DAMAGED: Final = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_DATA"})


def _name_of(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or ""


def is_fatal(error: BaseException) -> bool:
    """Return whether nothing may be done with the connection any more, as nobody knows what is on the disk."""
    return isinstance(error, sqlite3.Error) and _name_of(error) in _FSYNC


def story_of(error: BaseException, path: Path, did: str) -> BaseException:
    """Return what to raise in place of an error of SQLite; others as they are."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, sqlite3.Error):
        return _story_of(error, path, did)
    if isinstance(error, (OverflowError, UnicodeError)):
        return StoreError(f"{did} {path}: a value fits in no column: {error}; nothing was changed")
    if isinstance(error, PermissionError):
        return StoreError(f"{did} {path}: no permission for {error.filename}; let this user write in the directory")
    if isinstance(error, OSError):
        return StoreUnavailableError(f"{did} {path}: {error}")
    return error


def _story_of(error: sqlite3.Error, path: Path, did: str) -> StoreError:
    name = _name_of(error)
    what = f"{did} {path}: {error}" + (f" ({name})" if name else "")
    primary = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if name in _FSYNC:
        return StoreError(
            f"{what}: the disk did not confirm a write, so nobody knows what it has kept, and a second try would only "
            "look fine; check the disk, then start again"
        )
    if name in _DAMAGED or primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreError(
            f"{what}: the file is damaged, or no database; it was left as it is. Keep it with its -wal, and save what "
            "can be read with `sqlite3 FILE .recover`; or put a copy back"
        )
    if primary == sqlite3.SQLITE_FULL:
        return StoreUnavailableError(f"{what}: there is no room; nothing was changed, make room on the disk")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreUnavailableError(f"{what}: another program holds the file; is a shell or a backup open on it?")
    if primary == sqlite3.SQLITE_NOMEM or name == "SQLITE_IOERR_NOMEM":
        return StoreUnavailableError(f"{what}: there is no memory for it now; nothing was changed")
    if name in ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_TRUNCATE", "SQLITE_IOERR_SHMSIZE"):
        return StoreUnavailableError(
            f"{what}: the disk took no more; nothing was changed: is it full, or a limit of the file's size reached?"
        )
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StoreError(f"{what}: it cannot be written; let this user write the file, and in its directory")
    if isinstance(error, sqlite3.OperationalError) and primary == sqlite3.SQLITE_IOERR:
        return StoreError(f"{what}: the disk has a fault; see the log of the system")
    return StoreError(what)
