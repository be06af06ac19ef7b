"""`Handlers`: which functions a store may name, each under a name that is registered.

The name is a part of the data: jobs of last week have it, written by a version of the program that is gone. So it is
given by hand, and has nothing to do with the name of the function or its module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, final

from aiopool._jobs.callables import check_function, function_name
from aiopool._jobs.options import UNSET as _UNSET
from aiopool._jobs.options import JobOptions, Offload, Unset, check_count, function_options, job
from aiopool._jobs.retry import Retry
from aiopool._runtime.keywords import explain_keywords

if TYPE_CHECKING:  # few are submitted at moments; pydantic is loaded with the first job
    import datetime

    from aiopool._durable.payloads import Signature

__all__ = ["Handler", "Handlers"]

P = ParamSpec("P")
R = TypeVar("R")


@final
class Handler:
    """A registered function.

    Attributes:
        name: under which it is registered.
        function: the function.
        max_crashes: after so many deaths of its worker a job is given up.
        every, tz, missed: when it is submitted again and again, as in `Submitter.every`; None: it is not.
    """

    __slots__ = ("_signature", "every", "function", "max_crashes", "missed", "name", "tz")

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        max_crashes: int = 3,
        every: float | datetime.timedelta | str | None = None,
        tz: datetime.tzinfo | None = None,
        missed: Literal["skip", "once"] = "skip",
    ) -> None:
        self.name = name
        self.function = function
        self.max_crashes = max_crashes
        self.every = every
        self.tz = tz
        self.missed: Literal["skip", "once"] = missed
        self._signature: Signature | None = None

    @property
    def signature(self) -> Signature:
        """How its arguments and its result are written."""
        if self._signature is None:
            from aiopool._durable.payloads import Signature

            self._signature = Signature(self.name, self.function)
        return self._signature


@final
class Handlers:
    """The functions whose jobs a store keeps, by their registered names.

    Every process that submits or runs such jobs has them. A worker that meets a name that it does not know leaves the
    job for one that does.

    Example:
        handlers = aiopool.Handlers()

        @handlers.register("send_email", timeout=30, retry=Retry(attempts=5))
        async def send_email(to: str, subject: str) -> None: ...
    """

    __slots__ = ("_by_function", "_by_name")

    def __init__(self) -> None:
        self._by_name: dict[str, Handler] = {}
        self._by_function: dict[Any, Handler] = {}

    @explain_keywords
    def register(
        self,
        name: str,
        *,
        priority: int | Unset = _UNSET,
        timeout: float | Unset | None = _UNSET,
        queue_timeout: float | Unset | None = _UNSET,
        total_timeout: float | Unset | None = _UNSET,
        retry: Retry | Unset | None = _UNSET,
        group: str | Unset | None = _UNSET,
        key: Any = _UNSET,
        metadata: Mapping[str, Any] | Unset | None = _UNSET,
        offload: Offload | Unset | None = _UNSET,
        layers: Any = _UNSET,
        max_crashes: int = 3,
        every: float | datetime.timedelta | str | None = None,
        tz: datetime.tzinfo | None = None,
        missed: Literal["skip", "once"] = "skip",
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Register a function under a name, with its own job options; it stays the same function.

        Args:
            name: stays with the jobs in the store: choose it once, and give a function that takes other arguments
                another one, such as `"send_email.2"`.
            priority, timeout, queue_timeout, total_timeout, retry, group, key, metadata, offload, layers: as in
                `aiopool.job`. A worker takes `timeout`, `retry`, `offload` and `layers` from its own code, also for
                jobs that were submitted before they changed.
            max_crashes: so many workers may die while they run a job; with that many the job is `dead`, and waits for
                somebody who puts it back.
            every, tz, missed: submit it without arguments again and again, as by `pool.every(every, function, tz=tz,
                missed=missed)` in each process that runs jobs: one job for each moment in the whole fleet.

        Returns:
            A decorator that returns its function.

        Raises:
            ValueError: the name is taken, or the function has another one.
            TypeError: it is no text, or what is decorated is no function that a pool could run.
        """
        if not isinstance(name, str) or not name or not name.isprintable() or len(name) > MAX_NAME:
            raise TypeError(
                f"register({name!r}): a name is a printable text of at most {MAX_NAME} characters: write "
                '@handlers.register("send_email")'
            )
        options = {
            "priority": priority,
            "timeout": timeout,
            "queue_timeout": queue_timeout,
            "total_timeout": total_timeout,
            "retry": retry,
            "group": group,
            "key": key,
            "metadata": metadata,
            "offload": offload,
            "layers": layers,
        }
        JobOptions(**options)
        check_count("max_crashes", max_crashes, least=1)

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            check_function(function)
            if name in self._by_name:
                raise ValueError(
                    f"{name!r} is registered already, for {function_name(self._by_name[name].function)}: choose "
                    f"another name for {function_name(function)}"
                )
            known = function_options(function)
            if known is not None and isinstance(known.name, str) and known.name != name:
                raise ValueError(
                    f"{function_name(function)} has the name {known.name!r} already, by @handlers.register or @job, "
                    f"and a function has one: for {name!r} write a function of its own that calls it"
                )
            job(name=name, **options)(function)
            self._by_name[name] = self._by_function[function] = Handler(name, function, max_crashes, every, tz, missed)
            return function

        return decorate

    def include(self, other: Handlers) -> None:
        """Take in all functions of another one, as of another module.

        Raises:
            ValueError: a name is taken by another function.
        """
        for handler in other:
            mine = self._by_name.get(handler.name)
            if mine is not None and mine.function is not handler.function:
                raise ValueError(f"{handler.name!r} is registered in both, for two functions: rename one of them")
            self._by_name[handler.name] = self._by_function[handler.function] = handler

    def get(self, name: str) -> Handler | None:
        """Return what is registered under a name, or None."""
        return self._by_name.get(name)

    def of(self, function: Callable[..., Any]) -> Handler:
        """Return the handler of a function.

        Raises:
            TypeError: it is not registered; the text has the line to write.
        """
        try:
            found = self._by_function.get(function)
        except TypeError:  # it cannot be hashed
            found = None
        if found is None:
            name = function_name(function)
            raise TypeError(
                f"{name} is not registered, and a store keeps jobs by registered names: write "
                f'@handlers.register("{name.rpartition(".")[2]}") above it, and Pool(store=..., handlers=handlers)'
            )
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are registered."""
        return tuple(self._by_name)

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __repr__(self) -> str:
        return f"<Handlers {', '.join(self._by_name) or 'none'}>"


# It stands in an index of a database.
MAX_NAME = 200
