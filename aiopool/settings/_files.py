"""Settings files: YAML, TOML and JSON into plain data and back, and nothing else.

A settings file is read as data. No tag of YAML makes an object, no file makes us wait (a FIFO), and none makes us work
without end: the size, the nesting, the parts of a dotted key and what aliases expand to are bounded. A key that stands
twice is refused in all three, because one of the two would be ignored. YAML's plain words are not guessed at: `4`,
`yes` and `on` are text until the setting that they belong to reads them, so that `on:` is a key and `mail: no` is no
surprise.

This module does not know which settings there are. Invariant: what `written` returns, `read_file` reads as equal data,
with none as the word where TOML has no other.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, final

from aiopool._runtime.file_trust import read_regular_file, who_can_change, who_can_write

__all__ = ["SUFFIXES", "SettingsFile", "Unreadable", "content_of", "read_file", "suffix_of", "written"]

SUFFIXES: Final = (".yaml", ".yml", ".toml", ".json")

# Ten times the largest file that we can imagine; the YAML reader takes about a second for the worst of this size.
MAX_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 20
MAX_NODES: Final = 20_000
# Parts of one dotted key of TOML, the reading of which costs time that grows with their square. More than in any list
# of names such as "myapp.errors:Busy" in one line, which is not told from a key here.
MAX_DOTS: Final = 1000

Path_ = tuple[str, ...]


@final
class Unreadable(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """Why a file cannot be read, as the end of a sentence."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class SettingsFile:
    """What a file says.

    Attributes:
        name: what messages call it.
        data: its content.
        lines: the line of each key, where that is known (YAML).
        changeable: who else can change it, as a clause; None if nobody can.
    """

    name: str
    data: dict[str, Any]
    lines: Mapping[Path_, int]
    changeable: str | None


