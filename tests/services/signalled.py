"""Programs that are told to end: what `tests/services/test_services_exit.py` sends signals to.

    signalled.py MODE

It prints the pid of a stubborn child as soon as it is ready, writes further lines about what happens, and ends as the
mode says.
"""

import asyncio
import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import time

from services import targets
from services.support import stubborn

from aiopool.services import ServiceRegistry


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def registry_with_child(timeout: float = 0.5) -> ServiceRegistry:
    registry = ServiceRegistry()
    registry.add("a", stubborn(), name="child")
    registry.install_handlers(timeout=timeout)
    return registry


def ready(registry: ServiceRegistry) -> None:
    say("ready", registry.status()["child"].pid)


def plain() -> None:
    """No event loop: the main thread works on until the services are stopped, and then dies of the signal."""
    ready(registry_with_child())
    while True:
        time.sleep(0.01)


def blocked() -> None:
    """The main thread waits in a system call."""
    ready(registry_with_child())
    os.read(os.pipe()[0], 1)


def patient() -> None:
    """The first signal waits for the stubborn child, and waits."""
    until_stopping(registry_with_child(timeout=600))
    say("stopping")
    while True:
        time.sleep(0.01)


def ends_meanwhile() -> None:
    """The program comes to its end by itself, while the services are being stopped for a signal."""
    until_stopping(registry_with_child())


def until_stopping(registry: ServiceRegistry) -> None:
    ready(registry)
    while registry.status()["child"].status != "stopping":
        time.sleep(0.01)


def handler() -> None:
    """A handler was there before: it gets the signal, afterwards, once, and decides the exit code."""

    def mine(signum: int, frame: object) -> None:
        say("handler", signum, registry.status().as_dict()["total_workers"])
        sys.exit(5)

    signal.signal(signal.SIGTERM, mine)
    registry = registry_with_child()
    ready(registry)
    while True:
        time.sleep(0.01)


def ignored() -> None:
    """What was ignored stays ignored: neither the services nor the program end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    registry = registry_with_child()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ready(registry)
    while True:
        time.sleep(0.01)


def run_inside() -> None:
    """Handlers installed before the loop: coroutines are stopped on the running loop, then it is interrupted."""
    registry = registry_with_child()

    async def body() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            say("coroutine")

    async def main() -> None:
        registry.add("b", body)
        await registry.start()
        await asyncio.sleep(0)
        ready(registry)
        try:
            await asyncio.Event().wait()
        finally:
            say("main")

    asyncio.run(main())


def lifespan() -> None:
    """Handlers installed inside the loop: asyncio's own SIGINT handler cancels the main task afterwards."""

    async def main() -> None:
        registry = ServiceRegistry(handle_signals=True, stop_timeout=0.5)
        registry.add("a", stubborn(), name="child")
        before = signal.getsignal(signal.SIGINT)
        try:
            async with registry:
                ready(registry)
                await asyncio.Event().wait()
        finally:
            say("cancelled", signal.getsignal(signal.SIGINT) == before, len(registry))

    asyncio.run(main())


def loop_handler() -> None:
    """A handler that hangs on the loop hears the signal once, at once, and ends the program in its own way."""

    async def main() -> None:
        heard: list[int] = []
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.append, 1)
        registry = registry_with_child()
        ours = signal.getsignal(signal.SIGTERM)
        ready(registry)
        while signal.getsignal(signal.SIGTERM) == ours:  # until it was passed on
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # a second one would be heard in the next turn of the loop
        say("heard", len(heard), len(registry))

    asyncio.run(main())


def at_exit() -> None:
    """The program ends by itself: the services are stopped, once, and its exit code stays."""
    registry = registry_with_child()
    atexit.register(say, "last")  # registered later, runs earlier
    ready(registry)
    sys.exit(3)


def at_exit_multiprocessing() -> None:
    """`multiprocessing` would wait at exit for a child that never ends; ours runs before it."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=targets.ignore, args=(writer,))
    process.start()
    reader.recv()
    registry = ServiceRegistry()
    registry.add("mp", process, name="child")
    registry.install_handlers(timeout=0.5)
    ready(registry)
    sys.exit(4)


def forked() -> None:
    """Forked children inherit the handlers, but not the work: signals and exits of theirs leave our services alone."""
    registry = registry_with_child()
    child = registry.status()["child"].pid
    assert child is not None
    codes = []
    for end in ("signal", "exit", "exception"):
        pid = os.fork()
        if pid == 0:
            if end == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            if end == "exception":
                sys.stderr = open(os.devnull, "w")
                raise ValueError("in the child")
            sys.exit(6)
        _, status = os.waitpid(pid, 0)
        codes.append(os.waitstatus_to_exitcode(status))
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=targets.serve, args=(writer,))
    process.start()
    reader.recv()
    process.terminate()
    process.join()
    say("codes", *codes, process.exitcode, registry.status()["child"].alive)
    ready(registry)
    sys.exit(0)


def subprocess_tree() -> None:
    """A daemon of a command is gone, too, after the signal."""
    registry = ServiceRegistry()

    async def main() -> None:
        registry.add("a", ["sh", "-c", "trap '' TERM; (setsid sleep 600 &) ; sleep 600"], name="child")
        await registry.start()
        registry.install_handlers(timeout=0.5)
        mark = registry._table.select("child")[0].kind.mark
        while subprocess.run(["pgrep", "-c", "-s", str(registry.status()["child"].pid)], stdout=-3).returncode:
            await asyncio.sleep(0.01)
        say("mark", mark)
        ready(registry)
        await asyncio.Event().wait()

    asyncio.run(main())


if __name__ == "__main__":
    globals()[sys.argv[1]]()
