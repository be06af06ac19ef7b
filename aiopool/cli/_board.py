"""What is shown on standard error while the work goes on: a live bar on a terminal, plain lines elsewhere.

Both are told the same `Progress`; neither knows where it comes from. Colours are rich's affair, who leaves them out if
`NO_COLOR` is set.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections import deque
from typing import Final, Protocol, final

__all__ = ["LiveDisplay", "PlainDisplay", "Progress", "ProgressDisplay", "Rate", "duration"]

# Seconds that the rate looks back: long enough to be calm, short enough to follow.
WINDOW: Final = 5.0


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """The work in numbers at one moment.

    Attributes:
        done: lines that are finished, failed ones included.
        failed: how many of them failed.
        running: jobs that run.
        retried: attempts after a first one.
        rate: finished lines per second, of late.
        fraction: how much of the input is finished, from 0 to 1; None if nobody knows how much there is.
        left: seconds to the end; None if nobody knows.
    """

    done: int
    failed: int
    running: int
    retried: int
    rate: float
    fraction: float | None
    left: float | None

    def __str__(self) -> str:
        words = [f"{self.done:,} done", f"{self.rate:,.0f}/s", f"{self.running} running"]
        words += [f"{self.retried:,} retried"] if self.retried else []
        words += [f"{self.failed:,} failed"]
        words += [f"{duration(self.left)} left"] if self.left is not None else []
        return ", ".join(words)


@final
class Rate:
    """Counts what is finished, and knows the rate and the time that is left. `total` is bytes, or lines, or None."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._began = time.monotonic()
        self._past: deque[tuple[float, int]] = deque([(self._began, 0)])
        self.done = 0
        self.failed = 0
        self.cancelled = 0
        self.size = 0.0

    def count(self, size: float, *, ok: bool = True) -> None:
        """Take note of a finished line of `size` bytes."""
        self.done += 1
        self.failed += not ok
        self.size += size

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def progress(self, running: int, retried: int, skipped: float = 0.0) -> Progress:
        """Return the numbers of now; `skipped` is the size of what was finished before."""
        now, past = time.monotonic(), self._past
        past.append((now, self.done))
        while len(past) > 2 and past[1][0] <= now - WINDOW:
            past.popleft()
        since, done = past[0]
        rate = (self.done - done) / (now - since) if now > since else 0.0
        fraction = left = None
        if self._total:
            fraction = min(1.0, (self.size + skipped) / self._total)
            if self.size > 0:
                left = (now - self._began) * max(0.0, self._total - self.size - skipped) / self.size
        return Progress(self.done, self.failed, running, retried, rate, fraction, left)


class ProgressDisplay(Protocol):
    """Where progress and messages are shown."""

    def show(self, progress: Progress) -> None: ...
    def say(self, line: str) -> None: ...
    def close(self) -> None: ...


@final
class LiveDisplay:
    """A bar on the last line of a terminal; what is said appears above it."""

    def __init__(self) -> None:
        # Only where there is a terminal: it takes longer to load than all the rest.
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        self._text = Text
        self._progress = RichProgress(
            BarColumn(bar_width=20),
            TextColumn("{task.fields[percent]}{task.fields[numbers]}", markup=False),
            console=Console(stderr=True),
            auto_refresh=False,  # by us: no thread of rich's, and a bar that stands still when the event loop does
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, percent="", numbers="reading")
        self._progress.start()

    def show(self, progress: Progress) -> None:
        percent = "" if progress.fraction is None else f"{progress.fraction:4.0%}  "
        if progress.fraction is None:
            self._progress.update(self._task, percent=percent, numbers=str(progress))
        else:
            self._progress.update(
                self._task, total=1.0, completed=progress.fraction, percent=percent, numbers=str(progress)
            )
        self._progress.refresh()

    def say(self, line: str) -> None:
        self._progress.console.print(self._text(printable(line)), soft_wrap=True, highlight=False)

    def close(self) -> None:
        self._progress.stop()


@final
class PlainDisplay:
    """Lines, one every few seconds; for logs and pipes."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._next = time.monotonic() + every

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every
            self.say(str(progress))

    def say(self, line: str) -> None:
        try:
            print(printable(line), file=sys.stderr, flush=True)
        except OSError:  # nobody reads standard error: the work goes on
            # And Python must not complain when it flushes it at the end.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)

    def close(self) -> None:
        pass


def printable(line: str) -> str:
    """Return a line without what would steer a terminal or forge a line of a log: an error's text may hold anything."""
    return "".join(char if char.isprintable() or char == "\t" else ascii(char)[1:-1] for char in line)


def duration(seconds: float) -> str:
    """Return seconds as people write them: `0.4 s`, `17 s`, `2:05`, `3:00:12`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
