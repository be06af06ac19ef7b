"""`Slots` counts: each slot that is taken, lent, wanted back, granted or given to another job is counted once."""

import asyncio

import pytest
from helpers import virtual

from aiopool._engine.slots import Slots


class Woken:
    """Counts how often workers are woken."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1


@pytest.fixture
def woken():
    return Woken()


def numbers(slots):
    return slots.active, slots.lent, slots.replaced, slots.uncontended


def test_a_worker_takes_a_slot_and_gives_it_back(woken):
    """A slot that is released is free again, and nobody is woken for it: the worker looks itself."""
    slots = Slots(2, woken)
    slots.acquire()
    slots.acquire()
    assert numbers(slots) == (2, 0, 0, True)
    slots.release()
    assert (numbers(slots), slots.limit, woken.times) == ((1, 0, 0, True), 2, 0)


def test_a_smaller_size_lets_what_runs_go_on(woken):
    """While more jobs run than the size allows, a worker asks before it takes the next; then it need not again."""
    slots = Slots(3, woken)
    for _ in range(3):
        slots.acquire()
    slots.set_size(2, paused=False)
    assert numbers(slots) == (3, 0, 0, False)
    slots.release()
    assert numbers(slots) == (2, 0, 0, True)


def test_a_paused_pool_has_a_size_and_no_limit(woken):
    """In a paused pool no job may start; its size stays what it is."""
    slots = Slots(3, woken)
    slots.acquire()
    slots.set_size(3, paused=True)
    assert (slots.size, slots.limit, slots.paused, slots.uncontended) == (3, 0, True, False)
    slots.set_size(3, paused=False)
    assert (slots.limit, slots.uncontended) == (3, True)


def test_a_hold_is_asked_for(woken):
    """While a chore holds the starts, a worker has to ask."""
    slots = Slots(1, woken)
    slots.hold(True)
    assert (slots.held, slots.uncontended) == (True, False)
    slots.hold(False)
    assert (slots.held, slots.uncontended) == (False, True)


def test_a_leaked_job_gives_its_slot_away_and_takes_it_back(woken):
    """Another job may have it until the leaked one ends; workers are woken both times."""
    slots = Slots(1, woken)
    slots.acquire()
    slots.replace(1)
    assert numbers(slots) == (0, 0, 1, True)
    slots.acquire()
    slots.replace(-1)  # the leaked job has ended, and its worker has not released its slot yet
    assert (numbers(slots), woken.times) == ((2, 0, 0, False), 2)
    slots.release()
    assert numbers(slots) == (1, 0, 0, True)


@virtual
async def test_a_free_slot_is_taken_back_at_once():
    """A job that has lent its slot has it again at once where one is free."""
    woken, future = Woken(), asyncio.get_running_loop().create_future()
    slots = Slots(1, woken)
    slots.acquire()
    slots.lend()
    assert (numbers(slots), woken.times) == ((0, 1, 0, True), 1)
    assert slots.reclaim(future)
    assert (future.result(), slots.active, slots.lent) == (True, 1, 1)
    slots.end_loan(granted=True)
    assert numbers(slots) == (1, 0, 0, True)


@virtual
async def test_a_loan_ends_without_a_grant():
    """A job that goes on without waiting for a slot counts all the same, beyond the size."""
    slots = Slots(1, Woken())
    slots.acquire()
    slots.lend()
    slots.acquire()  # another job has it
    slots.end_loan()
    assert numbers(slots) == (2, 0, 0, False)


@virtual
async def test_slots_are_given_back_in_the_order_in_which_they_were_asked_for():
    """Who asked first is granted first; who has given up meanwhile is passed over, and counts nothing."""
    futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
    slots = Slots(1, Woken())
    slots.acquire()
    assert [slots.reclaim(future) for future in futures] == [False] * 3
    assert numbers(slots) == (1, 0, 0, False)
    futures[0].cancel()
    assert slots.grant_next()
    assert [future.done() for future in futures] == [True, True, False]
    assert (futures[1].result(), numbers(slots)) == (True, (2, 0, 0, False))
    slots.release()
    assert not slots.uncontended, "the third still waits"
    slots.release()
    assert slots.grant_next()
    assert (futures[2].result(), numbers(slots)) == (True, (1, 0, 0, True))
    assert not slots.grant_next()
    assert numbers(slots) == (1, 0, 0, True)


@virtual
async def test_whoever_waits_for_a_slot_is_not_overtaken():
    """While one waits, a free slot is not for the next who asks."""
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    slots = Slots(1, Woken())
    slots.acquire()
    assert not slots.reclaim(first)
    slots.release()
    assert not slots.reclaim(second)
    assert not second.done()
    assert slots.grant_next()
    assert first.result() is True


@virtual
async def test_a_withdrawn_wish_is_forgotten():
    """It was there once, and counts no more."""
    future = asyncio.get_running_loop().create_future()
    slots = Slots(1, Woken())
    slots.acquire()
    slots.reclaim(future)
    assert slots.withdraw(future)
    assert numbers(slots) == (1, 0, 0, True)
    assert not slots.withdraw(future)
    assert not slots.grant_next()
    assert not future.done()


@virtual
async def test_a_grant_that_nobody_needs_is_free_for_another():
    """The slot is free again, and workers are woken for it."""
    woken, future = Woken(), asyncio.get_running_loop().create_future()
    slots = Slots(1, woken)
    slots.acquire()
    slots.reclaim(future)
    slots.release()
    assert slots.grant_next()
    assert (slots.active, woken.times) == (1, 0)
    slots.return_grant()
    assert (slots.active, woken.times) == (0, 1)
