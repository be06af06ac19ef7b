"""A plain function for `aiopool map`: hash and parse a Python file. It computes, so it is run in processes.

python examples/stdlib.py > modules.txt
aiopool map examples/checksums.py:checksum modules.txt --processes --output results.jsonl
"""

import ast
import hashlib
from pathlib import Path
from typing import Any


def checksum(path: str) -> dict[str, Any]:
    """Return the SHA-256 of a Python file, and how many lines, functions and classes it has."""
    source = Path(path).read_bytes()
    nodes = list(ast.walk(ast.parse(source, filename=path)))
    return {
        "sha256": hashlib.sha256(source).hexdigest(),
        "lines": len(source.splitlines()),
        "functions": sum(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in nodes),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
    }
