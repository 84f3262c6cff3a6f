"""Sorted runs as arrays, by themselves."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aembed.stores._sqlite import _runs
from aembed.stores._sqlite._runs import (
    END,
    MOST_HASHED,
    MOST_NUMBER,
    IdHash,
    RunFilter,
    chunked,
    chunks_of,
    entries_of,
    filter_bits,
    hashes_of_fingerprints,
    matches,
    merged,
    packed,
    unpacked,
)

HASHES = st.integers(0, 12) | st.integers(2**32 - 3, 2**32 - 1)
NUMBERS = st.integers(0, 5) | st.integers(MOST_NUMBER - 2, MOST_NUMBER)
PAIRS = st.lists(st.tuples(HASHES, NUMBERS), max_size=40)


def hashes(values: list[int]) -> _runs.Hashes:
    return np.array(values, np.uint64)


def entries(pairs: list[tuple[int, int]]) -> _runs.Entries:
    return entries_of(hashes([hash for hash, _ in pairs]), [number for _, number in pairs])


@given(PAIRS, PAIRS, st.lists(HASHES, max_size=10))
def test_entries_are_found_by_their_hash(
    some: list[tuple[int, int]], more: list[tuple[int, int]], asked: list[int]
) -> None:
    run = merged([entries(some), entries(more)])
    assert unpacked(packed(run)).tolist() == run.tolist() == sorted(set(run.tolist()))
    assert not len(run) or run[-1] < END
    expected = sorted((i, number) for i, hash in enumerate(asked) for each, number in {*some, *more} if each == hash)
    positions, numbers = matches(run, hashes(asked))
    assert list(zip(positions.tolist(), numbers.tolist(), strict=True)) == expected
    positions, numbers = matches(run, hashes(asked), only_last=True)
    assert dict(zip(positions.tolist(), numbers.tolist(), strict=True)) == dict(expected)
    assert len(positions) == len(dict(expected))


@given(PAIRS.filter(bool), st.lists(HASHES, max_size=10), st.integers(1, 5))
def test_the_chunks_that_are_read_hold_all_that_the_run_holds(
    pairs: list[tuple[int, int]], asked: list[int], size: int
) -> None:
    run = entries(pairs)
    parts = [run[start : start + size] for start in range(0, len(run), size)]
    fences = np.array([*(part[0] for part in parts), END], np.uint64)
    picked = chunks_of(fences, hashes(asked))
    read = merged([parts[i] for i in picked])
    assert [each.tolist() for each in matches(read, hashes(asked))] == [
        each.tolist() for each in matches(run, hashes(asked))
    ]
    assert len(picked) <= sum(len(part) for part in parts)


@given(PAIRS, st.integers(1, 20))
def test_a_filter_lets_all_pass_that_are_there(pairs: list[tuple[int, int]], bits: int) -> None:
    run = entries(pairs)
    made = RunFilter(len(run), bits)
    for chunk in chunked(run):
        made.add(chunk)
    there = run >> np.uint64(32)
    assert made.may_hold(there, filter_bits(there)).tolist() == list(range(len(there)))


def test_a_filter_lets_few_others_pass() -> None:
    drawn = np.random.default_rng(1).integers(0, 2**32, (2, 100_000)).astype(np.uint64)
    made = RunFilter(100_000, 16)
    made.add(entries_of(drawn[0], range(100_000)))
    others = np.setdiff1d(drawn[1], drawn[0])
    assert len(made.may_hold(others, filter_bits(others))) < 200


def test_numbers_that_have_no_place_are_left_out() -> None:
    assert len(entries_of(hashes([1] * 5), [-1, -(2**63), MOST_NUMBER + 1, 2**63 - 1, 7])) == 1


def test_ids_are_hashed_by_a_secret_alike_each_time() -> None:
    ids = ["", "a", "b", "Straße", "日本", "\ud800", "x" * MOST_HASHED, "x" * (MOST_HASHED + 1), "x" * 10_000]
    first, again, other = IdHash("s").of(ids).tolist(), IdHash("s").of(ids[::-1]).tolist(), IdHash("t").of(ids).tolist()
    assert first == again[::-1]
    assert len(set(first)) == len(ids)
    assert not set(first) & set(other)
    assert [IdHash("s").of([id])[0] for id in ids] == first, "whatever they are hashed with"
    assert max(first) < 2**32
    assert IdHash("secret").of(["a", "doc-1"]).tolist() == [3153255749, 4117638844], "as in the files that there are"


def test_ids_of_one_pattern_spread() -> None:
    ids = [f"doc-{number:07}" for number in range(100_000)]
    assert len(np.unique(IdHash("s").of(ids))) > 99_990


def test_fingerprints_of_any_length_have_a_hash() -> None:
    assert not len(hashes_of_fingerprints([]))
    assert hashes_of_fingerprints([b"", b"\x01", b"\x01\x00\x00\x00", b"\x01\x00\x00\x00rest"]).tolist() == [0, 1, 1, 1]
