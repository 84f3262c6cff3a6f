"""Vectors that came as JSON numbers: msgspec reads the reply and leaves them as they stand, this makes numbers of them.

Law 10: simdjson makes doubles of the bytes without a Python float for each, 28 ns a number with msgspec's pass before
it. Where it is not installed (it has no wheels for Python 3.14 yet) msgspec does all of it, in 61 ns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = msgspec.Raw
"""The type of a vector in the struct of a reply: the bytes of a JSON array of numbers."""
Row: TypeAlias = "NDArray[np.float64] | list[float]"

_LIST = msgspec.json.Decoder(list[float])
_QUOTED = msgspec.json.Decoder(list[str])
_ANY_SPELLING = msgspec.json.Decoder(list[float], strict=False)


def read_numbers(vectors: Sequence[Numbers | list[float]]) -> list[Row]:
    """The numbers of each vector; a list is read already. Raises ValidationError of msgspec for anything else."""
    simdjson = _simdjson()
    parser = simdjson.Parser() if simdjson else None
    return [vector if isinstance(vector, list) else _read(parser, vector) for vector in vectors]


@cache
def _simdjson() -> Any:
    """The package where it is installed, else None. It is loaded with the first vector that comes as numbers."""
    try:
        import simdjson
    except ImportError:
        return None
    return simdjson


def _read(parser: Any, vector: Numbers) -> Row:
    # simdjson flattens arrays within an array; msgspec says what is wrong with them.
    if parser and bytes(vector).count(b"[") == 1:
        try:
            numbers = parser.parse(vector)
            if isinstance(numbers, _simdjson().Array):
                return np.frombuffer(numbers.as_buffer(of_type="d"), np.float64)
        except (ValueError, TypeError, RuntimeError):
            pass  # An integer of more than 64 bits is a number, too.
    try:
        return _LIST.decode(vector)
    except msgspec.ValidationError:
        if not _is_quoted(vector):
            raise
    return _ANY_SPELLING.decode(vector)


def _is_quoted(vector: Numbers) -> bool:
    """Whether all of its numbers stand in quotation marks, as some gateways write them."""
    try:
        return bool(_QUOTED.decode(vector))
    except (ValueError, RecursionError):
        return False
