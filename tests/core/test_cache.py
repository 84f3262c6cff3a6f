from __future__ import annotations

import numpy as np

from aembed.core.cache import ENTRY_BYTES, Cache
from aembed.types import Vector

SIZE = 64 * 4 + ENTRY_BYTES


def vector(number: int) -> Vector:
    return np.full(64, number, np.float32)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def held(cache: Cache) -> list[int]:
    return [number for number in range(20) if cache.get(key(number)) is not None]


def test_the_least_recently_used_go_first() -> None:
    cache = Cache(3 * SIZE)
    for number in range(3):
        cache.put(key(number), vector(number), 1)
    assert cache.get(key(0)) is not None
    cache.put(key(3), vector(3), 1)
    assert held(cache) == [0, 2, 3]
    assert cache.size_bytes == 3 * SIZE


def test_it_never_holds_more_bytes_than_it_may() -> None:
    cache = Cache(10 * SIZE - 1)
    for number in range(20):
        cache.put(key(number), vector(number), 1)
        assert cache.size_bytes <= cache.max_bytes
    assert held(cache) == list(range(11, 20))


def test_one_vector_may_fill_it() -> None:
    cache = Cache(SIZE)
    cache.put(key(1), vector(1), 1)
    assert held(cache) == [1]


def test_what_comes_out_and_what_went_in_are_the_owners() -> None:
    cache, given = Cache(10 * SIZE), vector(1)
    cache.put(key(1), given, 1)
    given[:] = 9
    taken = cache.get(key(1))
    assert taken is not None
    assert np.array_equal(taken, vector(1))
    taken[:] = 9
    again = cache.get(key(1))
    assert again is not None
    assert np.array_equal(again, vector(1))


def test_a_row_of_a_batch_does_not_keep_the_batch() -> None:
    cache, matrix = Cache(10 * SIZE), np.ones((1_000, 64), np.float32)
    cache.put(key(1), matrix[3], 1)
    assert cache._entries[key(1)][0].base is None


def test_the_stats_count() -> None:
    cache = Cache(10 * SIZE)
    assert cache.stats().saved_tokens == 0
    for number in (1, 1, 2, 1):
        cache.get(key(number))
        cache.put(key(number), vector(number), 7.25)
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.saved_tokens) == (2, 2, 14)
    assert (stats.entries, stats.size_bytes) == (2, 2 * SIZE)


def test_without_memory_it_holds_nothing_and_counts_nothing() -> None:
    cache = Cache(0)
    cache.put(key(1), vector(1), 1)
    assert cache.get(key(1)) is None
    assert (cache.stats().misses, cache.size_bytes) == (0, 0)
