"""`Problem`: why a request was refused, or did not work, in the words of RFC 9457."""

from __future__ import annotations

from typing import Any, Self, final

from aiopool.errors import PoolClosedError, QueueFullError, StoreError, UnknownJobError

__all__ = ["TITLES", "Problem", "problem_of"]

# By type: what HTTP says, and a title that is the same each time.
TITLES = {
    "bad-request": (400, "The request cannot be read"),
    "not-allowed": (403, "This is not allowed for you"),
    "not-found": (404, "There is no such thing"),
    "conflict": (409, "This cannot be done in the present state"),
    "forgotten": (410, "It is not kept any more"),
    "invalid": (422, "An argument cannot be used"),
    "queue-full": (429, "The queue is full"),
    "error": (500, "It failed"),
    "loop-blocked": (503, "The event loop does not answer"),
    "closing": (503, "The pool takes no more"),
    "store-lost": (503, "The store does not answer"),
    "program-gone": (503, "The program has ended"),
    # Of HTTP alone.
    "not-known": (401, "Say who you are"),
    "host-not-allowed": (403, "This name of the server is not allowed"),
    "cross-site": (403, "The request comes from another site"),
    "under-way": (409, "The same request is under way"),
    "no-such-method": (405, "This cannot be done with it"),
    "changed": (412, "It has changed meanwhile"),
    "too-large": (413, "The request is too large"),
    "not-json": (415, "The request is not written as JSON"),
    "too-many": (429, "There are too many already"),
}


@final
class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """A request was refused, or did not work.

    Attributes:
        kind: which of `TITLES`.
        detail: what was asked, why it cannot be, and what to do instead.
        facts: more about it, as JSON.
    """

    def __init__(self, kind: str, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.facts = facts

    @property
    def status(self) -> int:
        """The status that HTTP has for it."""
        return TITLES[self.kind][0]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        status, title = TITLES[self.kind]
        return self.facts | {"type": self.kind, "title": title, "status": status, "detail": self.detail}

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> Self:
        """Make it of JSON that a server has sent."""
        kind = str(said.get("type"))
        facts = {name: value for name, value in said.items() if name not in ("type", "title", "status", "detail")}
        return cls(kind if kind in TITLES else "error", str(said.get("detail", "")), **facts)


# In this order: some of these classes are kinds of those below them.
_MEANING: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (PoolClosedError, "closing"),
    (QueueFullError, "queue-full"),
    (UnknownJobError, "not-found"),
    (StoreError, "store-lost"),
    ((ValueError, TypeError), "invalid"),
    (RuntimeError, "conflict"),
)


def problem_of(error: Exception) -> Problem | None:
    """Return what an error of a pool means to whoever has asked; None: it is a fault, and no answer."""
    if isinstance(error, Problem):
        return error
    kind = next((kind for classes, kind in _MEANING if isinstance(error, classes)), None)
    return None if kind is None else Problem(kind, str(error))
