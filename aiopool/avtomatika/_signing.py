"""How a message is signed: HMAC-SHA256 over its canonical JSON.

Canonical is: members that are null left out, at any depth; whole floats as integers; keys sorted; no spaces; UTF-8.
Both sides write it with orjson, for the shortest text of a float is not the same in every library.

Knows bytes and keys; no clock, no network.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson

__all__ = ["canonical", "sign", "verify"]

# Never part of what is signed: they hold the signature.
_SIGNATURES: Final = frozenset(("security", "_signature"))


def canonical(body: Mapping[str, Any], leave_out: Collection[str] = ()) -> bytes:
    """Return the one text of a body that is signed.

    Args:
        body: a JSON object.
        leave_out: members at its top that are not signed, beside those that hold the signature.
    """
    signed = {name: value for name, value in body.items() if name not in _SIGNATURES and name not in leave_out}
    return orjson.dumps(_reduced(signed), option=orjson.OPT_SORT_KEYS)


def sign(body: Mapping[str, Any], secret: str, leave_out: Collection[str] = ()) -> str:
    """Return the signature of a body, in hexadecimal digits."""
    return hmac.new(secret.encode(), canonical(body, leave_out), hashlib.sha256).hexdigest()


def verify(body: Mapping[str, Any], signature: str, secret: str, leave_out: Collection[str] = ()) -> bool:
    """Return whether a signature is that of a body; it takes the same time for each wrong one."""
    return hmac.compare_digest(sign(body, secret, leave_out).encode(), signature.encode())


def _reduced(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _reduced(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_reduced(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
