"""Settings of a pool, from arguments, the environment, a `.env` file, and a YAML, TOML or JSON file.

`PoolSettings` has a field for each argument of `Pool(...)`, with the same name, meaning and default (a test compares
them), and five for what watches a pool: `metrics`, `logs`, `log_level`, `health`, `control`. Each value comes from the
highest source that gives it; a setting with fields of its own (`retry`) is merged field by field:

    arguments  >  AIOPOOL_SIZE=4  >  .env  >  settings file  >  defaults

A file may hold several pools: settings at its top are for all, those under `pools: {mail: …}` for one, which is chosen
by name. Loading either gives settings that a pool accepts, or one `SettingsError` that lists all that is wrong.

How it works: `_sources` makes a layer of each source, pydantic-settings lays them over one another, pydantic runs the
kinds of `_kinds` on the result; `_files` reads and writes files.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, final

from pydantic import PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from aiopool._control.face import open_as_told
from aiopool._jobs.job import OnError
from aiopool._jobs.options import MAX_SIZE, Offload, Overflow, Priority
from aiopool._jobs.restart import Restart
from aiopool._jobs.retry import Retry
from aiopool._observe.health import HealthLimits
from aiopool._pool.pool import Pool
from aiopool.errors import SettingsError, SettingsProblem
from aiopool.metrics import observe
from aiopool.settings import _kinds as kinds
from aiopool.settings._files import Unreadable, suffix_of, written
from aiopool.settings._layer import DEFAULT, PREFIX, Layer, LayerSource, shown
from aiopool.settings._sources import Schema, Sources

__all__ = ["PoolSettings", "SettingsError", "SettingsProblem"]

# No setting can have this name, for it is no word.
_LAYERS: Final = "\0layers"
_ENV_FILE: Final = ".env"
_TOLD: Final = 50  # problems in one text; a file of another program has many
_DEFAULT_ENV_FILE: Final = object()
# What is no argument of `Pool(...)`; `create_pool` brings these about.
_WATCHING: Final = frozenset(("logs", "log_level", "metrics", "health", "control"))


@final
class PoolSettings(BaseSettings):
    """Settings of a pool: frozen, complete, each one checked; and where each came from.

    `PoolSettings(...)` reads the environment, `.env` and the file named by `AIOPOOL_FILE`; what is given here wins over
    them. `PoolSettings.load(...)` says which file and which pool. `PoolSettings.from_dict(...)` reads nothing else.

    Args: as in `Pool`. Text is read as in a file: `"30s"`, `"high"`, `"none"`.

    Raises:
        SettingsError: it lists every setting that cannot be used: name, value, source, what is allowed.

    Example:
        settings = PoolSettings.load(file="aiopool.yaml", pool="mail", timeout="30s")
        async with settings.create_pool() as pool:
            ...
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__")

    size: Annotated[int, kinds.count(least=1, most=MAX_SIZE)] = 10
    queue_size: Annotated[int | None, kinds.count(none=True)] = 1000
    name: Annotated[str, kinds.text()] = "pool"
    priority: Annotated[int, kinds.priority()] = Priority.NORMAL
    timeout: Annotated[float | None, kinds.seconds(none=True)] = None
    queue_timeout: Annotated[float | None, kinds.seconds(none=True)] = None
    total_timeout: Annotated[float | None, kinds.seconds(none=True)] = None
    retry: Annotated[Retry | None, kinds.retry()] = None
    isolation: Annotated[Literal["task", "scope"], kinds.choice("task", "scope")] = "task"
    overflow: Annotated[Overflow, kinds.choice("wait", "reject", "drop_oldest", "drop_lowest")] = "wait"
    aging: Annotated[float | None, kinds.seconds(none=True, above_zero=True)] = None
    cancel_grace: Annotated[float, kinds.seconds()] = 1.0
    on_leak: Annotated[Literal["hold", "replace"], kinds.choice("hold", "replace")] = "hold"
    on_error: Annotated[OnError | None, kinds.function()] = None
    max_threads: Annotated[int | None, kinds.count(least=1, none=True)] = None
    offload: Annotated[Offload, kinds.choice("thread", "process", "interpreter")] = "thread"
    max_processes: Annotated[int | None, kinds.count(least=1, none=True)] = None
    start_method: Annotated[Literal["spawn", "forkserver", "fork"], kinds.choice("spawn", "forkserver", "fork")] = (
        "spawn"
    )
    restart: Annotated[Restart | None, kinds.restart()] = None
    handle_signals: Annotated[bool, kinds.flag()] = False
    shutdown_timeout: Annotated[float | None, kinds.seconds(none=True)] = None
    metrics: Annotated[bool, kinds.flag()] = False
    logs: Annotated[Literal["silent", "console", "json"], kinds.choice("silent", "console", "json")] = "silent"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], kinds.choice("debug", "info", "warning", "error")
    ] = "info"
    health: Annotated[HealthLimits | None, kinds.health()] = None
    control: Annotated[bool | Literal["read"], kinds.flag("read")] = False
    seed: Annotated[int | None, kinds.count(least=None, none=True)] = None
    keep_finished: Annotated[int | None, kinds.count(none=True)] = None
    recycle_after: Annotated[int | None, kinds.count(least=1, none=True)] = None
    count_by_worker: Annotated[bool, kinds.flag()] = False
    watchdog: Annotated[float | None, kinds.seconds(none=True, above_zero=True)] = None

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _schema: ClassVar[Schema]

    def __init__(self, **values: Any) -> None:
        problems: list[SettingsProblem] = []
        if _LAYERS in values:
            layers: list[Layer] = values[_LAYERS]
        else:
            sources = Sources(self._schema, values, optional_env_file=_ENV_FILE, environ=os.environ)
            layers, problems = sources.chosen(sources.pool), sources.problems
        carrier: dict[str, Any] = {_LAYERS: layers}  # to `settings_customise_sources`
        try:
            super().__init__(**carrier)
        except ValidationError as error:
            problems += _problems(error, layers)
        if problems:
            raise _refusal(problems)
        self._origins.update(self._traced(layers))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put our layers in the place of the sources of pydantic-settings, which do not say where a value stood."""
        assert isinstance(init_settings, InitSettingsSource)
        return tuple(LayerSource(settings_cls, layer) for layer in init_settings.init_kwargs[_LAYERS])

    # -- making ------------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str] | None = None,
        *,
        pool: str | None = None,
        env_file: str | os.PathLike[str] | object | None = _DEFAULT_ENV_FILE,
        environ: Mapping[str, str] | None = None,
        **values: Any,
    ) -> Self:
        """Load the settings of one pool.

        Args:
            file: a settings file, `.yaml`, `.yml`, `.toml` or `.json`; what `AIOPOOL_FILE` says, by default.
            pool: a name under `pools`; what `AIOPOOL_POOL` says, by default; otherwise the settings for all pools.
            env_file: a file of variables; `.env` in the working directory, if there is one, by default; None: none.
            environ: used in place of `os.environ`.
            values: settings that win over all others.

        Raises:
            SettingsError: it lists every setting that cannot be used. What was loaded before stays as it is.
        """
        sources = cls._sources(file, pool, env_file, environ, values)
        return cls._each(sources, [sources.pool])[sources.pool]

    @classmethod
    def load_all(
        cls,
        file: str | os.PathLike[str] | None = None,
        *,
        env_file: str | os.PathLike[str] | object | None = _DEFAULT_ENV_FILE,
        environ: Mapping[str, str] | None = None,
        **values: Any,
    ) -> dict[str, Self]:
        """Load the settings of every pool that has a name under `pools`.

        Args: as in `load`; `AIOPOOL_POOL` has no effect.

        Returns:
            The settings by the names of the pools, in the order of the file.

        Raises:
            SettingsError: it lists every setting of every pool that cannot be used.

        Example:
            settings = PoolSettings.load_all("aiopool.yaml")
            mail, web = settings["mail"].create_pool(), settings["web"].create_pool()
        """
        sources = cls._sources(file, None, env_file, environ, values)
        return {name: made for name, made in cls._each(sources, sources.pools).items() if name is not None}

    @classmethod
    def _shown(cls, file: str | os.PathLike[str] | None, pool: str | None) -> dict[str | None, Self]:
        """Load what `aiopool settings` shows: the pool that is chosen; or else those for all pools, and every pool."""
        sources = cls._sources(file, pool, _DEFAULT_ENV_FILE, None, {})
        return cls._each(sources, [None, *sources.pools] if sources.pool is None else [sources.pool])

    @classmethod
    def _each(cls, sources: Sources, pools: Iterable[str | None]) -> dict[str | None, Self]:
        """Make settings for each of some pools, or say all that is wrong with any of them."""
        made: dict[str | None, Self] = {}
        problems = list(sources.problems)
        for name in pools:
            try:
                made[name] = cls(**{_LAYERS: sources.chosen(name)})
            except SettingsError as error:
                problems += error.problems
        if problems:
            raise _refusal(problems)
        return made

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make settings of a mapping alone: neither the environment nor a file is read.

        Args:
            data: what `to_dict()` returned, or settings that you have read yourself. What is missing has its default.

        Raises:
            SettingsError: it lists every setting that cannot be used.
        """
        return cls._each(Sources(cls._schema, data, environ={}), [None])[None]

    def replace(self, **changes: Any) -> Self:
        """Return a copy with changes; a mapping changes the fields that it names, and leaves the others as they are.

        Raises:
            SettingsError: it lists every change that cannot be used.

        Example:
            patient = settings.replace(retry={"attempts": 10}, timeout=None)
        """
        own = {name: _opened(value, changes.get(name)) for name, value in self._values().items()}
        origins = {tuple(name.split(".")): origin for name, origin in self._origins.items()}
        sources = Sources(self._schema, changes, environ={})
        sources.layers.append(Layer(DEFAULT, own, origins))
        return self._each(sources, [None])[None]

    @classmethod
    def _sources(
        cls,
        file: str | os.PathLike[str] | None,
        pool: str | None,
        env_file: str | os.PathLike[str] | object | None,
        environ: Mapping[str, str] | None,
        values: Mapping[str, Any],
    ) -> Sources:
        asked = env_file if isinstance(env_file, (str, os.PathLike)) else None
        return Sources(
            cls._schema,
            values,
            file=file,
            pool=pool,
            env_file=asked,
            optional_env_file=_ENV_FILE if env_file is _DEFAULT_ENV_FILE else None,
            environ=os.environ if environ is None else environ,
        )

    # -- using -------------------------------------------------------------------------------------------------------

    def create_pool(self, **code: Any) -> Pool:
        """Make a pool of these settings; each call makes another one.

        Args:
            code: arguments of `Pool` that are no settings, because they are code, or a secret: `store` and `handlers`,
                `limits`, `layers`, `worker_context`, `dask`.

        `metrics` calls `aiopool.metrics.observe(pool)`. `logs` calls `configure_logging(log_level, renderer=logs)`, for
        the whole program. `health` is the default of each `HealthMonitor(pool)`. `control` calls `aiopool.control()`,
        for the whole program; with `read`, nobody may steer through it. Pools that are made of the same
        settings share a retry budget, if there is one.

        Example:
            async with PoolSettings.load("aiopool.yaml", size=4).create_pool() as pool:
                ...
        """
        pool = Pool(**self.to_arguments(), **code)
        pool._state.health_limits = self.health
        if self.metrics:
            observe(pool)
        if self.logs != "silent":
            from aiopool._observe.logs import configure_logging  # it loads structlog

            configure_logging(self.log_level, renderer=self.logs)
        if self.control:
            open_as_told(read_only=self.control == "read")
        return pool

    def to_arguments(self) -> dict[str, Any]:
        """Return the arguments for `Pool(...)`, as `create_pool` gives them: all but what watches it."""
        return {name: value for name, value in self._values().items() if name not in _WATCHING}

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._schema}

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain data: None, bool, int, float, str, list, dict. `from_dict` reads it back.

        Raises:
            SettingsError: a function or an exception has no name in a module by which it could be found again.
        """
        data: dict[str, Any] = {}
        problems = []
        for name, kind in self._schema.items():
            value = getattr(self, name)
            try:
                data[name] = kinds.plain(value, kind)
            except ValueError as error:
                problems.append(SettingsProblem(name, shown(value), self._origins.get(name, "argument"), str(error)))
        if problems:
            raise _refusal(problems)
        return data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all settings into a file; `PoolSettings.load(path)` reads them back. An existing file is replaced.

        Args:
            path: its suffix decides: `.yaml`, `.yml`, `.toml`, `.json`.

        Raises:
            SettingsError: the suffix is another one, or a setting cannot be written.
            OSError: the file cannot be written.
        """
        path = Path(path)
        try:
            suffix = suffix_of(path)
        except Unreadable as error:
            raise _refusal([SettingsProblem("file", shown(os.fspath(path)), "argument", str(error))]) from None
        text = written(self.to_dict(), suffix)  # complete, before the old file is touched
        path.write_text(text, encoding="utf-8")

    @property
    def origins(self) -> dict[str, str]:
        """Where each value came from, by its name (`size`, `retry.attempts`)."""
        return dict(self._origins)

    def _traced(self, layers: list[Layer]) -> Iterator[tuple[str, str]]:
        for where in _places(self._schema, self):
            yield ".".join(where), _origin(layers, where)

    def __eq__(self, other: object) -> bool:
        """Whether all values are equal, wherever they came from."""
        return isinstance(other, PoolSettings) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(tuple(self._values().values()))

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        fields = type(self).model_fields
        return ((name, value) for name, value in self._values().items() if value != fields[name].default)


