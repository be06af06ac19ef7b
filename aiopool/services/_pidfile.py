"""What a killed run leaves behind: a file that names its processes, so that the next run can end them.

One file per registry, in a directory that the runs share. It names its owner and every process that the owner
has started or was given, each with its start time, and the boot and pid namespace within which these mean
something. It is replaced in one step, so that a reader never sees half of it, and removed when nothing is
left to remember.

The next run reads all files. The owner still runs: not ours to touch. Another boot: nothing can be left, the
file goes. Another namespace (a directory shared by containers): the numbers mean other processes there, the
file stays. Otherwise what is recorded *and still is the same process* is a leftover.

What stands in these files is killed, so they are believed only if nobody else can have written them: the directory and
each file belong to the user of this program, or to root, and no other can change them (`_file_trust`). A directory that
others can change is an error. A file that is not as it should be, whatever it is, is told to the log and left alone.

What this module refuses to know: how processes are ended, when to write.
"""

import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from aiopool._runtime.file_trust import read_regular_file, who_can_change, who_can_write
from aiopool.services._process import ProcessId, alive, identify, system_id

__all__ = ["PidFile", "PidRecord", "StaleRecord", "leftovers"]

_FORMAT = 1
_SUFFIX = ".services.json"
# Some ten thousand processes.
_MAX_BYTES: Final = 1024 * 1024
_MAX_PID: Final = 2**31 - 1  # a C int

_log = logging.getLogger("aiopool.services")


@final
@dataclass(frozen=True, slots=True)
class PidRecord:
    """The processes of one service, as they are written down."""

    type: str
    name: str
    roots: tuple[ProcessId, ...]
    members: tuple[ProcessId, ...]
    own_session: bool
    mark: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "name": self.name,
            "roots": [[process.pid, process.started] for process in self.roots],
            "members": [[process.pid, process.started] for process in self.members],
            "own_session": self.own_session,
            "mark": self.mark,
        }

    @classmethod
    def from_json(cls, data: Any) -> "PidRecord":
        """Read what `to_json` returned.

        Raises:
            ValueError: it is something else.
        """
        match data:
            case {
                "type": str(type),
                "name": str(name),
                "roots": list(roots),
                "members": list(members),
                "own_session": bool(own_session),
                "mark": str() | None as mark,
            }:
                return cls(type, name, _processes(roots), _processes(members), own_session, mark)
        raise ValueError("a service is not described as it should be")


def _processes(data: list[Any]) -> tuple[ProcessId, ...]:
    return tuple(map(_process, data))


def _process(data: Any) -> ProcessId:
    match data:
        case [int(pid), int() | float() as started] if 0 < pid <= _MAX_PID and not isinstance(pid, bool):
            return ProcessId(pid, started)
    raise ValueError("a process is not named by its pid and its start time")


@final
@dataclass(frozen=True, slots=True)
class StaleRecord:
    """A file whose owner is gone, and what it had."""

    path: Path
    registry: str
    records: tuple[PidRecord, ...]

    def forget(self) -> None:
        """Remove the file; somebody else may have done it already."""
        _remove(self.path)


@final
class PidFile:
    """The file of one registry.

    Args:
        directory: where; made when first needed, for this user only.
        registry: the name of the registry, for whoever reads the file.
        key: what tells two registries of one process apart.
    """

    # The mutable state is the last written content: writing the same again is left out.
    __slots__ = ("_last", "_registry", "path")

    def __init__(self, directory: Path, registry: str, key: str) -> None:
        safe = re.sub(r"[^A-Za-z0-9_-]+", "-", registry)
        self.path = directory / f"{safe}-{os.getpid()}-{key}{_SUFFIX}"
        self._registry = registry
        self._last: list[dict[str, Any]] | None = None

    def write(self, records: Iterable[PidRecord]) -> None:
        """Write down these processes, and no others.

        Raises:
            OSError: the directory cannot be made or written to, or others can change it.
        """
        services = [record.to_json() for record in records]
        if services == self._last:
            return
        owner = identify(os.getpid())
        assert owner is not None, "this process is running"
        boot, namespace = system_id()
        content = {
            "format": _FORMAT,
            "registry": self._registry,
            "boot": boot,
            "namespace": namespace,
            "owner": [owner.pid, owner.started],
            "services": services,
        }
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_directory(self.path.parent)
        text = json.dumps(content, indent=1) + "\n"
        draft = self.path.with_suffix(".new")
        # A new file, and never one that a link leads to.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            draft.replace(self.path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        self._last = services

    def remove(self) -> None:
        """Remove the file: nothing is left to remember."""
        if self._last is not None:
            self._last = None
            self.path.unlink(missing_ok=True)


def leftovers(directory: Path) -> list[StaleRecord]:
    """Find the files of runs that are over.

    Args:
        directory: where the registries keep their files; it need not exist.

    Returns:
        One entry for each file whose owner is gone, also if none of its processes is left. A file that cannot
        be read, or that somebody else could have written, is reported to the log and left alone.

    Raises:
        PermissionError: others can change the directory.
    """
    _check_directory(directory)
    boot, namespace = system_id()
    found: list[StaleRecord] = []
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        try:
            written = _read(path)
        except FileNotFoundError:
            continue  # its owner, or another start beside ours, was faster
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            _log.warning("pid file %r cannot be read and is left alone: %s", os.fspath(path), reason)
            continue
        if written.boot != boot:
            _remove(path)
        elif written.namespace == namespace and not alive(written.owner):
            found.append(StaleRecord(path, written.registry, written.records))
    return found


@final
@dataclass(frozen=True, slots=True)
class _Content:
    """What a pid file says."""

    registry: str
    boot: str
    namespace: str
    owner: ProcessId
    records: tuple[PidRecord, ...]


def _read(path: Path) -> _Content:
    """Read a pid file; ValueError says what is wrong with it."""
    text, info = read_regular_file(path, max_bytes=_MAX_BYTES)
    if (reason := who_can_write(path, info)) is not None:
        raise ValueError(f"{reason}, so that anybody else's processes could stand in it")
    match json.loads(text):
        case {
            "format": int(format),
            "registry": str(registry),
            "boot": str(boot),
            "namespace": str(namespace),
            "owner": owner,
            "services": list(services),
        } if format == _FORMAT:
            records = tuple(map(PidRecord.from_json, services))
            return _Content(registry, boot, namespace, _process(owner), records)
    raise ValueError(f"it is no pid file of format {_FORMAT}")


def _check_directory(directory: Path) -> None:
    if (reason := who_can_change(directory)) is not None:
        raise PermissionError(
            f"pid_dir {os.fspath(directory)!r} is not safe: {reason}, who could have other processes killed; give the "
            "registry a directory of its own, such as one that `install -d -m 700` makes for the user of the program"
        )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("pid file %r cannot be removed: %s", os.fspath(path), error.strerror)
