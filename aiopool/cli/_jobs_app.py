"""`aiopool jobs`: its commands and their options, in typer's words. No logic; see `_jobs` and `_copy`."""

from __future__ import annotations

from typing import Annotated

import typer

from aiopool.stores._rows import StoredStatus

__all__ = ["Queue", "StoreUrl", "jobs_app"]

jobs_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

# The URL may hold a password, and everybody on the machine sees the arguments of a command: hence the variable.
StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="URL",
        envvar="AIOPOOL_STORE",
        show_default=False,
        help="Where the jobs are: sqlite:///jobs.db, postgresql://user@host/database, redis://host:6379/0.",
    ),
]
Queue = Annotated[str, typer.Option("--queue", "-q", metavar="NAME", help="The name of the pools that share the jobs.")]
Json = Annotated[bool, typer.Option("--json", help="Lines of JSON.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", show_default=False, help="Ids of jobs.")]


@jobs_app.callback()
def jobs() -> None:
    """Look at the jobs of a store, and steer them.

    Exit code: 0 done; 1 not done, for one of the jobs at least; 2 bad usage, or the store cannot be opened;
    141 nobody reads the output.
    """


@jobs_app.command("list")
def list_command(
    store: StoreUrl,
    queue: Queue = "pool",
    status: Annotated[
        StoredStatus | None, typer.Option("--status", "-s", help="Only with this status.", show_default="all live ones")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Only of this function.")] = None,
    group: Annotated[str | None, typer.Option("--group", metavar="NAME", help="Only of this group.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=0, help="So many; 0: all.")] = 50,
    cursor: Annotated[
        str | None, typer.Option("--cursor", metavar="TEXT", help="Go on there: what the page before has said.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first: those that have not ended, or those with a status."""
    from aiopool.cli._jobs import list_jobs

    raise typer.Exit(
        list_jobs(store, queue, status=status, name=name, group=group, limit=limit, cursor=cursor, as_json=as_json)
    )


@jobs_app.command("show")
def show_command(
    id: Annotated[str, typer.Argument(metavar="ID", show_default=False, help="The id of a job.")],
    store: StoreUrl,
    queue: Queue = "pool",
    as_json: Json = False,
) -> None:
    """Show all that is known of a job: its moments, arguments, result, error."""
    from aiopool.cli._jobs import show_job

    raise typer.Exit(show_job(store, queue, id, as_json=as_json))


@jobs_app.command("cancel")
def cancel_command(
    ids: Ids,
    store: StoreUrl,
    queue: Queue = "pool",
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why; whoever awaits the job reads it.")
    ] = None,
) -> None:
    """Cancel jobs: one that waits never starts, and the worker of one that runs is told."""
    from aiopool.cli._jobs import cancel_jobs

    raise typer.Exit(cancel_jobs(store, queue, ids, reason))


@jobs_app.command("retry")
def retry_command(ids: Ids, store: StoreUrl, queue: Queue = "pool") -> None:
    """Put jobs that have ended back into the queue, with all of their attempts."""
    from aiopool.cli._jobs import retry_jobs

    raise typer.Exit(retry_jobs(store, queue, ids))


@jobs_app.command("requeue-dead")
def requeue_dead_command(
    store: StoreUrl,
    queue: Queue = "pool",
    status: Annotated[
        StoredStatus, typer.Option("--status", "-s", help="Those: dead, failed, timed_out or cancelled.")
    ] = StoredStatus.DEAD,
) -> None:
    """Put all jobs that were given up back into the queue, or all with another final status."""
    from aiopool.cli._jobs import requeue_dead_jobs

    raise typer.Exit(requeue_dead_jobs(store, queue, status))


@jobs_app.command("pause")
def pause_command(store: StoreUrl, queue: Queue = "pool") -> None:
    """Let no worker of the fleet start a job; those that run go on."""
    from aiopool.cli._jobs import pause_jobs

    raise typer.Exit(pause_jobs(store, queue, True))


@jobs_app.command("resume")
def resume_command(store: StoreUrl, queue: Queue = "pool") -> None:
    """Let the workers start jobs again."""
    from aiopool.cli._jobs import pause_jobs

    raise typer.Exit(pause_jobs(store, queue, False))


@jobs_app.command("stats")
def stats_command(store: StoreUrl, queue: Queue = "pool", as_json: Json = False) -> None:
    """Print how many jobs are where, and which workers there are."""
    from aiopool.cli._jobs import show_statistics

    raise typer.Exit(show_statistics(store, queue, as_json=as_json))


@jobs_app.command("schedules")
def schedules_command(
    store: StoreUrl,
    queue: Queue = "pool",
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="So many.")] = 200,
    as_json: Json = False,
) -> None:
    """List what the fleet submits again and again, with the last moment of each: its name, moments and arguments."""
    from aiopool.cli._jobs import list_schedules

    raise typer.Exit(list_schedules(store, queue, limit=limit, as_json=as_json))


@jobs_app.command("purge")
def purge_command(
    store: StoreUrl,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than", metavar="TIME", show_default=False, help="Those that ended so long ago: 3600, 12h, 7d."
        ),
    ],
    queue: Queue = "pool",
) -> None:
    """Remove jobs that have ended from the history."""
    from aiopool.cli._jobs import purge_jobs

    raise typer.Exit(purge_jobs(store, queue, older_than))


@jobs_app.command("copy")
def copy_command(
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="URL", envvar="AIOPOOL_STORE", show_default=False, help="The store that has them."
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            "--to", metavar="URL", envvar="AIOPOOL_STORE_TO", show_default=False, help="The store that gets them."
        ),
    ],
    queue: Queue = "pool",
    to_queue: Annotated[
        str | None, typer.Option("--to-queue", metavar="NAME", help="Its name there.", show_default="the same")
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", min=1, max=1000, help="So many are on their way at once.")
    ] = 500,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with what is submitted later, until Ctrl-C or SIGTERM.")
    ] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Between lines of progress.")] = 5.0,
) -> None:
    """Move the jobs that wait to another store, while producers and workers go on.

    It may be interrupted, or killed, at any moment: the same command goes on, and nothing is lost or there twice.
    Running jobs stay, and so do the history, limits and schedules.
    """
    from aiopool.cli._copy import copy_jobs

    raise typer.Exit(copy_jobs(source, target, queue, to_queue, batch=batch, follow=follow, every=every))
