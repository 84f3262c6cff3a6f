"""Stage 6 tells whether bytes that should be float32 values really are float32 values.

Servers also send float64 (vLLM in 2024), float16 and bfloat16 (vLLM, by `embed_dtype`) and int8 (Perplexity, by
default) in base64. Their bytes read as float32 give a wrong number of wrong values, and no reply says so; openai 3.57.0
reads them all the same (findings/openai-reads-any-base64-as-float32.sh). The values of one embedding are close in size,
which the bits of other types are not when they are read so. float64 has so many bits of exponent that it shows itself
in the same way, and is read: the reply was paid for. The others are asked for as numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aembed.core.vectors import Squares
from aembed.errors import InvalidReplyError
from aembed.types import Matrix

# pgvector stores at most 16,000 dimensions, and no model has more.
MOST_DIMENSIONS = 16_000
"""A vector with more values than this is read in the wrong type."""
# Chosen: vectors of models that were rounded to float16 are off by 6e-4; bytes of another type do not make every vector
# 1 long by chance, however wide this is within reason.
LENGTH_TOLERANCE = 0.02
"""Vectors whose squared lengths are so near to 1 are float32 without a further look."""
# Chosen: in fewer values the lower bits may look regular by chance.
LEAST_VALUES = 8
"""Fewer values than this tell nothing of two bfloat16 in each."""
# Computed: one of a million normally distributed values lies 20
# binary orders of magnitude below the median, none 12 above.
MOST_BELOW, MOST_ABOVE = 20, 12
"""How many binary orders of magnitude a value may lie below and above the median."""
# Chosen: a real vector may have a few odd values; at 0 one of them would turn a sound reply away.
MOST_OUTSIDE = 0.01
"""At most this share of the values may lie outside."""
# Chosen: one reply has one encoding. Of 16 vectors of 1,536 values the bits are seen in 1 ms.
ROWS_OF_PROOF = 16
"""So many vectors prove that those of a reply are float64."""
# Chosen: a unit vector of 16,000 values has a median of about 2 ** -7, and what is not normalised is larger.
SMALLEST, LARGEST = -40, 20
"""Between these powers of two lies the median of values that are believed to be float64."""
# IEEE 754: a float32 has 8 bits of exponent, a float64 has 11, biased by 1,023, above 52 bits of its fraction.
_EXPONENT_BITS = 0xFF
_WIDE_EXPONENT_BITS, _WIDE_BIAS, _WIDE_FRACTION = 0x7FF, 1_023, 52


class EncodingError(InvalidReplyError):
    """The vectors came in base64 and are no float32 values."""


def may_be_float32(matrix: Matrix, squares: Squares) -> bool:
    """Whether these may be the vectors of a model; the first reply of a server is asked for it."""
    with np.errstate(invalid="ignore"):
        if bool((np.abs(squares - 1.0) < LENGTH_TOLERANCE).all()):
            return True
    return matrix.shape[1] <= MOST_DIMENSIONS and _are_float32(matrix)


def read_as_float64(matrix: Matrix) -> Matrix | None:
    """The vectors whose bytes these are if they are float64 values, which the bits of the first ones have to prove.

    None where they are not, or may as well be float32.
    """
    if matrix.shape[1] % 2 or matrix.shape[1] > 2 * MOST_DIMENSIONS:
        return None
    wide, first = np.ascontiguousarray(matrix, "<f4").view("<f8"), matrix[:ROWS_OF_PROOF]
    exponents = ((wide[:ROWS_OF_PROOF].view("<u8").ravel() >> _WIDE_FRACTION) & _WIDE_EXPONENT_BITS).astype(np.int64)
    if exponents.size < LEAST_VALUES or not _are_alike(exponents, _WIDE_EXPONENT_BITS):
        return None
    if not SMALLEST <= np.median(exponents[exponents > 0]) - _WIDE_BIAS <= LARGEST or _are_float32(first):
        return None
    with np.errstate(over="ignore"):
        return wide.astype(np.float32)


def _are_float32(matrix: Matrix) -> bool:
    bits = np.ascontiguousarray(matrix, "<f4").view("<u4")
    values = bits.ravel()
    if not _are_alike((values >> 23) & _EXPONENT_BITS):
        return False
    if matrix.shape[1] % 2 == 0 and not (bits[:, 0::2] << 1).any():
        return False  # float64 that was made from float16 or bfloat16: the lower half of each is zero
    # Of two bfloat16 the second gives the exponent. The first one's exponent is as regular; lower bits are not.
    lower = values & 0xFFFF
    return not lower.any() or values.size < LEAST_VALUES or not _are_alike((lower >> 7) & _EXPONENT_BITS)


def _are_alike(exponents: NDArray[np.integer[Any]], most: int = _EXPONENT_BITS) -> bool:
    """Whether values with these exponents are finite and of about one size. A zero has no exponent and is left out."""
    exponents = exponents[exponents > 0].astype(np.int64)
    if not exponents.size:
        return False
    if (exponents == most).any():
        return False
    median = np.median(exponents)
    outside = (exponents < median - MOST_BELOW) | (exponents > median + MOST_ABOVE)
    return float(outside.mean()) <= MOST_OUTSIDE
