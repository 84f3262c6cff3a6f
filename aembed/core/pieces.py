"""This module joins the pieces of a text that was too long: its vector is their mean, weighted by their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from aembed.types import Matrix


class HasWeights(Protocol):
    @property
    def weights(self) -> Sequence[float]: ...


def combine_pieces(items: Sequence[HasWeights], matrix: Matrix) -> Matrix:
    """One row for each item out of one row for each input. It is the very same matrix where no text was split."""
    if len(matrix) == len(items):
        return matrix
    rows = np.empty((len(items), matrix.shape[1]), dtype=np.float32)
    start = 0
    for row, item in enumerate(items):
        end = start + len(item.weights)
        rows[row] = matrix[start]
        if len(item.weights) > 1:
            mean = np.average(matrix[start:end], axis=0, weights=item.weights)
            # Pieces that point in opposite directions have the mean 0, which no store can compare: the first piece
            # stands then.
            if norm := np.linalg.norm(mean):
                rows[row] = mean / norm
        start = end
    return rows
