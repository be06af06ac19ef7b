"""Looking for jobs: those that have ended, and how many of them a pool keeps; and those that live, one by one.

    async with Pool(keep_finished=1000) as pool:
        ...
        print(pool.find("invoice-17").status)

`pool.find(id)` finds a job that lives or has ended; `pool.finished_jobs()` lists the last ends; `pool.scan()` goes
through all that live.
"""

from __future__ import annotations

from aiopool._jobs.keep_finished import KeepFinished
from aiopool._pool.job_scan import JobScan
from aiopool._runtime.public import publish

__all__ = ["JobScan", "KeepFinished"]

publish(globals())
