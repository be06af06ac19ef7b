"""Any order of anything, with two or three incarnations, against a model: every answer of a store is the model's."""

import math

import pytest
from fleet import Fleet
from walk import Walk

from aiopool.stores._rows import LimitRow

SEEDS = 40
STEPS = 120


@pytest.mark.parametrize(
    "tens",
    [
        0,
        pytest.param(1, marks=pytest.mark.long),
        *(pytest.param(tens, marks=pytest.mark.soak) for tens in range(2, SEEDS // 10)),
    ],
)
async def test_a_walk_over_all_verbs(kind, tmp_path, tens):
    """Whatever is called in whatever order, each answer, each row and each number is what the model says."""
    for seed in range(tens * 10, tens * 10 + 10):
        if kind.slow and seed % 10:
            continue
        folder = tmp_path / str(seed)
        folder.mkdir()
        async with kind.data(folder) as maker:
            fleet = Fleet(maker)
            try:
                await Walk(fleet, kind, seed).go(STEPS, look_every=10 if kind.slow else 1)
            finally:
                await fleet.close()


@pytest.mark.long
@pytest.mark.parametrize(("per_second", "burst"), [(0.01, 1), (0.01, 4), (0.025, 2)])
async def test_a_rate_over_a_long_time(fleet, shift_clock, per_second, burst):
    """In no window start more than a rate allows, all are spaced by its pace, and none waits for longer than that."""
    peers = [await fleet.join(), await fleet.join()]
    await peers[0].store.set_limits([LimitRow("rule", None, per_second, burst)])
    await peers[0].submit(*[f"job-{number}" for number in range(40)], lanes=("rule",))
    now, starts, step = 0.0, [], 0
    while len(starts) < 40:
        step += 1
        assert step < 1000
        peer = peers[step % 2]
        starts += [now] * len(await peer.take(3 if step % 3 else 10))
        seconds = (7.0, 31.0, 55.0, 190.0)[step * step % 4 if step % 11 else 3]
        await shift_clock(seconds)
        now += seconds
    size = max(math.ceil(per_second), burst)
    slack = 30.0  # the clock may go on by itself, too
    for first, last in zip(starts, starts[size:], strict=False):
        assert last - first >= size / per_second - slack
    assert starts[-1] <= 40 / per_second + 40 * 190
