"""`Worker`: the face. It keeps what it is given until `main`, and has no logic of its own: `_life` is a run."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any, Final, Literal, TypeVar, final

from aiopool import Limit, Pool, Retry, current_job
from aiopool._jobs.checks import check_count, check_seconds
from aiopool.avtomatika._counts import Counts
from aiopool.avtomatika._handlers import Handlers
from aiopool.avtomatika._life import Life, Options, StopReport
from aiopool.avtomatika._link import OrchestratorLink
from aiopool.avtomatika._resources import told_resources
from aiopool.avtomatika._settings import WorkerSettings, read_settings
from aiopool.avtomatika._signals import stop_at_signals
from aiopool.errors import SettingsError, SettingsProblem

__all__ = ["Worker"]

F = TypeVar("F", bound=Callable[..., Any])

# An orchestrator counts calls per minute, and those that it refuses prolong the minute.
_RATE_LIMIT_PAUSE: Final = 61.0


@final
class Worker:
    """A worker of an Avtomatika orchestrator, whose handlers run on a pool.

    It registers, fetches tasks, runs the handler that is registered for each, and sends back the results. Never more
    than `max_concurrent_tasks` handlers run at once, and never more of a type than its limit says; those that wait for
    the limit hold up no others. A task that was taken has exactly one result, and a result is kept until the
    orchestrator has answered, however long that is away; with `results_file` also if this process is killed.

    Making one connects to nothing and starts nothing. What is not given here comes from the environment.

    Args:
        orchestrator_url: where the orchestrator is; `ORCHESTRATOR_URL`, or `http://localhost:8000`. `...` is the same
            as None: it is taken from the environment.
        worker_id: its own name, which no other worker has; `WORKER_ID`, or the host's name and eight digits.
        worker_token: the secret that it shares with the orchestrator; `WORKER_TOKEN`.
        worker_type: what it is called; `WORKER_TYPE`, or `"generic"`.
        heartbeat_interval: seconds between two signs of life; `HEARTBEAT_INTERVAL`, or 30.
        poll_interval: seconds between two polls at least, where the orchestrator does not hold them until there is a
            task; `POLL_INTERVAL`, or 1.
        max_concurrent_tasks: how many handlers may run at once; `MAX_CONCURRENT_TASKS`, or 10.
        task_type_limits: for a type (or the name of a task that has no type), how many may run at once, as a number; or
            an `aiopool.Limit`, which also knows rates.
        resources: what the machine has: `cpu`, `memory_gb`, `gpu`, `gpu_memory_gb`, and what else blueprints ask for.
        results_file: where results are kept until the orchestrator has them: a file of SQLite. It needs a `worker_id`
            that stays the same. None: in memory only.
        shutdown_timeout: seconds that tasks have to end when the worker is stopped; then they are cancelled, and the
            orchestrator gives them to another worker. None: as long as they need.
        delivery_timeout: seconds in which the last results have to be delivered at the end.
        max_waiting_tasks: no more tasks are fetched while so many wait for the limit of their type.
        max_kept_results: no more tasks are fetched while so many results are not delivered.
        rate_limit_pause: seconds without a call of a kind after the orchestrator has answered 429 and not said how
            long. It counts what it refuses, too: take more than its period.
        progress_interval: seconds between two looks at what `aiopool.current_job().report_progress(...)` has said.
        orchestrator_secret: with it each task has to have the signature of the orchestrator, or it is not run;
            `ORCHESTRATOR_SECRET_KEY`.
        retry_as: the status that `{"status": "retry"}` becomes. `"failure"`: with a code by which the orchestrator
            tries again. `"retry"`: for blueprints that have a transition of this name.
        websockets: hear commands: without them, nothing can be cancelled.
        report_busy: tell the orchestrator when no more tasks can start. Today's orchestrators give up a job for which
            they have busy workers only; say True if there are always enough others.
        handle_signals: stop at SIGINT and SIGTERM, cancel at the second, exit at the third; not if the program handles
            SIGTERM itself.
        tls: how to connect by `https`: certificates, as `ssl.create_default_context()` makes them.
        pool: runs the handlers; one is made from `max_concurrent_tasks` otherwise. It must not be open; its size and
            its limits are what counts. (One that grows with its queue never does: what cannot start is not fetched.)

    Raises:
        SettingsError: one or more settings cannot be used; it lists all of them.

    Example:
        worker = Worker(orchestrator_url="http://localhost:8000", worker_token="secret")

        @worker.task("greet")
        async def greet(params: dict) -> dict:
            return {"status": "success", "data": {"text": f"Hello, {params['name']}"}}

        asyncio.run(worker.main())
    """

    def __init__(
        self,
        orchestrator_url: str | EllipsisType | None = None,
        *,
        worker_id: str | None = None,
        worker_token: str | None = None,
        worker_type: str | None = None,
        heartbeat_interval: float | None = None,
        poll_interval: float | None = None,
        max_concurrent_tasks: int | None = None,
        task_type_limits: Mapping[str, int | Limit] | None = None,
        resources: Mapping[str, Any] | None = None,
        results_file: str | Path | None = None,
        shutdown_timeout: float | None = None,
        delivery_timeout: float = 10.0,
        max_waiting_tasks: int = 100,
        max_kept_results: int = 1000,
        rate_limit_pause: float = _RATE_LIMIT_PAUSE,
        progress_interval: float = 1.0,
        orchestrator_secret: str | None = None,
        retry_as: Literal["failure", "retry"] = "failure",
        websockets: bool = True,
        report_busy: bool = False,
        handle_signals: bool = True,
        tls: ssl.SSLContext | None = None,
        pool: Pool | None = None,
    ) -> None:
        if retry_as not in ("failure", "retry"):
            raise ValueError(f"retry_as={retry_as!r}: write 'failure' or 'retry'")
        if pool is not None and max_concurrent_tasks is not None:
            raise ValueError("max_concurrent_tasks= and pool= were both given: the size of the pool is what counts")
        if pool is not None and task_type_limits is not None:
            raise ValueError("task_type_limits= and pool= were both given: write Pool(limits={...}) for the types")
        given = {
            "orchestrator_url": None if orchestrator_url is ... else orchestrator_url,
            "worker_id": worker_id,
            "worker_token": worker_token,
            "worker_type": worker_type,
            "heartbeat_interval": heartbeat_interval,
            "poll_interval": poll_interval,
            "max_concurrent_tasks": max_concurrent_tasks if pool is None else pool.size,
            "orchestrator_secret": orchestrator_secret,
        }
        self._settings, named = read_settings(given)
        if results_file is not None and not named:
            problem = "results belong to a worker: one that has another id in its next run would not find them"
            raise SettingsError(
                f"results_file={str(results_file)!r} needs a worker_id that stays the same: {problem}. Write "
                "Worker(worker_id=...), or set WORKER_ID",
                (SettingsProblem("worker_id", None, "default", problem),),
            )
        self._options = Options(
            named=named,
            resources=told_resources(resources),
            results_file=None if results_file is None else str(results_file),
            delivery_timeout=check_seconds("delivery_timeout", delivery_timeout),
            max_waiting_tasks=check_count("max_waiting_tasks", max_waiting_tasks, least=1),
            max_kept_results=check_count("max_kept_results", max_kept_results, least=1),
            progress_interval=check_seconds("progress_interval", progress_interval),
            websockets=websockets,
            report_busy=report_busy,
            retry_as=retry_as,
        )
        self._rate_limit_pause = check_seconds("rate_limit_pause", rate_limit_pause)
        self._shutdown_timeout = (
            None if shutdown_timeout is None else check_seconds("shutdown_timeout", shutdown_timeout)
        )
        self._handle_signals = handle_signals
        self._tls = tls
        self._limits = {name: _limit(name, limit) for name, limit in (task_type_limits or {}).items()}
        if pool is None:
            name = f"avtomatika-{self._settings.worker_id}"
            size = self._settings.max_concurrent_tasks
            # A task that was fetched is held here anyway; the bound is on what is fetched.
            pool = Pool(size, None, name=name, limits=self._limits, on_error=_result_tells)
        self._pool = pool
        self._handlers = Handlers()
        self._counts = Counts()
        self._life: Life | None = None

    @property
    def settings(self) -> WorkerSettings:
        """What the worker was told, by its arguments and the environment."""
        return self._settings

    @property
    def pool(self) -> Pool:
        """The pool on which the handlers run: to listen to its events, to measure it, to show its jobs."""
        return self._pool

    @property
    def counts(self) -> Counts:
        """What the worker has counted since it was made."""
        return self._counts

    @property
    def kept_results(self) -> int:
        """How many results the orchestrator has not got yet."""
        return 0 if self._life is None else self._life.kept_results

    @property
    def held_tasks(self) -> int:
        """How many tasks have been fetched and have not ended."""
        return 0 if self._life is None else self._life.held_tasks

    def task(
        self,
        name: str,
        *,
        task_type: str | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        offload: Literal["thread", "process", "interpreter"] | None = None,
    ) -> Callable[[F], F]:
        """Register a handler: what runs for the tasks of a name.

        The handler is called with `params`, and by name with those of these that it declares: `task_id`, `job_id`,
        `priority`, `deadline`, `metadata`, `tracing_context`. A plain function runs in a thread. The function itself
        stays as it is, and can be called as before.

        Args:
            name: of its tasks: the orchestrator's `type`.
            task_type: the category; its tasks share the limit that `task_type_limits` has for it.
            timeout: seconds for one attempt; beyond them the task fails with `TIMEOUT_ERROR`.
            retry: when to try again *here*, before the orchestrator hears of a failure; None: never.
            offload: where a plain function runs.

        Raises:
            TypeError: the handler has a parameter that no task can fill; or the decorator stands without its name.
            ValueError: the name is taken, or no name.
            RuntimeError: the worker runs.

        Example:
            @worker.task("resize", task_type="heavy", timeout=60)
            async def resize(params: dict, task_id: str) -> dict:
                return {"path": params["path"], "by": task_id}
        """
        if callable(name):
            raise TypeError("@worker.task stands without the name of its tasks: write @worker.task('name')")
        if not isinstance(name, str) or not name or "," in name:
            raise ValueError(f"@worker.task({name!r}): the name must be a text without commas that is not empty")
        if self._life is not None:
            raise RuntimeError(f"@worker.task({name!r}): the worker runs, and has told what it can do: register before")
        given = {"timeout": timeout, "retry": retry, "offload": offload}
        options = {option: value for option, value in given.items() if value is not None}
        self._pool.with_options(**options)  # type: ignore[arg-type]  # it checks them, here and now

        def register(function: F) -> F:
            self._handlers.add(name, task_type, function, options)
            return function

        return register

    async def main(self) -> StopReport:
        """Run the worker in this event loop until it is stopped.

        It waits for an orchestrator that is not there yet. If the caller is cancelled, tasks are cancelled and their
        results get two seconds to be delivered.

        Returns:
            How it ended.

        Raises:
            RefusedError: the orchestrator refused the registration: the token, or a setting, is wrong.
            RuntimeError: it runs already, or has no handler.

        Example:
            async def main():
                await open_connections()
                await worker.main()

            asyncio.run(main())
        """
        if self._life is not None:
            raise RuntimeError("worker.main() was called while the worker runs: one call is enough")
        if not len(self._handlers):
            raise RuntimeError("the worker has no handler: write @worker.task('name') above a function, before main()")
        self._check_limits()
        link = OrchestratorLink(self._settings, self._counts, rate_limit_pause=self._rate_limit_pause, tls=self._tls)
        self._life = life = Life(self._settings, self._handlers, self._pool, link, self._counts, self._options)
        try:
            if not self._handle_signals:
                return await life.run()
            with stop_at_signals(self._on_signal):
                return await life.run()
        finally:
            self._life = None

    async def stop(self, timeout: float | None = None) -> StopReport | None:
        """Stop: fetch no more tasks, finish those that run, deliver their results.

        Tasks that have not begun are handed back to the orchestrator. Calling it again joins the stop under way, and
        can only make it hurry. From inside a handler it returns at once, for its own task has to end, too.

        Args:
            timeout: seconds for running tasks to end; then they are cancelled and handed back; 0 cancels at once.
                `shutdown_timeout` by default.

        Returns:
            How it ended; None: the worker does not run, or a handler has called.

        If the caller is cancelled, the stop goes on.

        Example:
            report = await worker.stop(timeout=25)
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        life = self._life
        if life is None:
            return None
        life.begin_stop(self._shutdown_timeout if timeout is None else timeout)
        return None if self._called_by_handler() else await life.stopped()

    def _called_by_handler(self) -> bool:
        try:
            return current_job().pool_name == self._pool.name
        except RuntimeError:
            return False

    def _on_signal(self, count: int) -> None:
        assert self._life is not None
        self._life.begin_stop(self._shutdown_timeout if count == 1 else 0)

    def _check_limits(self) -> None:
        known = {handler.category for handler in self._handlers} | {handler.name for handler in self._handlers}
        for name in self._limits.keys() - known:
            raise SettingsError(
                f"task_type_limits has {name!r}, and there is no task of this type: write "
                f"@worker.task(..., task_type={name!r}), or take the limit out",
                (SettingsProblem("task_type_limits", repr(name), "argument", "no task has this type"),),
            )

    def __repr__(self) -> str:
        state = "runs" if self._life is not None else "does not run"
        return f"<Worker {self._settings.worker_id!r} at {self._settings.orchestrator_url} {state}>"


def _result_tells(job: object, error: BaseException) -> None:
    """A failure of a handler goes into the result of its task, and is logged there."""


def _limit(name: str, limit: int | Limit) -> Limit:
    if isinstance(limit, Limit):
        return limit
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(
            f"task_type_limits={{{name!r}: {limit!r}}}: write how many may run at once, at least 1, or an aiopool.Limit"
        )
    return Limit(max_at_once=limit)
