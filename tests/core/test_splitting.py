from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.changes import Item
from aembed.core.learned_limits import LearnedLimits
from aembed.core.packing import Cap
from aembed.core.retrying import FailItems, FailJob, Resend, Split
from aembed.core.splitting import Bisection
from aembed.core.vectors import ShapeError
from aembed.core.weighing import Weight
from aembed.errors import BadRequestError, InvalidReplyError, RateLimitError
from tests.jobs import item_of

CAP = Cap(2_048, 300_000)


def items(n: int) -> list[Item]:
    return [item_of(str(number)) for number in range(n)]


def search(
    batch: Sequence[Item], bad: set[int], *, named: bool = False, proven: bool = True
) -> tuple[list[str], list[str], int]:
    """The texts that were accepted and those that failed, and the requests that it took."""
    bisection, accepted, failed, requests = Bisection(batch, LearnedLimits()), list[str](), list[str](), 0
    while part := bisection.next_part():
        requests += 1
        texts = [item.texts[0] for item in part]
        refused = [i for i, text in enumerate(texts) if int(text) in bad]
        if not refused:
            bisection.note_accepted(part)
            accepted += texts
            proven = True
            continue
        error = BadRequestError("400")
        error.offender = refused[0] if named else None
        if isinstance(bisection.note_refusal(part, error, CAP, proven=proven), FailItems):
            failed += texts
    return accepted, failed, requests


@given(
    st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))),
    st.booleans(),
    st.booleans(),
)
def test_p8_exactly_the_bad_texts_fail_and_each_text_ends_once(
    case: tuple[int, set[int]], named: bool, proven: bool
) -> None:
    n, bad = case
    accepted, failed, _ = search(items(n), bad, named=named, proven=proven)
    assert sorted(map(int, failed)) == sorted(bad)
    assert sorted(map(int, accepted + failed)) == list(range(n))


@given(st.integers(0, 2_047), st.booleans())
def test_p8_one_bad_text_takes_23_further_requests_wherever_it_stands(position: int, proven: bool) -> None:
    assert search(items(2_048), {position}, proven=proven)[2] <= 1 + 23


def test_n9_an_oversized_reply_is_forgiven_once() -> None:
    bisection = Bisection(items(10), LearnedLimits())
    huge = InvalidReplyError("larger than it can be")
    huge.oversized = True
    part = bisection.next_part()
    assert part is not None
    assert not isinstance(bisection.note_refusal(part, huge, CAP), FailJob)
    again = bisection.next_part()
    assert again is not None
    assert isinstance(bisection.note_refusal(again, huge, CAP), FailJob)


def test_p7_broken_replies_and_named_offenders_teach_no_limit() -> None:
    learned_limits = LearnedLimits()
    for error in (InvalidReplyError("broken"), BadRequestError("400")):
        bisection = Bisection(items(8), learned_limits)
        if isinstance(error, BadRequestError):
            error.offender = 3
        part = bisection.next_part()
        while part:
            if len(part) == 8:
                bisection.note_refusal(part, error, CAP)
            else:
                bisection.note_accepted(part)
            part = bisection.next_part()
    assert learned_limits.narrow_cap(CAP) == CAP


def test_p7_a_limit_that_is_named_and_explains_the_refusal_is_taken_at_its_word() -> None:
    learned_limits = LearnedLimits()
    bisection = Bisection(items(100), learned_limits)
    error = BadRequestError("400: at most 32")
    error.max_batch_size = 32
    part = bisection.next_part()
    assert part is not None
    bisection.note_refusal(part, error, CAP)
    sizes = []
    while part := bisection.next_part():
        sizes.append(len(part))
        bisection.note_accepted(part)
    assert sorted(sizes) == [25, 25, 25, 25]
    assert learned_limits.narrow_cap(CAP).inputs == 32


# what is sent next


def named(n: int, offender: int | None) -> BadRequestError:
    error = BadRequestError("400")
    error.offender = offender
    return error


def parts_after(
    batch: Sequence[Item], *errors: BadRequestError | InvalidReplyError, proven: bool = True, cap: Cap = CAP
) -> list[list[str]]:
    """The texts of each part that is sent once these errors have come, when all the rest is accepted."""
    bisection, left, parts = Bisection(batch, LearnedLimits()), list(errors), []
    while part := bisection.next_part():
        if left:
            bisection.note_refusal(part, left.pop(0), cap, proven=proven)
            continue
        parts.append([item.texts[0] for item in part])
        bisection.note_accepted(part)
    return parts


