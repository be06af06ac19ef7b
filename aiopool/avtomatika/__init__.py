"""A worker of the Avtomatika orchestrator, whose handlers run on a pool. Needs the extra `avtomatika`.

General layout, from the ground up; each file uses only what lies below it:

    _errors, _counts   what goes wrong; what is counted
    _signing, _plain   a message as bytes and its signature; what JSON can say
    _settings          arguments, environment, defaults
    _task              a task as it comes, a result as it goes
    _handlers          which function runs for a task, and what it is given
    _outcome           what became of a handler, in the words of the protocol
    _resources         what the machine has, in the orchestrator's words
    _link              the wire: HTTP and WebSocket
    _result_file       results on the disk
    _outbox            results that are on their way
    _tasks             the tasks that this worker holds, as jobs of the pool
    _presence          whether the orchestrator knows this worker
    _signals           SIGINT and SIGTERM
    _life              one run, from registration to the last result
    _worker            `Worker`
    prometheus         its numbers, for a scrape

`import aiopool` does not load this package, and a pool knows nothing of it.
"""

try:
    import aiohttp as _aiohttp  # noqa: F401
    import orjson as _orjson  # noqa: F401
except ImportError as _error:
    raise ImportError(
        f"aiopool.avtomatika needs {_error.name}, which comes with an extra: in the checkout of aiopool, run "
        "pip install -e '.[avtomatika]'",
        name=_error.name,
    ) from _error

from aiopool._runtime.public import publish as _publish
from aiopool.avtomatika._counts import Counts, Durations
from aiopool.avtomatika._errors import AwayError, OrchestratorError, RefusedError, TaskError
from aiopool.avtomatika._life import StopReport
from aiopool.avtomatika._settings import WorkerSettings
from aiopool.avtomatika._task import Result
from aiopool.avtomatika._worker import Worker

__all__ = [
    "AwayError",
    "Counts",
    "Durations",
    "OrchestratorError",
    "RefusedError",
    "Result",
    "StopReport",
    "TaskError",
    "Worker",
    "WorkerSettings",
]

_publish(globals())
