"""What the tests of processes run in them. It imports little, for each process imports it."""

import contextvars
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import aiopool
from aiopool import current_job

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def pid(_=None):
    return os.getpid()


def square(x):
    return x * x


def double(x):
    return x + x


def add(a, *, b=0):
    return a + b


def fail(text):
    raise ValueError(text)


def say(number):
    print("job", number)


def begin():
    """Tell the pool who we are."""
    current_job().report_progress(0, str(os.getpid()))


def hang():
    """Run until somebody ends the process."""
    begin()
    while True:
        time.sleep(60)


def hang_hard():
    """The same, in C code that does not listen."""
    begin()
    pow(3, 3**40)


def hang_deaf():
    """The same, and no polite signal helps."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    hang()


def stop_self():
    """Be stopped, as by Ctrl-Z: only SIGKILL and SIGCONT are heard."""
    begin()
    time.sleep(0.05)  # the report is on its way when this returns; it costs nothing to wait
    os.kill(os.getpid(), signal.SIGSTOP)


def hang_once(folder):
    """Hang in the first attempt; tell the number of the one that does not."""
    if current_job().attempt == 1:
        hang()
    return current_job().attempt


def die(code):
    os._exit(code)


def die_once(code):
    if current_job().attempt == 1:
        os._exit(code)
    return current_job().attempt


def crash():
    import faulthandler  # no interpreter can import it

    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def cut():
    """Close whatever connects us with the pool."""
    begin()
    os.closerange(3, 1024)
    time.sleep(60)


def spawn_child():
    """Start a process of our own, and hang."""
    child = subprocess.Popen(["sleep", "600"])
    current_job().report_progress(0, str(child.pid))
    time.sleep(600)


def survive():
    """Get the signals that a terminal and systemd send to all processes of a program."""
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    return "alive"


def report(count):
    for number in range(count):
        current_job().report_progress(number / count, str(number))
    current_job().report_progress(1, "all")


def report_and_wait(path):
    """Report, and end when a file is there."""
    current_job().report_progress(0.5, "half")
    while not Path(path).exists():
        time.sleep(0.005)


def wait_for_file(here, go):
    """Say that we are here, and end when we may."""
    Path(here).touch()
    while not Path(go).exists():
        time.sleep(0.005)


def report_from_threads():
    job = current_job()
    threads = [threading.Thread(target=job.report_progress, args=(n, "t")) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(threads)


def who():
    job = current_job()
    return job.id, job.name, job.attempt


def ask_too_much():
    return current_job().group


def set_variable():
    before = VARIABLE.get()
    VARIABLE.set("set by a job")
    return before


def make_lambda():
    return lambda: None


class Unsendable(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class OneWay(Exception):
    """It pickles, and does not come out of its pickle."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class StaysHere:
    """It comes out of its pickle in no other process."""

    def __reduce__(self):
        return _only_in, (os.getpid(),)


def _only_in(pid):
    if os.getpid() != pid:
        raise LookupError("not in this process")
    return StaysHere()


class NeverLeaves:
    """A callable that has no pickle."""

    def __call__(self): ...

    def __reduce__(self):
        raise LookupError("it is at home here")


def make_foreign():
    """Return an object whose class is in no module of the other process."""
    module = types.ModuleType("only_here")
    sys.modules["only_here"] = module
    module.Foreign = type("Foreign", (), {"__module__": "only_here"})
    return module.Foreign()


def raise_unsendable():
    raise Unsendable("with a lock")


def raise_one_way():
    raise OneWay("one", "two")


def large(size):
    return b"x" * size


def large_buffer(size):
    return pickle.PickleBuffer(bytearray(size))


class KnowsItsThread:
    """It notes in which thread it was put together."""

    def __init__(self):
        self.padding = ["x" * 100 + str(n) for n in range(10_000)]

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.thread = threading.current_thread().name


def large_object():
    return KnowsItsThread()


def send_nothing(argument):
    return len(argument)


class Worker:
    def __init__(self, factor):
        self.factor = factor

    def times(self, x):
        return self.factor * x


@aiopool.job(offload="process")
def marked():
    return os.getpid()


@aiopool.job(offload="process")
async def marked_async(): ...


def exit_with(code):
    sys.exit(code)


def interpreter_id():
    import _interpreters

    return str(_interpreters.get_current()[0])
