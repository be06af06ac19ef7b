"""What durable jobs cost and keep: python -m benchmarks.durable [--server sqlite] [--store URL] [--seconds 2]

For each store, side by side and interleaved in one run:

- how many durable jobs a second are submitted and completed by 1, 10, 100 and 500 submitters of one process, and how
  many go from a process that submits to one that runs them, against the engine's own limit: what three hand-written
  statements in batches of a hundred come to (`engines`);
- how long a submission takes, and how long until a job starts while the queue is idle;
- seconds until the jobs of a process that was killed, or told to end, start again in another; and how many started
  twice because an event loop was blocked for ten leases, which must be none.

Ratios are taken within a round. The servers are started from packages, each in a directory that goes with it; SQLite's
file is there, too, so give `--folder` on the disk that you mean.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import engines, report
from benchmarks.durable_child import WARM_UP
from benchmarks.measure import ROOT, Spread

SUBMITTERS = (1, 10, 100, 500)
HELD = 10
"""Jobs that a process runs when it is killed."""

SETTLED = 2.5
"""Seconds that the other process is there before: for two, one that has just come to PostgreSQL calls nobody dead."""
PATIENCE = 120.0
"""Seconds after which a child that says nothing is given up."""

KINDS = ("memory", "sqlite", "postgres", "valkey")

_queues = itertools.count(1)


class Child:
    """A process of the fleet."""

    def __init__(self, role: str, **order: Any) -> None:
        command = [sys.executable, "-m", "benchmarks.durable_child", json.dumps({"role": role, **order})]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def hear(self) -> dict[str, Any]:
        """Return the next thing that it says.

        Raises:
            RuntimeError: it has ended without a word; its last line of errors is in the text.
        """
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            words = self.process.stderr.read().strip().splitlines()[-1:] or ["it said nothing"]
            raise RuntimeError(words[0])
        found: dict[str, Any] = json.loads(line)
        return found

    def tell(self, text: str) -> None:
        """Write a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Let it end, or kill it."""
        with contextlib.suppress(BrokenPipeError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def child(role: str, **order: Any) -> Iterator[Child]:
    """Start a process, and end it."""
    started = Child(role, **order)
    try:
        yield started
    finally:
        started.end()


def ask(role: str, **order: Any) -> dict[str, Any]:
    """Have a process measure something."""
    with child(role, **order) as started:
        return started.hear()


def queue() -> str:
    """Return a name that no other measurement has."""
    return f"bench-{os.getpid()}-{next(_queues)}"


# -- what is measured -------------------------------------------------------------------------------------------------


class Trial:
    """The measurements of one store.

    Attributes:
        kind: which one.
        samples: of each row.
        failed: why a row could not be measured.
    """

    def __init__(self, kind: str, url: str, folder: Path, options: argparse.Namespace) -> None:
        self.kind = kind
        self.samples: dict[str, list[float]] = {}
        self.failed: dict[str, str] = {}
        self._url = url
        self._folder = folder
        self._options = options

    def _add(self, row: str, value: float | None) -> None:
        if value is not None:
            self.samples.setdefault(row, []).append(value)

    def _place(self) -> dict[str, Any]:
        name = queue()
        return {"url": engines.fresh(self._url), "queue": name, "notes": str(self._folder / f"{name}.notes")}

    def attempt(self, row: str, measure: Callable[[], None]) -> None:
        """Measure; what fails once is reported in its row, and not tried again."""
        if row in self.failed:
            return
        try:
            measure()
        except (RuntimeError, TimeoutError, OSError) as error:
            self.failed[row] = str(error)

    def round(self) -> None:
        """Measure once all that is a rate."""
        self.attempt("limit", self._limit)
        for submitters in SUBMITTERS:
            self.attempt(f"complete {submitters}", lambda: self._complete(submitters))
        if self.kind != "memory":
            self.attempt("end to end", self._end_to_end)
        self.attempt("idle", self._idle)

    def _limit(self) -> None:
        answer = ask("limit", seconds=self._options.seconds, **self._place())
        self._add("limit", answer["rate"])

    def _complete(self, submitters: int) -> None:
        answer = ask("complete", submitters=submitters, seconds=self._options.seconds, **self._place())
        self._add(f"complete {submitters}", answer["rate"])
        for part in ("submit_p50", "submit_p99"):
            self._add(f"{part} {submitters}", answer[part])

    def _end_to_end(self) -> None:
        place = self._place()
        with child("work", **place) as worker:
            worker.hear()
            produced = ask("produce", submitters=100, seconds=self._options.seconds, **place)
            worker.tell(str(produced["count"]))
            ended = worker.hear()
        self._add("end to end", produced["count"] / (ended["at"] - produced["began"]))
        self._add("produced", produced["rate"])

    def _idle(self) -> None:
        place = self._place()
        count = max(10, int(self._options.seconds / 0.02))
        alone = self.kind == "memory"
        with contextlib.nullcontext() if alone else child("work", **place) as worker:
            if worker is not None:
                worker.hear()
            answer = ask("trickle", alone=alone, count=count, **place)
            starts = self._starts(place, count + WARM_UP)
        waits = sorted(starts[index][0][0] - at for index, at in enumerate(answer["submitted"]))
        self._add("idle p50", waits[len(waits) // 2])
        self._add("idle p99", waits[min(len(waits) - 1, len(waits) * 99 // 100)])
        self._add("idle submit p50", answer["submit_p50"])
        self._add("idle submit p99", answer["submit_p99"])

    # -- who is killed ------------------------------------------------------------------------------------------------

    def _starts(self, place: dict[str, Any], count: int, pid: int | None = None) -> dict[int, list[tuple[float, int]]]:
        """Return the starts of each job, (moment, process), as soon as so many have one in that process, or any."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            starts: dict[int, list[tuple[float, int]]] = {}
            for line in Path(place["notes"]).read_text().splitlines():
                index, at, by = line.split()
                starts.setdefault(int(index), []).append((float(at), int(by)))
            if sum(any(pid in (None, by) for _, by in found) for found in starts.values()) >= count:
                return starts
            time.sleep(0.005)
        raise TimeoutError(f"not all of {count} jobs started within {PATIENCE:g} s")

    def rescue(self, row: str, how: signal.Signals) -> None:
        """End a process by a signal while it runs jobs, and see when they start in another one."""
        place = self._place()
        with child("work", shutdown_timeout=0, **place) as first:
            first.hear()
            ask("burden", job="hold", count=HELD, seconds=3600, **place)
            self._starts(place, HELD)
            with child("work", **place) as second:
                second.hear()
                time.sleep(SETTLED + random.random())  # at any moment of its rounds
                began = time.monotonic()
                first.process.send_signal(how)
                starts = self._starts(place, HELD, second.process.pid)
                second.process.kill()
        moments = sorted(at - began for found in starts.values() for at, by in found if by == second.process.pid)
        self._add(f"{row}, first", moments[0])
        self._add(f"{row}, last", moments[-1])

    def blocked(self, row: str) -> None:
        """Hold up the loop of a process for ten leases, and count the starts in another one."""
        place = self._place()
        if self.kind in ("postgres", "valkey"):
            place["url"] += f"{'&' if '?' in place['url'] else '?'}lease={self._options.lease:g}"
        with child("work", **place) as first:
            lease = first.hear()["lease"] or self._options.lease
            ask("burden", job="block", count=1, seconds=10 * lease, **place)
            self._starts(place, 1)
            with child("work", **place) as second:
                second.hear()
                time.sleep(10 * lease)
                starts = self._starts(place, 1)
        self._add(row, len(starts[0]) - 1)
        self._add("lease", lease)


