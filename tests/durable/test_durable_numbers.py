"""Metrics, health and events of a pool with a store."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest

import aiopool
from aiopool import Handlers
from aiopool.events import JobEvent
from aiopool.health import HealthMonitor
from aiopool.instrumentation.prometheus import PoolCollector
from aiopool.metrics import observe
from aiopool.stores import StoredStatus
from aiopool.testing import wait_until

handlers = Handlers()


@handlers.register("quick")
async def quick() -> None: ...


@handlers.register("broken", retry=aiopool.Retry(attempts=2, delay=0, jitter=0))
async def broken() -> None:
    raise ValueError("no")


@handlers.register("slow")
async def slow() -> None:
    await asyncio.Event().wait()


async def test_the_store_is_in_the_metrics(new_pool):
    """Commits, rows, claims and leases of the pool, and the jobs of the fleet by status."""
    async with new_pool(handlers) as pool:
        metrics = observe(pool)
        for _ in range(5):
            await pool.run(quick)
        await wait_until(lambda: metrics.snapshot().store.fleet is not None)
        await wait_until(lambda: metrics.snapshot().store.rows == 10)  # an end is heard of before its writer knows
        found = metrics.snapshot().store
        assert (found.rows, found.leases, found.lost, found.outage) == (10, 0, 0, 0.0)
        assert 2 <= found.commits <= 10
        registry = CollectorRegistry()
        registry.register(PoolCollector(pool))
        text = generate_latest(registry).decode()
        assert 'aiopool_store_rows_total{pool="pool"} 10.0' in text
        assert 'aiopool_store_jobs{pool="pool",status=' in text
        assert 'aiopool_store_workers{pool="pool"} 1.0' in text


async def test_a_pool_without_a_store_has_no_such_series():
    """And its snapshot says so."""
    async with aiopool.Pool() as pool:
        assert observe(pool).snapshot().store is None
        registry = CollectorRegistry()
        registry.register(PoolCollector(pool))
        assert "aiopool_store_rows_total{" not in generate_latest(registry).decode()


async def test_events_of_a_job_of_the_store(new_pool):
    """Each attempt is a life of its own in the pool that runs it: submitted, started, and its end, or given back."""
    heard = []
    async with new_pool(handlers, role="producer") as producer:
        async with new_pool(handlers, role="worker") as worker:
            worker.listen(heard.append, JobEvent)
            with pytest.raises(ValueError, match="no"):
                await producer.run(broken)
            await wait_until(lambda: len(heard) == 6)
            assert [(type(event).__name__, event.attempt) for event in heard] == [
                ("JobSubmitted", 0),
                ("JobStarted", 1),
                ("JobRetrying", 1),
                ("JobSubmitted", 1),
                ("JobStarted", 2),
                ("JobFailed", 2),
            ]
            heard.clear()
            job = await producer.submit(slow)
            assert {event.job_id for event in heard} <= {job.id}
            await wait_until(lambda: len(heard) == 2)
            await worker.shutdown(timeout=0)
            assert type(heard[-1]).__name__ == "JobGivenBack"
            assert heard[-1].reason == "the pool was shut down"
            numbers = worker.statistics()
            assert (numbers.given_back, numbers.cancelled, numbers.failed) == (2, 0, 1)
        assert (await producer.fleet.find(job.id)).status is StoredStatus.QUEUED


async def test_an_outage_of_the_store_is_in_the_health(new_pool, monkeypatch):
    """Degraded after some seconds, failing later; healthy again when it answers."""
    async with new_pool(handlers) as pool:
        monitor = HealthMonitor(pool)
        assert monitor.report().status == "healthy"
        claimer = pool._state.durability.claimer
        claimer.failing_since = pool._state.engine.now() - 5
        # Whoever asks in between would clear it: no loop turns here.
        (finding,) = [row for row in monitor.report().findings if row.check == "store"]
        assert (finding.status, finding.text) == ("degraded", "the store has not answered for 5 s")
        claimer.failing_since = pool._state.engine.now() - 60
        assert monitor.report().status == "failing"
        await pool.run(quick)
        await wait_until(lambda: monitor.report().status == "healthy")
