"""The tools below the registry: telling processes apart, waiting for their ends, calling from one place to another."""

import asyncio
import os
import signal
import subprocess
import threading
import time

import psutil
import pytest
from services.support import (
    PATIENT,
    nothing_left,  # noqa: F401 - a check around every test of this module
    running,
    stubborn,
    wait_until,
)

from aiopool.services import _families, _process
from aiopool.services._calls import call_at, run_to_end
from aiopool.services._families import MARK, ProcessTree, end_trees, refresh_trees
from aiopool.services._process import ExitWaiter, ProcessId, ProcessTable, alive, ancestors, identify, send


@pytest.fixture
def child():
    """A child that is patient and polite."""
    process = subprocess.Popen(PATIENT)
    yield process
    process.kill()
    process.wait()


def known(process: "subprocess.Popen[bytes]") -> ProcessId:
    found = identify(process.pid)
    assert found is not None
    return found


def test_a_process_is_its_pid_and_its_start(child) -> None:
    """Another start time is another process: not alive, not signalled."""
    process = known(child)
    stranger = ProcessId(process.pid, process.started + 1)
    assert alive(process)
    assert not alive(stranger)
    assert send(stranger, signal.SIGKILL) is False
    assert child.poll() is None
    assert send(process, signal.SIGTERM) is True
    assert child.wait(10) == -signal.SIGTERM
    assert send(process, signal.SIGTERM) is False
    assert identify(child.pid) is None


def test_a_zombie_is_over() -> None:
    """It runs no more code; it is neither alive nor identified, before and after it is reaped."""
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    process = known(child)
    assert child.stdin is not None
    child.stdin.close()
    wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert not alive(process)
    assert identify(child.pid) is None
    assert process not in ProcessTable()
    assert child.wait() == 0


@pytest.mark.parametrize("name", ["a b", ") S 1 1", "((", "x)"])
def test_odd_program_names_are_read_correctly(tmp_path, name) -> None:
    """The name stands in brackets in the middle of the line, and may hold brackets itself."""
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(program), "600"])
    try:
        process = known(child)
        assert process in ProcessTable()
        assert process in ProcessTable().children_of(ProcessId(os.getpid(), known_self().started)) | {process}
        assert ancestors(child.pid)[0] == os.getpid()
    finally:
        child.kill()
        child.wait()


def known_self() -> ProcessId:
    found = identify(os.getpid())
    assert found is not None
    return found


def test_the_two_ways_to_read_processes_agree(child, monkeypatch) -> None:
    """/proc, and psutil for systems without it: the same parents, sessions and descendants."""
    ours, by_proc = ProcessTable(), identify(os.getpid())
    monkeypatch.setattr(_process, "_LINUX", False)
    theirs, by_psutil = ProcessTable(), identify(os.getpid())
    for table, process in ((ours, by_proc), (theirs, by_psutil)):
        assert process is not None
        assert child.pid in {found.pid for found in table.children_of(process)}
        assert child.pid in {found.pid for found in table.session(os.getsid(0))}
        assert process in table
        assert table.session_of(process) == os.getsid(0)
    assert ancestors(child.pid)[:2] == [os.getpid(), os.getppid()]
    assert theirs.marked(MARK) == {}
    process = known(child)
    assert alive(process)
    # And the whole way through without pidfds:
    monkeypatch.delattr(os, "pidfd_open")
    family = ProcessTree([process])
    now = time.monotonic()
    end_trees([family], force_at=now + 10, deadline=now + 10)
    assert not family.forced
    assert child.wait(10) == -signal.SIGTERM
    assert not alive(process)
    assert identify(child.pid) is None


@pytest.mark.parametrize("pidfds", [True, False])
def test_an_exit_watch_wakes_for_each_end_and_reaps_nobody(pidfds, monkeypatch) -> None:
    """The exit codes stay for their owners; what was reported is watched no longer."""
    if not pidfds:
        monkeypatch.delattr(os, "pidfd_open")
    children = [subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(3)]
    processes = [known(child) for child in children]
    before = len(os.listdir("/proc/self/fd"))
    with ExitWaiter(processes) as watch:
        watch.add(processes)
        assert watch.processes == set(processes)
        assert watch.wait(0) == set()
        began = time.monotonic()
        assert watch.wait(0.05) == set()
        assert time.monotonic() - began >= 0.05
        for child, process in zip(children, processes, strict=True):
            assert child.stdin is not None
            child.stdin.close()
            assert watch.wait(10) == {process}
            assert process not in watch.processes
            assert child.wait() == 0
        began = time.monotonic()
        assert watch.wait(10) == set()  # nobody is left, so there is nothing to wait for
        assert time.monotonic() - began < 5
        watch.add([processes[0]])
        assert watch.wait(10) == {processes[0]}  # over before it was added
    assert len(os.listdir("/proc/self/fd")) == before - 3


def test_no_file_descriptors_left_is_no_reason_to_fail(child, monkeypatch) -> None:
    """Then the process is looked at by hand."""

    def exhausted(pid: int, flags: int = 0) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", exhausted)
    process = known(child)
    with ExitWaiter([process]) as watch:
        assert watch.wait(0.03) == set()
        assert send(process, signal.SIGTERM)
        assert watch.wait(10) == {process}


