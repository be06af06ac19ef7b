"""Numbers that a user wrote down, checked where they arrive; the error names the argument."""

import math

__all__ = ["as_float", "number_given"]


def number_given(owner: str, name: str, value: object, of: str = "") -> float:
    """Return a finite number of 0 or more as a float.

    Args:
        owner: the class or function whose argument it is.
        name: the argument.
        value: what was given.
        of: what the number counts, as in "a number of seconds".

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative, infinite or nan.
    """
    kind = f"number of {of}" if of else "number"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{owner}: {name} must be a {kind}, got {value!r}")
    number = as_float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{owner}: {name} must be a finite {kind}, 0 or more, got {value!r}")
    return number


def as_float(value: float) -> float:
    """Return an int or float as a float; one that is too large becomes infinite."""
    try:
        return float(value)
    except OverflowError:  # an int with 400 digits
        return math.inf if value > 0 else -math.inf
