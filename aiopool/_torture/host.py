"""A host: one process with a pool that runs the jobs of the store, until it is told to stop, or is killed.

It is started by the tormentor, with one argument: a JSON object, see `HostOptions`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HostOptions", "main"]


@dataclass(frozen=True)
class HostOptions:
    """What a host is told.

    Attributes:
        store: the URL.
        queue: the name of the pool.
        directory: of the journals.
        block: seconds for which its jobs "block" hold up the loop.
        late: it knows the name "late".
        clock: seconds by which its clock on the wall is off.
        full: (after, seconds): so long after its start, and for so long, no file of it may grow.
    """

    store: str
    queue: str
    directory: str
    block: float = 1.0
    late: bool = False
    clock: float = 0.0
    full: tuple[float, float] | None = None
    size: int = 6


def main(text: str) -> None:
    """Run."""
    import json

    options = HostOptions(**json.loads(text))
    if options.clock:
        # Before anything has taken hold of it: whoever asks this process for the time gets another one.
        real = time.time
        time.time = lambda: real() + options.clock

    import asyncio
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(name)s %(message)s")
    asyncio.run(_run(options))


async def _run(options: HostOptions) -> None:
    import asyncio
    import signal

    from aiopool import Pool
    from aiopool._torture.journal import Journal
    from aiopool._torture.work import Work, limits

    journal = Journal(Path(options.directory), "host")
    journal.note("host", sure=True)
    work = Work(journal, options.block, late=options.late, nobody=False)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    pool = Pool(
        size=options.size,
        name=options.queue,
        store=options.store,
        handlers=work.handlers,
        role="both",
        shutdown_timeout=1.0,
        **limits(),
    )
    work.pool = pool
    async with pool:
        journal.note("open")
        full = None
        if options.full is not None:
            full = asyncio.create_task(_fill_disk(journal, *options.full))
        await stop.wait()
        journal.note("stopping")
        if full is not None:
            full.cancel()
    journal.note("closed")


async def _fill_disk(journal: object, after: float, seconds: float) -> None:
    """Let no file of this process grow for a while: to write beyond the limit fails as on a full disk."""
    import asyncio
    import resource

    from aiopool._torture.journal import Journal

    assert isinstance(journal, Journal)
    await asyncio.sleep(after)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal.note("full")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size() + 65536, hard))
        await asyncio.sleep(seconds)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        journal.note("free")


if __name__ == "__main__":
    main(sys.argv[1])
