"""Failures of a list of texts, kept so that a million of them are hardly more work for a collection of garbage."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from aembed.errors import AembedError, InputError
from aembed.results import Failure, Failures

# Chosen: so many cost a collection under a millisecond.
MOST_MADE = 1_000
"""So many failures are made at once, as a plain tuple."""


class FailureLog:
    """Takes failures of texts whose id is their index, in any order."""

    def __init__(self) -> None:
        self._indices = array("q")
        self._reasons: list[AembedError | str] = []

    def add(self, index: int, error: AembedError) -> None:
        holds_only_words = len(error.args) == 1 and not error.__dict__ and error.__cause__ is None
        self._indices.append(index)
        self._reasons.append(str(error) if type(error) is InputError and holds_only_words else error)

    def add_all(self, indices: Iterable[int], error: AembedError) -> None:
        """All of these failed for that one reason."""
        before = len(self._indices)
        self._indices.extend(indices)
        self._reasons += [error] * (len(self._indices) - before)

    def in_order(self) -> Sequence[Failure]:
        """The failures by their index; nothing is added any more."""
        failures = Failures(np.array(self._indices, np.int64), self._reasons, InputError)
        return tuple(failures) if len(failures) <= MOST_MADE else failures
