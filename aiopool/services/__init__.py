"""Services: the long-lived companions of a program, started, watched and stopped in one place.

General layout, from the ground up; each file uses only what lies below it:

    processes     _process: which one is meant, and whether it still is; _families: all that descend from one, and
                  their end; _pidfile: what a killed run leaves behind; _die_with_parent: a wish to the kernel
    the program   _calls: to other threads and loops; _exit_handlers: on a signal and at exit; _command: to start
    a service     _kind: what each kind has to answer, as _process_kinds, _task_kinds and _object_kind do; _adapt
                  chooses between them; _service: one service and its table of transitions
    many          _table: all of them; _monitor: watch, start again; _stop: at once, under one deadline; _leftovers:
                  those of earlier runs
    the registry  _status: what it tells; _registry: `ServiceRegistry`

`import aiopool` does not load this package.
"""

from aiopool._runtime.die_with_parent import die_with_parent
from aiopool._runtime.public import publish as _publish
from aiopool.services._command import Command
from aiopool.services._registry import ServiceRegistry
from aiopool.services._status import RegistryStatus, ServiceStatus, StopReport, TypeReport

__all__ = [
    "Command",
    "RegistryStatus",
    "ServiceRegistry",
    "ServiceStatus",
    "StopReport",
    "TypeReport",
    "die_with_parent",
]

_publish(globals())