def test_a_family_never_holds_ourselves() -> None:
    """Not even if somebody names one of our ancestors as a root."""
    parent = identify(os.getppid())
    assert parent is not None
    family = ProcessTree([parent])
    refresh_trees([family])
    assert os.getpid() not in {process.pid for process in family.members}
    child = subprocess.Popen(PATIENT)
    family.refresh(ProcessTable())
    assert child.pid not in {process.pid for process in family.members}
    child.kill()
    child.wait()


def test_a_trace_that_leads_to_ourselves_is_not_followed(monkeypatch) -> None:
    """A mark in our own environment, a root that is ourselves: our own children are no leftovers of somebody else."""
    me = identify(os.getpid())
    assert me is not None
    child = subprocess.Popen(PATIENT, env={**os.environ, MARK: "outer"})
    family = ProcessTree([me], mark="outer")
    monkeypatch.setattr(
        ProcessTable, "marked", lambda table, name: {"outer": {me, *table.children_of(me)}} if name == MARK else {}
    )
    family.refresh(ProcessTable())
    assert family.members == set()
    child.kill()
    child.wait()


def test_members_that_come_while_killing_are_found() -> None:
    """Processes that fork on and on are held still before they are killed, so that no newborn is lost."""
    bomb = 'trap "" TERM; echo; i=0; while [ $i -lt 400 ]; do sleep 620 & i=$((i+1)); sleep 0.002; done; wait'
    children = [subprocess.Popen(["sh", "-c", bomb], stdout=subprocess.PIPE) for _ in range(4)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()
    families = [ProcessTree([known(child)]) for child in children]
    now = time.monotonic()
    end_trees(families, force_at=now + 0.1, deadline=now + 20)
    assert not any(family.living() for family in families)
    assert [child.wait(10) for child in children] == [-signal.SIGKILL] * 4
    assert [found for found in psutil.process_iter(["cmdline"]) if found.info["cmdline"] == ["sleep", "620"]] == []


def test_whoever_is_killed_was_held_before(monkeypatch) -> None:
    """Who is killed in the middle of a fork leaves a child that nobody can trace: all stand still before."""
    sent: list[tuple[int, int]] = []

    def noted(process: ProcessId, signum: int) -> bool:
        sent.append((process.pid, signum))
        return send(process, signum)

    monkeypatch.setattr(_families, "send", noted)
    children = [stubborn() for _ in range(3)]
    families = [ProcessTree([known(child)]) for child in children]
    now = time.monotonic()
    end_trees(families, force_at=now, deadline=now + 10)
    assert [child.wait(10) for child in children] == [-signal.SIGKILL] * 3
    held = {pid for pid, signum in sent[:3] if signum == signal.SIGSTOP}
    assert held == {child.pid for child in children}
    assert {signum for _, signum in sent[3:]} == {signal.SIGKILL}


def test_someone_elses_process_is_an_error_text(monkeypatch, child) -> None:
    """What may not be signalled is told once, and left."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    family = ProcessTree([known(child)])
    end_trees([family], force_at=0, deadline=0)
    assert family.errors == [f"process {child.pid} may not be signalled: it belongs to another user"]
    assert family.living()


# -- calls --------------------------------------------------------------------------------------------------


async def test_call_at_tells_late_from_cancelled() -> None:
    """A call that is cancelled by somebody else must not look like the caller's own cancellation."""

    async def never() -> None:
        await asyncio.Event().wait()

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(TimeoutError, match="x was not done in time"):
        await call_at(None, never, until=time.monotonic(), name="x")
    with pytest.raises(RuntimeError, match="x was cancelled"):
        await call_at(None, cancelled, until=time.monotonic() + 10, name="x")
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_run_to_end_from_a_loop_uses_a_thread_and_hands_errors_over() -> None:
    """And from a thread without a loop it uses that thread."""

    async def where() -> int:
        return threading.get_ident()

    async def fail() -> None:
        raise KeyError("x")

    assert run_to_end(where) != threading.get_ident()
    assert await asyncio.to_thread(lambda: run_to_end(where) == threading.get_ident())
    with pytest.raises(KeyError):
        run_to_end(fail)


def test_run_to_end_does_not_wait_for_what_ignores_its_cancellation() -> None:
    """`asyncio.run` would wait for ever."""
    let_go = threading.Event()

    async def ignores() -> None:
        while not let_go.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    async def main() -> int:
        main.task = asyncio.ensure_future(ignores())  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        main.task._log_destroy_pending = False  # type: ignore[attr-defined]
        return 3

    began = time.monotonic()
    assert run_to_end(main) == 3
    assert time.monotonic() - began < 5


def test_helpers_are_honest() -> None:
    """`stubborn()` really ignores SIGTERM: otherwise half of these tests would prove nothing."""
    child = stubborn()
    child.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.2)
    assert running(child.pid)
    child.kill()
    child.wait()
    assert not running(child.pid)
