"""Stage 6 reads the reply of `POST /embeddings` in OpenAI's format as it comes.

Vectors in base64 are cut out and decoded at once; what is left of the reply is parsed as JSON at its end, with a mark
in the place of each vector. So a large reply never stands in memory whole, and no JSON parser sees 16 MB of base64.
A reply of another kind (numbers, vectors of different lengths, anything odd) is put together again and parsed whole.

Law 10: no Python float is made between the wire and the store. Law 11: CPU work of more than 5 ms is done in a thread
or in pieces; msgspec holds the interpreter, and takes 17 ms for 2,048 vectors of 1,536 values in base64 where pybase64
takes 1.3 ms (measured).
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import msgspec
import numpy as np
import pybase64

from aembed.core.encodings import EncodingError, may_be_float32, read_as_float64
from aembed.core.numbers import Numbers
from aembed.core.vectors import (
    Index,
    ShapeError,
    Squares,
    check_squares,
    check_width,
    decode_base64,
    from_base64,
    from_floats,
    squares,
    vectors_in_order,
)
from aembed.errors import InvalidReplyError
from aembed.types import Matrix, Usage

# Chosen: one request has at most some millions of tokens, and costs cents; far above that a number is garbage, and
# would end a budget at once.
_MOST_TOKENS = 10**12
_MOST_COST_USD = 10_000.0
# The pattern allows white space, because some services indent their replies; it is bounded, so that it stays fast.
_OPENING = rb'"embedding"\s{0,8}:\s{0,8}"'
FIRST_VECTOR = re.compile(_OPENING + rb'([^"]+)"')
# Chosen: between two vectors stand `object`, `index` and white space; before the first one some services put blanks and
# fields of their own. Unbounded, what looks like a vector inside of another field would be cut out.
_MOST_BEFORE_FIRST_BYTES, _MOST_BETWEEN_BYTES = 1_000, 300
"""The next vector begins within so many bytes."""
# Computed: a vector of 16,000 floats, the most that any store holds, has 85,336 characters of base64.
_MOST_AHEAD_BYTES = 128 * 1024
"""A reply that leaves more bytes than this unread is of another kind."""
_MARK, _MARK_STRING, _QUOTE = b"#", b'"#"', ord('"')
"""No character of base64."""


# Chosen: a collection of garbage comes after each 700 objects that are not freed yet, and what it finds alive makes one
# of the whole process come sooner, which holds up the loop for tens of milliseconds.
_AT_ONCE = 128
"""So many vectors are cut out before they are decoded."""

Body = TypeVar("Body")


@dataclass(frozen=True, slots=True)
class Parsed:
    """Row i of `matrix`, shape (inputs, dimensions), belongs to input i of the request.

    `squares` has the squared length of each. `usage` is what the reply says it billed; `floats` tells that the
    vectors came as JSON numbers, `doubles` that their base64 held float64.
    """

    matrix: Matrix
    squares: Squares
    model: str
    usage: Usage
    floats: bool
    doubles: bool = False


class CutShortError(InvalidReplyError):
    """The reply is JSON that ends before it is whole: all that came of it may be right."""


_Piece: TypeAlias = tuple[bytes, memoryview, int]
"""What stands before a vector, the vector in base64, and where that ends."""


class _ReplyItem(msgspec.Struct, gc=False):
    embedding: Numbers
    index: Index = msgspec.UNSET


class OpenAIReply(msgspec.Struct):
    data: list[_ReplyItem]
    model: msgspec.Raw = msgspec.Raw(b"null")
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _Cost(msgspec.Struct):
    """The cost as Perplexity writes it."""

    total_cost: float | None = None
    currency: str = "USD"


class _Usage(msgspec.Struct):
    total_tokens: int | None = None
    prompt_tokens: int | None = None
    cost: msgspec.Raw = msgspec.Raw(b"null")


_REPLY = msgspec.json.Decoder(OpenAIReply)
_USAGE = msgspec.json.Decoder(_Usage)
_ANYTHING = msgspec.json.Decoder()
_TEXT = msgspec.json.Decoder(str)
_COST = msgspec.json.Decoder(float | _Cost | None)


class ReplyReader:
    """Reads the reply to a request of `inputs` texts: `feed` takes bytes as they come, `parse` is what they say."""

    def __init__(self, inputs: int) -> None:
        self.size_bytes = 0
        self._inputs = inputs
        self._ahead = b""
        """The bytes that came and were not cut yet."""
        self._before: list[bytes] = []
        """What stands before each vector that was cut out."""
        self._width = 0
        self._vector: re.Pattern[bytes] | None = None
        self._matrix: Matrix | None = None
        self._squares: Squares = np.empty(inputs, np.float32)
        self._whole: bytearray | None = None
        self._floats = False
        """The vectors that were cut out came as numbers."""

    @property
    def is_whole(self) -> bool:
        """Whether the reply is of another kind, so that `parse` will make Python objects of all that it says."""
        return self._whole is not None

    def feed(self, data: bytes | memoryview) -> None:
        """Takes the next bytes of the reply, in about 0.4 ms for 1 MB. Nothing of that memory is kept."""
        self.size_bytes += len(data)
        if self._whole is None:
            try:
                self._cut(memoryview(data))
                return
            except ValueError:
                self._whole = self._join_pieces()
        self._whole += data

    def parse(self, *, dimensions: int | None, normalised: bool = False, proven: bool = False) -> Parsed:
        """The vectors of the whole reply, and what it says of itself.

        `dimensions` is None where any will do; `normalised` also asks for vectors of length 1. `proven` says that
        replies of this server were seen to hold float32 values in base64, which a known width shows as well.

        Raises InvalidReplyError for anything that is not exactly one sound vector for each input.
        """
        parsed = self._parse_cut() or _parse_whole(self._decode(self.whole_reply()), self._inputs)
        # Law 3: a vector is stored only beside the text that it was made from, so count, order, width and values are
        # checked before anybody else sees the matrix.
        if not parsed.floats:
            parsed = self.read_encoding(parsed, dimensions, proven)
        check_width(parsed.matrix, dimensions)
        check_squares(parsed.squares, normalised=normalised)
        return parsed

    def read_encoding(self, parsed: Parsed, dimensions: int | None, proven: bool) -> Parsed:
        """The vectors by what their bytes are: float32, or float64. Raises EncodingError where they are neither."""
        width = parsed.matrix.shape[1]
        is_twice = dimensions is not None and width == 2 * dimensions
        if not is_twice and (dimensions or proven or may_be_float32(parsed.matrix, parsed.squares)):
            return parsed
        if (values := read_as_float64(parsed.matrix)) is not None:
            return replace(parsed, matrix=values, squares=squares(values), doubles=True)
        if dimensions:
            return parsed
        raise EncodingError(
            f"the {width} values of a vector in base64 cannot be float32; they may be float64, float16 or int8"
        )

    def whole_reply(self) -> bytes | bytearray:
        """The reply as it came."""
        return self._join_pieces() if self._whole is None else self._whole

    def _cut(self, data: memoryview) -> None:
        """Raises ValueError for a reply of another kind, before anything of it is forgotten."""
        pieces: list[_Piece] = []
        kept = len(self._before)
        try:
            if self._ahead:
                data = self._mend_vector(data, pieces)
            at = 0
            for piece in self._pieces(data):
                pieces.append(piece)
                at = piece[2]
                if len(pieces) >= _AT_ONCE:
                    self._keep(pieces)
            self._keep(pieces)
        except ValueError:
            del self._before[kept:]
            raise
        self._ahead = bytes(data[at:])

    def _mend_vector(self, data: memoryview, pieces: list[_Piece]) -> memoryview:
        """Ends the vector that had begun; only as much is copied as that takes. Returns what comes after."""
        ahead = self._ahead
        if len(ahead) > _MOST_AHEAD_BYTES:
            raise ValueError("no vector in base64 follows")
        if self._width:
            joined = memoryview(ahead + data[: self._width + _MOST_BETWEEN_BYTES])
            if begun := next(self._pieces(joined), None):
                pieces.append(begun)
                return data[begun[2] - len(ahead) :]
        return memoryview(ahead + data)

    def _pieces(self, data: memoryview) -> Iterator[_Piece]:
        """The vectors that have come whole, all as wide as the first one."""
        if self._vector is None:
            if not (first := FIRST_VECTOR.search(data)):
                return
            self._width = len(first[1])
            self._vector = re.compile(_OPENING + rb'(.{%d})"' % self._width, re.DOTALL)
        at, most = 0, _MOST_BETWEEN_BYTES if self._before else _MOST_BEFORE_FIRST_BYTES
        for vector in self._vector.finditer(data):
            start, end = vector.span(1)
            if start - at > most:
                raise ValueError("the vectors differ in width, or stand far apart")
            yield bytes(data[at:start]), data[start:end], end
            at, most = end, _MOST_BETWEEN_BYTES

    def _keep(self, pieces: list[_Piece]) -> None:
        """Decodes these vectors into the matrix, and forgets the pieces. Raises ValueError where they cannot be whole
        rows of it."""
        if not pieces:
            return
        vectors = [vector for _, vector, _ in pieces]
        # Four characters of base64 are three bytes, less one for each `=` at the end.
        row_bytes = self._width // 4 * 3 - bytes(vectors[0][-2:]).count(b"=")
        if self._width % 4 or row_bytes % 4:
            raise ValueError("no whole number of float32 values")
        start = len(self._before)
        end = start + len(vectors)
        if end > self._inputs:
            raise ValueError("more vectors than inputs")
        rows = decode_base64(vectors, row_bytes)
        if self._matrix is None:
            self._matrix = np.empty((self._inputs, row_bytes // 4), np.float32)
        self._matrix[start:end] = rows
        self._squares[start:end] = squares(rows)
        self._before += [before for before, _, _ in pieces]
        pieces.clear()

    def _join_pieces(self) -> bytearray:
        """The reply as it came, with each vector that was cut out written as base64 again."""
        whole = bytearray()
        for number, part in enumerate(self._before):
            assert self._matrix is not None
            whole += part + pybase64.b64encode(self._matrix[number].astype("<f4", copy=False))
        whole += self._ahead
        return whole

    def _parse_cut(self) -> Parsed | None:
        """The reply if all of it was cut; None if it is of another kind or not sound: the whole of it says why then."""
        if self._matrix is None or self._whole is not None or len(self._before) != self._inputs:
            return None
        rest = _MARK.join([*self._before, self._ahead])
        if rest.count(_MARK) != self._inputs:
            return None
        try:
            reply = self._decode(rest)
            indices, order = [item.index for item in reply.data], None
            if indices != list(range(self._inputs)):
                order = vectors_in_order([(index, number) for number, index in enumerate(indices)], self._inputs)
            model = _read_model(reply.model)
        except InvalidReplyError:
            return None
        # Each mark is the embedding of one item, in the order in which they were cut out; and there is nothing else.
        if any(bytes(item.embedding) != _MARK_STRING for item in reply.data):
            return None
        matrix, lengths = self._matrix, self._squares
        if order is not None:
            matrix, lengths = matrix[order], lengths[order]
        return Parsed(matrix, lengths, model, _read_usage(reply.usage), floats=self._floats)

    def _decode(self, body: bytes | bytearray) -> OpenAIReply:
        """What the reply says, with or without a mark in the place of each vector. Raises InvalidReplyError."""
        return decode_reply(_REPLY, body)


def _parse_whole(reply: OpenAIReply, inputs: int) -> Parsed:
    """Parses any reply. For a large one this makes a Python str or float of everything and holds the interpreter."""
    items: list[tuple[Index, str | Numbers]] = []
    for item in reply.data:
        is_base64 = memoryview(item.embedding)[0] == _QUOTE
        items.append((item.index, decode_reply(_TEXT, item.embedding) if is_base64 else item.embedding))
    vectors = vectors_in_order(items, inputs)
    floats = not isinstance(vectors[0], str)
    matrix = from_floats(vectors) if floats else from_base64(vectors)
    return Parsed(matrix, squares(matrix), _read_model(reply.model), _read_usage(reply.usage), floats)


def _read_model(model: msgspec.Raw) -> str:
    """The model's name; "" where that is no text."""
    said = decode_reply(_ANYTHING, model)
    return said if isinstance(said, str) else ""


