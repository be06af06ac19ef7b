"""What the docs ship for Docker, systemd and Kubernetes: the files are run as far as that goes here, the pages say what
they say, and their numbers fit into each other."""

import configparser
import contextlib
import http.client
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from pages import blocks
from test_init import UNSHARE, init_of, refused

from aiopool._program import run as _lifecycle

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"
OPERATIONS = ROOT / "docs" / "operations"
DEPLOYMENT = yaml.safe_load((OPERATIONS / "deployment.yml").read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]

needs_namespaces = pytest.mark.skipif(refused() is not None, reason=str(refused()))


def longest(timeout: float, grace: float) -> float:
    """What the pages say that the end of `aiopool.run` takes at most, in seconds."""
    return timeout + 8 * grace + 4


def numbers_of_worker() -> tuple[float, float]:
    found = re.search(r"timeout=(\d+), grace=(\d+)", (OPERATIONS / "worker.py").read_text())
    assert found is not None
    return float(found[1]), float(found[2])


# -- the pages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "language", "file"),
    [
        ("docker.md", "dockerfile", "Dockerfile"),
        ("docker.md", "yaml", "compose.yml"),
        ("systemd.md", "ini", "aiopool.service"),
        ("kubernetes.md", "yaml", "deployment.yml"),
        ("kubernetes.md", "python no-run", "app.py"),
    ],
)
def test_the_page_shows_what_the_file_has(page: str, language: str, file: str):
    """Each excerpt stands in the file, line for line."""
    excerpts = [block for block in blocks(HOW_TO / page) if block.info == language]
    text = (OPERATIONS / file).read_text()
    assert excerpts
    for block in excerpts:
        assert block.body in text, f"{page}:{block.line}"


def test_the_sum_is_the_one_that_systemd_is_told():
    """The pages, the constant, and `EXTEND_TIMEOUT_USEC` agree."""
    assert longest(20, 2) == 20 + _lifecycle._GRACES * 2 + _lifecycle._SECONDS
    for page in ("docker.md", "systemd.md", "kubernetes.md", "stop-on-sigterm.md"):
        text = (HOW_TO / page).read_text()
        assert "8 × `grace` + 4" in text or "20 + 8 × 2 + 4" in text, page


def test_what_the_table_says_fits():
    """Whoever copies `timeout` and `grace` from the table is done before the kill."""
    text = (HOW_TO / "stop-on-sigterm.md").read_text()
    rows = re.findall(r"^\|.*\| (\d+) s, .*\| `timeout=([\d.]+), grace=([\d.]+)` \|$", text, re.MULTILINE)
    assert len(rows) == 3
    assert all(longest(float(timeout), float(grace)) <= float(limit) for limit, timeout, grace in rows)
    assert longest(17, 1) <= 30, "kubernetes.md, for a worker"


# -- Docker ------------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    lines = (OPERATIONS / "Dockerfile").read_text().splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


