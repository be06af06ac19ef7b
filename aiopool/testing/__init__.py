"""A test kit for code on asyncio: virtual time, seeded schedules, failing calls, order without sleeping, leaks.

Usable without pytest and without a pool; it needs nothing but the standard library. The pytest fixtures are
in `aiopool.pytest_plugin`.

- `run_virtual`, `VirtualRunner`, `VirtualLoop`: an hour of sleep in a millisecond; a deadlock or a livelock
  is an error that says where.
- `advance`, `settle`: steer the virtual clock from inside the test.
- `explore`: run a scenario under many schedules; a failure names the seed that brings it back.
- `fail_calls`: run a scenario once for each call of the loop or a thread that can fail, and let that one fail;
  `FailingCall` does it for a single call.
- `Sequencer`, `wait_until`: force an order, wait for a condition.
- `assert_no_leaks`: tasks, timers, threads, signal handlers as before.

**Threads and I/O in virtual time.** A clock that jumps leaps over everything that is not in the loop. So
while a thread of `asyncio.to_thread`, `run_in_executor`, `anyio.to_thread` or a pool works, the clock
stands still: the work takes no virtual time, and no time limit strikes it. Around any other thread, process
or socket write `with loop.hold_clock(): …`. To test what happens when a thread is late or never comes back,
use `offload="leap"`, or the real clock. A schedule with threads or I/O in it is not repeated by its seed.
"""

from .._runtime.public import publish as _publish
from ._explore import DELAYS, Exploration, explore
from ._failing import CALLS, ERRORS, FailedCalls, FailingCall, fail_calls
from ._leaks import LeakError, assert_no_leaks
from ._loop import VirtualLoop
from ._parts import DeadlockError, SpinError
from ._runner import VirtualRunner, advance, run_virtual, settle
from ._waiting import Sequencer, wait_until

__all__ = [
    "CALLS",
    "DELAYS",
    "ERRORS",
    "DeadlockError",
    "Exploration",
    "FailedCalls",
    "FailingCall",
    "LeakError",
    "Sequencer",
    "SpinError",
    "VirtualLoop",
    "VirtualRunner",
    "advance",
    "assert_no_leaks",
    "explore",
    "fail_calls",
    "run_virtual",
    "settle",
    "wait_until",
]

_publish(globals())