def decode_reply(decoder: msgspec.json.Decoder[Body], body: bytes | bytearray | msgspec.Raw) -> Body:
    """The body of a reply as that decoder reads it. Raises InvalidReplyError, which quotes nothing of it."""
    opening = "the reply is not an embedding reply"
    try:
        # RFC 8259 forbids a byte order mark, and lets it be ignored.
        marked = not isinstance(body, msgspec.Raw) and body.startswith(BOM_UTF8)
        return decoder.decode(memoryview(body)[len(BOM_UTF8) :] if marked else body)
    except msgspec.ValidationError as error:
        invalid: InvalidReplyError = ShapeError(f"{opening}: {error}", empty="got `null`" in str(error))
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        invalid = _undecodable_error(opening, str(error))
    except (ValueError, RecursionError):
        invalid = _undecodable_error(opening)
    raise invalid


def _undecodable_error(opening: str, problem: str = "") -> InvalidReplyError:
    """The error for bytes that are no JSON, by msgspec's words.

    For bytes that are not UTF-8 msgspec raises UnicodeDecodeError up to 0.22, and a DecodeError later.
    """
    if re.search("utf-?8", problem, re.IGNORECASE):
        return InvalidReplyError(f"{opening}: it is not UTF-8")
    if "truncated" in problem:
        return CutShortError(f"{opening}: it is JSON that ends early")
    return InvalidReplyError(f"{opening}: it is not JSON")


def _read_usage(usage: msgspec.Raw) -> Usage:
    """What was billed, where `usage` says it in numbers that can be meant.

    The cost in dollars is a number (OpenRouter) or an object (Perplexity).
    """
    try:
        said = _USAGE.decode(usage)
    except (ValueError, RecursionError):
        return Usage()
    try:
        cost = _COST.decode(said.cost)
    except (ValueError, RecursionError):
        cost = None
    if isinstance(cost, _Cost):
        cost = cost.total_cost if cost.currency == "USD" else None
    if cost is not None and not 0 <= cost < _MOST_COST_USD:
        cost = None
    return usage_of(said.prompt_tokens if said.total_tokens is None else said.total_tokens, cost)


def usage_of(tokens: int | None, cost_usd: float | None = None) -> Usage:
    """That usage, where the tokens are a number that can be meant."""
    return Usage(tokens if tokens is not None and 0 <= tokens <= _MOST_TOKENS else None, cost_usd)
