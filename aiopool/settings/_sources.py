"""Where settings come from: arguments, the environment, a `.env` file, a settings file. Each becomes a *layer*.

pydantic-settings then lays the layers over one another, field by field.

    arguments             PoolSettings.load(size=4)
    environment           AIOPOOL_SIZE=4, AIOPOOL_RETRY__ATTEMPTS=4, AIOPOOL_POOLS__MAIL__SIZE=4
    .env                  the same names
    file                  size: 4, chosen by an argument or AIOPOOL_FILE

What is checked here is what stands there, not what it is worth: unknown names, names that contradict one another, code
named from a place that may not name code. Values are read by the kinds, after the layers have been merged.

Invariant: nothing that begins with `AIOPOOL_`, and no key of a file, is passed over in silence.
"""

from __future__ import annotations

import difflib
import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, final

from aiopool.errors import SettingsProblem
from aiopool.settings._files import MAX_DEPTH, Unreadable, content_of, read_file
from aiopool.settings._kinds import Kind, Nested
from aiopool.settings._layer import PREFIX, Layer, Tree, Where, shown, slug
from aiopool.settings._text import did_you_mean, names_code

__all__ = ["Schema", "Sources"]

# Variables of ours that are no settings of a pool.
RESERVED: Final = frozenset(
    {"AIOPOOL_FAILPOINT", "AIOPOOL_SEEDS", "AIOPOOL_SERVICE", "AIOPOOL_STORE", "AIOPOOL_STORE_TO"}
)
# Kubernetes sets these in every container if there is a Service with the name "aiopool".
_KUBERNETES: Final = re.compile(
    r"AIOPOOL_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)"
)
# How python-dotenv would refer to another variable.
_REFERENCE: Final = re.compile(r"\$\{")
# What these things are called elsewhere, when the letters alone do not lead to our word.
_ELSEWHERE: Final = {
    "concurrency": "size",
    "max_workers": "size",
    "min_workers": "size",
    "num_workers": "size",
    "workers": "size",
    "max_retries": "retry.attempts",
    "retries": "retry.attempts",
    "base_delay": "retry.delay",
    "grace": "cancel_grace",
    "threads": "max_threads",
    "processes": "max_processes",
}
_CHOOSERS: Final = {
    "pool": f'a pool is chosen by PoolSettings.load(pool="mail") or {PREFIX}POOL=mail',
    "file": f'a file is chosen by PoolSettings.load(file="aiopool.yaml") or {PREFIX}FILE=aiopool.yaml',
}

Schema = Mapping[str, Kind | Nested]


