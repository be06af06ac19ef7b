"""After a crash: what is written down, who is found and ended at the next start, and who is left alone."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from services.support import (
    PATIENT,
    STUBBORN,
    environment,
    line,
    marked,
    nothing_left,  # noqa: F401 - a check around every test of this module
    running,
    script,
    wait_until,
)

from aiopool.services import ServiceRegistry
from aiopool.services._families import MARK
from aiopool.services._pidfile import PidFile, PidRecord, leftovers
from aiopool.services._process import ProcessId, identify, system_id


def kill(server: "subprocess.Popen[str]") -> None:
    """`kill -9`. Its children hold the other ends of its pipes, so these are not read to their ends."""
    server.kill()
    server.wait()
    for stream in (server.stdout, server.stderr):
        if stream is not None:
            stream.close()


def crashed_run(directory: Path) -> tuple[str, list[int]]:
    """A server with all sorts of children that was killed by `kill -9`; its mark, and what it had started."""
    server = script("server.py", "wait", str(directory))
    mark, *pids = line(server)
    kill(server)
    return mark, [int(pid) for pid in pids]


@pytest.mark.long
async def test_after_kill_9_the_next_start_ends_what_is_left(tmp_path) -> None:
    """Stubborn children, shells, multiprocessing and their grandchildren; the file goes with the last of them."""
    mark, pids = crashed_run(tmp_path)
    stubborn, shell, _, popen, bound, grandchild = pids
    # What was to die with its parent is dead already, without any help.
    wait_until(lambda: not running(bound), what="the end of the child that dies with its parent")
    assert running(stubborn)
    assert running(shell)
    assert running(popen)
    assert running(grandchild)
    assert len(list(tmp_path.iterdir())) == 1
    registry = ServiceRegistry(pid_dir=tmp_path)
    async with registry:
        assert not any(map(running, pids))
    # Only the resource tracker of multiprocessing may take a moment longer: it ends by itself.
    wait_until(lambda: marked(mark) == [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_leftovers_can_be_ended_from_plain_code_and_are_reported(tmp_path) -> None:
    """By name and type, with who had to be killed; a second look finds nothing."""
    _, pids = crashed_run(tmp_path)
    registry = ServiceRegistry(pid_dir=tmp_path)
    report = registry.end_leftovers_sync(timeout=2)
    assert report.success
    assert report.by_type["queue"].stopped == 2
    assert report.killed == ("stubborn",)
    assert not any(map(running, pids))
    assert registry.end_leftovers_sync().message == "nothing was left"
    with pytest.raises(ValueError, match="pid_dir"):
        ServiceRegistry().end_leftovers_sync()


def record(process: ProcessId, **changes: object) -> dict[str, object]:
    root = [process.pid, process.started]
    return {
        "type": "t", "name": "n", "roots": [root], "members": [root], "own_session": True, "mark": None, **changes
    }  # fmt: skip


def write(directory: Path, *services: dict[str, object], **changes: object) -> Path:
    """A pid file of an owner that is gone."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    boot, namespace = system_id()
    content = {
        "format": 1, "registry": "r", "boot": boot, "namespace": namespace, "owner": [gone.pid, 1],
        "services": list(services), **changes,
    }  # fmt: skip
    path = directory / "r-1-x.services.json"
    path.write_text(json.dumps(content))
    return path


def test_a_stranger_with_the_same_pid_is_left_alone(tmp_path) -> None:
    """The start time tells them apart (B3.9): same number, another process."""
    stranger = subprocess.Popen(PATIENT, start_new_session=True)
    process = identify(stranger.pid)
    assert process is not None
    path = write(tmp_path, record(ProcessId(process.pid, process.started - 100)))
    report = ServiceRegistry(pid_dir=tmp_path).end_leftovers_sync(timeout=1)
    assert (report.success, report.stopped) == (True, 0)
    assert stranger.poll() is None
    assert not path.exists()
    # The counter-proof: with its true start time it is ended.
    write(tmp_path, record(process))
    assert ServiceRegistry(pid_dir=tmp_path).end_leftovers_sync(timeout=5).stopped == 1
    assert stranger.wait(10) == -signal.SIGTERM


def test_a_run_that_was_started_within_what_the_last_one_left_ends_neither_itself_nor_its_own(tmp_path) -> None:
    """A killed run has left a terminal, marked and in a session of its own; the program is started anew in it."""
    mark = uuid.uuid4().hex
    program = (
        "import json, os, subprocess, sys\n"
        "from pathlib import Path\n"
        "from aiopool.services import ServiceRegistry\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "registry = ServiceRegistry(pid_dir=sys.argv[1])\n"
        "registry.add('a', child)\n"
        "report = registry.end_leftovers_sync(timeout=1)\n"
        "print(report.stopped, child.poll(), flush=True)\n"
        "registry.stop_all_sync(timeout=5)\n"
    )
    terminal = subprocess.Popen(
        ["sh", "-c", 'read go; "$@"; echo still here', "sh", sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**environment(), MARK: mark},
    )
    process = identify(terminal.pid)
    assert process is not None
    write(tmp_path, record(process, mark=mark))
    told, _ = terminal.communicate("go\n", timeout=60)
    assert told.splitlines() == ["0 None", "still here"]
    assert terminal.returncode == 0


