"""What systemd hears (`Type=notify`): a real datagram socket listens, and the program is a real child."""

import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from child_programs import program, rest, wait_for

from aiopool._program.systemd import SystemdNotifier

SERVE = """
async def job():
    say("started")
    await asyncio.sleep(0.3)

async def main(pool):
    await pool.submit(job)
    await pool.wait_closed()

aiopool.run(main, pool=Pool(), timeout=20, grace=1, loop_factory=loop_factory)
"""


class Listener:
    """The other end of NOTIFY_SOCKET, as systemd has it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name[0] == "@" else name)
        self.socket.settimeout(30)
        self.heard: list[dict[str, str]] = []

    def next(self) -> dict[str, str]:
        """The next message."""
        text = self.socket.recv(65536).decode()
        message = dict(line.split("=", 1) for line in text.splitlines())
        self.heard.append(message)
        return message

    def until(self, name: str) -> dict[str, str]:
        """Hear messages until one has that field."""
        while True:
            if name in (message := self.next()):
                return message

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing at all comes for so long."""
        return not select.select([self.socket], [], [], seconds)[0]

    def drain(self) -> None:
        """Throw away what has come already."""
        while not self.silent_for(0):
            self.next()

    def rest(self) -> list[dict[str, str]]:
        """All messages, when the program is over and no more can come."""
        self.drain()
        return self.heard


@pytest.fixture(params=["path", pytest.param("abstract", marks=pytest.mark.long)])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@aiopool-test-{os.getpid()}-{time.monotonic_ns()}"
    listener = Listener(name)
    yield listener
    listener.socket.close()


def test_a_signal_after_main_has_ended_asks_for_time_all_the_same(listener: Listener):
    """The jobs that main has left are finished first; systemd gives no time that nobody asked for."""
    with program(
        """
        async def job():
            say("started")
            await asyncio.to_thread(sys.stdin.readline)

        async def main(pool):
            await pool.submit(job)

        aiopool.run(main, pool=Pool(), timeout=20, grace=1)
        """,
        environment={"NOTIFY_SOCKET": listener.name},
    ) as process:
        wait_for(process, "started")
        assert listener.until("STOPPING") == {"STOPPING": "1", "STATUS": "main has ended: finishing 1 jobs"}
        process.terminate()
        assert "EXTEND_TIMEOUT_USEC" in listener.until("STOPPING")
        process.stdin.write("go\n")
        process.stdin.flush()
        lines, code = rest(process)
    assert (lines, code) == ([], 0)


@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.long)])
def test_ready_then_stopping(listener: Listener, loop: str):
    """READY once the pool is open, STOPPING with the first signal, and how long the end may take."""
    with program(SERVE, loop, environment={"NOTIFY_SOCKET": listener.name}) as process:
        assert listener.next() == {"READY": "1", "STATUS": "running"}
        wait_for(process, "started")
        process.terminate()
        stopping = listener.until("STOPPING")
        lines, code = rest(process)
    assert code == 0, lines
    assert stopping["STOPPING"] == "1"
    assert stopping["STATUS"] == "SIGTERM: finishing 1 jobs"
    assert 20_000_000 <= int(stopping["EXTEND_TIMEOUT_USEC"]) <= 40_000_000
    assert [message for message in listener.rest() if "READY" in message or "STOPPING" in message] == [
        listener.heard[0],
        stopping,
    ]
    assert not [message for message in listener.heard if "WATCHDOG" in message], "nobody asked for pings"


def test_ready_comes_after_the_services(listener: Listener):
    """`systemctl start` returns when all of it runs; at the end the services have a line of their own."""
    with program(
        """
        from aiopool.services import ServiceRegistry

        class Slow:
            async def start(self):
                say("starting")
                await asyncio.to_thread(sys.stdin.readline)
            async def stop(self): ...

        registry = ServiceRegistry()
        registry.add("slow", Slow())

        async def main(pool):
            return

        aiopool.run(main, pool=Pool(), services=registry)
        """,
        environment={"NOTIFY_SOCKET": listener.name},
    ) as process:
        wait_for(process, "starting")
        assert listener.next() == {"STATUS": "starting services: 1"}
        assert listener.silent_for(0.1)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert listener.next()["READY"] == "1"
        assert listener.next() == {"STOPPING": "1", "STATUS": "main has ended: finishing 0 jobs"}
        assert listener.next() == {"STATUS": "stopping services: 1"}
        lines, code = rest(process)
    assert (lines, code) == ([], 0)


