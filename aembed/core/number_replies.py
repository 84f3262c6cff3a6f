"""Stage 6 for services with a format of their own, whose vectors are JSON numbers: the reply is read whole.

Law 10: the numbers become rows of the matrix from their bytes, see `core/numbers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import msgspec

from aembed.core.numbers import Numbers
from aembed.core.replies import Body, Parsed, decode_reply, usage_of
from aembed.core.vectors import check_squares, check_width, from_floats, squares, vectors_in_order


@dataclass(frozen=True, slots=True)
class Found:
    """What a reply says: a vector for each input, in order; the model's name and the tokens that were billed, where it
    tells them."""

    vectors: Sequence[Numbers | list[float]]
    model: str = ""
    tokens: int | None = None


class NumbersReader(Generic[Body]):
    """Reads the reply to a request of `inputs` texts: `body` decodes it, `find` says where in it the vectors are."""

    is_whole = True

    def __init__(self, inputs: int, body: msgspec.json.Decoder[Body], find: Callable[[Body], Found]) -> None:
        self._inputs = inputs
        self._body = body
        self._find = find
        self._whole = bytearray()

    @property
    def size_bytes(self) -> int:
        return len(self._whole)

    def feed(self, data: bytes | memoryview) -> None:
        """Takes the next bytes of the reply."""
        self._whole += data

    def whole_reply(self) -> bytearray:
        """The reply as it came."""
        return self._whole

    def parse(self, *, dimensions: int | None, normalised: bool = False, proven: bool = False) -> Parsed:
        """The vectors of the whole reply. Raises InvalidReplyError unless there is one sound vector for each input."""
        found = self._find(decode_reply(self._body, self._whole))
        # Law 3: a vector is stored only beside the text that it was made from, so they are counted first.
        matrix = from_floats(vectors_in_order([(None, vector) for vector in found.vectors], self._inputs))
        check_width(matrix, dimensions)
        lengths = squares(matrix)
        check_squares(lengths, normalised=normalised)
        return Parsed(matrix, lengths, found.model, usage_of(found.tokens), floats=True)
