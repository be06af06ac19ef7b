"""A Hypothesis machine over the public face: any order of anything, with the invariants looked at after each step.

The quick profile runs with the suite; `pytest -m soak tests/stress/test_machine.py` runs more: `AIOPOOL_EXAMPLES` of
them.
"""

import asyncio
import contextlib
import logging
import os

import pytest
from hypothesis import HealthCheck, settings, target
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from model import KINDS, Record, World

from aiopool import PoolStatus, Retry
from aiopool.testing import DELAYS, ERRORS, FailingCall, VirtualLoop, settle

pytestmark = pytest.mark.both_isolations

MORE = int(os.environ.get("AIOPOOL_EXAMPLES", "1000"))


@pytest.fixture(autouse=True)
def _quiet():
    """Leaks are part of the game, and would fill the report."""
    logger = logging.getLogger("aiopool")
    logger.disabled, before = True, logger.disabled
    jobs = logging.getLogger("aiopool.job")
    jobs.disabled = True
    yield
    logger.disabled = jobs.disabled = before


delays = st.sampled_from(DELAYS)
kinds = st.sampled_from(KINDS)
options = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.sampled_from([1, 5, 8]),
        "timeout": delays,
        "queue_timeout": delays,
        "total_timeout": delays,
        "delay": delays,
        "retry": st.builds(Retry, attempts=st.integers(1, 3), delay=delays, jitter=st.just(0)),
    },
)


