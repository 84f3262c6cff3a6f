from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from aembed.core.fusing import DEPTH, fuse
from aembed.types import Match


def ranking(ids: Sequence[str]) -> list[Match]:
    """Nearer rows have lower letters."""
    return [Match(id, None, None, 1 - ord(id) / 1_000) for id in ids]


def ids(matches: Sequence[Match]) -> str:
    return "".join(match.id for match in matches)


def test_a_row_of_both_rankings_comes_before_the_first_of_one() -> None:
    assert ids(fuse(ranking("abcdefgh"), ranking("zyh"), 4)) == "hzay"
    far = [chr(ord("a") + i) for i in range(DEPTH)]
    assert ids(fuse(ranking(far), ranking([*(chr(300 + i) for i in range(DEPTH - 1)), far[-1]]), 1)) == far[-1]


def test_without_names_the_nearest_rows_stay_as_they_are() -> None:
    fused = fuse(ranking("abc"), [], 2)
    assert ids(fused) == "ab"
    assert [match.rank for match in fused] == [1, 2]


def test_the_score_stays_the_cosine() -> None:
    given = ranking("abc")
    assert {match.id: match.score for match in fuse(given, ranking("cz"), 9)} == {
        match.id: match.score for match in [*given, *ranking("z")]
    }


@given(st.permutations("abcdef"), st.permutations("cdefgh"), st.integers(1, 10))
def test_each_row_comes_once_and_a_larger_k_only_adds(nearest: list[str], named: list[str], k: int) -> None:
    fused = fuse(ranking(nearest), ranking(named), k)
    assert len({match.id for match in fused}) == len(fused) == min(k, 8)
    assert [match.rank for match in fused] == list(range(1, len(fused) + 1))
    assert fused == fuse(ranking(nearest), ranking(named), 10)[:k]
