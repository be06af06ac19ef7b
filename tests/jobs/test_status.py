"""The one table of a job's transitions is what jobs do: no other step is taken, and each row can be reached."""

import asyncio
import random
from collections import Counter

import pytest
from helpers import BOTH, fail, nap, virtual

from aiopool import JobStatus, Pool, Retry
from aiopool._jobs.job import Job
from aiopool._jobs.status import FINAL, TRANSITIONS, mermaid
from aiopool.testing import settle

ROWS = {(before, event, after) for before, events in TRANSITIONS.items() for event, after in events.items()}


class Recorder:
    """Stands in the place of the slot `Job._status`, and notes each assignment."""

    def __init__(self, slot):
        self.slot = slot
        self.steps = Counter()

    def __get__(self, job, owner=None):
        return self if job is None else self.slot.__get__(job, owner)

    def __set__(self, job, after):
        try:
            before = self.slot.__get__(job)
        except AttributeError:
            before = None
        if after is JobStatus.SCHEDULED and before is JobStatus.QUEUED:
            # A job is made queued; one with a delay is scheduled before anybody has seen it.
            assert job._attempt == 0
            self.steps[None, JobStatus.QUEUED] -= 1
            before = None
        self.steps[before, after] += 1
        self.slot.__set__(job, after)


@pytest.fixture
def recorder(monkeypatch):
    made = Recorder(vars(Job)["_status"])
    monkeypatch.setattr(Job, "_status", made)
    return made


def test_final_is_final():
    """Nothing leaves a final status, and each status that is not final can be left."""
    assert TRANSITIONS.keys() == {None, *JobStatus} - FINAL
    assert {after for _, _, after in ROWS} == set(JobStatus)
    assert len({(before, after) for before, _, after in ROWS}) == len(ROWS), "two events would make the same step"


def test_the_diagram_is_drawn_from_the_table():
    """Each row of the table is an arrow of the diagram."""
    text = mermaid()
    for before, event, after in ROWS:
        assert f"{before or '[*]'} --> {after}: {event}" in text


@pytest.mark.parametrize("isolation", BOTH)
def test_every_row_is_reached(recorder, isolation):
    """A short life for each row of the table; and not one step that is not in it."""

    @virtual
    async def main():
        async with Pool(1, isolation=isolation, on_error=lambda job, error: None) as pool:
            await pool.submit(nap, 1)  # submit, start, return
            await pool.submit(fail)  # raise
            await pool.with_options(retry=Retry(attempts=2, delay=1)).submit(fail)  # retry, come due
            await pool.with_options(timeout=0.5).submit(nap, 1)  # running, expire
            await pool.with_options(queue_timeout=0.5).submit(nap, 1)  # queued, expire
            await pool.with_options(delay=9, total_timeout=0.5).submit(nap, 1)  # delay; scheduled, expire
            (await pool.with_options(delay=9).submit(nap, 1)).cancel()  # scheduled, cancel
            (await pool.submit(nap, 1)).cancel()  # queued, cancel
            await pool.join()
            job = await pool.submit(nap, 1)
            await settle()
            job.cancel()  # running, cancel
            await pool.join()

    main()
    assert +recorder.steps == Counter({step: recorder.steps[step] for step in {(b, a) for b, _, a in ROWS}})


@pytest.mark.parametrize("isolation", BOTH)
def test_a_wild_run_takes_no_other_step(recorder, isolation):
    """Five hundred jobs with limits, retries, delays, cancels, a full queue, resizes and a hard end."""

    @virtual
    async def main():
        chance = random.Random(31)
        async with Pool(3, 5, isolation=isolation, overflow="drop_oldest", on_error=lambda job, error: None) as pool:
            for _ in range(500):
                view = pool.with_options(
                    timeout=chance.choice([None, 0, 0.25]),
                    queue_timeout=chance.choice([None, None, 0.25]),
                    total_timeout=chance.choice([None, None, 0.5]),
                    delay=chance.choice([None, 0, 0.25]),
                    retry=chance.choice([None, Retry(attempts=3, delay=0.25, jitter=0)]),
                    priority=chance.choice([1, 5]),
                )
                job = await view.submit(*chance.choice([(fail,), (nap, 0), (nap, 0.25), (nap, 1)]))
                if chance.random() < 0.3:
                    asyncio.get_running_loop().call_later(chance.choice([0, 0.25]), job.cancel)
                if chance.random() < 0.1:
                    pool.resize(chance.randrange(5))
                if chance.random() < 0.4:
                    await asyncio.sleep(chance.choice([0, 0.25]))
            pool.resize(3)
            await pool.shutdown(timeout=0.25, grace=0)

    main()
    allowed = {(before, after) for before, _, after in ROWS}
    assert set(+recorder.steps) <= allowed
    assert sum(recorder.steps.values()) > 1000