class PoolMachine(RuleBasedStateMachine):
    """Each rule lets something happen, or lets time pass; what was begun before goes on beside it."""

    isolation = "task"
    records: Bundle[Record] = Bundle("records")

    @initialize(
        size=st.integers(1, 3),
        queue_size=st.sampled_from([None, 0, 1, 3]),
        overflow=st.sampled_from(["wait", "wait", "reject", "drop_oldest", "drop_lowest"]),
        on_leak=st.sampled_from(["hold", "replace"]),
        listen=st.booleans(),
        seed=st.integers(0, 2**16),
        mode=st.sampled_from(["fifo", "tasks"]),
    )
    def open(self, size, queue_size, overflow, on_leak, listen, seed, mode):
        self.loop = VirtualLoop(seed=seed, mode=mode)
        self.shut = False
        self.steps = set()

        async def make():
            world = World(
                size=size,
                queue_size=queue_size,
                isolation=self.isolation,
                overflow=overflow,
                on_leak=on_leak,
                listen=listen,
            )
            await world.open()
            return world

        self.world = self.loop.run_until_complete(make())
        if on_leak == "replace":
            # By choice, the limit does not hold for what has leaked.
            self.world.allowed = lambda: 10**9

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def soon(self, function, *args):
        """Call a plain function inside the loop, among all that is ready."""
        self.loop.call_soon(function, *args)

    # -- jobs ----------------------------------------------------------------------------------------------------

    @rule(target=records, kind=kinds, seconds=delays, options=options)
    def submit(self, kind, seconds, options):
        record = self.world.record(kind, seconds)
        self.world.spawn(self.world.submit(record, self.world.view(record, **options)))
        return record

    @rule(target=records, kind=kinds, seconds=delays, options=options)
    def submit_nowait(self, kind, seconds, options):
        record = self.world.record(kind, seconds)
        self.run(self.world.submit(record, self.world.view(record, **options), nowait=True))
        return record

    @rule(kind=kinds, seconds=delays, count=st.integers(2, 6))
    def submit_many(self, kind, seconds, count):
        for _ in range(count):
            record = self.world.record(kind, seconds)
            self.world.spawn(self.world.submit(record, self.world.view(record)))

    @rule(data=st.data())
    @precondition(lambda self: any(not task.done() for task in self.world.tasks))
    def abandon(self, data):
        """Cancel somebody: a submitter, a waiter, the owner of a group, a consumer."""
        tasks = [task for task in self.world.tasks if not task.done()]
        data.draw(st.sampled_from(tasks)).cancel()

    @rule(record=records)
    def cancel(self, record):
        self.soon(self.world.cancel, record)

    @rule(record=records)
    def cancel_now(self, record):
        self.world.cancel(record)

    @rule(record=records)
    def cancel_and_wait(self, record):
        self.world.spawn(self.world.cancel_and_wait(record))

    @rule(record=records, patience=st.none() | delays)
    def wait(self, record, patience):
        self.world.spawn(self.world.wait(record, patience))

    @rule(record=records, priority=st.sampled_from([1, 5, 8]))
    def reprioritize(self, record, priority):
        if record.job is not None:
            self.world.pool.reprioritize(record.job.id, priority)

    @rule(
        kinds=st.lists(kinds, min_size=1, max_size=4), seconds=delays, on_error=st.sampled_from(["cancel", "collect"])
    )
    def group(self, kinds, seconds, on_error):
        records = [self.world.record(kind, seconds) for kind in kinds]
        self.world.spawn(self.world.group(records, on_error))

    @rule(kinds=st.lists(kinds, min_size=1, max_size=4), seconds=delays, taken=st.integers(0, 5), ordered=st.booleans())
    def map(self, kinds, seconds, taken, ordered):
        records = [self.world.record(kind, seconds) for kind in kinds]
        self.world.spawn(self.world.map(records, taken, ordered))

    # -- the pool --------------------------------------------------------------------------------------------------

    @rule(size=st.integers(0, 4))
    def resize(self, size):
        self.run(self.world.resize(size))

    @rule(on=st.booleans())
    def pause(self, on):
        self.soon(self.world.pause, on)

    @rule()
    def join(self):
        self.world.spawn(self.world.pool.join())

    @precondition(lambda self: len(self.world.records) > 8 and not self.shut)
    @rule(timeout=st.none() | delays, grace=st.none() | delays)
    def shutdown(self, timeout, grace):
        self.shut = True
        self.world.spawn(self.world.shutdown(timeout, grace))

    # -- time ------------------------------------------------------------------------------------------------------

    @rule(seconds=delays)
    def advance(self, seconds):
        async def pass_time():
            await asyncio.sleep(seconds)
            await settle()

        self.run(pass_time())
        self.world.check_at_rest()

    @rule(
        call=st.sampled_from(["call_soon", "call_later", "call_at", "create_task"]),
        n=st.integers(1, 4),
        error=st.sampled_from(ERRORS),
        seconds=delays,
    )
    def fail(self, call, n, error, seconds):
        """Let time pass, and one call of the loop fail meanwhile: a job may fail by that, and nothing else."""

        async def pass_time():
            with FailingCall(call, n, error), contextlib.suppress(error):
                await asyncio.sleep(seconds)  # may be the one
            await settle()

        self.run(pass_time())
        self.loop.unhandled[:] = [text for text in self.loop.unhandled if "made to fail" not in text]
        self.world.check_at_rest()

    @rule(turns=st.integers(1, 4))
    def turn(self, turns):
        async def take_turns():
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(take_turns())

    @invariant()
    def holds(self):
        if hasattr(self, "world"):
            self.world.check()
            numbers = self.world.pool.statistics()
            self.steps.add((numbers.queued, numbers.scheduled, numbers.running, numbers.busy, numbers.waiting))

    def teardown(self):
        if not hasattr(self, "world"):
            return
        target(len(self.steps), label="different states in a run")
        try:
            self.world.paused = False
            if self.world.pool.status is PoolStatus.OPEN:
                self.run(self.world.close(timeout=0.5))
            else:
                self.run(self.world.close(timeout=None))
            leftover = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
            assert not leftover, f"left behind: {leftover}"
            assert not self.loop.armed(), f"timers left behind: {self.loop.armed()}"
        finally:
            self.loop.close()


class ScopeMachine(PoolMachine):
    """The same in the fast lane."""

    isolation = "scope"


quick = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
TestTasks = PoolMachine.TestCase
TestScopes = ScopeMachine.TestCase
TestTasks.settings = TestScopes.settings = quick


@pytest.mark.parametrize(
    ("examples", "steps"),
    [
        pytest.param(60, 30, marks=pytest.mark.long),
        pytest.param(MORE, 50, marks=[pytest.mark.soak, pytest.mark.timeout(0)]),
    ],
)
@pytest.mark.parametrize("machine", [PoolMachine, ScopeMachine])
def test_more_of_it(machine, examples, steps):
    """The machine with more examples; in the soak with many more, and longer ones."""
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=settings(quick, max_examples=examples, stateful_step_count=steps))
