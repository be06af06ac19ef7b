"""`Layer`: one source of settings as a tree of raw values, with a note of where each of them stood.

All layers have the same shape: settings for all pools at the top, and those of named ones under `pools`. Choosing a
pool lays its own branch over the top of the same layer.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Iterator
from typing import Any, Final, final

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

__all__ = ["DEFAULT", "PREFIX", "Layer", "LayerSource", "Tree", "Where", "shown", "slug"]

PREFIX: Final = "AIOPOOL_"
DEFAULT: Final = "default"

Where = tuple[str, ...]
Tree = dict[str, Any]

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = _shortener.maxlong = 60
_shortener.maxlevel = 3


def shown(value: object) -> str:
    """Return a value as a message shows it: in one line, and short."""
    return _shortener.repr(value)


def merged(under: Tree, over: Tree) -> Tree:
    """Return two trees as one; where both have a branch, the branches are merged."""
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        both[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both


def leaves(tree: Tree, above: Where = ()) -> Iterator[Where]:
    """Give the places of all values that are no branches."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name)


@final
@dataclasses.dataclass(slots=True)
class Layer:
    """One source, as a tree.

    Attributes:
        label: what a value comes from, if nothing more exact is known.
        tree: the values; branches are dicts.
        origins: where single values, or whole branches, stood.
        variables: its names are those of environment variables.
        trusted: it may name code to import.
    """

    label: str
    tree: Tree
    origins: dict[Where, str] = dataclasses.field(default_factory=dict)
    variables: bool = False
    trusted: bool = True

    def decides(self, where: Where) -> str | None:
        """Return where the value at a place comes from, if this layer decides about it."""
        found: Any = self.tree
        for depth, name in enumerate(where):
            if not isinstance(found, dict):
                # The branch was set as a whole: by an object that has a value here, or to none.
                whole = found is not None and not isinstance(found, str)
                return (self.origins.get(where) or self.origin(where[:depth])) if whole else DEFAULT
            if name not in found:
                return None
            found = found[name]
        return self.origin(where)

    def origin(self, where: Where) -> str:
        """Return where the value at a place of this layer stood."""
        for length in range(len(where), 0, -1):
            if where[:length] in self.origins:
                return self.origins[where[:length]]
        return self.label

    def spelled(self, where: Where) -> str:
        """Return the name of a setting as it is written in this layer."""
        return f"{PREFIX}{'__'.join(where).upper()}" if self.variables else ".".join(where)

    def chosen(self, pool: str | None) -> Layer:
        """Return this layer for one pool: its own settings over those of all pools."""
        own, at = self.section(pool)
        top = {key: value for key, value in self.tree.items() if key != "pools"}
        origins = {where: text for where, text in self.origins.items() if where[0] != "pools"}
        for where in leaves(own):
            text = self.origin((*at, *where))
            # A format without lines still has a branch to speak of.
            origins[where] = f"{text}, {'.'.join(at)}" if text == self.label else text
        return dataclasses.replace(self, tree=merged(top, own), origins=origins)

    def section(self, pool: str | None) -> tuple[Tree, Where]:
        """Return the settings of one pool alone, and their place; nothing, if there are none."""
        for name, own in self.tree.get("pools", {}).items():
            if pool is not None and (name == pool or (self.variables and name == slug(pool))):
                return own, ("pools", name)
        return {}, ()


def slug(pool: str) -> str:
    """Return the name of a pool as it appears in the name of a variable."""
    return re.sub(r"\W", "_", pool).lower()


@final
class LayerSource(PydanticBaseSettingsSource):
    """A layer, as pydantic-settings wants to see it."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._tree = layer.tree

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._tree.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._tree
