"""An async function for `aiopool map`: ask a web server whether a page is there. Only the standard library.

printf '%s\\n' https://www.python.org/ https://docs.python.org/3/ |
    aiopool map examples/linkcheck.py:check --size 50 --timeout 10 --retries 2
"""

import asyncio
import ssl
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

REDIRECTS = {301, 302, 303, 307, 308}


class BrokenLinkError(Exception):
    """The server answered that the page is not there."""


async def check(url: str, redirects: int = 5) -> dict[str, Any]:
    """Return the status of a page and where it was found; raise if it is not there.

    Raises:
        BrokenLinkError: the status is 400 or more, or there are too many redirects.
        OSError: the server cannot be reached.
        ValueError: this is no address, or no answer in HTTP.
    """
    for hop in range(redirects + 1):
        status, headers = await head(url)
        if status not in REDIRECTS or "location" not in headers:
            if status >= 400:
                raise BrokenLinkError(f"{status} from {url}")
            return {"status": status, "url": url, "redirects": hop}
        url = urljoin(url, headers["location"])
    raise BrokenLinkError(f"more than {redirects} redirects, the last to {url}")


async def head(url: str) -> tuple[int, dict[str, str]]:
    """Send one HEAD request; return the status and the headers, their names in lower case."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no http or https address")
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
    try:
        # A space or a letter from abroad is written as %20 and the like; what is escaped already stays.
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = "?" + quote(parts.query, safe="/%:@!$&'()*+,;=?~-._") if parts.query else ""
        host = parts.netloc.rpartition("@")[2].encode("idna").decode()
        request = (
            f"HEAD {path}{query} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: aiopool-linkcheck\r\nConnection: close\r\n\r\n"
        )
        writer.write(request.encode("ascii"))
        await writer.drain()
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        raise ConnectionError(f"{parts.hostname} closed the connection after {len(error.partial)} bytes") from None
    finally:
        writer.close()
    first, *lines = answer.split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/") or not rest[:3].isdigit():
        raise ValueError(f"{parts.hostname} did not answer in HTTP, but {first[:40]!r}")
    pairs = (line.partition(":") for line in lines if ":" in line)
    return int(rest[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs}
