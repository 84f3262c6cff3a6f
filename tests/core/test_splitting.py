from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from aembed.core.changes import Item
from aembed.core.packing import Cap
from aembed.core.retrying import FailItems, FailJob
from aembed.core.splitting import Lessons, Remains
from aembed.errors import BadRequestError, InvalidReplyError

CAP = Cap(2_048, 300_000)


def items(n: int) -> list[Item]:
    return [Item((str(number),), 1.0, b"") for number in range(n)]


def search(
    batch: Sequence[Item], bad: set[int], *, named: bool = False, proven: bool = True
) -> tuple[list[str], list[str], int]:
    """The texts that were accepted and those that failed, and the requests that it took."""
    remains, accepted, failed, requests = Remains(batch, Lessons()), list[str](), list[str](), 0
    while part := remains.next():
        requests += 1
        texts = [item.texts[0] for item in part]
        refused = [i for i, text in enumerate(texts) if int(text) in bad]
        if not refused:
            remains.accepted(part)
            accepted += texts
            proven = True
            continue
        error = BadRequestError("400")
        error.offender = refused[0] if named else None
        if isinstance(remains.refused(part, error, CAP, proven=proven), FailItems):
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
    remains = Remains(items(10), Lessons())
    huge = InvalidReplyError("larger than it can be")
    huge.oversized = True
    part = remains.next()
    assert part is not None
    assert not isinstance(remains.refused(part, huge, CAP), FailJob)
    again = remains.next()
    assert again is not None
    assert isinstance(remains.refused(again, huge, CAP), FailJob)


def test_p7_broken_replies_and_named_offenders_teach_no_limit() -> None:
    lessons = Lessons()
    for error in (InvalidReplyError("broken"), BadRequestError("400")):
        remains = Remains(items(8), lessons)
        if isinstance(error, BadRequestError):
            error.offender = 3
        part = remains.next()
        while part:
            if len(part) == 8:
                remains.refused(part, error, CAP)
            else:
                remains.accepted(part)
            part = remains.next()
    assert lessons.within(CAP) == CAP


def test_p7_a_limit_that_is_named_and_explains_the_refusal_is_taken_at_its_word() -> None:
    lessons = Lessons()
    remains = Remains(items(100), lessons)
    error = BadRequestError("400: at most 32")
    error.max_batch_size = 32
    part = remains.next()
    assert part is not None
    remains.refused(part, error, CAP)
    sizes = []
    while part := remains.next():
        sizes.append(len(part))
        remains.accepted(part)
    assert sorted(sizes) == [25, 25, 25, 25]
    assert lessons.within(CAP).inputs == 32
