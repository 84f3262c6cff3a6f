"""A file of results of a batch, a line at a time: which line it is, and the reply or the error that stands in it.

The vectors are cut out of a line as out of a live reply (`core/replies.py`), so that no JSON parser sees them: what is
around them says which line it is. Lines with errors, and those that are odd, are parsed whole.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np

from aembed.core.replies import FIRST_VECTOR, OpenAIReply, ReplyReader, decode_reply
from aembed.core.vectors import from_floats, squares
from aembed.errors import InvalidReplyError
from aembed.types import Matrix

Pieces: TypeAlias = list[bytes]
"""One line as it came, without its end."""

# Chosen: ids and fields of a service's own stand around a reply. Where they take more, the line is parsed whole.
_AROUND_BYTES = 2_000
# Computed: the first vector ends within so many bytes, if it has 16,000 values in base64.
_HEAD_BYTES = _AROUND_BYTES + 128 * 1024
_CUSTOM_ID = re.compile(rb'"(?:custom_id|key)"\s{0,8}:\s{0,8}"([^"\\\x00-\x1f]{1,512})"')
# Chosen: eight vectors of 1,536 numbers are read in half a ms, between which other threads come to run.
_AT_ONCE = 8
_GZIP = b"\x1f\x8b"
# Chosen: a hundred bytes of gzip may become a hundred thousand.
_INFLATED_BYTES = 256 * 1024
_MARK = b"\xef\xbb\xbf"
_NUMBERS = re.compile(rb'"(?:embedding|values)"\s{0,8}:\s{0,8}\[')


class LineSplitter:
    """`feed` takes bytes as they come and gives the lines that are whole; `rest` is what follows them."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes` is the most of one line."""
        self._most = most_bytes
        self._begun: Pieces = []
        self._begun_bytes = 0
        self._at_start = True

    def feed(self, data: bytes) -> Iterator[Pieces]:
        """Lines that are blank are left out. Raises InvalidReplyError for one that is too long."""
        start = 0
        if self._at_start and data:
            # A mark of UTF-8 is no part of the first line.
            start, self._at_start = 3 * data.startswith(_MARK), False
        while (end := data.find(b"\n", start)) >= 0:
            line, self._begun, self._begun_bytes = [*self._begun, data[start:end]], [], 0
            start = end + 1
            if any(map(bytes.strip, line)):
                yield line
        if start < len(data):
            self._begun.append(data[start:])
            self._begun_bytes += len(data) - start
            if self._begun_bytes > self._most:
                raise InvalidReplyError(f"a line of the results is longer than {self._most:,} bytes")

    def rest(self) -> Pieces:
        """What came after the end of the last line, where it is not blank."""
        return self._begun if any(map(bytes.strip, self._begun)) else []


class Inflater:
    """Gives the bytes of a file, which may be one of gzip. `begin` are its first ones."""

    def __init__(self, begin: bytes) -> None:
        self._gzip = zlib.decompressobj(wbits=31) if begin.startswith(_GZIP) else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises InvalidReplyError for what cannot be unpacked."""
        if self._gzip is None:
            yield data
            return
        while data:
            try:
                piece = self._gzip.decompress(data, _INFLATED_BYTES)
            except zlib.error:
                raise InvalidReplyError("a compressed file of results is damaged") from None
            data = self._gzip.unconsumed_tail
            yield piece

    @property
    def is_cut_off(self) -> bool:
        return self._gzip is not None and not self._gzip.eof


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands around a reply. `status` is None where the line was never answered; `body` and `error` are JSON."""

    custom_id: str | None
    status: int | None
    body: bytes
    error: bytes


class _Response(msgspec.Struct):
    """Voyage's errors have a message beside the status, and no body. A body without a status stands in its place."""

    status_code: Any = None
    body: msgspec.Raw = msgspec.Raw(b"null")
    message: Any = None
    error: msgspec.Raw = msgspec.Raw(b"null")
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Line(msgspec.Struct):
    custom_id: str | int | None = None
    key: str | int | None = None
    response: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class _Answer(msgspec.Struct):
    body: OpenAIReply
    status_code: int = 200


class _AnsweredLine(msgspec.Struct):
    response: _Answer
    custom_id: str | None = None


def own_id(custom_id: str | None, inputs: Container[str]) -> str | None:
    """The id as it was sent: ours are in small letters. None for one that was not."""
    for id in (custom_id, (custom_id or "").strip().lower()):
        if id is not None and id in inputs:
            return id
    return None


_LINE = msgspec.json.Decoder(_Line)
_RESPONSE = msgspec.json.Decoder(_Response)
_TEXT = msgspec.json.Decoder(str)
_ANSWERED = msgspec.json.Decoder(_AnsweredLine)
_NULL = b"null"


def find_custom_id(line: Pieces) -> str | None:
    """The id of the line, as it stands before or behind the reply; None where the line has to be parsed for it."""
    head, tail = _start_of(line, _AROUND_BYTES)[:_AROUND_BYTES], _end_of(line, _AROUND_BYTES)
    found = _CUSTOM_ID.search(head) or _CUSTOM_ID.search(tail)
    try:
        return found[1].decode() if found else None
    except UnicodeDecodeError:
        return None


