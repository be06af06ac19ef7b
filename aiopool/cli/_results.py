"""`Results`: lines of results, written within some milliseconds, each line in one piece.

Writing is done in a thread: where nobody may be reading (a pipe into a pager), jobs and their time limits go on. The
thread takes all that is there at once, so the faster lines come, the fewer writes there are. What waits for it is
bounded: `add` says so, and `drained` waits.

What was written is the kernel's: a program that is killed loses none of it, but may tear the line that it was writing
(`_past` mends that). A file is flushed to the disk once, at the end: an exit code says what a power cut cannot take
back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, Literal, final

__all__ = ["Results"]

# Bytes that may wait to be written: enough for a writer that is slow for a moment.
MAX_WAITING: Final = 1024 * 1024

# Seconds between two writes, at least, while lines keep coming: each takes a change of thread, which costs as much as
# several lines do.
PAUSE: Final = 0.005


@final
class Results:
    """Where results go: a file, standard output, or a function that shows them on the screen.

    Args:
        descriptor: where they are written; closed in the end.
        path: the file that it is; None: standard output.
        show: called with each line instead, where standard output is a terminal with a progress bar on it.
        errors: how text that is no UTF-8 is written: as JSON says it, or as the bytes that it was.
        on_broken: called in the event loop when nothing can be written any more.

    Attributes:
        error: why nothing can be written any more.
        written: how many lines were written, all of each.
    """

    def __init__(
        self,
        descriptor: int,
        path: str | None = None,
        *,
        show: Callable[[str], object] | None = None,
        errors: Literal["backslashreplace", "surrogateescape"] = "backslashreplace",
    ) -> None:
        self.path = path
        self._show = show if path is None else None
        self._errors = errors
        self._descriptor = descriptor
        self._regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._lines: list[str] = []  # since the last flush
        self._next_flush = 0.0  # by the loop's clock: the thread is woken no earlier
        self._waiting = 0  # bytes for the thread, under the lock
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room: asyncio.Future[None] | None = None
        self._released = False
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="aiopool-cli-write", daemon=True)
        self.on_broken: Callable[[], object] = lambda: None
        self.error: OSError | None = None
        self.written = 0
        # A child of os.fork() is not us: it writes no result, and does not keep a pipe open for its reader.
        os.register_at_fork(after_in_child=self._forget)

    @property
    def name(self) -> str:
        """What messages call it."""
        return "standard output" if self.path is None else self.path

    def add(self, line: str) -> bool:
        """Write a line soon; return whether the caller should wait for `drained` before the next one."""
        if self._show is not None:
            self._show(line)
            return False
        if not self._lines:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
                self._thread.start()
            # A line that comes alone at once, those that follow closely together.
            if self._loop.time() < self._next_flush:
                self._loop.call_at(self._next_flush, self._flush)
            else:
                self._loop.call_soon(self._flush)
        self._lines.append(line)
        return self._waiting > MAX_WAITING

    async def drained(self, most: int = MAX_WAITING) -> None:
        """Wait until no more than so many bytes wait, or nothing can be written any more, or `release` is called."""
        self._flush()
        while self._waiting > most and self.error is None and not self._released:
            assert self._loop is not None
            self._room = self._loop.create_future()
            try:
                # Look once more: the thread looks for the future after it has counted.
                if self._waiting > most and self.error is None:
                    await self._room
            finally:
                self._room = None

    def release(self) -> None:
        """Let nobody wait any more: neither now nor later."""
        self._released = True
        self._wake()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines or self.error is not None:
            return
        assert self._loop is not None
        self._next_flush = self._loop.time() + PAUSE
        lines.append("")
        # Bytes of a file name that are no UTF-8 become `\udc80` and so on, which is how JSON says it, too.
        data = "\n".join(lines).encode("utf-8", self._errors)
        with self._lock:
            self._waiting += len(data)
        self._queue.put(data)

    def _run(self) -> None:
        """The thread: write what comes, all of it at once; a None is the end."""
        more = True
        while more:
            chunks = [self._queue.get()]
            while not self._queue.empty():
                chunks.append(self._queue.get())
            if chunks[-1] is None:
                more = False
                chunks.pop()
            data = b"".join(chunk for chunk in chunks if chunk is not None)
            try:
                self._put(data)
            except OSError as error:
                self.error = error
                self._tell(self._break)
                return
            with self._lock:
                self._waiting -= len(data)
            if self._room is not None:
                self._tell(self._wake)

    def _tell(self, callback: Callable[[], object]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback)

    def _break(self) -> None:
        self._wake()
        self.on_broken()

    def _put(self, data: bytes) -> None:
        done = 0
        try:
            with memoryview(data) as view:
                while done < len(data):
                    done += os.write(self._descriptor, view[done:])
        except OSError:
            self._take_back(done - data.rfind(b"\n", 0, done) - 1)
            raise
        finally:
            self.written += data.count(b"\n", 0, done)

    def _take_back(self, count: int) -> None:
        """Take back the beginning of a line whose end found no place: what is in a file shall be complete."""
        if not self._regular or not count:
            return
        with contextlib.suppress(OSError):
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            if end == os.fstat(self._descriptor).st_size:  # else somebody else writes there, too
                os.ftruncate(self._descriptor, end - count)

    def _forget(self) -> None:
        self._lines.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        """Write what is left, however long nobody reads (an interrupt ends that), and close."""
        self._flush()
        if self._thread.ident is not None:
            self._queue.put(None)
            self._thread.join()
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                if self.path is not None and self._regular and self.written:
                    os.fsync(descriptor)
            except OSError as error:
                self.error = self.error or error
            finally:
                os.close(descriptor)
