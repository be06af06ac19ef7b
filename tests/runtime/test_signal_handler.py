"""`SignalHandler` alone: on a loop without signals, on one that is closed, and where no thread is left to exit in."""

import signal

import pytest
from child_programs import program, rest

HANDLER = """
from aiopool._runtime.signals import SignalHandler

loop = asyncio.new_event_loop()
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

def heard(count):
    say("heard", count)

def restored():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)
"""


def run(body):
    """Run a program that has a handler and a loop; return its lines and its exit code."""
    with program(HANDLER + body) as process:
        return rest(process)


def test_a_loop_without_signals_hears_them_all_the_same():
    """As on Windows: the loop has no `add_signal_handler`."""
    lines, code = run(
        """
def none(*args):
    raise NotImplementedError

loop.add_signal_handler = none
handler = SignalHandler(heard)

async def main():
    handler.install(loop)
    interrupt()
    await asyncio.sleep(0.05)
    handler.restore()
    say(handler.last == signal.SIGINT, restored())

loop.run_until_complete(main())
loop.close()
"""
    )
    assert (lines, code) == (["heard 1", "True True"], 0)


def test_a_signal_that_another_thread_takes_wakes_a_loop_that_sleeps():
    """By the wake-up socket of the loop alone: what the main thread sleeps in is not interrupted."""
    lines, code = run(
        """
async def main():
    end = loop.create_future()
    handler = SignalHandler(end.set_result)
    handler.install(loop)
    main_thread = threading.get_ident()

    def asleep():
        return sys._current_frames()[main_thread].f_code.co_name == "select"

    def interrupt_here():
        while not asleep():
            time.sleep(0.01)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_here)
    thread.start()
    say("heard", await end)  # nothing else wakes the loop
    thread.join()
    handler.restore()

loop.run_until_complete(main())
loop.close()
"""
    )
    assert (lines, code) == (["heard 1"], 0)


def test_a_loop_that_is_closed_first_gets_no_more_calls():
    """Closing a loop takes its handlers away; a signal after that is counted, and wakes nobody."""
    lines, code = run(
        """
handler = SignalHandler(heard)
handler.install(loop)
loop.close()
signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))
interrupt()
say(handler.last == signal.SIGINT)
handler.restore()
say(restored())
"""
    )
    assert (lines, code) == (["True", "True"], 0)


def test_a_handler_that_stands_is_installed_once():
    """To install it again, or to restore it again, changes nothing; nor does a thread, which has no signals."""
    lines, code = run(
        """
handler = SignalHandler(heard)
thread = threading.Thread(target=handler.install, args=(loop,))
thread.start()
thread.join()
say(restored())
handler.install(loop)
handler.install(loop)
say(restored())
handler.restore()
handler.restore()
say(restored())
loop.close()
"""
    )
    assert (lines, code) == (["True", "False", "True"], 0)


@pytest.mark.parametrize("fails", [True, False])
def test_without_a_thread_left_the_third_signal_exits_in_the_main_one(fails):
    """What has to be done before is done there, and if it fails, that is logged."""
    lines, code = run(
        f"fails = {fails}"
        """
import _thread, logging
logging.basicConfig(format="%(message)s")

def refuse(*args):
    raise RuntimeError("can't start new thread")

def last_words():
    say("last words")
    if fails:
        raise ValueError("and a fault")

_thread.start_new_thread = refuse
SignalHandler(heard, last_words).install(loop)
for _ in range(3):
    interrupt()
say("not reached")
"""
    )
    assert code == 128 + signal.SIGINT
    if fails:
        assert lines[:2] == ["last words", "the last call before the exit failed"]
        assert lines[-1] == "ValueError: and a fault"
    else:
        assert lines == ["last words"]
