"""`aiopool worker`: run the jobs of a store until the process is told to end.

What is running then is given back to the queue, unless it may take its time to finish.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from aiopool import Handlers, Pool, ShutdownReport, run
from aiopool.cli._board import printable
from aiopool.cli._store import complain, hidden, named_store
from aiopool.cli._target import find_object
from aiopool.cli._words import FAILED, FINE, MISUSED, Refusal
from aiopool.errors import StoreError

__all__ = ["run_worker"]

LEVELS: Final = ("debug", "info", "warning", "error", "critical")


def run_worker(target: str, url: str, queue: str, *, size: int, shutdown_timeout: float, log_level: str) -> int:
    """Run jobs of a queue, and return the exit code."""
    ready = False
    report: ShutdownReport | None = None

    async def main(pool: Pool) -> None:
        nonlocal ready, report
        ready = True
        print(
            printable(f"ready: {size} jobs at once of queue {queue!r} in {where}, process {os.getpid()}"),
            file=sys.stderr,
            flush=True,
        )
        await pool.wait_closed()
        report = await pool.shutdown()

    try:
        if log_level.lower() not in LEVELS:
            raise Refusal(f"--log-level {log_level}: write {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
        where = named_store(url, made=True).url
        handlers = find_object(target, Handlers, "handlers")
        logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        pool = Pool(size, store=url, handlers=handlers, role="worker", name=queue)
    except (Refusal, ValueError, TypeError, RuntimeError) as refusal:
        complain(hidden(str(refusal), url))
        return MISUSED
    try:
        run(main, pool=pool, timeout=shutdown_timeout)
    except StoreError as error:
        complain(hidden(str(error), url))
        return FAILED if ready else MISUSED
    except SystemExit:
        # Jobs that were cut short have failed nowhere else; here they are in the queue again.
        if report is None or report.leaked or report.callback_errors:
            raise
    return FINE
