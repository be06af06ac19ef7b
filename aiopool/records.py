"""Records of jobs that have ended, and how many of them a pool keeps.

    async with Pool(keep_finished=1000) as pool:
        ...
        print(pool.find("invoice-17").status)

`pool.find(id)` finds a job that lives or has ended; `pool.finished_jobs()` lists the last ends.
"""

from __future__ import annotations

from aiopool._jobs.keep_finished import KeepFinished
from aiopool._runtime.public import publish

__all__ = ["KeepFinished"]

publish(globals())