def image(root: Path) -> tuple[Path, list[str], list[str]]:
    """Do what the Dockerfile does with files, below a directory; return the last WORKDIR, CMD and RUN."""
    here, command, run = root, [], []
    for word, rest in instructions():
        if word == "WORKDIR":
            here = root / rest.lstrip("/")
            here.mkdir(parents=True)
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                found = ROOT / source
                if found.is_dir():
                    shutil.copytree(found, here / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(found, here / target)
        elif word == "RUN":
            run = json.loads(rest)
        elif word == "CMD":
            command = json.loads(rest)
    return here, command, run


def test_the_dockerfile_is_in_exec_form_and_stops_by_sigterm():
    words = dict(instructions())
    assert json.loads(words["CMD"]) == ["python", "worker.py"]
    assert json.loads(words["RUN"])[:4] == ["python", "-m", "pip", "install"]
    assert words["STOPSIGNAL"] == "SIGTERM"
    assert "ENTRYPOINT" not in words


def test_what_the_dockerfile_copies_is_enough_to_build(tmp_path: Path):
    """All that the project file names is there, and the package comes from there."""
    _, _, run = image(tmp_path)
    source = tmp_path / run[-1].lstrip("/")
    import tomllib

    project = tomllib.loads((source / "pyproject.toml").read_text())
    assert (source / project["project"]["readme"]).exists()
    assert all((source / name).exists() for name in project["project"]["license-files"])
    assert all((source / name).is_dir() for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    if importlib.util.find_spec("hatchling") is None:
        return  # pip would have to fetch it
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(tmp_path / "site")]
    done = subprocess.run([sys.executable, *run[1:-1], *options, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "aiopool" / "py.typed").exists()


@contextlib.contextmanager
def started(words: list[str], directory: Path, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        words,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        start_new_session=True,
    ) as process:
        watchdog = threading.Timer(60, os.killpg, [process.pid, signal.SIGKILL])
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def read_until(process: "subprocess.Popen[str]", words: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if words in line:
            return lines
    raise AssertionError("\n".join(lines))


@needs_namespaces
def test_the_command_of_the_image_drains_as_process_1(tmp_path: Path):
    """With the files that are in the image alone: what was handed in before SIGTERM is handled, exit code 0."""
    here, command, _ = image(tmp_path)
    words = [*UNSHARE, sys.executable, *command[1:]]
    with started(words, here, PYTHONPATH=str(tmp_path / "src")) as process:
        lines = read_until(process, "handled 8")
        init = init_of(process)
        assert init.exe() == psutil.Process().exe()
        init.terminate()
        assert process.stdout is not None
        lines += process.stdout.read().splitlines()
        assert process.wait() == 0
    numbers = [int(line.split()[1]) for line in lines]
    assert sorted(numbers) == list(range(1, len(numbers) + 1)), "none is lost"
    assert len(numbers) >= 16


def test_compose_waits_long_enough():
    service = yaml.safe_load((OPERATIONS / "compose.yml").read_text())["services"]["worker"]
    assert float(service["stop_grace_period"].removesuffix("s")) >= longest(*numbers_of_worker())
    context = (OPERATIONS / service["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / service["build"]["dockerfile"]).samefile(OPERATIONS / "Dockerfile")


# -- systemd -----------------------------------------------------------------------------------------------------------


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(OPERATIONS / "aiopool.service")
    return parser


def test_the_unit_fits_the_program():
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert float(service["TimeoutStopSec"]) >= longest(*numbers_of_worker())
    assert f"A ping every {int(service['WatchdogSec']) // 2} seconds" in (OPERATIONS / "aiopool.service").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_reads_the_unit(tmp_path: Path):
    """With the Python of the tests in place of the one that it names; it has nothing to say."""
    text = (OPERATIONS / "aiopool.service").read_text()
    found = re.search(r"^ExecStart=(\S+)", text, re.MULTILINE)
    assert found is not None
    (tmp_path / "worker.service").write_text(text.replace(found[1], sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "worker.service"], cwd=tmp_path, capture_output=True, text=True
    )
    complaints = [line for line in done.stderr.splitlines() if "worker.service" in line]
    assert complaints == []
    assert done.returncode == 0, done.stderr


def test_the_command_of_the_unit_is_ready_pings_and_drains(tmp_path: Path):
    """Its ExecStart, told what systemd would tell it."""
    service = unit()["Service"]
    words = shlex.split(service["ExecStart"])
    words = [sys.executable, *words[1:-1], str(OPERATIONS / Path(words[-1]).name)]
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000", "PYTHONPATH": str(ROOT)}

        def until(field: str) -> str:
            while field not in (text := systemd.recv(65536).decode()):
                pass
            return text

        with started(words, tmp_path, **told) as process:
            until("READY=1")
            until("WATCHDOG=1")
            process.terminate()
            assert f"EXTEND_TIMEOUT_USEC={longest(*numbers_of_worker()) * 1e6:.0f}" in until("STOPPING=1")
            assert process.stdout is not None
            process.stdout.read()
            assert process.wait() == 0


def test_the_watchdogs_signal_names_the_line_that_hung(tmp_path: Path):
    """`-X faulthandler` of the unit: SIGABRT makes Python write every stack."""
    (tmp_path / "hang.py").write_text(
        "import time, aiopool\n"
        "async def main():\n"
        "    print('hangs', flush=True); time.sleep(3600)  # the culprit\n"
        "aiopool.run(main)\n"
    )
    option = shlex.split(unit()["Service"]["ExecStart"])[1:3]
    with started([sys.executable, *option, "hang.py"], tmp_path, PYTHONPATH=str(ROOT)) as process:
        read_until(process, "hangs")
        process.send_signal(signal.SIGABRT)
        assert process.stdout is not None
        text = process.stdout.read()
        assert process.wait() == -signal.SIGABRT
    assert re.search(r'hang\.py", line 3 in main', text), text


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def variables() -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in CONTAINER["env"]}


def test_the_deployment_fits_together():
    """preStop, the requests, the jobs and their end are done before the kill; ports and labels agree."""
    before = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    requests = float(CONTAINER["command"][CONTAINER["command"].index("--timeout-graceful-shutdown") + 1])
    shutdown = float(variables()["AIOPOOL_SHUTDOWN_TIMEOUT"])
    assert before + requests + shutdown + 5 <= POD["terminationGracePeriodSeconds"]
    page = (HOW_TO / "kubernetes.md").read_text()
    moments = (before, before + requests, before + requests + shutdown, POD["terminationGracePeriodSeconds"])
    for moment in moments:
        assert f"| {moment:.0f} s |" in page
    port = CONTAINER["ports"][0]["containerPort"]
    command = CONTAINER["command"]
    assert command[command.index("--port") + 1] == str(port)
    probes = [CONTAINER[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["port"] for probe in probes} == {port}
    assert [probe["path"] for probe in probes] == ["/live", "/ready", "/live"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == DEPLOYMENT["spec"]["template"]["metadata"]["labels"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def ask(port: int, method: str, path: str) -> tuple[int, Any]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.load(answer)


def test_the_command_of_the_deployment_answers_its_probes_and_drains():
    """Its command and its environment as they stand, on the loopback: probes, orders, SIGTERM."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed; it is in the extra test")
    pytest.importorskip("starlette", reason="starlette is not installed; it is in the extra test")
    port = free_port()
    command = [sys.executable, *CONTAINER["command"][1:]]
    command[command.index("--port") + 1] = str(port)
    command[command.index("--host") + 1] = "127.0.0.1"
    with started(command, OPERATIONS, PYTHONPATH=str(ROOT), **variables()) as process:
        read_until(process, "Uvicorn running")
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert ask(port, "GET", CONTAINER[name]["httpGet"]["path"]) == (200, {"status": "healthy", "why": []})
        assert [ask(port, "POST", f"/orders/{order}")[0] for order in range(30)] == [202] * 30
        process.terminate()
        assert process.stdout is not None
        text = process.stdout.read()
        process.wait()
    assert text.count("handled") == 30, text
    assert "Application shutdown complete" in text


def longer_than_the_limit(path: Path, directory: Path, limit: str) -> Path:
    """Copy a program of the pages, in which each order takes an hour, and which has less time at its end."""
    text = path.read_text()
    text, count = re.subn(r"asyncio\.sleep\([\d.]+\)  # here: the work", "asyncio.sleep(3600)", text)
    assert count == 1
    (directory / path.name).write_text(re.sub(r"timeout=\d+, grace=\d+", limit, text))
    return directory / path.name


def test_the_web_app_ends_in_its_time_whatever_its_jobs_do(tmp_path: Path):
    """The command of the deployment, with a job of an hour: SIGTERM, the limit of the pool, and the end, in order."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed; it is in the extra test")
    pytest.importorskip("starlette", reason="starlette is not installed; it is in the extra test")
    port = free_port()
    command = [sys.executable, *CONTAINER["command"][1:]]
    command[command.index("--port") + 1] = str(port)
    command[command.index("--host") + 1] = "127.0.0.1"
    longer_than_the_limit(OPERATIONS / "app.py", tmp_path, "")
    environment = {**variables(), "AIOPOOL_SHUTDOWN_TIMEOUT": "1"}
    with started(command, tmp_path, PYTHONPATH=str(ROOT), **environment) as process:
        read_until(process, "Uvicorn running")
        assert ask(port, "POST", "/orders/1")[0] == 202
        began = time.monotonic()
        process.terminate()
        assert process.stdout is not None
        text = process.stdout.read()
        process.wait()
        assert 1 <= time.monotonic() - began < 15
    said = ["Waiting for application shutdown", "cancelled 1 jobs: 0 had not started", "Application shutdown complete"]
    assert sorted(said, key=text.find) == said, text
    assert all(words in text for words in said), text


@pytest.mark.parametrize("recipe", ["systemd", pytest.param("Docker", marks=pytest.mark.long)])
def test_the_worker_ends_in_its_time_whatever_its_jobs_do(recipe: str, tmp_path: Path):
    """worker.py, by the command of the unit and of the image, with jobs of an hour: exit code 143, in the time said."""
    worker = longer_than_the_limit(OPERATIONS / "worker.py", tmp_path, "timeout=1, grace=0.2")
    words = shlex.split(unit()["Service"]["ExecStart"])[1:-1] if recipe == "systemd" else []
    with contextlib.ExitStack() as stack:
        systemd = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)))
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "PYTHONPATH": str(ROOT)}
        process = stack.enter_context(started([sys.executable, *words, str(worker)], tmp_path, **told))
        while b"READY=1" not in systemd.recv(65536):
            pass
        began = time.monotonic()
        process.terminate()
        assert process.stdout is not None
        text = process.stdout.read()
        assert process.wait() == 128 + signal.SIGTERM, text
        assert 1 <= time.monotonic() - began < longest(1, 0.2) + 10
    assert re.search(r"cancelled \d+ jobs: \d+ had not started, 0 did not end", text), text


def test_the_variables_of_the_deployment_are_settings_of_the_pool():
    """A mistyped one would have no effect, and nobody would notice."""
    script = "from aiopool.settings import PoolSettings as S; s = S(); print(s.size, s.shutdown_timeout, s.health)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables()},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20 30.0 ")
    assert "stuck_after=300" in done.stdout
