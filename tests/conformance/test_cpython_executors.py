"""What CPython's executors do, a pool's executor does: the installed Python's own tests of `concurrent.futures`.

Each test runs with the executor of a `BlockingPool` where it has a `ThreadPoolExecutor` or a process pool. Left out are
those that ask for what such an executor has not, each with its reason in `NOT_OURS`.
"""

import importlib
import threading
import types
import unittest
import warnings
import weakref

import pytest

from aiopool.blocking import BlockingPool

# Classes of CPython's tests, by module.
CLASSES = {
    "executor": ["ExecutorTest"],
    "test_as_completed": ["AsCompletedTests"],
    "test_wait": ["WaitTests", "ThreadPoolWaitTests"],
    "test_thread_pool": ["ThreadPoolExecutorTest"],
    "test_shutdown": ["ExecutorShutdownTest", "ThreadPoolShutdownTest"],
}
# Test, and why it does not apply.
NOT_OURS = {
    "test_max_workers_negative": "the size is the pool's, which has words of its own for it",
    "test_default_workers": "the size is the pool's",
    "test_saturation": "counts the threads of a ThreadPoolExecutor in a private attribute",
    "test_idle_thread_reuse": "counts the threads of a ThreadPoolExecutor in a private attribute",
    "test_threads_terminate": "joins the threads of a ThreadPoolExecutor by a private attribute",
    "test_thread_names_assigned": "asks for the names of threads: they are the pool's",
    "test_thread_names_default": "asks for the names of threads: they are the pool's",
    "test_del_shutdown": "an executor that is dropped does not end its pool",
    "test_cancel_futures": "asks that a call has started before the next line; here the loop may come later "
    "(pool/test_executor.py has its own)",
    "test_cancel_futures_wait_false": "a program that makes ThreadPoolExecutor by its name",
    "test_interpreter_shutdown": "a program that makes ThreadPoolExecutor by its name",
    "test_submit_after_interpreter_shutdown": "a program that makes ThreadPoolExecutor by its name",
    "test_hang_gh83386": "a program that makes ThreadPoolExecutor by its name",
    "test_hang_gh94440": "forks process pools",
    "test_hang_global_shutdown_lock": "is about a lock of ThreadPoolExecutor; it makes one by its name",
    "test_shutdown_no_wait": "reaches for the private threads of a ThreadPoolExecutor",
    "test_context_manager_shutdown": "reaches for the private threads of a ThreadPoolExecutor",
}
# What sleeps for seconds.
SLOW = (
    "test_map_timeout",
    "test_duplicate_futures",
    "test_first_exception",
    "test_hang_issue12364",
)


def cases():
    """The tests, by name, each with its class; none where Python comes without its tests."""
    found = {}
    for module, names in CLASSES.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                suite = importlib.import_module(f"test.test_concurrent_futures.{module}")
        except ImportError:
            continue
        for name in names:
            case = getattr(suite, name, None)
            for method in sorted(vars(case)) if case is not None else ():
                if method.startswith("test"):
                    found[f"{name}.{method}"] = case, method
    return found


CASES = cases()
EACH = [
    pytest.param(case, method, id=name, marks=[pytest.mark.long] * method.startswith(SLOW))
    for name, (case, method) in CASES.items()
    if method not in NOT_OURS
]


class OwnExecutor:
    """In the place of CPython's mixins: the executor under test is a pool's."""

    worker_count = 5
    isolation = "task"

    def executor_type(self, max_workers=5):
        pool = BlockingPool(max_workers, queue_size=None, isolation=self.isolation).__enter__()
        self.addCleanup(pool.__exit__, None, None, None)
        return pool.as_executor()

    def setUp(self):
        self.executor = self.executor_type(max_workers=self.worker_count)

    def tearDown(self):
        self.executor.shutdown(wait=True)
        self.executor = None


class PatientReference:
    """A weak reference that gives other threads time to let go, as the tests of later Pythons do."""

    def __init__(self, of, callback=None):
        self._gone = threading.Event()
        self._callback = callback
        self._of = weakref.ref(of, self._goes)

    def _goes(self, of):
        if self._callback is not None:
            self._callback(of)
        self._gone.set()

    def __call__(self):
        self._gone.wait(30)
        return self._of()


def carry_out(case, method, isolation):
    """One test, as `unittest` does; raises what failed."""
    wanted = {name: value for name, value in vars(case).items() if name == method}
    own = type(case.__name__, (OwnExecutor, unittest.TestCase), {"isolation": isolation, **wanted})
    result = unittest.TestResult()
    words = vars(case)[method].__globals__
    with pytest.MonkeyPatch.context() as patch:
        if "weakref" in words:
            patch.setitem(words, "weakref", types.SimpleNamespace(ref=PatientReference))
        own(method).run(result)
    if result.skipped:
        pytest.skip(result.skipped[0][1])
    for _, text in result.failures + result.errors:
        pytest.fail(text)
    assert result.testsRun == 1


@pytest.mark.skipif(not CASES, reason="this Python comes without the package test.test_concurrent_futures")
@pytest.mark.both_isolations
@pytest.mark.parametrize(("case", "method"), EACH)
def test_cpythons_own_test_with_an_executor_of_a_pool(case, method, isolation):
    """What `concurrent.futures` promises of an executor, ours keeps."""
    carry_out(case, method, isolation)


@pytest.mark.skipif(not CASES, reason="this Python comes without the package test.test_concurrent_futures")
def test_there_is_something_to_run():
    """The names above match something; and what is left out is there, or was, in some Python."""
    assert len(EACH) >= 25


def test_a_failing_test_fails_here():
    """A failure in a test comes out of it: the tests above can fail."""

    class Broken:
        def test_wrong(self):
            self.assertEqual(self.executor.submit(pow, 2, 2).result(), 5)  # noqa: PT009 - as CPython has it

    with pytest.raises(pytest.fail.Exception, match="4 != 5"):
        carry_out(Broken, "test_wrong", "task")
