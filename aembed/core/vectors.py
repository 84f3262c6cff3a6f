"""Stage 6: the body of a reply becomes one float32 matrix, or InvalidReplyError.

A vector is stored only beside the text that it was made from (law 3): count, order, dimension and values
are checked here, before anything else sees them. On the base64 path no Python float is made (law 10).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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

_OPENING = re.compile(rb'"embedding"\s{0,8}:\s{0,8}"')
_FIRST_OPENING_BYTES, _NEXT_OPENING_BYTES = 1_000, 300
"""How far on the next vector is looked for."""
_MARK = b"#"
"""Stands in the place of a vector that was cut out: no character of base64."""
_SLICE_BYTES = 512 * 1024
"""Of base64 decoded at once: it stays in the processor's cache, and the interpreter is not held for long."""


def parse_openai(body: bytes | bytearray, *, inputs: int, dimensions: int | None, normalised: bool = False) -> Parsed:
    """The reply of `POST /embeddings` in OpenAI's format to a request of `inputs` texts.

    `dimensions` is None where any will do; `normalised` also asks for vectors of length 1. Raises
    InvalidReplyError for anything that is not exactly one sound vector for each input.
    """
    parsed = _parse_cut(body, inputs) or _parse_whole(body, inputs)
    check(parsed.matrix, dimensions=dimensions, normalised=normalised)
    return parsed


def _parse_whole(body: bytes | bytearray, inputs: int) -> Parsed:
    """Any reply. A large one makes a Python str of each vector and holds the interpreter."""
    reply = _decode(body)
    vectors = in_order([(item.index, item.embedding) for item in reply.data], inputs)
    floats = not isinstance(vectors[0], str)
    matrix = from_floats(vectors) if floats else from_base64(vectors)
    return Parsed(matrix, reply.model or "", _tokens(reply.usage), floats)


def _parse_cut(body: bytes | bytearray, inputs: int) -> Parsed | None:
    """A reply of base64 vectors of one length: they are cut out, and only what is left is parsed as JSON.

    None where the reply is of another kind, or is not sound: then the whole of it says what is wrong.
    """
    cut = _cut(body, inputs)
    if cut is None:
        return None
    rest, starts, width = cut
    try:
        reply = _decode(rest)
        vectors = in_order([(item.index, item.embedding) for item in reply.data], inputs)
    except InvalidReplyError:
        return None
    if [item.embedding for item in reply.data] != [f"#{number}" for number in range(inputs)]:
        return None
    matrix = _decoded(body, [starts[int(mark[1:])] for mark in vectors], width)
    return None if matrix is None else Parsed(matrix, reply.model or "", _tokens(reply.usage), floats=False)


def _cut(body: bytes | bytearray, inputs: int) -> tuple[bytes, list[int], int] | None:
    """The body with `#0`, `#1`, ... in the place of its vectors, where those begin, and how long they are."""
    opening = _OPENING.search(body, 0, _FIRST_OPENING_BYTES)
    width = body.find(b'"', opening.end()) - opening.end() if opening else -1
    starts: list[int] = []
    parts: list[bytes | bytearray] = []
    end = 0
    while opening and width > 0:
        start = opening.end()
        parts.append(body[end:start])
        starts.append(start)
        end = start + width
        if body[end : end + 1] != b'"':
            return None
        opening = _OPENING.search(body, end, end + _NEXT_OPENING_BYTES)
    parts.append(body[end:])
    if len(starts) != inputs or any(_MARK in part for part in parts):
        return None
    return b"".join(_marked(parts)), starts, width


def _marked(parts: Sequence[bytes | bytearray]) -> Iterator[bytes | bytearray]:
    for number, part in enumerate(parts):
        if number:
            yield b"#%d" % (number - 1)
        yield part


def _decoded(body: bytes | bytearray, starts: Sequence[int], width: int) -> Matrix | None:
    """Row i from the base64 that begins at starts[i]; None where it is not base64 of whole float32 values."""
    end = starts[0] + width
    row_bytes = width // 4 * 3 - body.count(b"=", end - 2, end)
    if width % 4 or row_bytes % 4 or not row_bytes:
        return None
    matrix = np.empty((len(starts), row_bytes // 4), np.float32)
    step = max(1, _SLICE_BYTES // width)
    with memoryview(body) as view:
        for first in range(0, len(starts), step):
            rows = [view[start : start + width] for start in starts[first : first + step]]
            try:
                raw = _raw(rows, row_bytes)
            except ValueError:
                return None
            matrix[first : first + step] = np.frombuffer(raw, "<f4").reshape(len(rows), -1)
    return matrix


def _decode(body: bytes | bytearray) -> _Reply:
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
        row_bytes = len(pybase64.b64decode(vectors[0], validate=True))
        raw = _raw([vector.encode("ascii") for vector in vectors], row_bytes)
    except ValueError:
        raise InvalidReplyError("a vector is not base64") from None
    if row_bytes % 4 or not row_bytes:
        raise DimensionError(f"{width} characters of base64 are no whole number of float32 values")
    return np.frombuffer(raw, "<f4").reshape(len(vectors), -1).astype(np.float32, copy=False)


def _raw(rows: Sequence[bytes | memoryview], row_bytes: int) -> bytes | bytearray:
    """Decoded in one pass where none ends in padding (`validate=True` is the fast path). Raises ValueError."""
    if len(rows[0]) // 4 * 3 == row_bytes:
        raw = pybase64.b64decode_as_bytearray(b"".join(rows), validate=True)
    else:
        raw = bytearray().join(_rows(rows, row_bytes))
    if len(raw) != len(rows) * row_bytes:
        raise ValueError("the rows differ in length")
    return raw


def _rows(rows: Sequence[bytes | memoryview], row_bytes: int) -> Iterator[bytes]:
    for row in rows:
        decoded = pybase64.b64decode(row, validate=True)
        if len(decoded) != row_bytes:
            raise ValueError("the rows differ in length")
        yield decoded


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