@pytest.mark.parametrize(
    ("offender", "parts"),
    [
        (0, [["a0"], ["b0", "c0", "d0"]]),
        (1, [["b0"], ["a0", "c0", "d0"]]),
        (3, [["b0"], ["a0", "c0", "d0"]]),
        (4, [["c0"], ["a0", "b0", "d0"]]),
        (6, [["d0"], ["a0", "b0", "c0"]]),
        (7, [["a0", "b0"], ["c0", "d0"]]),
        (-1, [["a0", "b0"], ["c0", "d0"]]),
        (None, [["a0", "b0"], ["c0", "d0"]]),
    ],
)
def test_p8_the_input_that_is_blamed_is_sent_alone_with_all_its_pieces(
    offender: int | None, parts: list[list[str]]
) -> None:
    pieces = {"a": 1, "b": 3, "c": 2, "d": 1}
    batch = [item_of(*(f"{name}{n}" for n in range(count))) for name, count in pieces.items()]
    assert parts_after(batch, named(7, offender)) == parts


def test_p8_a_blame_that_was_wrong_is_not_believed_again() -> None:
    batch = items(6)
    bisection = Bisection(batch, LearnedLimits())
    bisection.next_part()
    bisection.note_refusal(batch, named(6, 0), CAP)
    alone = bisection.next_part()
    assert alone == [batch[0]]
    bisection.note_accepted(alone)
    rest = bisection.next_part()
    assert rest == batch[1:]
    bisection.note_refusal(rest, named(5, 0), CAP)
    assert [len(part) for part in iter(bisection.next_part, None)] == [2, 3]


def test_p8_a_blame_that_was_right_is_believed_again() -> None:
    batch = items(6)
    bisection = Bisection(batch, LearnedLimits())
    bisection.next_part()
    for blamed in (4, 2):
        bisection.note_refusal(batch, named(6, blamed), CAP)
        assert bisection.next_part() == [batch[blamed]]
        assert isinstance(bisection.note_refusal([batch[blamed]], named(1, 0), CAP), FailItems)
        assert bisection.next_part() == [item for item in batch if item is not batch[blamed]]


def test_p9_while_nothing_is_proven_one_text_from_the_middle_goes_first() -> None:
    assert parts_after(items(5), BadRequestError("400"), proven=False) == [["2"], ["0", "1"], ["3", "4"]]
    assert parts_after(items(2), BadRequestError("400"), proven=False) == [["0"], ["1"]]
    assert parts_after(items(3), BadRequestError("400"), proven=False) == [["1"], ["0"], ["2"]]
    assert parts_after(items(5), named(5, 0), proven=False) == [["3"], ["0"], ["1", "2", "4"]]
    assert parts_after(items(3), named(3, 0), proven=False) == [["2"], ["0"], ["1"]]
    assert parts_after(items(2), named(2, 0), proven=False) == [["0"], ["1"]]


def test_p7_a_batch_that_the_cap_cuts_in_two_is_not_halved_again() -> None:
    assert [len(part) for part in parts_after(items(8), BadRequestError("400"), cap=Cap(4, 300_000))] == [4, 4]


def test_p1_a_rate_limit_is_no_doubt_of_the_texts() -> None:
    batch = items(4)
    bisection = Bisection(batch, LearnedLimits())
    assert not bisection.doubted
    bisection.next_part()
    bisection.note_refusal(batch, RateLimitError("429"), CAP, proven=False)
    assert not bisection.doubted
    part = bisection.next_part()
    assert part == batch[:2]
    bisection.note_refusal(part, BadRequestError("400"), CAP)
    assert bisection.doubted
    part = bisection.next_part()
    assert part == batch[2:]
    bisection.note_refusal(batch[2:], RateLimitError("429"), CAP)
    assert bisection.doubted
    assert [len(part) for part in iter(bisection.next_part, None)] == [1, 1, 1, 1]


def test_p7_a_size_that_was_refused_without_a_word_teaches_the_largest_that_was_accepted() -> None:
    learned_limits = LearnedLimits()
    batch = items(8)
    bisection = Bisection(batch, learned_limits)
    bisection.next_part()
    bisection.note_refusal(batch, BadRequestError("400"), CAP)
    while part := bisection.next_part():
        if len(part) > 3:
            bisection.note_refusal(part, BadRequestError("400"), CAP)
        else:
            bisection.note_accepted(part)
    assert (learned_limits.inputs, learned_limits.tokens) == (2, 2.0)


def test_p7_a_bad_text_teaches_no_size() -> None:
    learned_limits = LearnedLimits()
    batch = items(4)
    bisection = Bisection(batch, learned_limits)
    while part := bisection.next_part():
        if batch[0] in part:
            bisection.note_refusal(part, BadRequestError("400"), CAP)
        else:
            bisection.note_accepted(part)
    assert learned_limits.narrow_cap(CAP) == CAP


