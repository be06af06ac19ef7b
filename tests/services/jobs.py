"""Jobs for the real `queuemgr`; a module of its own, because job processes are started by forkserver."""

import os
import signal
import sys
import time
from pathlib import Path

from queuemgr.jobs.base import QueueJobBase


class StubbornJob(QueueJobBase):  # type: ignore[misc]
    """Ignores the stop flag, and SIGTERM; says where it runs."""

    def execute(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(self.params["path"]).write_text(str(os.getpid()))
        while True:
            time.sleep(60)

    def on_start(self) -> None: ...
    def on_stop(self) -> None: ...
    def on_end(self) -> None: ...
    def on_error(self, exc: BaseException) -> None:
        print(exc, file=sys.stderr)
