"""`Registration`: what is returned where something is registered with a pool; its `remove()` takes that back."""

from collections.abc import Callable
from types import TracebackType
from typing import Self, final

__all__ = ["Registration"]


@final
class Registration:
    """A handle: `remove()` takes a callback or a tracer back. As a `with` block, the end of the block does."""

    __slots__ = ("_undo",)

    def __init__(self, undo: Callable[[], object]) -> None:
        self._undo: Callable[[], object] | None = undo

    def remove(self) -> None:
        """Take it back; twice is once."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
