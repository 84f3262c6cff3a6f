"""Stage 6: the reply of `POST /embeddings` in OpenAI's format, read as it comes.

Vectors in base64 are cut out and decoded at once; what is left of the reply is parsed as JSON at its end, with a mark
in the place of each vector. So a large reply never stands in memory whole, and no JSON parser sees 16 MB of base64.
A reply of another kind (numbers, vectors of different lengths, anything odd) is put together again and parsed whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pybase64

from aembed.core.vectors import check, decoded, from_base64, from_floats, in_order
from aembed.errors import InvalidReplyError
from aembed.types import Matrix

_MOST_TOKENS = 10**12
_OPENING = re.compile(rb'"embedding"\s{0,8}:\s{0,8}"')
_FIRST_OPENING_BYTES, _NEXT_OPENING_BYTES = 1_000, 300
"""How far on the next vector is looked for."""
_MOST_AHEAD_BYTES = 128 * 1024
"""A vector of 16,000 floats has 85,336 characters of base64; a reply that leaves more unread is of another kind."""
_MARK = b"#"
"""No character of base64."""
_QUOTE = 0x22


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
    index: int | msgspec.UnsetType = msgspec.UNSET


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
    """A reply that is there whole; see ReplyReader."""
    reader = ReplyReader(inputs)
    reader.feed(body)
    return reader.parsed(dimensions=dimensions, normalised=normalised)


class ReplyReader:
    """`feed` it the bytes of the reply to a request of `inputs` texts; then `parsed` is what they say."""

    def __init__(self, inputs: int) -> None:
        self.size_bytes = 0
        self._inputs = inputs
        self._ahead = b""
        self._before: list[bytes] = []
        """What stands before each vector that was cut out."""
        self._width = 0
        self._matrix: Matrix | None = None
        self._whole: bytearray | None = None

    def feed(self, data: bytes) -> None:
        """About 0.5 ms for 1 MB."""
        self.size_bytes += len(data)
        if self._whole is not None:
            self._whole += data
            return
        self._ahead = self._ahead + data if self._ahead else data
        try:
            self._cut()
        except ValueError:
            self._whole = self._together()

    def parsed(self, *, dimensions: int | None, normalised: bool = False) -> Parsed:
        """`dimensions` is None where any will do; `normalised` also asks for vectors of length 1.

        Raises InvalidReplyError for anything that is not exactly one sound vector for each input.
        """
        parsed = self._parsed_cut() or _parse_whole(self.whole(), self._inputs)
        check(parsed.matrix, dimensions=dimensions, normalised=normalised)
        return parsed

    def whole(self) -> bytes | bytearray:
        """The reply as it came."""
        return self._together() if self._whole is None else self._whole

    def _cut(self) -> None:
        """Raises ValueError for a reply of another kind, before anything of it is forgotten."""
        ahead, at = self._ahead, 0
        before, vectors = [], []
        view = memoryview(ahead)
        while place := self._next_vector(at):
            before.append(ahead[at : place.start])
            vectors.append(view[place.start : place.stop])
            at = place.stop
        if len(ahead) - at > _MOST_AHEAD_BYTES:
            raise ValueError("no vector in base64 follows")
        if vectors:
            self._keep(vectors)
            self._before += before
            self._ahead = ahead[at:]

    def _next_vector(self, at: int) -> slice | None:
        """Where the next whole vector stands; None where it has not come yet."""
        ahead = self._ahead
        opening = _OPENING.search(ahead, at, at + (_NEXT_OPENING_BYTES if self._width else _FIRST_OPENING_BYTES))
        if opening is None:
            return None
        start = opening.end()
        end = start + self._width if self._width else ahead.find(_QUOTE, start)
        if end < 0 or end >= len(ahead):
            return None
        if ahead[end] != _QUOTE or end == start:
            raise ValueError("the vectors differ in length")
        self._width = end - start
        return slice(start, end)

    def _keep(self, vectors: Sequence[memoryview]) -> None:
        row_bytes = self._width // 4 * 3 - bytes(vectors[0][-2:]).count(b"=")
        if self._width % 4 or row_bytes % 4:
            raise ValueError("no whole number of float32 values")
        if self._matrix is None:
            self._matrix = np.empty((self._inputs, row_bytes // 4), np.float32)
        start = len(self._before)
        end = start + len(vectors)
        if end > self._inputs:
            raise ValueError("more vectors than inputs")
        self._matrix[start:end] = decoded(vectors, self._matrix.shape[1] * 4)

    def _together(self) -> bytearray:
        whole = bytearray()
        for number, part in enumerate(self._before):
            assert self._matrix is not None
            whole += part + pybase64.b64encode(self._matrix[number].astype("<f4", copy=False))
        whole += self._ahead
        return whole

    def _parsed_cut(self) -> Parsed | None:
        """None where the reply is of another kind or not sound: then the whole of it says what is wrong."""
        if self._matrix is None or self._whole is not None or len(self._before) != self._inputs:
            return None
        parts = [*self._before, self._ahead]
        if any(_MARK in part for part in parts):
            return None
        try:
            reply = _decode(b"".join(_marked(parts)))
            order = in_order([(item.index, number) for number, item in enumerate(reply.data)], self._inputs)
        except InvalidReplyError:
            return None
        # Each mark is the embedding of one item, in the order in which they were cut out; and there is nothing else.
        if [item.embedding for item in reply.data] != [f"#{number}" for number in range(self._inputs)]:
            return None
        matrix = self._matrix if order == list(range(self._inputs)) else self._matrix[order]
        return Parsed(matrix, reply.model or "", _tokens(reply.usage), floats=False)


def _marked(parts: Sequence[bytes]) -> Iterator[bytes]:
    for number, part in enumerate(parts):
        if number:
            yield b"#%d" % (number - 1)
        yield part


def _parse_whole(body: bytes | bytearray, inputs: int) -> Parsed:
    """Any reply. A large one makes a Python str or float of everything and holds the interpreter."""
    reply = _decode(body)
    vectors = in_order([(item.index, item.embedding) for item in reply.data], inputs)
    floats = not isinstance(vectors[0], str)
    matrix = from_floats(vectors) if floats else from_base64(vectors)
    return Parsed(matrix, reply.model or "", _tokens(reply.usage), floats)


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


def _tokens(usage: msgspec.Raw) -> int | None:
    """What was billed, where `usage` says it in numbers that can be meant."""
    try:
        said = _USAGE.decode(usage)
    except (ValueError, RecursionError):
        return None
    tokens = said.prompt_tokens if said.total_tokens is None else said.total_tokens
    return tokens if tokens is not None and 0 <= tokens <= _MOST_TOKENS else None