def test_p7_a_limit_of_tokens_is_learned_too() -> None:
    learned_limits = LearnedLimits()
    batch = items(10)
    bisection = Bisection(batch, learned_limits)
    bisection.next_part()
    error = BadRequestError("400: at most 5 tokens")
    error.max_tokens_per_batch = 5
    bisection.note_refusal(batch, error, CAP)
    assert [len(part) for part in iter(bisection.next_part, None)] == [5, 5]
    assert learned_limits.narrow_cap(CAP) == Cap(2_048, 5)


def test_p16_a_broken_reply_is_asked_for_again_once_for_the_whole_and_for_a_single_text() -> None:
    batch, broken, weight = items(8), InvalidReplyError("broken"), Weight()
    weight.note_accepted(batch)
    bisection = Bisection(batch, LearnedLimits(), weight)
    assert bisection.next_part() == batch
    assert bisection.note_refusal(batch, broken, CAP) == Resend()
    assert bisection.next_part() == batch
    assert bisection.note_refusal(batch, broken, CAP) == Split()
    assert bisection.next_part() == batch[:2]
    assert bisection.note_refusal(batch[:2], broken, CAP) == Split()
    for start in (2, 4, 6):
        assert bisection.next_part() == batch[start : start + 2]
        bisection.note_accepted(batch[start : start + 2])
    assert bisection.next_part() == batch[:1]
    assert bisection.note_refusal(batch[:1], broken, CAP) == Resend()
    assert bisection.next_part() == batch[:1]
    assert bisection.note_refusal(batch[:1], broken, CAP) == FailItems()
    assert bisection.next_part() == batch[1:2]
    assert bisection.next_part() is None


def test_a3_a_broken_reply_for_more_texts_than_ever_were_accepted_is_not_bought_again_at_that_size() -> None:
    weight = Weight()
    bisection = Bisection(items(200), LearnedLimits(), weight)
    sizes = []
    while part := bisection.next_part():
        sizes.append(len(part))
        if len(part) > 1:
            assert bisection.note_refusal(part, ShapeError("one vector"), CAP) == Split()
        else:
            bisection.note_accepted(part)
    assert sizes[:4] == [200, 1, 4, 2]
    assert sum(sizes) - 200 <= 200 + 4 + 2 * 3
    assert weight.narrow_cap(CAP).inputs == 1


def test_p7_a_limit_may_be_one_and_what_is_as_large_as_the_limit_is_allowed() -> None:
    learned_limits = LearnedLimits()
    learned_limits.learn(1, 1)
    assert learned_limits.narrow_cap(CAP) == Cap(1, 1)
    assert learned_limits.is_allowed(1, 1.0)
    assert not learned_limits.is_allowed(2, 1.0)
    assert not learned_limits.is_allowed(1, 1.5)


def test_p7_a_refusal_without_a_word_is_not_forgotten_when_another_one_names_its_text() -> None:
    learned_limits, batch = LearnedLimits(), items(4)
    bisection = Bisection(batch, learned_limits)
    bisection.next_part()
    bisection.note_refusal(batch, BadRequestError("400"), CAP)
    half = bisection.next_part()
    assert half == batch[:2]
    bisection.note_refusal(half, named(2, 0), CAP)
    while part := bisection.next_part():
        bisection.note_accepted(part)
    assert (learned_limits.inputs, learned_limits.tokens) == (2, 2.0)


def test_p7_two_parts_hold_what_the_cap_allows_and_not_half_of_the_texts() -> None:
    batch = [item_of(str(number), tokens=tokens) for number, tokens in enumerate((90.0, 60.0, 10.0, 10.0))]
    assert parts_after(batch, BadRequestError("400"), cap=Cap(2_048, 100)) == [["0", "2"], ["1", "3"]]


def test_a2_what_is_refused_while_everything_is_is_sent_again_a_bounded_number_of_times() -> None:
    batch = items(2)
    bisection = Bisection(batch, LearnedLimits())
    assert [bisection.voids(batch[:1]) for _ in range(5)] == [True, True, True, False, False]
    assert bisection.voids(batch[1:])


def test_a_part_that_was_not_sent_is_cut_and_nothing_is_held_against_it() -> None:
    bisection = Bisection(items(8), LearnedLimits())
    whole = bisection.next_part()
    assert whole is not None
    before = bisection.tries_of(whole)
    bisection.cut(whole)
    parts = []
    while part := bisection.next_part():
        tries = bisection.tries_of(part)
        assert (tries.most, tries.alone) == (before.most, before.alone)
        parts.append([item.texts[0] for item in part])
        bisection.note_accepted(part)
    assert parts == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]