def test_not_ready_if_a_service_does_not_start(listener: Listener):
    with program(
        """
        from aiopool.services import Command, ServiceRegistry
        registry = ServiceRegistry()
        registry.add("data", Command(["there-is-no-such-program"]), name="database")

        async def main(): ...

        aiopool.run(main, services=registry)
        """,
        environment={"NOTIFY_SOCKET": listener.name},
    ) as process:
        lines, code = rest(process)
    assert code == 1
    assert "while starting service 'database' (data)" in lines
    assert not [message for message in listener.rest() if "READY" in message]


# -- watchdog ----------------------------------------------------------------------------------------------------------


def test_the_watchdog_hears_of_a_turning_loop_only(listener: Listener):
    """Pings come while the loop turns, none while a job holds it up, and again afterwards."""
    with program(
        """
        async def hold_up():
            say("blocking")
            sys.stdin.readline()
            say("over")

        async def main(pool):
            await asyncio.to_thread(sys.stdin.readline)
            await pool.run(hold_up)
            await pool.wait_closed()

        aiopool.run(main, pool=Pool())
        """,
        environment={"NOTIFY_SOCKET": listener.name, "WATCHDOG_USEC": "100000"},
    ) as process:
        listener.until("READY")
        for _ in range(3):
            assert listener.until("WATCHDOG") == {"WATCHDOG": "1"}
        process.stdin.write("go\n")
        process.stdin.flush()
        wait_for(process, "blocking")
        listener.drain()
        assert listener.silent_for(1), "twenty beats, and nobody is there"
        process.stdin.write("go\n")
        process.stdin.flush()
        wait_for(process, "over")
        listener.until("WATCHDOG")
        process.terminate()
        listener.until("STOPPING")
        lines, code = rest(process)
    assert code == 0, lines


def test_pings_go_on_while_the_jobs_are_finished(listener: Listener):
    """systemd's watchdog also watches a service that is stopping."""
    with program(
        """
        async def job():
            say("started")
            await asyncio.to_thread(sys.stdin.readline)

        async def main(pool):
            await pool.submit(job)
            await pool.wait_closed()

        aiopool.run(main, pool=Pool())
        """,
        environment={"NOTIFY_SOCKET": listener.name, "WATCHDOG_USEC": "100000"},
    ) as process:
        wait_for(process, "started")
        process.terminate()
        listener.until("STOPPING")
        for _ in range(3):
            listener.until("WATCHDOG")
        process.stdin.write("go\n")
        process.stdin.flush()
        lines, code = rest(process)
    assert code == 0, lines


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "me"},
    ],
    ids=lambda environment: " ".join(environment.values()),
)
async def test_pings_only_if_we_are_meant(listener: Listener, environment: dict[str, str]):
    """A child inherits the variables of a watchdog that watches its parent."""
    import asyncio

    notifier = SystemdNotifier({"NOTIFY_SOCKET": listener.name, **environment})
    notifier.start_watchdog(asyncio.get_running_loop())
    notifier.notify("here")
    assert listener.next() == {"STATUS": "here"}
    notifier.close()
    ours = SystemdNotifier(
        {"NOTIFY_SOCKET": listener.name, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())}
    )
    ours.start_watchdog(asyncio.get_running_loop())
    assert listener.next() == {"WATCHDOG": "1"}
    ours.close()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/there/is/no/socket", "@nobody-listens-here", "vsock:2:1234", "@", "relative"])
def test_nobody_there_is_no_fault(name: str, caplog: pytest.LogCaptureFixture):
    """It is said once, in the log, and the program goes on."""
    notifier = SystemdNotifier({"NOTIFY_SOCKET": name})
    notifier.notify("one", READY=1)
    notifier.notify("two")
    notifier.close()
    notifier.notify("three")
    assert len(caplog.records) == 1
    assert name.lstrip("@") in caplog.text


