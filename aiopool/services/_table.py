"""The table of services, and its reflection on disk.

One lock guards it, held for moments only and by nobody who waits. It is re-entrant, because a signal may
reach the main thread while it holds it.

Invariants: names are unique; one object and one process are registered once; every change of the table is
written to the pid file before anybody hears of it.
"""

import itertools
import logging
import os
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import final

from aiopool.services._object_kind import ObjectAdapter
from aiopool.services._pidfile import PidFile
from aiopool.services._process_kinds import HandleAdapter
from aiopool.services._service import Service
from aiopool.services._task_kinds import ContextAdapter

__all__ = ["ServiceTable"]

_log = logging.getLogger("aiopool.services")


@final
class ServiceTable:
    """The services of one registry, in order of registration.

    Args:
        registry: its name, for the pid file.
        directory: where the pid file is kept; `None`: there is none.
    """

    # The mutable state of a table is `_services`, and the file that shows it.
    __slots__ = ("_owner", "_pidfile", "_registry", "_services", "lock")

    def __init__(self, registry: str, directory: Path | None) -> None:
        self.lock = threading.RLock()
        self._owner = os.getpid()
        self._registry = registry
        self._services: dict[str, Service] = {}
        self._pidfile = None if directory is None else PidFile(directory, registry, uuid.uuid4().hex[:8])

    def select(self, name: str | None = None, type: str | None = None) -> list[Service]:
        """Those of this name and type; `None` means any."""
        with self.lock:
            return [
                service
                for service in self._services.values()
                if name in (None, service.name) and type in (None, service.type)
            ]

    def free_name(self, type: str, name: str | None) -> str:
        """The wanted name, or one made from the type.

        Raises:
            ValueError: it is taken.
        """
        if name is None:
            numbered = (f"{type}-{number}" for number in itertools.count(1))
            return next(free for free in numbered if free not in self._services)
        if name in self._services:
            raise ValueError(f"a service {name!r} is registered already; leave the name out to get a new one")
        return name

    def insert(self, service: Service) -> None:
        """Add a service.

        Raises:
            ValueError: the same object or process is registered already.
            OSError: the pid file cannot be written; then it was not added.
        """
        with self.lock:
            for other in self._services.values():
                if _same(service, other):
                    raise ValueError(f"this {service.type} service is registered already, as {other.name!r}")
            self._services[service.name] = service
            try:
                self._write()
            except OSError:
                del self._services[service.name]
                raise

    def drop(self, services: Iterable[Service]) -> None:
        """Forget services; those that are not there are no fault."""
        with self.lock:
            for service in services:
                if self._services.get(service.name) is service:
                    service.generation += 1  # it is not the monitor's any more
                    del self._services[service.name]
            self.note_pids()

    def note_pids(self) -> None:
        """Bring the pid file up to date; a fault is logged, for what runs, runs."""
        with self.lock:
            try:
                self._write()
            except OSError:
                _log.exception("the pid file of registry %r cannot be written", self._registry)

    def _write(self) -> None:
        if self._pidfile is None or os.getpid() != self._owner:
            return
        records = [record for service in self._services.values() if (record := service.record()) is not None]
        if records:
            self._pidfile.write(records)
        else:
            self._pidfile.remove()

    def check_file(self) -> None:
        """Find out whether the pid file can be written, before there is anything to lose.

        Raises:
            OSError: it cannot.
        """
        if self._pidfile is not None:
            with self.lock:
                self._pidfile.write(())
                self._write()


def _same(one: Service, other: Service) -> bool:
    """Whether two services are one thing. Equal commands or functions are not: each start makes a new one."""
    if isinstance(one.kind, (HandleAdapter, ObjectAdapter, ContextAdapter)) and one.target is other.target:
        return True
    mine, theirs = one.process_tree(), other.process_tree()
    return mine is not None and theirs is not None and not set(mine.roots).isdisjoint(theirs.roots)
