from __future__ import annotations

import gc
from random import Random

import numpy as np
import pytest

from aembed import AembedError, Embeddings, Failure, InputError, PartialError, Report, StoppedError, UnavailableError
from aembed.core.failing import MOST_MADE, FailureLog


@pytest.mark.parametrize("texts", [MOST_MADE, 2 * MOST_MADE])
def test_failures_are_told_in_the_order_of_the_texts_whatever_came_first(texts: int) -> None:
    order, log = list(range(texts)), FailureLog()
    Random(1).shuffle(order)
    for index in order:
        log.add(index, InputError(f"text {index} is empty"))
    failures = log.in_order()
    assert [failure.index for failure in failures] == list(range(texts))
    assert [str(failure) for failure in failures[:2]] == ["0: text 0 is empty", "1: text 1 is empty"]
    assert str(failures[-1]) == f"{texts - 1}: text {texts - 1} is empty"
    assert failures[5:7] == (failures[5], failures[6]) or len(failures) > MOST_MADE


def test_an_error_that_says_more_than_its_words_is_kept_as_it_is() -> None:
    log, stopped = FailureLog(), StoppedError("closed")
    log.add(1, refused := UnavailableError("gone", status_code=503))
    log.add(0, told := InputError("too long"))
    told.__cause__ = ValueError("why")
    log.add(0, told)
    log.add_all(range(2, 2 * MOST_MADE), stopped)
    failures = log.in_order()
    assert failures[1].error is told
    assert failures[2].error is refused
    assert failures[-1] == Failure(str(2 * MOST_MADE - 1), 2 * MOST_MADE - 1, stopped)


def visited() -> int:
    return sum(isinstance(each, Failure | AembedError) for each in gc.get_objects())


def test_a_collection_of_garbage_visits_no_failure_of_a_long_list() -> None:
    log, before = FailureLog(), visited()
    for index in range(5 * MOST_MADE):
        log.add(index, InputError(f"text {index} is empty"))
    embeddings = Embeddings(np.zeros((5 * MOST_MADE, 4), np.float32), log.in_order(), Report())
    assert visited() == before
    with pytest.raises(PartialError, match=r"^5000 of 5000 texts failed \(0: text 0 is empty; 1: "):
        embeddings.raise_for_failures()
    assert embeddings[17] is None
    assert embeddings.filled(1.0).sum() == 4 * 5 * MOST_MADE
