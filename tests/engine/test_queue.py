"""`JobQueue`: an `asyncio.PriorityQueue` by CPython's own tests, and a line of jobs by a model."""

import asyncio
import functools
import importlib
import random
import unittest
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiopool import JobOptions
from aiopool._engine.queue import MAX_FIFOS, MIN_STALE, JobQueue
from aiopool._jobs.job import Job
from aiopool._jobs.options import DEFAULTS
from aiopool._jobs.spec import JobSpec

# -- CPython's own tests -------------------------------------------------------------------------------------------

# Not ours to pass, each with its reason.
LEFT_OUT = {
    "test_repr": "asyncio.Queue shows its private `_queue`, and its own class name",
    "test_str": "as test_repr",
    "test_order": "LifoQueueTests: another order",
}
CLASSES = ("QueueBasicTests", "QueueGetTests", "QueuePutTests", "PriorityQueueTests")
MIXINS = ("_QueueJoinTestMixin", "_QueueShutdownTestMixin")


@functools.cache
def cpython():
    """CPython's module of queue tests, told to use `JobQueue` for both kinds of queues; None if it is not there."""
    try:
        module = importlib.import_module("test.test_asyncio.test_queues")
    except ImportError:
        return None

    class Patched:
        Queue = PriorityQueue = JobQueue

        def __getattr__(self, name):
            return getattr(asyncio, name)

    module.asyncio = Patched()
    for name in MIXINS:
        if hasattr(module, name):
            mixin = getattr(module, name)
            setattr(
                module,
                f"Job{name}",
                type(f"Job{name}", (mixin, unittest.IsolatedAsyncioTestCase), {"q_class": JobQueue}),
            )
    return module


def cpython_tests():
    module = cpython()
    if module is None:
        yield pytest.param(None, None, marks=pytest.mark.skip(reason="this Python has no `test` package"))
        return
    for name in (*CLASSES, *(f"Job{name}" for name in MIXINS)):
        case = getattr(module, name, None)
        for test in unittest.TestLoader().getTestCaseNames(case) if case else ():
            if test not in LEFT_OUT or name == "PriorityQueueTests":
                yield pytest.param(name, test, id=f"{name}.{test}")


@pytest.mark.parametrize(("case", "test"), list(cpython_tests()))
def test_cpython_accepts_it_as_a_priority_queue(case, test):
    """CPython's tests of `Queue` and `PriorityQueue` pass with `JobQueue` in their place."""
    result = unittest.TestResult()
    getattr(cpython(), case)(test).run(result)
    assert result.testsRun == 1
    assert result.wasSuccessful(), "\n".join(text for _, text in [*result.failures, *result.errors])


# -- any item ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-5, 5) | st.integers()))
@settings(max_examples=100)
def test_integers_come_out_sorted(items):
    """As in `asyncio.PriorityQueue`, whatever goes in comes out in order, and the count is right all the way."""
    queue = JobQueue()
    for item in items:
        queue.put_nowait(item)
    assert queue.qsize() == len(items)
    assert [queue.get_nowait() for _ in items] == sorted(items)
    assert queue.empty()
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"))))
@settings(max_examples=50)
def test_pairs_come_out_sorted(items):
    """The pairs of the classic recipe work too; each is its own priority."""
    queue = JobQueue()
    for item in items:
        queue.put_nowait(item)
    assert [queue.get_nowait() for _ in items] == sorted(items)


def test_unhashable_items_are_taken():
    """A list has no hash, so no FIFO; it gets a row, and keeps what it had."""
    queue = JobQueue()
    for item in ([3], [1], [2]):
        queue.put_nowait(item)
    assert [queue.get_nowait() for _ in range(3)] == [[1], [2], [3]]


# -- a line of jobs ------------------------------------------------------------------------------------------------


class Uncomparable:
    """Whoever compares it has lost."""

    def __lt__(self, other):
        raise AssertionError("a payload was compared")

    __gt__ = __le__ = __ge__ = __eq__ = __lt__
    __hash__ = object.__hash__


def new_job(sequence, priority=5, at=0.0):
    job = Job()
    job._spec = JobSpec(JobOptions(priority=priority).over(DEFAULTS), "job", None, offload=False, arity=(0, 0))
    job._args = (Uncomparable(),)
    job._sequence, job._submitted_at, job._extra = sequence, at, None
    return job


def drain(queue):
    jobs = []
    while (job := queue.pop()) is not None:
        jobs.append(job)
    assert queue.qsize() == 0
    return jobs


@pytest.mark.parametrize("aging", [None, 10.0])
def test_jobs_are_never_compared(aging):
    """Equal priorities with payloads that cannot be compared come out in order."""
    queue = JobQueue(aging=aging)
    jobs = [new_job(n) for n in range(100)]
    for job in jobs:
        queue.push(job)
    assert drain(queue) == jobs