def fill(notifier: SystemdNotifier, caplog: pytest.LogCaptureFixture) -> int:
    """Send until nothing fits any more; how many messages did."""
    number = 0
    while not caplog.records:
        notifier.notify(f"line {number}")
        number += 1
        assert number < 10_000
    return number - 1


def test_a_full_queue_holds_nobody_up(listener: Listener, caplog: pytest.LogCaptureFixture):
    """Somebody listens who does not read: no message waits for him, and the log says so once."""
    notifier = SystemdNotifier({"NOTIFY_SOCKET": listener.name})
    fitted = fill(notifier, caplog)
    assert notifier._socket is not None
    assert not notifier._socket.getblocking()
    notifier.notify("ready", READY=1)
    for number in range(100):
        notifier.notify(f"more {number}")
    assert len(caplog.records) == 1
    assert "could not tell" in caplog.text
    assert [listener.next() for _ in range(fitted)] == [{"STATUS": f"line {number}"} for number in range(fitted)]
    assert listener.silent_for(0)
    notifier.notify(WATCHDOG=1)
    assert listener.next() == {"STATUS": "more 99", "READY": "1", "WATCHDOG": "1"}, "the newest of each field"
    notifier.close()


async def test_what_did_not_fit_is_sent_when_there_is_room(listener: Listener, caplog: pytest.LogCaptureFixture):
    """READY=1 is not lost: systemd would wait for it in vain."""
    import asyncio

    notifier = SystemdNotifier({"NOTIFY_SOCKET": listener.name})
    notifier.start_watchdog(asyncio.get_running_loop())
    fill(notifier, caplog)
    notifier.notify("running", READY=1)
    listener.drain()
    assert await asyncio.to_thread(listener.next) == {"STATUS": "running", "READY": "1"}
    assert listener.silent_for(0)
    notifier.close()


@pytest.mark.parametrize(("status", "told"), [("half \udcff", r"half \udcff"), ("x" * 300_000, "x" * 500), ("", "")])
def test_any_status_can_be_told(listener: Listener, caplog: pytest.LogCaptureFixture, status: str, told: str):
    """What cannot be encoded is escaped, and what is too long for a datagram is cut."""
    notifier = SystemdNotifier({"NOTIFY_SOCKET": listener.name})
    notifier.notify(status, READY=1)
    assert listener.next() == {"READY": "1", "STATUS": told}
    assert not caplog.records
    notifier.close()


def test_a_status_cannot_forge_a_field(listener: Listener):
    """A line feed would begin another field."""
    notifier = SystemdNotifier({"NOTIFY_SOCKET": listener.name})
    notifier.notify("fine\nMAINPID=1")
    assert listener.next() == {"STATUS": "fine MAINPID=1"}
    notifier.close()


def test_without_the_variable_nothing_is_opened():
    notifier = SystemdNotifier({})
    notifier.notify("nobody hears it", READY=1)
    assert not notifier.listening
    notifier.close()


def test_a_run_in_another_thread_says_nothing(listener: Listener):
    """The program is not ready because one of its threads is."""
    with program(
        """
        async def main(): ...

        thread = threading.Thread(target=lambda: aiopool.run(main))
        thread.start()
        thread.join()
        """,
        environment={"NOTIFY_SOCKET": listener.name, "WATCHDOG_USEC": "100000"},
    ) as process:
        lines, code = rest(process)
    assert (lines, code) == ([], 0)
    assert listener.rest() == []


def test_the_second_signal_is_told(listener: Listener):
    with program(
        """
        async def job():
            say("started")
            await asyncio.sleep(3600)

        async def main(pool):
            await pool.submit(job)
            await pool.wait_closed()

        aiopool.run(main, pool=Pool(), timeout=None)
        """,
        environment={"NOTIFY_SOCKET": listener.name},
    ) as process:
        wait_for(process, "started")
        process.terminate()
        assert "EXTEND_TIMEOUT_USEC" not in listener.until("STOPPING"), "nobody knows how long it takes"
        process.terminate()
        assert listener.next() == {"STATUS": "second SIGTERM: cancelling 1 jobs; once more leaves at once"}
        _, code = rest(process)
    assert code == 128 + signal.SIGTERM
