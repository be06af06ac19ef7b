"""The real orchestrator and the official worker, each in an environment of its own, as processes; and a client.

Their newest versions cannot share an environment, nor should they be in ours. `AVTOMATIKA_SERVER_PYTHON` and
`AVTOMATIKA_WORKER_PYTHON` name a Python that has them; without these they are installed for the run.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

HERE = Path(__file__).parent
SERVER = ("AVTOMATIKA_SERVER_PYTHON", "avtomatika==1.0b30")
WORKER = ("AVTOMATIKA_WORKER_PYTHON", "avtomatika-worker==1.0b20")
TOKEN, SECRET, CLIENT = "worker-token", "orchestrator-secret", "client-token"
START_TIMEOUT = 60.0
ENDED = ("finished", "failed", "error", "quarantined", "cancelled")


def python_with(which: tuple[str, str], shared: Path) -> str:
    """Return a Python that has a package: the one that a variable names, or one that is made once for a test run."""
    variable, package = which
    if python := os.environ.get(variable):
        return python
    place = shared / f"venv-{package.partition('=')[0]}"
    with open(f"{place}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the processes of xdist share it
        python = str(place / "bin" / "python")
        if not (place / "installed").exists():
            subprocess.run([sys.executable, "-m", "venv", place], check=True, capture_output=True, timeout=120)
            command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--pre", package]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode:
                pytest.skip(f"{package} cannot be installed: {done.stderr.strip()[-200:]}")
            (place / "installed").touch()
    return python


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Orchestrator:
    """A real orchestrator, and its client; it can be killed and started again at the same address."""

    def __init__(self, python: str, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [python, str(HERE / "orchestrator_host.py"), str(self.port)]
        self._log = log
        self._environment = {
            "PATH": os.environ["PATH"],
            "API_PORT": str(self.port),
            "CLIENT_TOKEN": CLIENT,
            "GLOBAL_WORKER_TOKEN": TOKEN,
            "ORCHESTRATOR_SECRET_KEY": SECRET,
            "RATE_LIMITING_ENABLED": "false",
            "WORKER_POLL_TIMEOUT_SECONDS": "5",
            "WATCHER_INTERVAL_SECONDS": "1",
            "JOB_MAX_RETRIES": "2",
            "DETAILED_API_RESPONSES": "true",
            "LOG_FORMAT": "text",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end:
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/_public/status", timeout=2):
                return
            time.sleep(0.05)  # a program of others, which tells nobody when it is ready
        raise AssertionError(f"no answer within {START_TIMEOUT:g} s: {self._log.read_text()[-3000:]}")

    def kill(self) -> None:
        """End it without asking, with all that it knows."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """Let it hang: its connections stand, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    # -- its client --------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        async with (
            aiohttp.ClientSession(headers={"X-Client-Token": CLIENT}) as session,
            session.request(method, f"{self.url}/api/v1{path}", json=body) as response,
        ):
            answer = await response.json()
            assert response.status < 300, (response.status, answer)
            return answer

    async def submit(
        self, task: str, params: dict[str, Any] | None = None, *, blueprint: str = "plain", **more: Any
    ) -> str:
        """Have a task done; return the id of its job."""
        body = {"initial_data": {"task": task, "params": params or {}, **more}}
        answer = await self._ask("POST", f"/jobs/{blueprint}", body)
        return str(answer["job_id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        """Return a job."""
        found = await self._ask("GET", f"/jobs/{job_id}")
        assert isinstance(found, dict)
        return found

    async def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        await self._ask("POST", f"/jobs/{job_id}/cancel")

    async def workers(self) -> dict[str, dict[str, Any]]:
        """Return the workers that it knows, by id."""
        return {worker["worker_id"]: worker for worker in await self._ask("GET", "/workers")}

    async def until(self, job_id: str, *statuses: str, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until a job has one of these statuses; by default, until it has ended."""
        async with asyncio.timeout(timeout):
            while (job := await self.job(job_id))["status"] not in (statuses or ENDED):
                await asyncio.sleep(0.02)
        return job

    async def done(self, task: str, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Have a task done, and return its job when it has ended."""
        return await self.until(await self.submit(task, params, **more))


@contextlib.contextmanager
def orchestrator(python: str, log: Path, **settings: str) -> Iterator[Orchestrator]:
    """Start an orchestrator, and end it."""
    server = Orchestrator(python, log, **settings)
    try:
        server.start()
        yield server
    finally:
        if server._process is not None:
            server.thaw()
        server.kill()


@contextlib.asynccontextmanager
async def running(worker: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a worker; it is registered inside, and stopped at the end."""
    main = asyncio.create_task(worker.main())
    try:
        async with asyncio.timeout(20):
            while not worker.counts.registrations and not main.done():
                await asyncio.sleep(0.01)
        if main.done():
            main.result()
        yield main
    finally:
        await worker.stop(timeout=0)
        await asyncio.wait([main])
        if not main.cancelled():
            main.result()
