"""Draw the rooms of the package, for the docs: a picture (SVG) of which package imports which.

    python scripts/rooms.py           write it
    python scripts/rooms.py --check   write nothing; exit with 1 if it is out of date

The arrows come from the imports of all modules, those for types and inside functions included. A room stands one row
below the lowest room that imports it. An arrow that a longer way implies is left out: if `_pool` imports `_engine`,
and `_engine` imports `_jobs`, then the arrow from `_pool` to `_jobs` says nothing new.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "aiopool"
PICTURE = ROOT / "docs" / "assets" / "architecture.svg"

# What a room is for, in a few words. A new room is an error that says so.
WORDS = {
    "errors": "the tree of exceptions",
    "_runtime": "clock, tasks, threads, timers, signals",
    "_jobs": "what a job is",
    "layers": "what is around an attempt",
    "events": "what happened",
    "_observe": "who is told",
    "_engine": "queue, slots, workers",
    "_pool": "what users hold",
    "blocking": "for programs without a loop",
    "metrics": "what a pool did, by name",
    "health": "how a pool is",
    "records": "what is kept of jobs",
    "sizing": "sizes that change",
    "workers": "who runs the jobs",
    "services": "helper processes",
    "settings": "values from files and environment",
    "_program": "a whole program",
    "from_thread": "for plain functions",
    "stores": "where jobs survive",
    "_durable": "the jobs of a pool in its store",
    "inspection": "looking in from outside",
    "_control": "a door into a program",
    "web": "API and dashboard",
    "fleet": "all pools of a store",
    "aiopool": "the face: it re-exports",
    "testing": "virtual time, schedules",
    "instrumentation": "Prometheus, OpenTelemetry",
    "avtomatika": "a worker of that orchestrator",
    "pytest_plugin": "fixtures",
    "_plan": "a fleet, simulated",
    "cli": "the command",
    "_torture": "kills, and what survives it",
}
BOX, GAP, ROW = (226, 44), 14, 92
WIDTH = 1000


def room(module: str) -> str:
    """Return the room of a dotted name: `_jobs` of `aiopool._jobs.job`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def imports(path: Path, module: str, known: set[str]) -> set[str]:
    """Return the modules of ours that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                home = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*home[: len(home) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return {name for name in found if name.split(".")[0] == "aiopool"}


def arrows() -> dict[str, set[str]]:
    """Return which rooms each room imports."""
    modules: dict[str, Path] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        if module == "aiopool.__main__":
            continue
        here = found.setdefault(room(module), set())
        here |= {room(target) for target in imports(path, module, set(modules))} - {room(module)}
    return found


def rows(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the rooms in rows from the top: each stands below all that import it."""
    users: dict[str, set[str]] = {name: set() for name in graph}
    for name, targets in graph.items():
        for target in targets:
            users[target].add(name)
    depth: dict[str, int] = {}

    def row(name: str, way: tuple[str, ...] = ()) -> int:
        if name in way:
            raise SystemExit(f"scripts/rooms.py: a circle: {' -> '.join((name, *reversed(way)))}")
        if name not in depth:
            depth[name] = 1 + max((row(user, (*way, name)) for user in users[name]), default=-1)
        return depth[name]

    found: list[list[str]] = [[] for _ in range(1 + max(row(name) for name in graph))]
    for name in sorted(graph):
        found[row(name)].append(name)
    return found


def needed(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the arrows that no longer way implies."""

    def reach(name: str) -> set[str]:
        return graph[name].union(*(reach(target) for target in graph[name]))

    return sorted(
        (name, target)
        for name, targets in graph.items()
        for target in targets
        if not any(target in reach(other) for other in targets - {target})
    )


def picture() -> str:
    """Return the rooms as SVG."""
    graph = arrows()
    if unknown := graph.keys() - WORDS.keys():
        raise SystemExit(f"scripts/rooms.py: say in WORDS what {sorted(unknown)} is for")
    levels = rows(graph)
    width, height = BOX
    total = len(levels) * ROW + 10
    at: dict[str, tuple[float, float]] = {}
    for number, names in enumerate(levels):
        left = (WIDTH - len(names) * (width + GAP) + GAP) / 2
        for place, name in enumerate(names):
            at[name] = left + place * (width + GAP) + width / 2, ROW * number + ROW / 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" role="img" '
        'aria-labelledby="title words" font-family="system-ui, sans-serif" font-size="14">',
        "  <!-- Drawn by scripts/rooms.py from the imports of the package. Do not edit. -->",
        '  <title id="title">The rooms of aiopool</title>',
        f'  <desc id="words">{"; ".join(f"{a} imports {b}" for a, b in needed(graph))}.</desc>',
        '  <defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" class="tip"/></marker></defs>',
        "  <style>.arrow{fill:none;stroke:#78909c;stroke-width:1.3}.tip{fill:#78909c}"
        ".room rect{fill:#e8eaf6;stroke:#3f51b5;stroke-width:1.3}.room text{fill:#1a1a1a}"
        ".room .name{font-weight:600}.room .words{font-size:11px}"
        "@media (prefers-color-scheme:dark){.room rect{fill:#283046;stroke:#9fa8da}.room text{fill:#eceff1}}</style>",
    ]
    for name, target in needed(graph):
        (x1, y1), (x2, y2) = at[name], at[target]
        y1, y2 = y1 + height / 2, y2 - height / 2 - 2
        bend = (y2 - y1) / 2
        lines.append(
            f'  <path class="arrow" data-from="{name}" data-to="{target}" marker-end="url(#tip)" '
            f'd="M{x1:g},{y1:g} C{x1:g},{y1 + bend:g} {x2:g},{y2 - bend:g} {x2:g},{y2:g}"/>'
        )
    for name, (x, y) in at.items():
        lines.append(
            f'  <g class="room" data-room="{name}"><rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" '
            f'height="{height}" rx="7"/><text class="name" x="{x:g}" y="{y - 3:g}" text-anchor="middle">{name}</text>'
            f'<text class="words" x="{x:g}" y="{y + 13:g}" text-anchor="middle">{WORDS[name]}</text></g>'
        )
    return "\n".join([*lines, "</svg>", ""])


def main() -> int:
    """Write the picture if it is out of date, or only tell of it."""
    wanted = picture()
    if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == wanted:
        return 0
    if "--check" in sys.argv:
        print(f"out of date: {PICTURE.relative_to(ROOT)}")
        return 1
    PICTURE.write_text(wanted, encoding="utf-8")
    print(f"written: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
