"""Files of results are read right however their bytes come, and a line is never taken for another one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.core.batch_results import (
    LineReader,
    LineSplitter,
    find_custom_id,
    holds_vectors,
    is_whole,
    read_envelope,
)
from aembed.errors import InvalidReplyError

ROWS = np.arange(12, dtype="<f4").reshape(3, 4) + 1


def reply(*, numbers: bool = False) -> dict[str, Any]:
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": row.tolist() if numbers else pybase64.b64encode(row.tobytes()).decode(),
        }
        for index, row in enumerate(ROWS)
    ]
    return {"object": "list", "data": data, "model": "m", "usage": {"total_tokens": 7}}


def line(id: Any = "a", body: Any = None, *, status: int = 200, last: bool = False) -> bytes:
    """`last`: the id stands behind the reply."""
    response = {"status_code": status, "request_id": "r", "body": reply() if body is None else body}
    found = {"response": response, "error": None}
    return json.dumps({**found, "custom_id": id} if last else {"custom_id": id, **found}).encode()


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_are_the_same_in_whatever_pieces_they_come(lines: list[bytes], data: Any) -> None:
    whole = b"\n".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    splitter, found = LineSplitter(1_000), []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += [b"".join(pieces) for pieces in splitter.feed(whole[start:end])]
    if rest := splitter.rest():
        found.append(b"".join(rest))
    assert found == [each for each in whole.split(b"\n") if each.strip()]


def test_a_line_without_end_is_no_reason_to_fill_the_memory() -> None:
    splitter = LineSplitter(100)
    assert [*splitter.feed(b"x" * 90)] == []
    with pytest.raises(InvalidReplyError, match="longer than 100 bytes"):
        [*splitter.feed(b"x" * 20)]


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_a_line_with_vectors(numbers: bool, last: bool) -> None:
    raw = line("a b", reply(numbers=numbers), last=last)
    for size in (1, 7, 64, len(raw)):
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        assert find_custom_id(pieces) == "a b"
        assert holds_vectors(pieces)
        parsed = LineReader(3, pieces, "a b").parse(dimensions=4)
        assert np.array_equal(parsed.matrix, ROWS)
        assert (parsed.model, parsed.usage.tokens, parsed.floats) == ("m", 7, numbers)


@pytest.mark.parametrize(
    ("raw", "id", "inputs"),
    [
        (line("b"), "a", 3),
        (line("a", status=500), "a", 3),
        (line(None), "a", 3),
        (line("a"), "a", 2),
        (line("a")[:-2], "a", 3),
        # What stands inside of the reply is not the line's own id.
        (line("b", {"custom_id": "a", **reply()}, last=True), "a", 3),
    ],
)
def test_a_line_that_is_not_what_it_was_taken_for(raw: bytes, id: str, inputs: int) -> None:
    with pytest.raises(InvalidReplyError):
        LineReader(inputs, [raw], id).parse(dimensions=4)


@pytest.mark.parametrize("odd", [[1.0], [1.0, 2.0], [], ["x"], None, 3.0])
@pytest.mark.parametrize("at", [0, 8, 16])
def test_one_odd_vector_among_numbers_is_seen(odd: Any, at: int) -> None:
    data = [{"index": index, "embedding": [index + 1.0] * 3} for index in range(17)]
    data[at]["embedding"] = odd
    raw = line("a", {"data": data})
    with pytest.raises(InvalidReplyError):
        LineReader(17, [raw], "a").parse(dimensions=None)


def test_numbers_for_too_many_and_too_few() -> None:
    raw = line("a", {"data": [{"index": index, "embedding": [1.0, 0.0]} for index in range(9)]})
    assert LineReader(9, [raw], "a").parse(dimensions=2).matrix.shape == (9, 2)
    for inputs in (1, 8, 10):
        with pytest.raises(InvalidReplyError):
            LineReader(inputs, [raw], "a").parse(dimensions=2)


def test_an_id_that_is_not_found_at_once() -> None:
    for id in (None, 'with "quotes"', "ünï\ncode"):
        raw = line(id, {"error": {"message": "x" * 5_000}}, status=400)
        assert find_custom_id([raw]) is None
        assert read_envelope(raw).custom_id == id
    assert read_envelope(b'{"custom_id": 17}').custom_id == "17"
    assert read_envelope(b'{"key": "k"}').custom_id == "k"


def test_what_stands_around_a_reply() -> None:
    refused = read_envelope(line("a", {"error": {"message": "no"}}, status=400))
    assert (refused.status, json.loads(refused.body)) == (400, {"error": {"message": "no"}})
    said = {"status_code": 400, "message": "too long"}
    told = read_envelope(json.dumps({"custom_id": "a", "response": said}).encode())
    assert (told.status, json.loads(told.body)) == (400, {"error": {"message": "too long"}})
    unrun = read_envelope(b'{"custom_id":"a","response":null,"error":{"code":"batch_expired"}}')
    assert (unrun.status, unrun.error) == (None, b'{"code":"batch_expired"}')
    for broken in (b"", b"[]", b'{"custom_id": []}', b'{"response": 3}', b"{", b"\xff"):
        with pytest.raises(InvalidReplyError):
            read_envelope(broken)
    assert is_whole(line())
    assert not is_whole(line()[:-1])
