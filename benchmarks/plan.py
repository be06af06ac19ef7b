"""Which cells are run: the whole matrix, the part that the targets need, or a smoke."""

from __future__ import annotations

from benchmarks import requests
from benchmarks.callers import AN_EXECUTOR, FROM_THREADS
from benchmarks.contenders import EXECUTOR, GATHER, HAND, SCOPE, TASK
from benchmarks.measure import Cell
from benchmarks.threads import ONE_BY_ONE

COUNTS = {"no-op": 100_000, "sleep(0)": 20_000, "sleep(1 ms)": 10_000}
BLOCKING = "block 100 µs"
THREADS = 16


def all_cells() -> list[Cell]:
    """Return the whole matrix: about three minutes a round on two slow cores."""
    at_a_million = (TASK, SCOPE, HAND, GATHER, "aiojobs", "asyncio-pool")
    return [
        *request_cells(),
        *(
            Cell("burst", workload, concurrency, count)
            for concurrency in (100, 10, 1_000)
            for workload, count in COUNTS.items()
        ),
        *(Cell("steady", workload, 100, count) for workload, count in COUNTS.items()),
        Cell("threads", BLOCKING, THREADS, 5_000),
        Cell(ONE_BY_ONE, BLOCKING, 1, 2_000),
        Cell(FROM_THREADS, "no-op", 100, 20_000),
        Cell(FROM_THREADS, "sleep(1 ms)", 100, 10_000),
        Cell(AN_EXECUTOR, BLOCKING, THREADS, 5_000),
        Cell("burst", "no-op", 100, 1_000),
        Cell("burst", "no-op", 100, 10_000),
        Cell("burst", "no-op", 100, 1_000_000, at_a_million),
    ]


def request_cells() -> list[Cell]:
    """Return what most jobs do: requests."""
    return [Cell(requests.SUITE, name, 100, client.count) for name, client in requests.CLIENTS.items()]


def target_cells() -> list[Cell]:
    """Return the cells about which a promise is made, with all contenders: the best of them stands in a promise."""
    return [
        *request_cells(),
        *(Cell("burst", workload, 100, count) for workload, count in COUNTS.items()),
        *(Cell("steady", workload, 100, count) for workload, count in COUNTS.items()),
        Cell("threads", BLOCKING, THREADS, 5_000, (TASK, SCOPE, EXECUTOR)),
        Cell(ONE_BY_ONE, BLOCKING, 1, 2_000),
    ]


def quick_cells() -> list[Cell]:
    """Return one tiny cell of each suite, with every contender."""
    return [
        *(Cell(requests.SUITE, client, 10, 50, (TASK, SCOPE, GATHER)) for client in requests.CLIENTS),
        Cell("burst", "no-op", 10, 200),
        Cell("burst", "sleep(1 ms)", 10, 50, (TASK, SCOPE, HAND, GATHER)),
        Cell("steady", "no-op", 10, 200),
        Cell("threads", BLOCKING, 4, 50),
        Cell(ONE_BY_ONE, BLOCKING, 1, 50),
        Cell(FROM_THREADS, "no-op", 10, 50),
        Cell(AN_EXECUTOR, BLOCKING, 4, 50),
    ]
