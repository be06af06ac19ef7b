"""All pools that share a store and a name: `pool.fleet`."""

from aiopool._pool.fleet import Fleet
from aiopool._runtime.public import publish as _publish

__all__ = ["Fleet"]

_publish(globals())