def holds_vectors(line: Pieces) -> bool:
    """Whether the vectors of a reply begin where they are expected."""
    head = _start_of(line, _HEAD_BYTES)
    return bool(FIRST_VECTOR.search(head, 0, _HEAD_BYTES) or _NUMBERS.search(head, 0, _AROUND_BYTES))


def _start_of(line: Pieces, most: int) -> bytes:
    """At least so many bytes of it, without a copy where its first piece has them."""
    start = line[0]
    for piece in line[1:]:
        if len(start) >= most:
            break
        start += piece
    return start


def _end_of(line: Pieces, most: int) -> bytes:
    end = line[-1][-most:]
    for piece in line[-2::-1]:
        if len(end) >= most:
            break
        end = piece[-most:] + end
    return end[-most:]


def read_envelope(line: bytes) -> Envelope:
    """Parses the whole line. Raises InvalidReplyError for what is no line of results."""
    # A file that is one JSON list has a line for each of its items.
    found = decode_reply(_LINE, line.strip().removeprefix(b"[").removesuffix(b"]").removesuffix(b","))
    id = found.custom_id if found.custom_id is not None else found.key
    custom_id = None if id is None else str(id)
    if bytes(found.response) == _NULL:
        return Envelope(custom_id, None, _NULL, bytes(found.error))
    if bytes(found.response).startswith(b'"'):
        return Envelope(custom_id, None, _NULL, bytes(found.response))
    response = decode_reply(_RESPONSE, found.response)
    body, error = bytes(response.body), bytes(found.error)
    if body.startswith(b'"'):
        body = decode_reply(_TEXT, body).encode()  # JSON within JSON, or a message
    if body == _NULL and response.message is not None:
        body = msgspec.json.encode({"error": {"message": response.message}})
    if body == _NULL and bytes(response.error) != _NULL:
        error = bytes(response.error)
    if body == _NULL and bytes(response.data) != _NULL:
        body = bytes(found.response)
    try:
        status: int | None = int(response.status_code)
    except (TypeError, ValueError):
        status = 200 if body != _NULL and error == _NULL else None
    return Envelope(custom_id, status, body, error)


def is_whole(line: bytes) -> bool:
    """Whether that is a line of results, and not the beginning of one."""
    try:
        read_envelope(line)
    except InvalidReplyError:
        return False
    return True


class LineReader(ReplyReader):
    """Reads the reply in a line of `inputs` texts whose custom id is known."""

    def __init__(self, inputs: int, line: Pieces, custom_id: str) -> None:
        super().__init__(inputs)
        self._line, self._custom_id = line, custom_id
        if FIRST_VECTOR.search(_start_of(line, _HEAD_BYTES), 0, _HEAD_BYTES):
            # Vectors in base64. Whole, it would be 4 MB more of memory, which the processor does not have at hand.
            for piece in line:
                self.feed(piece)
        else:
            self._cut_numbers()

    def whole_reply(self) -> bytes:
        return b"".join(self._line)

    def _cut_numbers(self) -> None:
        """Makes rows of the vectors one after another: msgspec would hold the interpreter for 30 ms. A line that is not
        as expected is left, and parsed whole: that says what is wrong with it."""
        before: list[bytes] = []
        group: list[msgspec.Raw] = []
        rest, matrix = b"", None
        try:
            for piece in self._line:
                data, at = rest + piece, 0
                for begin, end in _spans_of_numbers(data):
                    before.append(data[at:begin])
                    group.append(msgspec.Raw(data[begin:end]))
                    at = end
                    if len(group) == _AT_ONCE:
                        matrix = self._keep_numbers(matrix, group, len(before))
                rest = data[at:]
            if group:
                matrix = self._keep_numbers(matrix, group, len(before))
        except (InvalidReplyError, ValueError):
            return
        if matrix is None or len(before) != self._inputs:
            return
        # As strings in JSON would stand: the parser sees a mark in the place of each.
        self._before = [b'"' * (number > 0) + each + b'"' for number, each in enumerate(before)]
        self._ahead = b'"' + rest
        self._matrix, self._floats = matrix, True

    def _keep_numbers(self, matrix: Matrix | None, group: list[msgspec.Raw], end: int) -> Matrix:
        """These are the vectors before that number. Raises ValueError, InvalidReplyError where they cannot be."""
        start, rows = end - len(group), from_floats(group)
        if matrix is None:
            matrix = np.empty((self._inputs, rows.shape[1]), np.float32)
        # Law 3: numpy would repeat a vector of one value.
        if end > self._inputs or rows.shape[1] != matrix.shape[1]:
            raise ValueError("more vectors than inputs, or of another width")
        matrix[start:end] = rows
        self._squares[start:end] = squares(rows)
        group.clear()
        return matrix

    def _decode(self, body: bytes | bytearray) -> OpenAIReply:
        line = decode_reply(_ANSWERED, body)
        # Law 3: a vector is stored only beside its text, and the line was found by these words before it was parsed.
        if own_id(line.custom_id, {self._custom_id}) is None or line.response.status_code not in range(200, 300):
            raise InvalidReplyError("the reply is not that of its line")
        return line.response.body


def _spans_of_numbers(line: bytes) -> Iterator[tuple[int, int]]:
    """Where the vectors in numbers begin and end. What is none of that is seen once it is read."""
    at = 0
    while found := _NUMBERS.search(line, at, at + _AROUND_BYTES):
        start = found.end() - 1
        at = line.find(b"]", start) + 1
        if not at:
            return
        yield start, at