def test_ten_thousand_equals_with_discards_between():
    """Equal priorities come out first come first served, whatever is cancelled between them."""
    queue, chance = JobQueue(), random.Random(7)
    jobs, gone = [new_job(n) for n in range(10_000)], set()
    for job in jobs:
        queue.push(job)
        if chance.random() < 0.6:
            victim = chance.choice(jobs[: job._sequence + 1])
            if victim not in gone:
                queue.discard(victim)
                gone.add(victim)
    assert queue.qsize() == len(jobs) - len(gone)
    assert drain(queue) == [job for job in jobs if job not in gone]


@pytest.mark.parametrize("aging", [None, 10.0])
def test_discarded_jobs_leave_no_litter(aging):
    """A discarded job leaves the count at once, and the space it took soon after."""
    queue = JobQueue(aging=aging)
    for n in range(10_000):
        job = new_job(n)
        queue.push(job)
        queue.discard(job)
        assert queue.qsize() == 0
    assert queue._rows.count + sum(map(len, queue._fifos.values())) <= MIN_STALE + 1


@pytest.mark.parametrize("order", ["front", "middle", "back", "anywhere"])
def test_whoever_takes_the_best_job_finds_few_discarded_ones_before_it(order):
    """However many leave the line, and from where: never are all of them in the way of a pop, or a look at the head."""
    queue, jobs = JobQueue(), [new_job(n) for n in range(60_000)]
    for job in jobs:
        queue.push(job)
    gone = {"front": jobs[1:25_000], "middle": jobs[20_000:45_000], "back": jobs[:34_000:-1]}.get(order, jobs[1::2])
    if order == "anywhere":
        random.Random(4).shuffle(gone)
    for number, job in enumerate(gone):
        queue.discard(job)
        assert number % 100 or queue._stale <= queue.live // 4 + MIN_STALE
    left = set(gone)
    assert queue.head(100) == [job for job in jobs if job not in left][:100]
    assert drain(queue) == [job for job in jobs if job not in left]


def test_rows_take_what_has_no_fifo():
    """With more priorities than FIFOs are worth, the order stays the same."""
    queue, chance = JobQueue(), random.Random(3)
    jobs = [new_job(n, chance.randrange(3 * MAX_FIFOS)) for n in range(5_000)]
    for job in jobs:
        queue.push(job)
    assert len(queue._fifos) == MAX_FIFOS
    assert queue.qsize() == len(jobs)
    assert drain(queue) == sorted(jobs, key=lambda job: (job.priority, job._sequence))


def test_a_job_without_a_fifo_may_be_the_best():
    """One more priority than there are FIFOs goes ahead of all the others if it is better; discarded ones stay away."""
    queue = JobQueue()
    jobs = [new_job(n, priority=n) for n in range(MAX_FIFOS)]
    for job in jobs:
        queue.push(job)
    for job in jobs[::2]:
        queue.discard(job)
    last = new_job(1_000, priority=-1)
    queue.push(last)
    assert drain(queue) == [last, *jobs[1::2]]


def test_aging_lets_a_low_priority_overtake():
    """With 10 s for a step of priority, a job that is 3 steps lower and 31 s older goes first, not at 29 s."""
    for older, first in ((31.0, 1), (29.0, 2)):
        queue = JobQueue(aging=10.0)
        queue.push(new_job(1, priority=8, at=100.0))
        queue.push(new_job(2, priority=5, at=100.0 + older))
        assert queue.pop()._sequence == first


def test_oldest_and_last():
    """What the overflow policies ask for: the first submitted, and the one at the end of the line."""
    for aging in (None, 1e9):
        queue = JobQueue(aging=aging)
        assert queue.oldest() is queue.last() is None
        jobs = [new_job(n, priority) for n, priority in enumerate([5, 3, 8, 8, 1, 5])]
        for job in jobs:
            queue.push(job)
        assert (queue.oldest()._sequence, queue.last()._sequence) == (0, 3)
        queue.discard(jobs[0])
        queue.discard(jobs[3])
        assert (queue.oldest()._sequence, queue.last()._sequence) == (1, 2)
        assert [job._sequence for job in queue.jobs()] == [4, 1, 5, 2]


