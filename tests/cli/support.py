"""The command in processes of its own: started, ended, looked at; and the functions that it is tried with."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from child_programs import watched

ROOT = Path(__file__).parents[2]

TARGETS = """
import asyncio, collections, dataclasses, datetime, functools, os, pathlib, sys, threading, time, types, uuid

async def upper(line):
    await asyncio.sleep(0)
    return line.upper()

def length(line):
    return len(line)

async def same(value):
    return value

async def odd(line):
    if int(line) % 2 == 0:
        raise ValueError(f"{line} is even")
    return int(line)

tries = {}

def second_time(line):
    tries[line] = tries.get(line, 0) + 1
    if tries[line] < 2:
        raise OSError("not yet")
    return tries[line]

async def slow(line):
    await asyncio.sleep(float(line))
    return "slept"

def chatty(line):
    print("talking to myself")
    return line

async def thread_name(line):
    return threading.current_thread().name

def plain_thread_name(line):
    return threading.current_thread().name

def leave(line):
    if line == "2":
        sys.exit(5)
    return line

async def job(line):
    print("started", line, file=sys.stderr, flush=True)
    try:
        while not os.path.exists(line):
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        print("cancelled", line, file=sys.stderr, flush=True)
        raise
    return "released"

async def never(line):
    print("started", line, file=sys.stderr, flush=True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@dataclasses.dataclass
class Point:
    x: int
    y: object

circle = []
circle.append(circle)
deep = []
for _ in range(100_000):
    deep = [deep]

class Awkward:
    def __repr__(self):
        raise RuntimeError("no")

    @property
    def __class__(self):
        raise RuntimeError("no")

THINGS = {
    "point": Point(1, (2, pathlib.PurePosixPath("a/b"))), "datetime": datetime.datetime(2026, 1, 2, 3, 4, 5),
    "date": datetime.date(2026, 1, 2), "time": datetime.time(3, 4), "uuid": uuid.UUID(int=1),
    "mapping": types.MappingProxyType({"a": 1}), "text": '"\\\\\\n\\u2028\\0', "surrogate": "\\udcff",
    "counter": collections.Counter("aab"), "big": 10**30, "tuple": (1, (2,)),
    "set": {1}, "bytes": b"abc", "nan": float("nan"), "inf": {"rates": [1.0, float("inf")]}, "circle": circle,
    "keys": {(1, 2): 3}, "numbers": {"codes": {404: 1, "404": 2}}, "object": Ellipsis, "awkward": Awkward(),
    "inside": Point(1, [{"tags": {1}}]), "deep": deep, "huge": 10**5000, "iterator": iter([1]),
    "mapping keys": types.MappingProxyType({1: 2}),
}

async def thing(line):
    return THINGS[line]

class Counter:
    def __init__(self):
        self.total = 0

    async def __call__(self, line):
        self.total += int(line)
        return self.total

    async def method(self, line):
        return await self(line)

counter = Counter()

def generate(line):
    yield line

async def agenerate(line):
    yield line

class Generator:
    def __call__(self, line):
        yield line
    method = __call__

generator = Generator()
partial = functools.partial(generate)
number = 5

def two(one, other):
    ...
"""

# A background job of a shell inherits that SIGINT is ignored; a program at a terminal does not.
LISTEN = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "always::ResourceWarning", "-m", "aiopool", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **more}


class Done:
    """What came out of a run."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.out = out
        self.err = err.decode()
        self.lines = self.err.splitlines()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def results(self) -> list[Any]:
        return [row["result"] for row in self.rows]


def run(here: Path, *arguments: str | Path, stdin: bytes | str = b"", **env: str) -> Done:
    """Run `aiopool` to its end; it never shows a traceback."""
    done = subprocess.run(
        command(*arguments),
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        cwd=here,
        env=environment(**env),
        timeout=100,
    )
    result = Done(done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in result.err, result.err
    assert "Warning" not in result.err, result.err
    return result


@contextlib.contextmanager
def started(here: Path, *arguments: str | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start `aiopool`, where it hears SIGINT, and kill it in the end."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    line = [sys.executable, "-c", LISTEN, *command(*arguments)]
    with subprocess.Popen(line, cwd=here, env=environment(), **options) as process:
        with watched(process):
            yield process


def wait_for(process: subprocess.Popen[bytes], *words: str) -> str:
    """Read standard error until each word has come, and return what was read."""
    assert process.stderr is not None
    seen = ""
    while not all(word in seen for word in words):
        chunk = os.read(process.stderr.fileno(), 65536)
        assert chunk, f"{words} never came, but:\n{seen}"
        seen += chunk.decode()
    return seen


def finish(process: subprocess.Popen[bytes]) -> Done:
    out, err = process.communicate(timeout=60)
    assert b"Traceback" not in err, err.decode()
    return Done(process.returncode, out, err)
