"""In which form vectors are asked for, and what has been seen of those that came."""

from __future__ import annotations

import logging
from math import sqrt
from typing import Literal, TypeAlias

import numpy as np

from aembed.core.encodings import EncodingError
from aembed.core.vectors import Base64Error, DimensionError, ShapeError, Squares
from aembed.errors import (
    BadRequestError,
    InvalidReplyError,
    NotFoundError,
    ProviderError,
    RateLimitError,
    UnavailableError,
)
from aembed.types import Matrix

logger = logging.getLogger("aembed")

Encoding: TypeAlias = Literal["base64", "float"]
# Chosen: one may be broken by chance. Each more is two more requests to a server that gives vectors in neither form.
MOST_BROKEN_NUMBERS = 2
"""Replies in numbers that are broken in the same way, after which base64 alone is asked for until one is answered."""
# Chosen: one of several servers behind an address may be the odd one. Asked again after 16, 64 and 256 replies, base64
# costs few requests that fail; larger, numbers, three times the bytes, are read for longer.
PATIENCE, MORE_PATIENCE = 16, 4
"""Replies for which numbers are asked for; each time that base64 fails again so many times as long."""
NORMALISED = 0.01
"""How far a length may be from 1. Rounding to float16 or int8 makes less of a difference."""


class Form:
    """Base64 is a third of the bytes and needs no JSON parser; numbers are what every server speaks.

    Until base64 has worked once, whatever may come of it has one try with numbers. Where it works and then does not,
    as from one of several servers behind an address, numbers are asked for during the next `PATIENCE` replies; an error
    that blames it in words, which may quote a text, has one try with numbers and changes nothing else.
    """

    def __init__(self, encoding: Encoding | None, *, base64: bool) -> None:
        self.numbers = encoding == "float" or (encoding is None and not base64)
        self._chosen = encoding is not None
        self.is_proven = False
        """That bytes in base64 are float32 values."""
        self.width: int | None = None
        """How wide the vectors of the last good reply were."""
        self._try_numbers = False
        self.broken_numbers = 0
        """Replies in numbers that were broken, and none that was good was asked for since."""
        self._replies_of_numbers, self._patience = 0, PATIENCE

    @property
    def is_asking_numbers(self) -> bool:
        return self.numbers or self._try_numbers or self._replies_of_numbers > 0

    def note_failure(self, error: ProviderError, *, numbers: bool) -> bool:
        """Whether the same request is worth sending again at once, with numbers."""
        if self._try_numbers and numbers and isinstance(error, RateLimitError):
            return False  # Numbers are still to be tried.
        self._try_numbers = False
        self.broken_numbers += numbers and _is_encoding(error)
        if self._chosen or numbers or self.broken_numbers >= MOST_BROKEN_NUMBERS:
            return False
        if not self.is_proven:
            self._try_numbers = _blames_base64(error) or isinstance(error, Base64Error)
            return self._try_numbers
        if self._replies_of_numbers:
            # Others have shown meanwhile that numbers are to be asked for, as they will be when it is sent again.
            if isinstance(error, InvalidReplyError):
                error.of_old_form = _is_encoding(error)
            return False
        if not _is_encoding(error):
            self._try_numbers = _blames_base64(error)
            return self._try_numbers
        self._replies_of_numbers, self._patience = self._patience, MORE_PATIENCE * self._patience
        return True

    def note_answered(
        self, *, numbers: bool, broken_before: int = 0, width: int | None = None, doubles: bool = False
    ) -> None:
        """A reply was good, and held that; so many replies in numbers were broken when it was asked for.

        One that held float64 proves nothing of the next one, which another server may send.
        """
        self.width = width
        self._try_numbers &= not numbers
        self._replies_of_numbers = max(0, self._replies_of_numbers - 1)
        if broken_before == self.broken_numbers:
            self.broken_numbers = 0
        """Replies in numbers that were broken, and none that was good was asked for since."""
        if not numbers:
            self.is_proven |= not doubles
        elif not self._chosen:
            self.numbers = not self.is_proven


class VectorLengths:
    """Vectors that are not 1 long: scaled where that is asked for, else told once."""

    def __init__(self, normalize: bool | None, *, known: bool) -> None:
        """`known`: that they are 1 long."""
        self._normalize = normalize and not known
        self._is_told = known or normalize is False

    def scale(self, matrix: Matrix, squares: Squares, model: str) -> Matrix:
        """Each row 1 long with normalize=True, else as it came."""
        if self._normalize:
            return np.divide(matrix, np.sqrt(squares)[:, None], dtype=np.float32)
        if not self._is_told:
            self._is_told = True
            least, most = sqrt(float(squares.min())), sqrt(float(squares.max()))
            if least < 1 - NORMALISED or most > 1 + NORMALISED:
                logger.warning(
                    "the vectors of %s are %.3g to %.3g long, not 1: cosine similarity is right all the same, an inner "
                    "product is not; normalize=True (--option normalize=true) makes them 1 long, normalize=False "
                    "leaves them and says nothing",
                    model,
                    least,
                    most,
                )
        return matrix


def _blames_base64(error: ProviderError) -> bool:
    match error:
        case InvalidReplyError():
            return _is_encoding(error)
        case BadRequestError() | NotFoundError() | UnavailableError():
            return any(word in f"{error} {error.body}".lower() for word in ("encoding_format", "base64"))
        case _:
            return False


def _is_encoding(error: ProviderError) -> bool:
    """A reply whose vectors are missing, or are no float32 values."""
    match error:
        case EncodingError():
            return True
        case DimensionError():
            return error.may_be_encoding
        case ShapeError():
            return error.empty
        case _:
            return False
