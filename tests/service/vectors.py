"""The vectors that the simulated service answers: derived from the text alone, so that a swapped one shows.

A vector is 16 blocks, each drawn from 4,096 by 12 bits of the text's hash. Where a block fills whole base64 characters
(dimensions divisible by 48) the blocks have norm 1/4 and are encoded once: 2,048 x 1,536 then cost a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import blake2b

import numpy as np
import pybase64
from numpy.typing import NDArray

_BLOCKS, _CHOICES = 16, 4_096
DIGEST_BYTES = 2 * _BLOCKS


def digest(content: bytes) -> bytes:
    """What an input is known by in the ledger; its vector follows from it."""
    return blake2b(content, digest_size=DIGEST_BYTES).digest()


def vector_of(text: str, dimensions: int = 1_536) -> NDArray[np.float32]:
    """What the service answers for `text`, bit for bit: shape (dimensions,), float32, norm 1."""
    vector: NDArray[np.float32] = vectors_of([digest(text.encode())], dimensions)[0]
    return vector


def vectors_of(digests: Sequence[bytes], dimensions: int) -> NDArray[np.float32]:
    """Shape (inputs, dimensions), float32, rows of norm 1."""
    matrix = _table(dimensions)[_drawn(digests)].reshape(len(digests), -1)[:, :dimensions]
    if not _encodes_by_block(dimensions):
        for row in matrix:
            row /= np.sqrt(row.dot(row))
    return matrix


def base64_of(digests: Sequence[bytes], dimensions: int) -> list[bytes]:
    """The same rows as little-endian float32 in base64, as OpenAI sends them."""
    if not _encodes_by_block(dimensions):
        return [pybase64.b64encode(row) for row in vectors_of(digests, dimensions).astype("<f4")]
    encoded = _encoded_table(dimensions)
    return [b"".join([encoded[choice] for choice in row]) for row in _drawn(digests).tolist()]


def framed(digests: Sequence[bytes], dimensions: int, start: int, row: bytes) -> bytes:
    """The same as JSON objects, each after a comma: `row` has a %d for its index (from `start`) and a %b for base64.

    The indexes must have one number of digits, so that all objects are of one size.
    """
    if not _encodes_by_block(dimensions):
        encoded = base64_of(digests, dimensions)
        return b"".join([b"," + row % pair for pair in enumerate(encoded, start)])
    before, between, after = row.replace(b"%d", b"%b").split(b"%b")
    indexes = np.array(range(start, start + len(digests)), dtype=bytes)
    columns = [b"," + before, indexes.view(np.uint8).reshape(len(digests), -1), between]
    columns += [_encoded_matrix(dimensions)[_drawn(digests)].reshape(len(digests), -1), after]
    return _side_by_side(len(digests), columns).tobytes()


def _side_by_side(rows: int, columns: Sequence[bytes | NDArray[np.uint8]]) -> NDArray[np.uint8]:
    parts = [np.frombuffer(column, np.uint8)[None] if isinstance(column, bytes) else column for column in columns]
    matrix = np.empty((rows, sum(part.shape[1] for part in parts)), np.uint8)
    at = 0
    for part in parts:
        matrix[:, at : at + part.shape[1]] = part
        at += part.shape[1]
    return matrix


def _encodes_by_block(dimensions: int) -> bool:
    return dimensions % (3 * _BLOCKS) == 0


def _drawn(digests: Sequence[bytes]) -> NDArray[np.int64]:
    numbers = np.frombuffer(b"".join(digests), dtype="<u2").reshape(-1, _BLOCKS)
    return numbers.astype(np.int64) % _CHOICES


@cache
def _table(dimensions: int) -> NDArray[np.float32]:
    # numpy freezes the streams of RandomState: the same table in every version.
    width = -(-dimensions // _BLOCKS)
    table = np.random.RandomState(dimensions).standard_normal((_CHOICES, width))
    if _encodes_by_block(dimensions):
        table *= _BLOCKS**-0.5 / np.linalg.norm(table, axis=1, keepdims=True)
    return table.astype(np.float32)


@cache
def _encoded_table(dimensions: int) -> list[bytes]:
    return [pybase64.b64encode(block) for block in _table(dimensions).astype("<f4")]


@cache
def _encoded_matrix(dimensions: int) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(_encoded_table(dimensions)), np.uint8).reshape(_CHOICES, -1)
