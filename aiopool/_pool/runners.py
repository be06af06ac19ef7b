"""The runners of a pool: what runs its plain functions outside of the event loop, each kind made when it is wanted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from aiopool._engine.outside import deliver
from aiopool._runtime.runners import Runner, Runners
from aiopool._runtime.threads import ThreadRunner

__all__ = ["runners_of"]


def runners_of(
    name: str,
    loop: asyncio.AbstractEventLoop,
    *,
    threads: Callable[[], int],
    processes: int | None,
    start_method: str,
    dask: object | None,
) -> Runners:
    """Return the runners of a pool.

    Args:
        name: of the pool.
        loop: that in which it is open.
        threads: says how many threads there may be, when the first is wanted.
        processes: how many processes or interpreters there may be; None: as many as processors.
        start_method: how processes are made.
        dask: the cluster of that; None: there is none.
    """

    def make_threads() -> Runner:
        return ThreadRunner(loop=loop, max_threads=threads(), name=f"{name}-thread", on_done=deliver)

    def make_processes() -> Runner:
        from aiopool._jobs.remote import RemoteJob
        from aiopool._runtime.processes import ProcessRunner, usable_processors

        return ProcessRunner(
            loop=loop,
            max_processes=processes or usable_processors(),
            start_method=start_method,
            name=f"{name}-process",
            on_done=deliver,
            describe=lambda token: RemoteJob.of(token.job),
            on_note=lambda token, note: token.job.report_progress(*note),
        )

    def make_interpreters() -> Runner:
        from aiopool._runtime.interpreters import InterpreterRunner

        return InterpreterRunner(
            loop=loop,
            max_interpreters=processes or os.cpu_count() or 1,
            name=f"{name}-interpreter",
            on_done=deliver,
        )

    def make_dask() -> Runner:
        from aiopool._jobs.remote import RemoteJob
        from aiopool._runtime.dask import DaskRunner

        return DaskRunner(
            loop=loop,
            cluster=dask,
            name=name,
            on_done=deliver,
            describe=lambda token: RemoteJob.of(token.job),
            on_note=lambda token, note: token.job.report_progress(*note),
        )

    return Runners(
        {"thread": make_threads, "process": make_processes, "interpreter": make_interpreters, "dask": make_dask}
    )