def suffix_of(path: Path) -> str:
    """Return the suffix of a settings file; Unreadable if it is none that we know."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise Unreadable(f"its name must end in one of {', '.join(SUFFIXES)}")
    return suffix


def read_file(path: Path) -> SettingsFile:
    """Read a settings file.

    Raises:
        Unreadable: there is no such file, or it is not what it should be.
    """
    suffix = suffix_of(path)
    content, changeable = content_of(path)
    lines: dict[Path_, int] = {}
    try:
        if suffix == ".json":
            data: Any = json.loads(content, object_pairs_hook=_unique, parse_constant=_no_constant)
        elif suffix == ".toml":
            if any(part.count(".") > MAX_DOTS for part in re.split("[=\n]", content)):
                raise Unreadable("it is nested too deeply")
            data = tomllib.loads(content)
        else:
            data = _read_yaml(content, lines)
    except json.JSONDecodeError as error:
        raise Unreadable(f"it is not JSON: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(f"it is not TOML: {error}") from None
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except ValueError as error:  # a number with thousands of digits
        raise Unreadable(f"it cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise Unreadable(f"it must hold a mapping of settings, such as `size: 4`, not a {type(data).__name__}")
    return SettingsFile(path.name, data, lines, changeable)


def content_of(path: Path) -> tuple[str, str | None]:
    """Return the text of a regular file, and who else can change it, if anybody; Unreadable says why not."""
    try:
        content, info = read_regular_file(path, max_bytes=MAX_BYTES)
        # Of the very file that was read, and of the way to it.
        changeable = who_can_write(path, info) or who_can_change(path)
    except FileNotFoundError:
        raise Unreadable("there is no such file") from None
    except OSError as error:
        raise Unreadable(f"it cannot be opened: {error.strerror}") from None
    except ValueError as error:
        raise Unreadable(str(error)) from None
    try:
        return content.decode("utf-8-sig"), changeable
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8: {error.reason} at byte {error.start}") from None


# -- JSON ------------------------------------------------------------------------------------------------------------


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Unreadable(f"the key {key!r} stands there twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise Unreadable(f'it is not JSON: {name}; write "inf" for a duration without end')


# -- YAML ------------------------------------------------------------------------------------------------------------


def _read_yaml(content: str, lines: dict[Path_, int]) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise Unreadable(
            "YAML is read by PyYAML, which is not installed; in the checkout of aiopool, write: "
            'pip install -e ".[yaml]". TOML and JSON need nothing'
        ) from None
    try:
        # Only the parser is used, with the resolver that takes every plain scalar for text: no tag makes an object.
        node = yaml.compose(content, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        hint = "; YAML is indented by spaces" if "'\\t'" in str(error.problem) else ""
        what = " ".join(filter(None, (error.context, error.problem)))
        raise Unreadable(f"it is not YAML{where}: {what}{hint}") from None
    except yaml.YAMLError as error:
        raise Unreadable(f"it is not YAML: {' '.join(str(error).split())}") from None
    data = None if node is None else _Builder(lines).build(node, ())
    return {} if data is None else data  # nothing but comments


@final
class _Builder:
    """From the nodes of YAML to data. An alias is built again wherever it stands, so what it expands to is counted."""

    def __init__(self, lines: dict[Path_, int]) -> None:
        self._lines = lines
        self._left = MAX_NODES

    def build(self, node: Any, path: Path_) -> Any:
        self._left -= 1
        if self._left < 0:
            raise Unreadable(f"it holds more than {MAX_NODES} values, aliases included")
        if len(path) > MAX_DEPTH:
            raise Unreadable(f"line {node.start_mark.line + 1}: it is nested too deeply")
        kind, _, tag = node.tag.rpartition(":")
        if kind != "tag:yaml.org,2002" or tag not in ("map", "seq", "str", "int", "float", "bool", "null"):
            raise Unreadable(
                f"line {node.start_mark.line + 1}: the tag {node.tag[:60]!r} is not read; settings are plain data"
            )
        if node.id == "mapping":
            return self._mapping(node, path)
        if node.id == "sequence":
            return [self.build(one, (*path, str(index))) for index, one in enumerate(node.value)]
        plain = node.style is None
        return None if plain and node.value in ("", "~", "null", "Null", "NULL") else node.value

    def _mapping(self, node: Any, path: Path_) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.id != "scalar":
                raise Unreadable(f"line {line}: a key must be a word")
            if key.value == "<<" and key.style is None:
                for one in self._bases(value, path):
                    merged = {**one, **merged}
                continue
            if key.value in own:
                raise Unreadable(f"line {line}: the key {key.value!r} stands there twice")
            inner = (*path, key.value)
            own[key.value] = self.build(value, inner)
            self._lines[inner] = line
        return {**merged, **own}

    def _bases(self, node: Any, path: Path_) -> Iterator[dict[str, Any]]:
        """The mappings that `<<` merges into this one; the first of them wins, and what stands here beats them all."""
        for one in node.value if node.id == "sequence" else [node]:
            if one.id != "mapping":
                raise Unreadable(f"line {node.start_mark.line + 1}: << merges mappings only")
            yield self.build(one, (*path, "<<"))


# -- writing ---------------------------------------------------------------------------------------------------------

# What one of the three formats does not allow to stand as it is.
_ESCAPED: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def written(data: Mapping[str, Any], suffix: str) -> str:
    """Return plain data as the text of a file with this suffix."""
    if suffix == ".json":
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    return "".join(_toml(data, ()) if suffix == ".toml" else _yaml(data, ""))


def _scalar(value: Any) -> str:
    """Return a value as JSON has it; YAML and TOML (which has no null) read it, too."""
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def _yaml(data: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:\n"
            yield from _yaml(value, indent + "  ")
        else:
            yield f"{indent}{key}: {_scalar(value)}\n"


def _toml(data: Mapping[str, Any], path: Path_) -> Iterator[str]:
    # A table goes on until the next one begins: the plain values come first.
    for key, value in data.items():
        if not isinstance(value, Mapping):
            yield f"{key} = {_scalar('none' if value is None else value)}\n"
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield f"\n[{'.'.join((*path, key))}]\n"
            yield from _toml(value, (*path, key))