class Counted(int):
    """A number that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other):
        Counted.comparisons += 1
        return int(self) < int(other)

    def __eq__(self, other):
        Counted.comparisons += 1
        return int(self) == int(other)

    __hash__ = int.__hash__


def come_back(queue, jobs):
    """Half of the jobs run, and come back behind the others, as retries do."""
    for job in jobs[: len(jobs) // 2]:
        assert queue.pop() is job
    for job in reversed(jobs[: len(jobs) // 2]):
        queue.push_in_order(job)


def change_priorities(queue, jobs):
    """Jobs get another priority, from the end of the line, and the old one again."""
    for priority in (4, 5):
        for job in reversed(jobs):
            queue.discard(job)
            job._spec = job._spec.with_priority(priority)
            queue.push_in_order(job)


def give_up_the_oldest(queue, jobs):
    """The first in line is dropped, again and again."""
    come_back(queue, jobs)
    for job in jobs[:-1]:
        assert queue.oldest() is job
        queue.discard(job)
    queue.push_in_order(jobs[0])


def give_up_the_last(queue, jobs):
    """The last in line is dropped, again and again."""
    come_back(queue, jobs)
    for job in reversed(jobs[1:]):
        assert queue.last() is job
        queue.discard(job)


@pytest.mark.parametrize("aging", [None, 10.0])
@pytest.mark.parametrize("verb", [come_back, change_priorities, give_up_the_oldest, give_up_the_last])
def test_no_verb_costs_more_because_the_line_is_long(verb, aging):
    """The comparisons for each job grow as the logarithm of the jobs at most."""
    costs = []
    for count in (1_000, 16_000):
        queue = JobQueue(aging=aging)
        jobs = [new_job(Counted(n)) for n in range(count)]
        for job in jobs:
            queue.push(job)
        Counted.comparisons = 0
        verb(queue, jobs)
        costs.append(Counted.comparisons / count)
    assert costs[1] <= 1.5 * costs[0] + 1


class LineOfJobs(RuleBasedStateMachine):
    """The queue against a sorted list, through every verb in every order."""

    AGING: float | None = None
    PRIORITIES = st.sampled_from([1, 5, 5, 5, 8])

    def __init__(self):
        super().__init__()
        self.queue = JobQueue(aging=self.AGING)
        self.model = []
        self.out = []  # popped, may come back in order: parked, or waiting for another attempt
        self.made = 0
        self.clock = 0.0

    def key(self, job):
        age = 0 if self.AGING is None else job.submitted_at / self.AGING
        return (job.priority + age, job._sequence)

    @rule(data=st.data(), wait=st.sampled_from([0.0, 0.0, 1.0, 40.0]))
    def push(self, data, wait):
        self.clock += wait
        job = new_job(self.made, data.draw(self.PRIORITIES), self.clock)
        self.made += 1
        self.queue.push(job)
        self.model.append(job)

    @rule()
    def pop(self):
        job = self.queue.pop()
        assert job is (min(self.model, key=self.key) if self.model else None)
        if job is not None:
            self.model.remove(job)
            self.out.append(job)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def discard(self, data):
        job = data.draw(st.sampled_from(self.model))
        self.queue.discard(job)
        self.model.remove(job)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def reprioritize(self, data):
        job = data.draw(st.sampled_from(self.model))
        self.queue.discard(job)
        job._spec = job._spec.with_priority(data.draw(self.PRIORITIES))
        self.queue.push_in_order(job)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def come_back(self, data):
        job = data.draw(st.sampled_from(self.out))
        self.out.remove(job)
        self.queue.push_in_order(job)
        self.model.append(job)

    @invariant()
    def same_as_the_model(self):
        line = sorted(self.model, key=self.key)
        assert list(self.queue.jobs()) == line
        assert self.queue.qsize() == len(line)
        assert self.queue.empty() == (not line)
        assert self.queue.peek() is (line[0] if line else None)
        assert list(self.queue.jobs()) == line, "a look has changed the line"
        assert self.queue.last() is (line[-1] if line else None)
        assert self.queue.oldest() is min(line, key=lambda job: job._sequence, default=None)
        assert self.queue.counts() == Counter(job.priority for job in line)

    def teardown(self):
        line = sorted(self.model, key=self.key)
        assert drain(self.queue) == line


class AgingLine(LineOfJobs):
    """The same with aging."""

    AGING = 10.0


class WideLine(LineOfJobs):
    """The same with more priorities than there are FIFOs."""

    PRIORITIES = st.integers(-3, 3)

    def __init__(self):
        super().__init__()
        for n in range(MAX_FIFOS - 3):
            job = new_job(-n - 1, priority=100 + n)
            self.queue.push(job)
            self.model.append(job)


for machine, examples in ((LineOfJobs, 40), (AgingLine, 25), (WideLine, 8)):
    machine.TestCase.settings = settings(max_examples=examples, stateful_step_count=30, deadline=None)

TestLineOfJobs = LineOfJobs.TestCase
TestAgingLine = AgingLine.TestCase
TestWideLine = WideLine.TestCase


def test_plain_items_do_not_age():
    """Of a queue that ages, too: an item that is no job is its own priority."""
    queue = JobQueue(aging=10.0)
    for item in (3, 1, 2):
        queue.put_nowait(item)
    assert [queue.get_nowait() for _ in range(3)] == [1, 2, 3]


def test_the_oldest_is_known_from_the_first_question_on():
    """Asked before or after the jobs have come, it is right; and of jobs that have left nothing stays."""
    for early in (True, False):
        queue = JobQueue(aging=10.0)
        if early:
            assert queue.oldest() is None
        jobs = [new_job(n, priority=n * 7919 % 10) for n in range(1000)]
        for job in jobs:
            queue.push(job)
        assert queue.oldest() is jobs[0]
        queue.discard(jobs[0])
        assert queue.oldest() is jobs[1]
        assert len(drain(queue)) == 999
        assert queue._ages.count == 0


def test_nothing_is_kept_of_priorities_that_are_gone():
    """Jobs of many priorities come and are given up: when the queue has passed them, it knows none of them."""
    queue = JobQueue()
    for number in range(100):
        job = new_job(number, priority=number)
        queue.push(job)
        queue.discard(job)
        assert queue.pop() is None
    assert not queue._gone
    assert len(queue._fifos) <= 1
