"""What a killed run leaves behind: a file that names its processes, so that the next run can end them.

One file per registry, in a directory that the runs share. It names its owner and every process that the owner
has started or was given, each with its start time, and the boot and pid namespace within which these mean
something. It is replaced in one step, so that a reader never sees half of it, and removed when nothing is
left to remember.

The next run reads all files. The owner still runs: not ours to touch. Another boot: nothing can be left, the
file goes. Another namespace (a directory shared by containers): the numbers mean other processes there, the
file stays. Otherwise what is recorded *and still is the same process* is a leftover.

What this module refuses to know: how processes are ended, when to write.
"""

import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from aiopool.services._process import ProcessId, alive, identify, system_id

__all__ = ["Leftover", "PidFile", "PidRecord", "leftovers"]

_FORMAT = 1
_SUFFIX = ".services.json"

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
    def from_json(cls, data: dict[str, Any]) -> "PidRecord":
        return cls(
            str(data["type"]),
            str(data["name"]),
            tuple(ProcessId(int(pid), started) for pid, started in data["roots"]),
            tuple(ProcessId(int(pid), started) for pid, started in data["members"]),
            bool(data["own_session"]),
            None if data["mark"] is None else str(data["mark"]),
        )


@final
@dataclass(frozen=True, slots=True)
class Leftover:
    """A file whose owner is gone, and what it had."""

    path: Path
    registry: str
    records: tuple[PidRecord, ...]

    def forget(self) -> None:
        """Remove the file; somebody else may have done it already."""
        self.path.unlink(missing_ok=True)


@final
class PidFile:
    """The file of one registry.

    Args:
        directory: where; made when first needed, readable by this user only.
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
            OSError: the directory cannot be made or written to.
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
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        draft.replace(self.path)
        self._last = services

    def remove(self) -> None:
        """Remove the file: nothing is left to remember."""
        if self._last is not None:
            self._last = None
            self.path.unlink(missing_ok=True)


def leftovers(directory: Path) -> list[Leftover]:
    """Find the files of runs that are over.

    Args:
        directory: where the registries keep their files; it need not exist.

    Returns:
        One entry for each file whose owner is gone, also if none of its processes is left. A file that cannot
        be read is reported to the log and left alone.
    """
    found: list[Leftover] = []
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}, expected {_FORMAT}")
            owner = ProcessId(*content["owner"])
            there = (content["boot"], content["namespace"])
            records = tuple(map(PidRecord.from_json, content["services"]))
        except FileNotFoundError:
            continue  # its owner, or another start beside ours, was faster
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("pid file %s cannot be read and is left alone: %s: %s", path, type(error).__name__, error)
            continue
        boot, namespace = system_id()
        if there[0] != boot:
            path.unlink(missing_ok=True)
        elif there[1] == namespace and not alive(owner):
            found.append(Leftover(path, str(content["registry"]), records))
    return found
