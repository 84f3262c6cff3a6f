"""Rows in the binary form of COPY, made without a Python float and without a codec on anybody's connection.

A vector is its dimension and a zero as int16, then its values, all big-endian (pgvector's vector_send).
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar

import anyio.lowlevel
import numpy as np

from aembed.errors import RowRefusedError
from aembed.types import Matrix, Vector

T = TypeVar("T")
Storage: TypeAlias = Literal["vector", "halfvec"]
Values: TypeAlias = Sequence[bytes | memoryview | None]


class Column(Protocol):
    def __getitem__(self, piece: slice, /) -> Values: ...


@dataclass(frozen=True, slots=True)
class EncodedColumn(Generic[T]):
    """The values of the picked rows; a piece of them is encoded while the server takes the pieces before it."""

    encode: Callable[[T], bytes | None]
    values: Sequence[T]
    picked: Sequence[int]

    def __getitem__(self, piece: slice, /) -> Values:
        return [self.encode(self.values[i]) for i in self.picked[piece]]


VALUE = {"vector": ">f4", "halfvec": ">f2"}
HEADER_BYTES = 4
# PostgreSQL's documentation of COPY, "Binary Format": the signature, 4 bytes of flags and the length of an extension,
# both 0; at the end -1 for the number of columns; -1 for the length of a NULL.
COPY_START = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
PIECE_ROWS = 64
"""Encoded in well under 5 ms, so that the event loop goes on."""


def vector_fields(matrix: Matrix, storage: Storage) -> list[memoryview]:
    """Each row as pgvector's binary form. Raises RowRefusedError where a value does not fit into a halfvec."""
    rows, dimensions = matrix.shape
    # A value from 65,520 on becomes infinity, which is found below. numpy's warning would be an error where warnings
    # are.
    with np.errstate(over="ignore"):
        values = matrix.astype(np.float16) if storage == "halfvec" else matrix
    if not np.isfinite(values).all():
        raise RowRefusedError(f"a vector holds a value that {storage} cannot hold: NaN, infinite, or above 65,504")
    width = HEADER_BYTES + dimensions * values.itemsize
    fields = np.empty((rows, width), np.uint8)
    fields[:, :HEADER_BYTES] = np.frombuffer(struct.pack(">hh", dimensions, 0), np.uint8)
    # Written in place: a matrix of the other byte order, copied from there, took ten times as long.
    fields[:, HEADER_BYTES:].view(VALUE[storage])[...] = values
    data = fields.reshape(-1).data
    return [data[start : start + width] for start in range(0, rows * width, width)]


def vector_of(sent: bytes) -> Vector:
    """What `vector_send` returned, as float32."""
    return np.frombuffer(sent, dtype=">f4", offset=HEADER_BYTES).astype(np.float32)


def literal(vector: Vector) -> str:
    """One vector as pgvector's text."""
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


async def copy_pieces(
    columns: Sequence[Column], matrix: Matrix, storage: Storage, picked: Sequence[int] | None = None
) -> AsyncIterator[bytes]:
    """The rows of `columns` and, as the last column, the vectors; in pieces, so that the loop is never held up.

    The vectors are the `picked` rows of the matrix, in that order, or all of them.
    """
    yield COPY_START
    for start in range(0, len(matrix if picked is None else picked), PIECE_ROWS):
        piece = slice(start, start + PIECE_ROWS)
        vectors = vector_fields(matrix[piece if picked is None else list(picked[piece])], storage)
        yield b"".join(_tuples([*(column[piece] for column in columns), vectors]))
        await anyio.lowlevel.checkpoint()
    yield COPY_END


def _tuples(columns: Sequence[Values]) -> Iterator[bytes | memoryview]:
    count = struct.pack(">h", len(columns))
    for row in zip(*columns, strict=True):
        yield count
        for value in row:
            if value is None:
                yield NULL
            else:
                yield struct.pack(">i", len(value))
                yield value
