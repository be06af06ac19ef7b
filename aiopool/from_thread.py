"""What a plain function may call while a pool runs it in a thread."""

from aiopool._runtime.threads import check_cancelled as check_cancelled

__all__ = ["check_cancelled"]