def started(child: "subprocess.Popen[bytes]") -> float:
    process = identify(child.pid)
    assert process is not None
    return process.started


def tick() -> float:
    """The start time of a process that begins now."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        return started(child)


def reuse(pid: int) -> "subprocess.Popen[bytes] | None":
    """Make the kernel give out this pid again, if it lets us."""
    knob = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(200):
        try:
            knob.write_text(str(pid - 1))
        except OSError:
            return None
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        if child.pid == pid:
            return child
        child.kill()
        child.wait()
    return None


def test_a_really_reused_pid_is_not_touched(tmp_path) -> None:
    """A service ends, the kernel gives its pid to a stranger, and neither stop nor the next start lays hand on it."""
    child = subprocess.Popen(["sleep", "600"])
    # Start times are told in clock ticks (10 ms). A number is given out again only after all the others; here it is
    # forced, so the tick has to pass by itself.
    wait_until(lambda: tick() > started(child), what="the next clock tick")
    registry = ServiceRegistry(pid_dir=tmp_path)
    registry.add("a", child.pid, name="bare")
    before = next(tmp_path.iterdir()).read_text()
    child.kill()
    child.wait()
    stranger = reuse(child.pid)
    if stranger is None:
        pytest.skip("this kernel does not let us choose the next pid (ns_last_pid)")
    try:
        assert not registry.status()["bare"].alive
        assert registry.stop_all_sync(timeout=1).success
        # And as the leftover of a run that was killed:
        content = json.loads(before) | {"owner": [child.pid, 1]}
        (tmp_path / "old-1-x.services.json").write_text(json.dumps(content))
        assert ServiceRegistry(pid_dir=tmp_path).end_leftovers_sync(timeout=1).stopped == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.long
async def test_the_processes_of_a_run_that_goes_on_are_left_alone(tmp_path) -> None:
    """Two programs, or two registries of one, may share the directory."""
    server = script("server.py", "wait", str(tmp_path))
    mark, *pids = line(server)
    try:
        async with ServiceRegistry(pid_dir=tmp_path) as registry:
            registry.add("mine", PATIENT)
            await registry.start()
            other = ServiceRegistry(pid_dir=tmp_path)
            assert other.end_leftovers_sync(timeout=1).stopped == 0
            assert all(service.alive for service in registry.status().services)
            assert all(running(int(pid)) for pid in pids)
    finally:
        kill(server)
    report = await ServiceRegistry(pid_dir=tmp_path).end_leftovers(timeout=2)
    assert report.success
    wait_until(lambda: marked(mark) == [])


def test_files_of_another_boot_go_and_those_of_another_namespace_stay(tmp_path) -> None:
    """After a reboot nothing can be left; in another container the numbers mean somebody else."""
    stranger = subprocess.Popen(PATIENT)
    process = identify(stranger.pid)
    assert process is not None
    registry = ServiceRegistry(pid_dir=tmp_path)
    path = write(tmp_path, record(process), boot="another boot")
    assert registry.end_leftovers_sync(timeout=1).stopped == 0
    assert not path.exists()
    path = write(tmp_path, record(process), namespace="pid:[1]")
    assert registry.end_leftovers_sync(timeout=1).stopped == 0
    assert path.exists()
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "owner": 3}', "\x00\xff"])
def test_a_file_that_cannot_be_read_is_reported_and_left_alone(tmp_path, caplog, content) -> None:
    """Whoever wrote it, nothing is ended on its word, and nothing breaks."""
    path = tmp_path / "odd.services.json"
    path.write_text(content, encoding="latin-1")
    assert leftovers(tmp_path) == []
    assert "cannot be read and is left alone" in caplog.text
    assert path.exists()


def test_a_directory_that_is_not_there_holds_nothing(tmp_path) -> None:
    """The first run of all."""
    assert leftovers(tmp_path / "run") == []
    assert ServiceRegistry(pid_dir=tmp_path / "run").end_leftovers_sync().success


def test_the_file_is_private_complete_and_gone_at_the_end(tmp_path) -> None:
    """It is replaced in one step, holds roots and members, and is removed with the last service."""
    directory = tmp_path / "deep" / "run"
    registry = ServiceRegistry("my app/1", pid_dir=directory)
    child = subprocess.Popen(PATIENT)
    registry.add("a", child, name="x")
    assert directory.stat().st_mode & 0o777 == 0o700
    (path,) = directory.iterdir()
    assert path.name.startswith(f"my-app-1-{os.getpid()}-")
    content = json.loads(path.read_text())
    process = identify(child.pid)
    assert process is not None
    assert content["services"][0]["roots"] == [[process.pid, process.started]]
    assert content["owner"][0] == os.getpid()
    assert leftovers(directory) == []  # its owner runs
    registry.stop_all_sync(timeout=5)
    assert list(directory.iterdir()) == []


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path) -> None:
    """A full disk: the next run finds what was written before, and not the half of what came after."""
    me = identify(os.getpid())
    assert me is not None
    file = PidFile(tmp_path, "r", "key")
    file.write([PidRecord("t", "old", (me,), (me,), False, None)])
    before = file.path.read_text()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            file.write([PidRecord("t", "new", (me,), (me,), False, None)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.path.read_text() == before
    file.write([PidRecord("t", "new", (me,), (me,), False, None)])
    assert '"new"' in file.path.read_text()


def test_a_record_survives_the_round_trip(tmp_path) -> None:
    """What was written is what is read."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    records = [
        PidRecord("t", "n", (ProcessId(5, 7),), (ProcessId(5, 7), ProcessId(6, 8.5)), True, "mark"),
        PidRecord("t", "ä", (), (), False, None),
    ]
    file = PidFile(tmp_path, "r", "k")
    file.write(records)
    content = json.loads(file.path.read_text()) | {"owner": [gone.pid, 1]}
    file.path.write_text(json.dumps(content))
    (found,) = leftovers(tmp_path)
    assert list(found.records) == records
    found.forget()
    found.forget()
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self/ns").exists(), reason="needs a directory that refuses")
async def test_a_directory_that_cannot_be_written_is_told_before_anything_starts(tmp_path) -> None:
    """An error at the first moment, not a registry that cannot clear up later."""
    (tmp_path / "run").write_text("a file where the directory should be")
    registry = ServiceRegistry(pid_dir=tmp_path / "run")
    child = subprocess.Popen(STUBBORN, stdout=subprocess.DEVNULL)
    with pytest.raises(OSError):
        registry.add("a", child)
    assert len(registry) == 0
    child.kill()
    child.wait()
    started = []
    registry.add("a", lambda: started.append(1))
    with pytest.raises(OSError):
        await registry.start()
    assert started == []


