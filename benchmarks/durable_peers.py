"""Other libraries that keep jobs, and a killed worker: python -m benchmarks.durable_peers [--peer saq] [--patience 40]

Each peer does the same work with its default settings, in a virtual environment of its own that is made for the run,
on a server of its own that is started for the run (`engines`):

- the kill: 60 jobs of a second each, 30 at a time. In the middle the worker is killed (SIGKILL), and a second later a
  fresh one is started. How many of the 60 have ended, how many of those that were running then came back, and when the
  first of them did; what has not come back within `--patience` seconds is said to be so;
- how many no-op jobs a second are submitted (20 at once, no worker), are worked off by a worker that finds them all,
  and go from process to process while both run;
- while nothing else happens: how long until a job starts.

What cannot be installed, or does not run, is reported as such. aiopool stands in the same table, by the same program.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import engines, report
from benchmarks.measure import ROOT

CONCURRENCY = 30
NAPS = 60
PROGRAMS = Path(__file__).resolve().parent / "peers"


class Peer(NamedTuple):
    """A library.

    Attributes:
        name: of the row, and of its package.
        program: in `peers/`.
        engine: what it runs on.
        packages: what is installed; none: it is run by this Python.
    """

    name: str
    program: str
    engine: str
    packages: tuple[str, ...]


PEERS = (
    Peer("aiopool (SQLite)", "with_aiopool.py", "sqlite", ()),
    Peer("aiopool (PostgreSQL)", "with_aiopool.py", "postgres", ()),
    Peer("aiopool (Valkey)", "with_aiopool.py", "valkey", ()),
    # It imports typing_extensions, and does not say that it needs them.
    Peer("saq", "with_saq.py", "valkey", ("saq[redis]", "typing_extensions")),
    Peer("arq", "with_arq.py", "valkey", ("arq",)),
    Peer("taskiq-redis", "with_taskiq_redis.py", "valkey", ("taskiq-redis",)),
    Peer("streaq", "with_streaq.py", "valkey", ("streaq",)),
    Peer("pydocket", "with_pydocket.py", "valkey", ("pydocket",)),
    Peer("procrastinate", "with_procrastinate.py", "postgres", ("procrastinate", "psycopg[binary]")),
    Peer("pgqueuer", "with_pgqueuer.py", "postgres", ("pgqueuer[asyncpg]",)),
)


class PeerError(RuntimeError):
    """A peer could not be installed, or did not run."""


@dataclass
class Row:
    """What was measured of one peer; what is not there could not be.

    Attributes:
        failed: why, by what was tried.
    """

    peer: Peer
    version: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class Trial:
    """One peer, installed, with its server."""

    def __init__(self, peer: Peer, python: str, url: str, folder: Path, options: argparse.Namespace) -> None:
        self.row = Row(peer)
        self._python = python
        self._url = url
        self._folder = folder
        self._options = options
        self._notes = folder / "notes"
        self._errors = folder / "errors"

    def _command(self, *words: object) -> list[str]:
        return [self._python, str(PROGRAMS / self.row.peer.program), *map(str, words)]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **({} if self.row.peer.packages else {"PYTHONPATH": str(ROOT)})}

    def _run(self, *words: object) -> str:
        """Run its program to the end, and return its last line."""
        try:
            done = subprocess.run(
                self._command(*words), capture_output=True, text=True, timeout=100, env=self._environment()
            )
        except subprocess.TimeoutExpired:
            raise PeerError(f"{words[0]}: not within 100 s") from None
        if done.returncode:
            raise PeerError(f"{words[0]}: {_last(done.stderr)}")
        return (done.stdout.splitlines() or [""])[-1]

    @contextlib.contextmanager
    def _worker(self) -> Iterator[subprocess.Popen[bytes]]:
        with self._errors.open("wb") as errors:
            process = subprocess.Popen(
                self._command("work", self._url, self._notes, CONCURRENCY),
                stdout=errors,
                stderr=errors,
                env=self._environment(),
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def _seen(self, worker: subprocess.Popen[bytes], word: str, count: int, seconds: float) -> bool:
        """Wait until so many jobs have begun, or ended; return whether they have in time."""
        end = time.monotonic() + seconds
        while len({index for what, index, _, _ in self._lines() if what == word}) < count:
            if worker.poll() is not None:
                raise PeerError(f"the worker has ended: {_last(self._errors.read_text(errors='replace'))}")
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def _lines(self) -> list[tuple[str, int, float, int]]:
        if not self._notes.exists():
            return []
        lines = self._notes.read_text().split("\n")[:-1]  # the last one may not be whole
        return [(word, int(index), float(at), int(by)) for word, index, at, by in map(str.split, lines)]

    def _fresh(self) -> None:
        self._notes.unlink(missing_ok=True)

    def measure(self) -> None:
        """Measure all; what fails leaves the rest as it is."""
        steps = {"idle": self._idle, "rates": self._rates, "kill": self._kill}
        try:
            self._run("install", self._url)
        except PeerError as error:
            self.row.failed["all"] = str(error)
            return
        for name, step in steps.items():
            self._fresh()
            try:
                step()
            except (PeerError, OSError, ValueError) as error:
                self.row.failed[name] = str(error)

    def _submit(self, job: str, count: int, how: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._run("submit", self._url, self._notes, job, count, how))
        return found

    def _idle(self) -> None:
        count = self._options.idle
        with self._worker() as worker:
            self._submit("noop", 20, "slow")  # all is imported, and connected
            self._wait(worker, 20)
            self._fresh_while_running()
            submitted = self._submit("noop", count, "slow")["moments"]
            self._wait(worker, count)
            waits = sorted(at - submitted[index] for word, index, at, _ in self._lines() if word == "begin")
        self.row.numbers["idle p50"] = 1e3 * waits[len(waits) // 2]
        self.row.numbers["idle p99"] = 1e3 * waits[min(len(waits) - 1, len(waits) * 99 // 100)]

    def _fresh_while_running(self) -> None:
        os.truncate(self._notes, 0)

    def _wait(self, worker: subprocess.Popen[bytes], count: int) -> None:
        if not self._seen(worker, "end", count, self._options.patience):
            raise PeerError(f"not all of {count} jobs within {self._options.patience:g} s")

    def _rates(self) -> None:
        count = self._options.jobs
        submitted = self._submit("noop", count, "many")
        self.row.numbers["enqueue"] = count / (submitted["ended"] - submitted["began"])
        with self._worker() as worker:
            self._wait(worker, count)
            moments = [at for _, _, at, _ in self._lines()]
            self.row.numbers["drain"] = count / (max(moments) - min(moments))
            self._fresh_while_running()
            submitted = self._submit("noop", count, "many")
            self._wait(worker, count)
            self.row.numbers["end to end"] = count / (max(at for _, _, at, _ in self._lines()) - submitted["began"])

    def _kill(self) -> None:
        numbers = self.row.numbers
        self._submit("nap", NAPS, "many")
        with self._worker() as first:
            if not self._seen(first, "begin", CONCURRENCY // 2, self._options.patience):
                raise PeerError(f"nothing began within {self._options.patience:g} s")
            time.sleep(0.5)
            first.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            first.wait()
        lines = self._lines()
        ended = {index for word, index, _, _ in lines if word == "end"}
        flying = {index for word, index, _, _ in lines if word == "begin"} - ended
        time.sleep(1.0)
        with self._worker() as second:
            self._seen(second, "end", NAPS, self._options.patience)
        lines = self._lines()
        again = [at for word, index, at, by in lines if word == "begin" and index in flying and by == second.pid]
        numbers["done"] = len({index for word, index, _, _ in lines if word == "end"})
        numbers["flying"] = len(flying)
        numbers["rescued"] = len(
            {i for word, i, _, by in lines if word == "begin" and i in flying and by == second.pid}
        )
        if again:
            numbers["restart"] = min(again) - killed


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return (lines or ["it said nothing"])[-1][:150]


def install(peer: Peer, folder: Path) -> str:
    """Return the Python of a peer, with its packages.

    Raises:
        PeerError: they cannot be installed.
    """
    if not peer.packages:
        return sys.executable
    place = folder / "venv"
    try:
        subprocess.run([sys.executable, "-m", "venv", place], check=True, capture_output=True, timeout=120)
        python = str(place / "bin" / "python")
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.packages]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise PeerError("it could not be installed in time") from None
    except subprocess.CalledProcessError as error:
        raise PeerError(f"it cannot be installed: {_last(str(error.stderr))}") from None
    return python


def version(peer: Peer, python: str) -> str:
    """Return the version that is installed."""
    name = peer.name if peer.packages else "aiopool"
    code = f"from importlib.metadata import version; print(version({name!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip()


def measure(peer: Peer, options: argparse.Namespace) -> Row:
    """Install a peer, start its server, measure, and clear all away."""
    if why := engines.missing(peer.engine):
        return Row(peer, failed={"all": why})
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        (server := folder / "server").mkdir()
        try:
            python = install(peer, folder)
        except PeerError as error:
            return Row(peer, failed={"all": str(error)})
        url = stack.enter_context(engines.running(peer.engine, server))
        trial = Trial(peer, python, url, folder, options)
        trial.row.version = version(peer, python)
        trial.measure()
        return trial.row


def cells(row: Row, patience: float) -> list[str]:
    """Return a row of the table."""
    numbers = row.numbers

    def shown(key: str) -> str:
        return f"{numbers[key]:,.0f}" if key in numbers else "failed"

    kill = ["failed", "failed", "failed"]
    if "flying" in numbers:
        within = f"{numbers['restart']:.1f} s" if "restart" in numbers else f"not within {patience:g} s"
        kill = [f"{numbers['done']:.0f}/{NAPS}", f"{numbers['rescued']:.0f}/{numbers['flying']:.0f}", within]
    idle = "failed"
    if "idle p50" in numbers:
        idle = f"{report.number(numbers['idle p50'])} / {report.number(numbers['idle p99'])}"
    rates = [shown(key) for key in ("enqueue", "drain", "end to end")]
    return [row.peer.name, row.version, *kill, *rates, idle]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line as an object."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.durable_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--peer", action="append", metavar="NAME", help="only those with this in their name; repeatable"
    )
    parser.add_argument("--patience", type=float, default=40.0, help="seconds for anything to happen (default 40)")
    parser.add_argument("--jobs", type=int, default=2000, help="of each rate (default 2000)")
    parser.add_argument("--idle", type=int, default=100, help="jobs one by one (default 100)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the table."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    peers = [peer for peer in PEERS if not options.peer or any(text in peer.name for text in options.peer)]
    if not peers:
        print(f"no such peer: there are {', '.join(peer.name for peer in PEERS)}", file=sys.stderr)
        return 2
    rows = []
    for peer in peers:
        print(f"{peer.name} …", file=sys.stderr)
        rows.append(measure(peer, options))
    print(f"CPython {platform.python_version()}, {os.cpu_count()} CPUs, {CONCURRENCY} at a time; defaults otherwise\n")
    head = [
        "",
        "version",
        "done",
        "rescued",
        "first restart",
        "enqueue/s",
        "drain/s",
        "end to end/s",
        "idle p50/p99 ms",
    ]
    print(report.table(head, [cells(row, options.patience) for row in rows]))
    faults = [f"{row.peer.name}, {step}: {why}" for row in rows for step, why in row.failed.items()]
    if faults:
        print("\nWhat failed:", *faults, sep="\n- ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
