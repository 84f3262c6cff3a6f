"""The vectors of many queries that one caller asks for at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import numpy as np

from aembed.core.failing import FailureLog
from aembed.core.progress import KEPT_FAILURES
from aembed.errors import AembedError, BadRequestError, InputError, InvalidReplyError
from aembed.results import Embeddings, Report
from aembed.types import Matrix, Vector

OF_ONE_TEXT = (InputError, BadRequestError, InvalidReplyError)
"""With any other error the queries that follow would fare no better."""


async def embed_queries(texts: Sequence[str], vector: Callable[[str], Awaitable[Vector]], at_once: int) -> Embeddings:
    """The vectors of all texts, `at_once` of which are asked for at a time, so that they share requests.

    A text that fails alone is a failure of the result; what stops them all is raised, with `.embeddings`.
    """
    answers = _Answers(len(texts))
    for start in range(0, len(texts), at_once):
        answered = await asyncio.gather(*map(vector, texts[start : start + at_once]), return_exceptions=True)
        answers.take(start, answered)
        stopped = [each for each in answered if isinstance(each, BaseException) and not isinstance(each, OF_ONE_TEXT)]
        if stopped:
            if isinstance(stopped[0], AembedError):
                answers.give_up(range(start + len(answered), len(texts)), stopped[0])
                stopped[0].embeddings = answers.make_embeddings()
            raise stopped[0]
    return answers.make_embeddings()


class _Answers:
    """One matrix, filled as the answers come: to make it of a million vectors at the end would hold up the loop."""

    def __init__(self, inputs: int) -> None:
        self._inputs = inputs
        self._matrix: Matrix = np.empty((inputs, 0), np.float32)
        self._failures = FailureLog()

    def take(self, start: int, answered: Sequence[Vector | BaseException]) -> None:
        for index, each in enumerate(answered, start):
            if isinstance(each, AembedError):
                self._failures.add(index, each)
            elif not isinstance(each, BaseException):
                if not self._matrix.shape[1]:
                    self._matrix = np.zeros((self._inputs, len(each)), np.float32)
                self._matrix[index] = each

    def give_up(self, indices: Iterable[int], error: AembedError) -> None:
        self._failures.add_all(indices, error)

    def make_embeddings(self) -> Embeddings:
        failures = self._failures.in_order()
        stored, failed = self._inputs - len(failures), len(failures)
        report = Report(inputs=self._inputs, stored=stored, failed=failed, failures=tuple(failures[:KEPT_FAILURES]))
        return Embeddings(self._matrix, failures, report)
