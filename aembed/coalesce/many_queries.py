"""The vectors of many queries that one caller asks for at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from aembed.errors import AembedError, BadRequestError, InputError, InvalidReplyError
from aembed.results import Embeddings, Failure, Report
from aembed.types import Vector

OF_ONE_TEXT = (InputError, BadRequestError, InvalidReplyError)
"""With any other error the queries that follow would fare no better."""


async def embed_queries(texts: Sequence[str], vector: Callable[[str], Awaitable[Vector]], at_once: int) -> Embeddings:
    """The vectors of all texts, `at_once` of which are asked for at a time, so that they share requests.

    A text that fails alone is a failure of the result; what stops them all is raised, with `.embeddings`.
    """
    answers: list[Vector | BaseException] = []
    while len(answers) < len(texts):
        some = texts[len(answers) : len(answers) + at_once]
        answered = await asyncio.gather(*map(vector, some), return_exceptions=True)
        answers += answered
        stopped = [each for each in answered if isinstance(each, BaseException) and not isinstance(each, OF_ONE_TEXT)]
        if stopped:
            if isinstance(stopped[0], AembedError):
                answers += [stopped[0]] * (len(texts) - len(answers))
                stopped[0].embeddings = _embeddings(answers)
            raise stopped[0]
    return _embeddings(answers)


def _embeddings(answers: Sequence[Vector | BaseException]) -> Embeddings:
    width = next((len(each) for each in answers if not isinstance(each, BaseException)), 0)
    nothing = np.zeros(width, np.float32)
    matrix = np.stack([nothing if isinstance(each, BaseException) else each for each in answers])
    failures = [Failure(str(index), index, each) for index, each in enumerate(answers) if isinstance(each, AembedError)]
    report = Report(
        inputs=len(answers), stored=len(answers) - len(failures), failed=len(failures), failures=tuple(failures)
    )
    return Embeddings(matrix, failures, report)
