"""Print the path of every module of the standard library, one a line: input that every machine has.

    python examples/stdlib.py > modules.txt

The library's own tests are left out: some of them are broken Python on purpose.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def modules() -> Iterator[Path]:
    """Yield the modules of the standard library in the order of their names."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if not LEFT_OUT.intersection(path.relative_to(root).parts):
            yield path


if __name__ == "__main__":
    for path in modules():
        print(path)
