from __future__ import annotations

from aembed.core.batch_queue import BELIEVED_SECONDS, LEAST_QUEUE_TOKENS, Queue, after_refusal, limit_in

NOW = 1_000_000.0
MILLION = 1_000_000


def test_q11_a_refusal_halves_what_is_believed_to_fit() -> None:
    assert after_refusal(8 * MILLION, NOW).tokens == 4 * MILLION
    assert after_refusal(100, NOW).tokens == LEAST_QUEUE_TOKENS


def test_q11_a_limit_that_the_service_tells_is_believed_where_it_explains_the_refusal() -> None:
    told = (
        "Enqueued token limit reached for text-embedding-3-small in organization org-x. Limit: 3,000,000 enqueued "
        "tokens. Please try again once some in_progress batches have been completed."
    )
    limit = limit_in(["The batch failed.", told])
    assert limit == 3 * MILLION
    queue = after_refusal(8 * MILLION, NOW, limit)
    assert queue.tokens == limit
    assert queue.after_fit(limit, NOW + 60).tokens == limit
    # Others have filled it.
    assert after_refusal(2 * MILLION, NOW, limit).tokens == MILLION
    assert limit_in(["no limit is told", "Limit: , enqueued tokens"]) is None


def test_q11_what_fits_lets_the_belief_grow_but_not_to_what_was_refused_lately() -> None:
    queue, sizes = after_refusal(8 * MILLION, NOW), list[float]()
    for _ in range(8):
        queue = queue.after_fit(queue.tokens, NOW + 60)
        sizes.append(queue.tokens)
    assert sizes[:2] == [5 * MILLION, 6.25 * MILLION]
    assert sizes == sorted(sizes)
    assert 7.9 * MILLION < sizes[-1] < 8 * MILLION
    later = queue.after_fit(queue.tokens, NOW + BELIEVED_SECONDS)
    assert later.tokens == 1.25 * queue.tokens


def test_q11_a_batch_that_left_room_says_nothing() -> None:
    queue = Queue(4.0 * MILLION)
    assert queue.after_fit(3 * MILLION, NOW) == queue
