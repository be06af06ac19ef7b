"""What a plain function may call while a pool runs it in a thread."""

from aiopool._runtime.public import publish as _publish
from aiopool._runtime.threads import check_cancelled as check_cancelled

__all__ = ["check_cancelled"]

_publish(globals())
