"""What a number of the caller's must be. A ConfigError names the option, what was given, and what it may be."""

from __future__ import annotations

from math import inf
from numbers import Integral, Real
from operator import index

from aembed.errors import ConfigError

# Chosen: a wrong option is shown as it was given where that fits into the message; a long one may be a text or a key.
MOST_SHOWN = 40
MOST_DIMENSIONS = 100_000
"""No model has more than a few thousand; a store holds 16,000 at the most (pgvector)."""


def check_whole_number(name: str, value: object, least: int, most: int | None = None, *, why: str = "") -> int:
    """An int from `least` up (to `most`). Numbers of numpy are taken, True and "8" are not."""
    if not is_bool(value) and isinstance(value, Integral):
        given = index(value)
        if least <= given and (most is None or given <= most):
            return given
    upwards = "up" if most is None else f"to {most:,}"
    raise ConfigError(f"{name}={one_line_of(value)} must be an int from {least:,} {upwards}{why}")


def dimensions_of(given: object) -> int | None:
    return None if given is None else check_whole_number("dimensions", given, 1, MOST_DIMENSIONS)


def check_seconds(name: str, value: object, *, zero: bool = False) -> float:
    return check_number(name, value, "a number of seconds", zero=zero)


def check_number(name: str, value: object, what: str = "a number", *, zero: bool = False) -> float:
    """A finite number above 0; 0 too where `zero`."""
    if type(value) is float and 0.0 < value < inf:
        return value
    if not is_bool(value) and isinstance(value, Real):
        try:
            given = float(value)
        except OverflowError:
            given = inf
        if 0.0 < given < inf or (zero and given == 0.0):
            return given
    raise ConfigError(f"{name}={one_line_of(value)} must be {what} {'from 0 up' if zero else 'above 0'}, and finite")


def is_bool(value: object) -> bool:
    """Python takes True for 1."""
    return isinstance(value, bool)


def one_line_of(value: object) -> str:
    """On one line, however long it is."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN and text.isprintable() else f"<{type(value).__name__}>"
