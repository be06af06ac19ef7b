"""Shell completion of `MODULE:FUNCTION`: Python files that are here, then their functions. Nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["complete_target"]


def complete_target(incomplete: str) -> Iterator[str]:
    """Yield what the beginning of a `MODULE:FUNCTION` may become."""
    where, colon, name = incomplete.rpartition(":")
    if colon:
        path = Path(where if where.endswith(".py") else where.replace(".", "/") + ".py")
        for function in _functions(path):
            if function.startswith(name):
                yield f"{where}:{function}"
        return
    directory = Path(incomplete.rpartition("/")[0] or ("/" if incomplete.startswith("/") else "."))
    for path in sorted(directory.glob("*")):
        if str(path).startswith(incomplete) and not path.name.startswith((".", "_")):
            if path.is_dir():
                yield f"{path}/"
            elif path.suffix == ".py":
                yield f"{path}:"


def _functions(path: Path) -> Iterator[str]:
    """Yield the public functions of a file that are called with something."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
            continue
        if node.args.args or node.args.posonlyargs or node.args.vararg:
            yield node.name