PoolSettings._schema = {
    name: next(part for part in field.metadata if isinstance(part, (kinds.Kind, kinds.Nested)))
    for name, field in PoolSettings.model_fields.items()
}


def _places(schema: Schema, holder: object, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all values, as they are: the fields of `retry` if there is one, and `retry` itself if not."""
    for name, kind in schema.items():
        value = getattr(holder, name)
        if isinstance(kind, kinds.Nested) and value is not None:
            yield from _places(kind.fields, value, (*above, name))
        else:
            yield (*above, name)


def _origin(layers: list[Layer], where: tuple[str, ...]) -> str:
    """Where the value at a place comes from: the highest layer that says something about it."""
    return next((origin for layer in layers if (origin := layer.decides(where)) is not None), DEFAULT)


def _opened(value: Any, change: object) -> Any:
    """Return an object as the mapping of its arguments, as deep as a change reaches into it."""
    if not isinstance(change, Mapping) or value is None:
        return value
    names = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else _BUDGET
    return {name: _opened(getattr(value, name), change.get(name)) for name in names}


_BUDGET: Final = ("ratio", "min_per_second", "within")


def _problems(error: ValidationError, layers: list[Layer]) -> Iterator[SettingsProblem]:
    """Say what pydantic found in our words."""
    for found in error.errors(include_url=False):
        where = tuple(map(str, found["loc"]))
        cause = found.get("ctx", {}).get("error")
        reason = found["msg"] if cause is None else str(cause)
        yield SettingsProblem(".".join(where), shown(found["input"]), _origin(layers, where), reason)


def _refusal(problems: list[SettingsProblem]) -> SettingsError:
    unique = tuple(dict.fromkeys(problems))
    if len(unique) == 1:
        return SettingsError(str(unique[0]), unique)
    lines = [f"{len(unique)} settings cannot be used:", *map(str, unique[:_TOLD])]
    if len(unique) > _TOLD:
        lines.append(f"and {len(unique) - _TOLD} more")
    return SettingsError("\n  ".join(lines), unique)
