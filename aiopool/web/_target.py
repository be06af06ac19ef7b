"""What a web app shows: the pools of its own process, or those of another one, through its control socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol, final

from aiopool import Pool
from aiopool._control.call import call, hello
from aiopool._control.client import Connection, NoAnswerError, NoProgramError
from aiopool._control.problems import Problem
from aiopool._control.verbs import Access
from aiopool._control.watched import Watched, find_pool

__all__ = ["Here", "Remote", "Target"]


class Target(Protocol):
    """Some pools that can be asked. Verbs, arguments and answers are those of `aiopool._control.verbs`."""

    async def hello(self) -> dict[str, Any]:
        """Say what can be asked: `pools` is a list of keys."""
        ...

    async def ask(self, verb: str, pool: str | None, *, who: str, access: Access, **arguments: Any) -> dict[str, Any]:
        """Ask something on behalf of somebody.

        Raises:
            Problem: it was refused, or did not work.
        """
        ...


@final
class Here:
    """The pools of this process, or some of them."""

    def __init__(self, pools: Collection[Pool] | None = None) -> None:
        """Show these, while they are open; None: all."""
        self._pools = pools

    def find(self, key: str | None) -> Watched:
        """Return the pool with a key; see `find_pool`."""
        return find_pool(key, self._pools)

    async def hello(self) -> dict[str, Any]:
        """See `Target.hello`."""
        return hello(Access.ADMIN, self._pools)

    async def ask(self, verb: str, pool: str | None, *, who: str, access: Access, **arguments: Any) -> dict[str, Any]:
        """See `Target.ask`."""
        answer: dict[str, Any] = await call(verb, arguments, pool=pool, who=who, access=access, among=self._pools)
        return answer


@final
class Remote:
    """The pools of another process, through its socket; some connections are kept, for threads of this one."""

    MAX_IDLE = 4

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[Connection] = deque()

    async def hello(self) -> dict[str, Any]:
        """See `Target.hello`."""
        return await self._ask("hello", None, None, {})

    async def ask(self, verb: str, pool: str | None, *, who: str, access: Access, **arguments: Any) -> dict[str, Any]:
        """See `Target.ask`."""
        return await self._ask(verb, pool, {"who": who, "access": access.name.lower()}, arguments)

    async def _ask(
        self, verb: str, pool: str | None, behalf: dict[str, str] | None, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        return await asyncio.to_thread(self._ask_now, verb, pool, behalf, arguments)

    def _ask_now(
        self, verb: str, pool: str | None, behalf: dict[str, str] | None, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        connection = self._connection()
        try:
            answer = connection.ask(verb, pool, on_behalf_of=behalf, **arguments)
        except NoAnswerError as error:
            # It may have been asked, and done: so it is never asked again here.
            connection.close()
            raise Problem("loop-blocked", f"{error}: it may have been done, so look first") from error
        except Problem:
            self._keep(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        return answer

    def _connection(self) -> Connection:
        """Return an open connection: one that was kept, unless the program has ended it meanwhile, or another."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not connection.is_gone:
                return connection
            connection.close()
        try:
            return Connection(self._path)
        except NoProgramError as error:
            raise Problem("program-gone", str(error)) from error
        except (NoAnswerError, PermissionError) as error:
            raise Problem("loop-blocked", str(error)) from error

    def _keep(self, connection: Connection) -> None:
        if len(self._idle) < self.MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the connections."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()
