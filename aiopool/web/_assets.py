"""The script and the stylesheet: small files, read once. Their addresses change with their text: browsers keep them."""

from __future__ import annotations

import functools
import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["asset_names", "serve_asset"]

DIRECTORY = Path(__file__).parent / "_static"
KINDS = {
    "dash.js": "text/javascript; charset=utf-8",
    "dash.css": "text/css; charset=utf-8",
    "dash.svg": "image/svg+xml",
}


class Asset(NamedTuple):
    """A file, also compressed."""

    kind: str
    text: bytes
    small: bytes


@functools.cache
def _assets() -> dict[str, Asset]:
    found = {}
    for name, kind in KINDS.items():
        text = (DIRECTORY / name).read_bytes()
        stem, _, suffix = name.partition(".")
        digest = hashlib.sha256(text).hexdigest()[:12]
        found[f"{stem}-{digest}.{suffix}"] = Asset(kind, text, gzip.compress(text, 9, mtime=0))
    return found


@functools.cache
def asset_names() -> dict[str, str]:
    """Return the names of the files in addresses, by what they are: `js`, `css`."""
    return {name.rpartition(".")[2]: name for name in _assets()}


async def serve_asset(request: Request) -> Response:
    """Answer with a file. It needs no access: it is the same for everybody, and says nothing of any pool."""
    asset = _assets().get(request.path_params["name"])
    if asset is None:
        return Response("there is no such file; load the page anew", 404, media_type="text/plain")
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    small = "gzip" in request.headers.get("accept-encoding", "")
    if small:
        headers["Content-Encoding"] = "gzip"
    return Response(asset.small if small else asset.text, headers=headers, media_type=asset.kind)