async def test_restarts_are_written_down(tmp_path) -> None:
    """The file always names the processes of now."""
    from aiopool._jobs.restart import Restart

    registry = ServiceRegistry(pid_dir=tmp_path, restart=Restart(delay=0))
    registry.add("a", PATIENT, name="x", restart="always")
    async with registry:
        first = registry.status()["x"].pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        while not (registry.status()["x"].restarts == 1 and registry.status()["x"].alive):
            await asyncio.sleep(0.005)
        second = registry.status()["x"].pid

        def written() -> list[int]:
            # For a moment after the crash there is nothing to write down, and no file.
            texts = [path.read_text() for path in tmp_path.iterdir() if path.suffix == ".json"]
            return [root[0] for text in texts for root in json.loads(text)["services"][0]["roots"]]

        while written() != [second]:
            await asyncio.sleep(0.005)


# -- files of others ---------------------------------------------------------------------------------------------------

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of somebody else")


@pytest.fixture
def victim():
    """A process that no test may harm, and how a pid file would name it."""
    child = subprocess.Popen(PATIENT)
    process = identify(child.pid)
    assert process is not None
    yield record(process)
    assert child.poll() is None, "it was killed"
    child.kill()
    child.wait()


def test_the_draft_follows_no_link(tmp_path) -> None:
    """Whoever plants a link where the draft would be changes nothing outside; the service is not registered."""
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    directory = tmp_path / "run"
    file = PidFile(directory, "r", "key")
    directory.mkdir(mode=0o700)
    file.path.with_suffix(".new").symlink_to(precious)
    me = identify(os.getpid())
    assert me is not None
    with pytest.raises(FileExistsError):
        file.write([PidRecord("t", "n", (me,), (me,), False, None)])
    assert precious.read_text() == "keep me"
    assert not file.path.exists()


def test_a_link_in_the_place_of_the_file_is_replaced(tmp_path) -> None:
    """The file itself takes the link's place; what the link led to stays as it was."""
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    file = PidFile(tmp_path, "r", "key")
    file.path.symlink_to(precious)
    file.write(())
    assert precious.read_text() == "keep me"
    assert not file.path.is_symlink()


