"""`aiopool web` and `aiopool serve`: the pools of another program over HTTP, and a pool of its own."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import Any

from aiopool import Handlers, Pool, run
from aiopool._control.client import NoAnswerError, NoProgramError, connect
from aiopool._control.problems import Problem
from aiopool.cli._board import printable
from aiopool.cli._store import complain, hidden, named_store
from aiopool.cli._target import find_object
from aiopool.cli._words import FAILED, FINE, MISUSED, Refusal
from aiopool.errors import StoreError

__all__ = ["serve_handlers", "watch_program"]

NEEDS = 'it needs {name}, which is not installed; in the checkout of aiopool, write: pip install -e ".[web]"'


def _stand_alone(target: Any, **options: Any) -> Any:
    try:
        from aiopool.web._server import StandAlone
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("aiopool"):
            raise
        raise Refusal(NEEDS.format(name=error.name)) from None
    try:
        return StandAlone(target, **options)
    except ValueError as error:
        raise Refusal(str(error)) from None
    except OSError as error:
        raise Refusal(f"--listen {options['listen']} --port {options['port']}: {error.strerror or error}") from None


def _say(what: str, alone: Any, token_file: str | None) -> None:
    lines = [f"{what}: {alone.url}", f"open it once in a browser with this link: {alone.link}"]
    if token_file is not None:
        lines.append(f"programs send the token in {token_file}: Authorization: Bearer ...")
    for line in lines:
        print(printable(line), file=sys.stderr, flush=True)


def watch_program(target: str | None, **options: Any) -> int:
    """Show the pools of another program until a signal comes, and return the exit code."""
    from aiopool.web._target import Remote

    try:
        connection, pool = connect(target)
        path, program = connection.path, f"{connection.hello['program']}, process {connection.pid}"
        connection.close()
        remote = Remote(path)
        alone = _stand_alone(remote, pool=pool, title=connection.hello["program"], **options)
    except (Refusal, NoProgramError, NoAnswerError, PermissionError, Problem) as refusal:
        complain(str(refusal))
        return MISUSED

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, alone.stop)
        _say(program, alone, options["token_file"])
        await alone.serve()

    try:
        asyncio.run(serve())
    finally:
        remote.close()
    return FINE


def serve_handlers(
    target: str, store: str | None, name: str, *, size: int, queue_size: int, shutdown_timeout: float, **options: Any
) -> int:
    """Run a pool whose jobs come by HTTP until a signal comes, and return the exit code."""
    try:
        handlers = find_object(target, Handlers, "handlers")
        made: dict[str, Any] = {"name": name, "keep_finished": 1000}
        if store is None:
            made["queue_size"] = queue_size
        else:
            made |= {"store": named_store(store, made=True).url, "handlers": handlers}
        pool = Pool(size, **made)
        from aiopool.web._target import Here

        alone = _stand_alone(Here(), handlers=handlers, pool=name, title=name, **options)
    except (Refusal, ValueError, TypeError, RuntimeError) as refusal:
        complain(hidden(str(refusal), store or ""))
        return MISUSED
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def main(pool: Pool) -> None:
        serving = asyncio.create_task(alone.serve())
        _say(f"{len(handlers)} functions of {target}, {size} jobs at once", alone, options["token_file"])
        closed = asyncio.create_task(pool.wait_closed())
        await asyncio.wait([serving, closed], return_when=asyncio.FIRST_COMPLETED)
        alone.stop()
        await serving
        closed.cancel()

    try:
        run(main, pool=pool, timeout=shutdown_timeout)
    except StoreError as error:
        complain(hidden(str(error), store or ""))
        return FAILED
    finally:
        alone.close()
    return FINE
