"""The pools of a program over HTTP: an API, a dashboard, and a client.

    import aiopool.web

    app.mount("/pool", aiopool.web.create_app(access=access))

The app needs the extra `web`, the client the extra `client`.
"""

from typing import TYPE_CHECKING, Any

from aiopool._runtime.public import publish

if TYPE_CHECKING:
    from aiopool.web._app import create_app
    from aiopool.web._client import AsyncClient, Client
    from aiopool.web._talk import ApiError, RemoteEvent, RemoteJob, RemoteJobError

__all__ = ["ApiError", "AsyncClient", "Client", "RemoteEvent", "RemoteJob", "RemoteJobError", "create_app"]

_EXTRA = ("fastapi", "starlette", "jinja2", "uvicorn", "httpx2")
_HOMES = {
    "ApiError": "_talk",
    "AsyncClient": "_client",
    "Client": "_client",
    "RemoteEvent": "_talk",
    "RemoteJob": "_talk",
    "RemoteJobError": "_talk",
    "create_app": "_app",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for: the client needs no server, and neither needs the other's packages."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        extra = "client" if error.name.startswith("httpx2") else "web"
        raise ModuleNotFoundError(
            f"aiopool.web.{name} needs {error.name}, which is not installed; in the checkout of aiopool, write: "
            f'pip install -e ".[{extra}]"',
            name=error.name,
        ) from None
    globals()[name] = getattr(module, name)
    publish(globals() | {"__all__": [name]})
    return globals()[name]
