"""Fair shares between keys: in tables, and in a pool where one tenant floods the others."""

import asyncio
import random

import pytest
from helpers import echo, now, virtual

from aiopool import Limit, Pool
from aiopool._jobs.fair_shares import FairShares, check_weights
from aiopool.testing import settle

pytestmark = pytest.mark.both_isolations


def order_of(shares, submitted):
    """The order in which jobs start that were all submitted at once: (key, number)."""
    rows = [(*shares.enter(key, 5)[::-1], n, key) for n, key in enumerate(submitted)]
    started = []
    for tag, share, n, key in sorted(rows, key=lambda row: (row[0], row[2])):
        shares.start(share, tag)
        started.append((key, n))
    return started


def test_keys_take_turns():
    """One job of each key, in turn, in the order in which they came; inside a key that of submission."""
    started = order_of(FairShares({}), "aaaaabbc")
    assert "".join(key for key, _ in started) == "abcabaaa"
    assert [n for key, n in started if key == "a"] == [0, 1, 2, 3, 4]


def test_a_weight_is_a_share():
    """With weights 3, 1 and 0.5 the starts are in that proportion, at each moment."""
    started = order_of(FairShares({"a": 3, "c": 0.5}), "c" * 50 + "b" * 100 + "a" * 300)
    for n in range(9, 400, 9):
        counts = [sum(key == k for key, _ in started[:n]) for k in "abc"]
        assert counts[0] == pytest.approx(n * 3 / 4.5, abs=3)
        assert counts[2] == pytest.approx(n * 0.5 / 4.5, abs=2)


def test_one_at_a_time_is_no_way_to_jump_the_line():
    """A key that hands in its next job when the last one starts gets its share, and not all of the pool."""
    shares, started = FairShares({}), []
    line = [(*shares.enter("b", 5)[::-1], n, "b") for n in range(50)]
    line.append((*shares.enter("a", 5)[::-1], 50, "a"))
    while line:
        best = min(line, key=lambda row: (row[0], row[2]))
        line.remove(best)
        tag, share, _, key = best
        shares.start(share, tag)
        started.append(key)
        if key == "a" and len(started) < 60:
            line.append((*shares.enter("a", 5)[::-1], 100 + len(started), "a"))
    assert started[:40].count("a") in (19, 20, 21)


def test_keys_that_are_gone_are_forgotten():
    """A million keys over time leave flat memory, whether their jobs start or are cancelled."""
    shares, rng = FairShares({}), random.Random(1)
    for n in range(20_000):
        share, tag = shares.enter(n, 5)
        if rng.random() < 0.3:
            shares.leave(share)
        else:
            shares.start(share, tag)
    assert len(shares) < 50
    assert len(shares._resting) < 50
    line = [shares.enter(n, 5) for n in range(100)]  # and while there are always some in line
    for n in range(20_000):
        shares.start(*line.pop(0))
        line.append(shares.enter(100 + n, 5))
    assert len(shares) < 500


@pytest.mark.parametrize(
    ("weights", "error"),
    [(3, TypeError), ("a", TypeError), ({"a": 0}, ValueError), ({"a": -1}, ValueError), ({"a": True}, ValueError)],
)
def test_weights_that_make_no_sense_are_refused(weights, error):
    """With the line to write."""
    with pytest.raises(error, match="fair_keys"):
        Pool(fair_keys=weights)
    assert check_weights(False) is None
    with pytest.raises(ValueError, match="choose one"):
        Pool(fair_keys=True, aging=10)


@virtual
async def test_a_tenant_that_floods_delays_itself_only(isolation):
    """Ten tenants, one with 5,000 jobs: the others wait for at most a job of each tenant, and not for 1,000 s."""
    waits = {}

    async def work(tenant, submitted):
        waits.setdefault(tenant, []).append(now() - submitted)
        await asyncio.sleep(1)

    async def trial(**options):
        waits.clear()
        async with Pool(5, None, isolation=isolation, **options) as pool:
            for _ in range(5000):
                await pool.with_options(key="flood").submit(work, "flood", now())
            for _ in range(20):
                for n in range(9):
                    await pool.with_options(key=f"tenant-{n}").submit(work, n, now())
                await asyncio.sleep(10)
            await pool.cancel_all()
        return max(wait for tenant, each in waits.items() if tenant != "flood" for wait in each)

    assert await trial(fair_keys=True) <= 3
    with pytest.raises(ValueError, match="empty"):
        await trial()  # none of them has even started


@virtual
async def test_weighted_shares_in_a_pool(isolation):
    """While both have jobs in line, a tenant of weight 3 gets three starts for each of the other's."""
    order = []

    async def work(tenant):
        order.append(tenant)
        await asyncio.sleep(1)

    async with Pool(1, None, isolation=isolation, fair_keys={"gold": 3}) as pool:
        pool.pause()
        for tenant in ["other"] * 20 + ["gold"] * 20:
            await pool.with_options(key=tenant).submit(work, tenant)
        pool.resume()
    assert [order[:n].count("gold") for n in (4, 8, 12, 24)] == [3, 6, 9, 18]


@virtual
async def test_priority_goes_before_fairness_and_changes_of_it_count(isolation):
    """Shares are among jobs of equal priority; a job that gets another priority stands among its new equals."""
    order = []

    async def work(name):
        order.append(name)

    async with Pool(1, None, isolation=isolation, fair_keys=True) as pool:
        pool.pause()
        for n in range(3):
            await pool.with_options(key="a", id=f"a{n}").submit(work, f"a{n}")
            await pool.with_options(key="b", priority=1, id=f"b{n}").submit(work, f"b{n}")
            await pool.with_options(id=f"n{n}").submit(work, f"n{n}")
        assert pool.reprioritize("a2", 1)
        pool.get_job("n1").cancel()
        pool.resume()
        await pool.join()
        assert order == ["b0", "a2", "b1", "b2", "a0", "n0", "a1", "n2"]
        await settle()
        assert await pool.run(echo, 1) == 1


@virtual
async def test_fair_shares_and_limits_together(isolation):
    """Parked jobs keep their tags: when their lane goes on, they stand where they stood."""
    order = []

    async def work(key, n):
        order.append((key, n))
        await asyncio.sleep(1)

    async with Pool(2, None, isolation=isolation, fair_keys=True, key_limit=Limit(max_at_once=1)) as pool:
        for key in "aab":
            for n in range(5):
                await pool.with_options(key=key).submit(work, key, n)
    assert now() == 10
    assert sorted(order) == sorted([("a", n) for n in range(5)] * 2 + [("b", n) for n in range(5)])
