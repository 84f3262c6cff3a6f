"""Stage 6: the body of a reply becomes one float32 matrix, or InvalidReplyError.

A vector is stored only beside the text that it was made from (law 3): count, order, dimension and values
are checked here, before anything else sees them. On the base64 path no Python float is made (law 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import msgspec
import numpy as np
import pybase64

from aembed.errors import InvalidReplyError
from aembed.types import Matrix

_NORM_TOLERANCE = 0.1
_MOST_TOKENS = 10**12
_UNSET = msgspec.UNSET


class DimensionError(InvalidReplyError):
    """The vectors are empty, ragged, or not as long as was asked for."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """Row i of `matrix`, shape (inputs, dimensions), belongs to input i of the request.

    `tokens` is what the reply says it billed; `floats` tells that the vectors came as JSON numbers.
    """

    matrix: Matrix
    model: str
    tokens: int | None
    floats: bool


class _Item(msgspec.Struct):
    embedding: str | list[float]
    index: int | msgspec.UnsetType = _UNSET


class _Reply(msgspec.Struct):
    data: list[_Item]
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _Usage(msgspec.Struct):
    total_tokens: int | None = None
    prompt_tokens: int | None = None


_REPLY = msgspec.json.Decoder(_Reply)
_USAGE = msgspec.json.Decoder(_Usage)


def parse_openai(body: bytes, *, inputs: int, dimensions: int | None, normalised: bool = False) -> Parsed:
    """The reply of `POST /embeddings` in OpenAI's format to a request of `inputs` texts.

    `dimensions` is None where any will do; `normalised` also asks for vectors of length 1. Raises
    InvalidReplyError for anything that is not exactly one sound vector for each input.
    """
    reply = _decode(body)
    vectors = in_order([(item.index, item.embedding) for item in reply.data], inputs)
    floats = not isinstance(vectors[0], str)
    matrix = from_floats(vectors) if floats else from_base64(vectors)
    check(matrix, dimensions=dimensions, normalised=normalised)
    return Parsed(matrix, reply.model or "", _tokens(reply.usage), floats)


def _decode(body: bytes) -> _Reply:
    problem: str
    try:
        return _REPLY.decode(body)
    except msgspec.ValidationError as error:
        problem = str(error)
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
    except (ValueError, RecursionError):
        problem = "it is not JSON"
    raise InvalidReplyError(f"the reply is not an embedding reply: {problem}")


def in_order(items: Sequence[tuple[int | msgspec.UnsetType, Any]], inputs: int) -> list[Any]:
    """The vectors in the order of the inputs: by `index`, or as they stand where no item has one."""
    if len(items) != inputs:
        raise InvalidReplyError(f"the reply has {len(items)} vectors for {inputs} inputs")
    if not inputs:
        raise InvalidReplyError("the reply is empty")
    if all(index is _UNSET for index, _ in items):
        return [vector for _, vector in items]
    by_index = dict(items)
    if len(by_index) != inputs or not all(position in by_index for position in range(inputs)):
        raise InvalidReplyError(f"`index` does not name each of the {inputs} inputs once")
    return [by_index[position] for position in range(inputs)]


def from_base64(vectors: Sequence[Any]) -> Matrix:
    """Little-endian float32 in base64, all of one length."""
    if not all(isinstance(vector, str) for vector in vectors):
        raise InvalidReplyError("the reply mixes base64 and numbers")
    width = _width(vectors)
    try:
        raw = _raw(vectors, width)
    except ValueError:
        raw = bytearray()
    if not raw:
        raise InvalidReplyError("a vector is not base64")
    if len(raw) % (4 * len(vectors)):
        raise DimensionError(f"{width} characters of base64 are no whole number of float32 values")
    return np.frombuffer(raw, "<f4").reshape(len(vectors), -1).astype(np.float32, copy=False)


def _raw(vectors: Sequence[str], width: int) -> bytearray:
    """One pass over all of them, where none ends in padding (`validate=True` is the fast path). Empty if unequal."""
    if not vectors[0].endswith("="):
        raw = pybase64.b64decode_as_bytearray("".join(vectors), validate=True)
        return raw if len(raw) * 4 == len(vectors) * width * 3 else bytearray()
    parts = [pybase64.b64decode(vector, validate=True) for vector in vectors]
    return bytearray().join(parts) if len({len(part) for part in parts}) == 1 else bytearray()


def from_floats(vectors: Sequence[Any]) -> Matrix:
    """Lists of numbers, all of one length."""
    if not all(isinstance(vector, list) for vector in vectors):
        raise InvalidReplyError("the reply mixes base64 and numbers")
    _width(vectors)
    with np.errstate(over="ignore"):
        return np.array(vectors, dtype=np.float32)


def _width(vectors: Sequence[Any]) -> int:
    widths = {len(vector) for vector in vectors}
    if len(widths) != 1 or 0 in widths:
        raise DimensionError("the vectors are empty" if widths == {0} else "the vectors differ in length")
    return widths.pop()


def check(matrix: Matrix, *, dimensions: int | None, normalised: bool) -> None:
    """Raises InvalidReplyError unless every row is a finite, non-zero vector of that dimension.

    A zero vector has no direction: its cosine similarity is NaN in every store.
    """
    width = matrix.shape[1]
    if dimensions is not None and width != dimensions:
        raise DimensionError(f"the vectors have {width} dimensions instead of {dimensions}")
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", matrix, matrix)
    if not np.isfinite(squares).all():
        raise InvalidReplyError(f"vector {int(np.argmin(np.isfinite(squares)))} holds NaN or infinity")
    if not squares.all():
        raise InvalidReplyError(f"vector {int(np.argmin(squares))} is zero")
    if normalised:
        _check_norms(squares)


def _check_norms(squares: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    low, high = (1 - _NORM_TOLERANCE) ** 2, (1 + _NORM_TOLERANCE) ** 2
    worst = int(np.argmax(np.abs(squares - 1)))
    if squares.min() < low or squares.max() > high:
        length = sqrt(float(squares[worst]))
        raise InvalidReplyError(f"vector {worst} has length {length:.3g}; this model's vectors have length 1")


def _tokens(usage: msgspec.Raw) -> int | None:
    """What was billed, where `usage` says it in numbers that can be meant."""
    try:
        said = _USAGE.decode(usage)
    except (ValueError, RecursionError):
        return None
    tokens = said.prompt_tokens if said.total_tokens is None else said.total_tokens
    return tokens if tokens is not None and 0 <= tokens <= _MOST_TOKENS else None