@as_root
def test_a_pid_file_of_somebody_else_is_not_believed(tmp_path, caplog, victim) -> None:
    """Nothing is killed on the word of another user, the log says why, and the start goes on."""
    path = write(tmp_path, victim)
    os.chown(path, NOBODY, -1)
    assert ServiceRegistry(pid_dir=tmp_path).end_leftovers_sync(timeout=1).stopped == 0
    assert "belongs to the user nobody" in caplog.text
    assert path.exists()


@pytest.mark.parametrize("mode", [0o602, 0o666])
def test_a_pid_file_that_others_can_change_is_not_believed(tmp_path, caplog, victim, mode) -> None:
    path = write(tmp_path, victim)
    path.chmod(mode)
    assert ServiceRegistry(pid_dir=tmp_path).end_leftovers_sync(timeout=1).stopped == 0
    assert "can be changed by everybody" in caplog.text


@pytest.mark.parametrize("spoil", ["mode", "group", "owner", "above", "link"])
async def test_a_directory_that_others_can_change_is_refused(tmp_path, victim, spoil) -> None:
    """They could write there whom to kill: an error before anything starts, which says what to do."""
    outer = tmp_path / "outer"
    directory = outer / "run"
    directory.mkdir(mode=0o700, parents=True)
    write(directory, victim)
    match spoil:
        case "mode":
            directory.chmod(0o777)
        case "above":
            outer.chmod(0o777)
        case _ if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        case "group":
            os.chown(directory, -1, NOBODY)
            directory.chmod(0o770)
        case "owner":
            os.chown(directory, NOBODY, -1)
        case "link":
            (link := tmp_path / "link").symlink_to(directory)
            os.chown(link, NOBODY, -1, follow_symlinks=False)
            directory = link
    started: list[int] = []
    registry = ServiceRegistry(pid_dir=directory)
    registry.add("a", lambda: started.append(1))
    for attempt in (registry.start, registry.end_leftovers):
        with pytest.raises(PermissionError, match=r"pid_dir .* is not safe: .*a directory of its own"):
            await attempt()
    with pytest.raises(PermissionError):
        registry.end_leftovers_sync()
    assert started == []


def test_a_directory_with_the_sticky_bit_is_safe(tmp_path) -> None:
    """In a directory such as /tmp nobody replaces the files of others."""
    directory = tmp_path / "run"
    directory.mkdir()
    directory.chmod(0o1777)
    file = PidFile(directory, "r", "key")
    file.write(())
    assert leftovers(directory) == []


def with_owner(owner: str) -> str:
    return f'{{"format": 1, "registry": "r", "boot": "b", "namespace": "n", "owner": {owner}, "services": []}}'


ODD = {
    "brackets": "[" * 100_000,
    "objects": '{"a":' * 100_000,
    "infinity": with_owner("[Infinity, 1]"),
    "exponent": with_owner("[1e999, 1]"),
    "a huge pid": with_owner(f"[{10**30}, 1]"),
    "all processes": with_owner("[-1, 1]"),
    "digits": '{"format": ' + "9" * 100_000 + "}",
    "true": with_owner("[true, 1]"),
    "a list": '{"format": 1, "registry": [], "boot": [], "namespace": {}, "owner": [7, 1], "services": [3]}',
    "long": " " * 2_000_000,
}
NO_PROCESS = [[0, 1], [-1, 1], [True, 1], ["1", 1], [1.0, 1], [1], [1, 1, 1], [1, None], 1, None]


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_no_content_stops_a_start(tmp_path, caplog, content) -> None:
    """It is told in the log, in one line, and the other files are read."""
    (tmp_path / "odd.services.json").write_text(content)
    write(tmp_path)
    assert len(leftovers(tmp_path)) == 1
    (message,) = [one.message for one in caplog.records]
    assert "odd.services.json' cannot be read and is left alone" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path), lambda path: path.symlink_to("/dev/zero")],
    ids=["fifo", "directory", "circle", "device"],
)
def test_what_is_no_file_stops_no_start(tmp_path, caplog, make) -> None:
    """A FIFO would have us wait for ever for its writer."""
    make(tmp_path / "odd.services.json")
    write(tmp_path)
    assert len(leftovers(tmp_path)) == 1
    assert "cannot be read and is left alone" in caplog.text


@pytest.mark.parametrize("field", ["roots", "members"])
@pytest.mark.parametrize(
    "process", [[0, 1], [-1, 1], [True, 1], ["1", 1], [1.0, 1], [1], [1, 1, 1], [1, None], 1, None]
)
def test_a_process_is_named_by_two_numbers(tmp_path, caplog, field, process) -> None:
    """Anything else is no process, and nothing in that file is believed."""
    me = identify(os.getpid())
    assert me is not None
    write(tmp_path, record(me, **{field: [process]}))
    assert leftovers(tmp_path) == []
    assert "cannot be read" in caplog.text