# -- the tables -------------------------------------------------------------------------------------------------------


def _rates(trial: Trial) -> list[list[str]]:
    limits = trial.samples.get("limit")
    rows = []
    names = {f"complete {n}": f"submit and complete, {n} at once" for n in SUBMITTERS}
    names |= {"end to end": "from process to process", "produced": "submitted by the first of them"}
    for key, title in ({"limit": "limit of the engine"} | names).items():
        if key not in trial.samples:
            if why := trial.failed.get(key):
                rows.append([trial.kind, title, f"failed: {why}", ""])
            continue
        ratio = "" if limits is None else _ratio(trial.samples[key], limits)
        rows.append([trial.kind, title, _count(trial.samples[key]), ratio])
    return rows


def _count(samples: list[float]) -> str:
    found = Spread.of(samples)
    return f"{found.median:,.0f} ({found.low:,.0f}–{found.high:,.0f})"


def _ratio(samples: list[float], limits: list[float]) -> str:
    if len(samples) != len(limits):
        return "rounds are missing"
    return report.spread(Spread.of(own / most for own, most in zip(samples, limits, strict=True)))


def _times(trial: Trial) -> list[list[str]]:
    titles = {
        "submit_p50 1": "a submission, 1 at once, median",
        "submit_p99 1": "a submission, 1 at once, 99th percentile",
        "submit_p50 100": "a submission, 100 at once, median",
        "submit_p99 100": "a submission, 100 at once, 99th percentile",
        "idle submit p50": "idle: a submission, median",
        "idle submit p99": "idle: a submission, 99th percentile",
        "idle p50": "idle: until it starts, median",
        "idle p99": "idle: until it starts, 99th percentile",
        "killed, first": "kill -9: until the first job starts elsewhere",
        "killed, last": f"kill -9: until all {HELD} jobs do",
        "told to end, first": "SIGTERM: until the first job starts elsewhere",
        "told to end, last": f"SIGTERM: until all {HELD} jobs do",
    }
    rows = []
    for key, title in titles.items():
        if key in trial.samples:
            rows.append([trial.kind, title, report.spread(Spread.of(1e3 * each for each in trial.samples[key]), "ms")])
        elif why := trial.failed.get(key.partition(",")[0].removesuffix(" p50")):
            rows.append([trial.kind, title, f"failed: {why}"])
    if "blocked" in trial.samples:
        lease = max(trial.samples["lease"])
        text = f"started twice while a loop was blocked for {10 * lease:g} s"
        rows.append([trial.kind, text, f"{sum(trial.samples['blocked']):.0f} of {len(trial.samples['blocked'])}"])
    elif why := trial.failed.get("blocked"):
        rows.append([trial.kind, "started twice while a loop was blocked", f"failed: {why}"])
    return rows


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line as an object."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.durable", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", action="append", choices=[*KINDS, "all"], help="start this one; default: all")
    parser.add_argument("--store", action="append", default=[], metavar="URL", help="a store that is there already")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each rate (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="of all rates (default 3)")
    parser.add_argument("--kills", type=int, default=5, help="of each kind (default 5)")
    parser.add_argument("--lease", type=float, default=1.0, help="seconds, while a loop is blocked for ten (default 1)")
    parser.add_argument("--folder", type=Path, help="where the files of SQLite and of the servers are")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> list[Trial]:
    """Run all trials, interleaved."""
    kinds = options.server or ([] if options.store else ["all"])
    kinds = list(KINDS) if "all" in kinds else kinds
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        folder.chmod(0o755)  # PostgreSQL runs as another user if we are root
        trials = []
        for kind in kinds:
            if why := engines.missing(kind):
                print(f"{kind}: left out, {why}", file=sys.stderr)
                continue
            (own := folder / kind).mkdir()
            trials.append(Trial(kind, stack.enter_context(engines.running(kind, own)), folder, options))
        trials += [Trial(engines.kind_of(url), url, folder, options) for url in options.store]
        for _ in range(options.rounds):
            for trial in trials:
                trial.round()
        for _ in range(options.kills):
            for trial in trials:
                if trial.kind != "memory":
                    trial.attempt("killed", lambda trial=trial: trial.rescue("killed", signal.SIGKILL))
                    trial.attempt("told to end", lambda trial=trial: trial.rescue("told to end", signal.SIGTERM))
        for trial in trials:
            if trial.kind != "memory" and options.kills:
                trial.attempt("blocked", lambda trial=trial: trial.blocked("blocked"))
    return trials


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the tables; 1: something could not be measured, or a job started twice."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    trials = measure(options)
    print(
        f"CPython {platform.python_version()}, {os.cpu_count()} CPUs, {options.rounds} interleaved rounds of "
        f"{options.seconds:g} s, {options.kills} kills: median (lowest–highest)\n"
    )
    rates = [row for trial in trials for row in _rates(trial)]
    print(report.table(["store", "jobs a second", "", "of the limit"], rates), end="\n\n")
    print(report.table(["store", "time", ""], [row for trial in trials for row in _times(trial)]))
    return int(any(trial.failed or sum(trial.samples.get("blocked", [])) for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