@final
class Sources:
    """All layers, the highest first, and what is wrong with them.

    Args:
        schema: which settings there are.
        arguments: settings given in code.
        file: the settings file; None: what `AIOPOOL_FILE` says, or none.
        pool: the pool to choose; None: what `AIOPOOL_POOL` says, or none.
        env_file: a `.env` file; None: none. The `optional_env_file` may be missing.
        environ: the environment.
    """

    def __init__(
        self,
        schema: Schema,
        arguments: Mapping[str, Any],
        *,
        file: str | os.PathLike[str] | None = None,
        pool: str | None = None,
        env_file: str | os.PathLike[str] | None = None,
        optional_env_file: str | None = None,
        environ: Mapping[str, str],
    ) -> None:
        self.problems: list[SettingsProblem] = []
        self._schema = schema
        self._names = list(_dotted(schema))
        self.pool, self._pool_source = pool, "argument"
        self._file, self._file_source = file, "argument"
        self.layers = [Layer("argument", dict(arguments))]
        pairs = ((name, value, f"environment variable {name}") for name, value in environ.items())
        self.layers.append(self._variables("environment", pairs))
        if env_file is not None:
            self.layers.append(self._dotenv(Path(env_file), optional=False))
        elif optional_env_file is not None:
            self.layers.append(self._dotenv(Path(optional_env_file), optional=True))
        if self._file is not None:
            self.layers.append(self._settings_file(Path(self._file)))
        for layer in self.layers:
            layer.tree = self._checked(layer)
        self.pools = self._known_pools()
        lost = any(problem.name == "file" for problem in self.problems)
        if self.pool is not None and self.pool not in self.pools and not lost:
            known = f"there are {', '.join(self.pools)}" if self.pools else "no source has settings under `pools`"
            hint = did_you_mean(self.pool, self.pools)
            self._problem("pool", self.pool, self._pool_source, f"there is no such pool; {known}{hint}")

    def chosen(self, pool: str | None) -> list[Layer]:
        """Return the layers for one pool, or for a pool without a name."""
        layers = [layer.chosen(pool) for layer in self.layers]
        homes = [index for index, layer in enumerate(self.layers) if layer.section(pool)[1]]
        if pool is not None and homes:
            # Its name in the file is what it is called, unless its own settings say otherwise.
            raw, layer = self.layers[homes[-1]], layers[homes[-1]]
            if "name" not in raw.section(pool)[0]:
                layer.tree["name"] = pool
                layer.origins["name",] = f"{raw.label}, the name under pools"
        return layers

    # -- reading -----------------------------------------------------------------------------------------------------

    def _variables(self, label: str, variables: Iterable[tuple[str, str | None, str]]) -> Layer:
        """Make a layer of those variables that are ours."""
        layer = Layer(label, {}, variables=True, trusted=False)
        for name, value, origin in sorted(variables):
            if not _is_ours(name):
                continue
            where = tuple(name[len(PREFIX) :].lower().split("__"))
            if len(where) > MAX_DEPTH:
                self._problem(".".join(where), None, origin, "it is nested too deeply")
            elif value is None:
                self._problem(".".join(where), None, origin, f"it has no value: write {name}=...")
            elif where in (("pool",), ("file",)):
                self._choose(where[0], value, origin)
            elif (other := _put(layer.tree, where, value)) is not None:
                # Perhaps none of our settings: its value is not shown, for it may be a secret.
                self._problem(
                    ".".join(where), None, origin, f"{layer.origin(other)} says otherwise: set only one of them"
                )
            else:
                layer.origins[where] = origin
        return layer

    def _choose(self, what: str, value: str, origin: str) -> None:
        """A variable that chooses the file or the pool; an argument, or the environment, may have chosen before."""
        if not value.strip():
            self._problem(what, value, origin, f"it is empty: {_CHOOSERS[what]}")
        elif what == "pool":
            if self.pool is None:
                self.pool, self._pool_source = value.strip(), origin
        elif not origin.startswith("environment"):
            # A .env stands in the working directory, and that may be a stranger's; a settings file may name code.
            self._problem(what, value, origin, "a .env file cannot choose the settings file: use the environment")
        elif self._file is None:
            self._file, self._file_source = value.strip(), origin

    def _dotenv(self, path: Path, *, optional: bool) -> Layer:
        if optional and not path.is_file():
            return Layer(path.name, {})
        from dotenv.parser import parse_stream  # and not dotenv_values(), which expands other variables into ours

        try:
            content, changeable = content_of(path)
        except Unreadable as error:
            self._problem("env_file", os.fspath(path), "argument", str(error))
            return Layer(path.name, {})
        if changeable is not None:
            self._warn(f"{changeable}, and with it the settings that {path.name} gives to pools")
        found: dict[str, tuple[str | None, str]] = {}
        for binding in parse_stream(io.StringIO(content)):
            # The text of a binding begins with the empty lines before it.
            text = binding.original.string
            line = binding.original.line + len(text[: len(text) - len(text.lstrip())].splitlines())
            if binding.key is not None:
                found[binding.key] = binding.value, f"{path.name} line {line}, {binding.key}"
            elif binding.error and PREFIX in text.upper():
                self._problem("env_file", None, f"{path.name} line {line}", f"it cannot be read: write {PREFIX}SIZE=4")
        for name in [name for name, (value, _) in found.items() if _is_ours(name) and _REFERENCE.search(value or "")]:
            self._problem(
                _setting(name),
                None,
                found.pop(name)[1],
                "it refers to another variable, and those are not looked up, because they may hold secrets; write the "
                f"value, or set {name} in the environment",
            )
        return self._variables(path.name, ((name, *one) for name, one in found.items()))

    def _settings_file(self, path: Path) -> Layer:
        try:
            found = read_file(path)
        except Unreadable as error:
            self._problem("file", os.fspath(path), self._file_source, str(error))
            return Layer(path.name, {})
        if found.changeable is not None:
            self._warn(f"{found.changeable}, so {path.name} may name no code to import")
        origins = {where: f"{path.name} line {line}" for where, line in found.lines.items()}
        return Layer(path.name, found.data, origins, trusted=found.changeable is None)

    # -- checking ----------------------------------------------------------------------------------------------------

    def _checked(self, layer: Layer) -> Tree:
        """Return the tree of a layer without what cannot stand there; that becomes a problem each."""
        top = {key: value for key, value in layer.tree.items() if key != "pools"}
        tree = self._branch(layer, top, self._schema, ())
        pools = layer.tree.get("pools")
        if pools is None:
            return tree
        shape = "it must be a mapping from the names of pools to their settings"
        if not isinstance(pools, Mapping):
            self._problem("pools", None, layer.origin(("pools",)), shape)
            return tree
        tree["pools"] = {}
        for name, own in pools.items():
            where = ("pools", name)
            if not isinstance(name, str) or not (own is None or isinstance(own, Mapping)):
                self._problem(f"pools.{name}", None, layer.origin(("pools", str(name))), shape)
            else:
                tree["pools"][name] = self._branch(layer, own or {}, self._schema, where)
        return tree

    def _branch(self, layer: Layer, tree: Mapping[Any, Any], schema: Schema, above: Where) -> Tree:
        fit: Tree = {}
        for key, value in tree.items():
            where = (*above, str(key))
            kind = schema.get(key) if isinstance(key, str) else None
            branch = isinstance(value, Mapping)
            if kind is None and branch and layer.variables:
                self._branch(layer, value, {}, where)  # each variable is named
            elif kind is None:
                # Whatever it is, it may be a secret: `password: ...`, AIOPOOL_TOKEN=...
                self._problem(".".join(where), None, layer.origin(where), self._unknown(layer, where))
            elif isinstance(kind, Nested):
                fit[key] = self._branch(layer, value, kind.fields, where) if branch else value
            elif branch and layer.variables:
                self._branch(layer, value, {}, where)
            elif kind.code and not layer.trusted and names_code(value):
                self._problem(
                    ".".join(where),
                    value,
                    layer.origin(where),
                    "it names code to import; that is read from an argument, or from a settings file that nobody else "
                    "can change",
                )
            else:
                fit[key] = value
        return fit

    def _unknown(self, layer: Layer, where: Where) -> str:
        """Say that there is no such setting, and which one may be meant."""
        own = where[2:] if where[0] == "pools" else where
        if own in (("pool",), ("file",)):
            return f"there is no such setting; {_CHOOSERS[own[0]]}"
        wanted, last = ".".join(own), own[-1]
        # The very name, somewhere else (`attempts` for `retry.attempts`), or the nearest one.
        found = [_ELSEWHERE[last]] if last in _ELSEWHERE else [n for n in self._names if n.rpartition(".")[2] == last]
        for name in (wanted, last):
            found = found or difflib.get_close_matches(name, self._names, n=1)
        if not found:
            return f"there is no such setting; there are {', '.join(self._schema)}"
        prefix = where[:2] if where[0] == "pools" else ()
        meant = " or ".join(repr(layer.spelled((*prefix, *name.split(".")))) for name in found)
        return f"there is no such setting; did you mean {meant}?"

    def _known_pools(self) -> tuple[str, ...]:
        """Return the names of all pools. Variables may speak of those that the file has, or of any if it has none."""
        names = [name for layer in self.layers if not layer.variables for name in layer.tree.get("pools", {})]
        slugs = {slug(name): name for name in names}
        for layer in self.layers:
            for name in layer.tree.get("pools", {}) if layer.variables else ():
                if name not in slugs and names:
                    for where in [where for where in layer.origins if where[:2] == ("pools", name)]:
                        hint = did_you_mean(name, slugs)
                        reason = f"there is no pool {name!r}; there are {', '.join(names)}{hint}"
                        self._problem(".".join(where), None, layer.origin(where), reason)
                elif name not in slugs:
                    slugs[name] = name
        return tuple(slugs.values())

    def _problem(self, name: str, value: object, source: str, reason: str) -> None:
        given = None if value is None else shown(value)
        self.problems.append(SettingsProblem(_shortened(name), given, _shortened(source), _shortened(reason, 1000)))

    @staticmethod
    def _warn(text: str) -> None:
        warnings.warn(
            f"{text}; give the file, and the directories above it, to the user of the program or to root, and write: "
            "chmod go-w",
            RuntimeWarning,
            stacklevel=2,
        )


def _is_ours(name: str) -> bool:
    """Return whether a variable is one of ours, be it known or not."""
    known = name.upper()  # as pydantic-settings does it: a lower-case name is meant, too
    return known.startswith(PREFIX) and known not in RESERVED and not _KUBERNETES.fullmatch(known)


def _setting(name: str) -> str:
    """Return the setting that a variable of ours speaks of."""
    return name[len(PREFIX) :].lower().replace("__", ".")


def _shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _put(tree: Tree, where: Where, value: str) -> Where | None:
    """Put a value into a tree; if another one is in its way, return the place of that one."""
    for depth, name in enumerate(where[:-1]):
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            return where[: depth + 1]
    if where[-1] in tree:
        return where
    tree[where[-1]] = value
    return None


def _dotted(schema: Schema, above: str = "") -> Iterator[str]:
    """The names of all settings, as they are written in messages."""
    for name, kind in schema.items():
        yield above + name
        if isinstance(kind, Nested):
            yield from _dotted(kind.fields, f"{above}{name}.")
