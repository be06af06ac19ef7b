"""The pools of a program over HTTP: an API, a dashboard, and a client.

    import aiopool.web

    app.mount("/pool", aiopool.web.create_app(access=access))

Needs the extra `web`.
"""

from typing import TYPE_CHECKING, Any

from aiopool._runtime.public import publish

if TYPE_CHECKING:
    from aiopool.web._app import create_app

__all__ = ["create_app"]

_EXTRA = ("fastapi", "starlette", "pydantic", "jinja2", "uvicorn", "httpx2")
_HOMES = {"create_app": "_app"}


def __getattr__(name: str) -> Any:
    """Load what is asked for: the client needs no server, and neither needs the other's packages."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in (
            "fastapi",
            "starlette",
            "jinja2",
            "uvicorn",
            "httpx2",
        ):
            raise
        raise ModuleNotFoundError(
            f"aiopool.web.{name} needs {error.name}, which is not installed; in the checkout of aiopool, write: "
            'pip install -e ".[web]"',
            name=error.name,
        ) from None
    globals()[name] = getattr(module, name)
    publish(globals() | {"__all__": [name]})
    return globals()[name]
