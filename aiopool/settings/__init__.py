"""Settings of pools: from arguments, the environment, a `.env` file, and a YAML, TOML or JSON file.

General layout, from the ground up; each file uses only what lies below it:

    _files             YAML, TOML and JSON into plain data and back
    _text              from text to numbers, durations, exceptions, functions
    _layer             one source as a tree of raw values, with where each of them stood
    _kinds             what a setting may be, and how it is read
    _sources           each source becomes a layer
    _pool_settings     `PoolSettings`: the layers, laid over one another and checked

`import aiopool` does not load this package, nor pydantic; and a pool knows nothing of it.
"""

from aiopool._runtime.public import publish as _publish
from aiopool.errors import SettingsError, SettingsProblem
from aiopool.settings._pool_settings import PoolSettings

__all__ = ["PoolSettings", "SettingsError", "SettingsProblem"]

_publish(globals())
