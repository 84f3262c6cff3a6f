"""What is said of a reply, its bounds, and what of it is held in memory."""

from __future__ import annotations

import gc
from typing import Any

import msgspec
import numpy as np
import pybase64
import pytest

from aembed.core.replies import ReplyReader
from aembed.core.vectors import check, decode_base64, from_base64, from_floats, vectors_in_order
from aembed.errors import InvalidReplyError
from tests.core.broken_replies import parse_openai, reply_of, unit_vectors, wire

FORMATS = pytest.mark.parametrize("floats", [True, False], ids=["floats", "base64"])


def said_of(body: bytes | dict[str, Any], *, inputs: int = 2, dimensions: int | None = None) -> str:
    with pytest.raises(InvalidReplyError) as raised:
        parse_openai(body if isinstance(body, bytes) else wire(body), inputs=inputs, dimensions=dimensions)
    return str(raised.value)


@FORMATS
def test_p16_to_p23_the_message_says_what_is_wrong(floats: bool) -> None:
    vectors = unit_vectors(20, 2, 4)
    reply = reply_of(vectors, floats=floats)
    assert said_of(reply, inputs=3) == "the reply has 2 vectors for 3 inputs"
    assert said_of(reply, dimensions=8) == "the vectors have 4 dimensions instead of 8"
    assert said_of(reply | {"data": []}, inputs=0) == "the reply is empty"
    twice = reply_of(vectors, floats=floats)
    twice["data"][1]["index"] = 0
    assert said_of(twice) == "`index` does not name each of the 2 inputs once"
    beyond = reply_of(vectors, floats=floats)
    beyond["data"][1]["index"] = 2
    assert said_of(beyond) == "`index` does not name each of the 2 inputs once"
    ragged = reply_of([vectors[0], vectors[1][:2]], floats=floats)
    assert said_of(ragged) == "the vectors differ in length"
    none = reply_of(vectors, floats=floats)
    for item in none["data"]:
        item["embedding"] = [] if floats else ""
    assert said_of(none) == "the vectors are empty"
    mixed = reply_of(vectors, floats=floats)
    mixed["data"][1] = reply_of(vectors, floats=not floats)["data"][1]
    assert said_of(mixed) == "the reply mixes base64 and numbers"


@FORMATS
@pytest.mark.parametrize(
    ("value", "message"), [(0.0, "vector 1 is zero"), (np.inf, "vector 1 holds NaN or infinity"), (1e30, "")]
)
def test_p20_the_message_names_the_vector(floats: bool, value: float, message: str) -> None:
    vectors = unit_vectors(21, 3, 4)
    vectors[1] = value
    matrix = np.array(vectors)
    with pytest.raises(InvalidReplyError) as raised:
        check(matrix, dimensions=4, normalised=floats)
    assert str(raised.value) == (message or "vector 1 holds NaN or infinity")


def test_p22_the_message_says_why_it_is_no_reply() -> None:
    prefix = "the reply is not an embedding reply: "
    assert said_of(b"<html>") == prefix + "it is not JSON"
    assert said_of(b'{"data": [{"embedding": "\xff"}]}') == prefix + "it is not UTF-8"
    assert said_of(b'{"x": ' + b"[" * 100_000) == prefix + "it is not JSON"
    assert said_of(b'{"data": 1}') == prefix + "Expected `array`, got `int` - at `$.data`"


def test_p21_the_message_tells_what_is_wrong_with_the_base64() -> None:
    def of(*vectors: str) -> dict[str, Any]:
        return {"data": [{"index": number, "embedding": vector} for number, vector in enumerate(vectors)]}

    assert said_of(of("AAAA", "AAAA")) == "4 characters of base64 are no whole number of float32 values"
    assert said_of(of("AAAAA", "AAAAA")) == "a vector is not base64"
    assert said_of(of("AAAAAA==", "AAAA!A==")) == "a vector is not base64"
    assert said_of(of("AAAAAA==", "AAAAAAA=")) == "a vector is not base64"
    assert said_of(of("ü" * 8, "ü" * 8)) == "a vector is not base64"
    assert said_of(of("AAAAgD8=", "AAAAgD8=")) == "8 characters of base64 are no whole number of float32 values"


def test_p18_some_items_with_an_index_and_some_without_are_no_order() -> None:
    reply = reply_of(unit_vectors(22, 3, 4), floats=True)
    del reply["data"][1]["index"]
    assert said_of(reply, inputs=3) == "`index` does not name each of the 3 inputs once"


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_rows_that_are_decoded_together_are_those_that_were_sent(dimensions: int) -> None:
    vectors = unit_vectors(23, 5, dimensions)
    rows = [pybase64.b64encode(vector.astype("<f4").tobytes()) for vector in vectors]
    assert np.array_equal(decode_base64(rows, 4 * dimensions), vectors)
    assert np.array_equal(from_base64([row.decode() for row in rows]), vectors)
    with pytest.raises(ValueError, match="the rows differ in length"):
        decode_base64([rows[0], rows[0] + rows[0] if dimensions == 3 else b"AAAAAAAAAAAAAAAAAAAAAA=="], 4 * dimensions)


def test_numbers_too_large_for_float32_are_infinite_and_no_warning() -> None:
    assert np.isinf(from_floats([[1e300, 1.0]])[0, 0])


def test_the_longest_and_the_shortest_vector_that_pass_as_normalised() -> None:
    for length, passes in ((0.9001, True), (0.8999, False), (1.0999, True), (1.1001, False)):
        matrix = np.array([[1.0, 0.0], [length, 0.0]], np.float32)
        if passes:
            check(matrix, dimensions=None, normalised=True)
        else:
            with pytest.raises(InvalidReplyError) as raised:
                check(matrix, dimensions=None, normalised=True)
            assert str(raised.value) == f"vector 1 has length {length:.3g}; this model's vectors have length 1"


def test_a_vector_may_have_any_length_unless_it_is_asked_for_one() -> None:
    body = wire(reply_of(3 * unit_vectors(30, 2, 4), floats=True))
    assert parse_openai(body, inputs=2, dimensions=4).matrix.shape == (2, 4)
    assert fed(body, 2).parse(dimensions=4).matrix.shape == (2, 4)
    with pytest.raises(InvalidReplyError, match="vector 0 has length 3"):
        parse_openai(body, inputs=2, dimensions=4, normalised=True)


def test_in_order_is_by_index_or_as_they_stand() -> None:
    assert vectors_in_order([(2, "c"), (0, "a"), (1, "b")], 3) == ["a", "b", "c"]
    assert vectors_in_order([(msgspec.UNSET, "c"), (msgspec.UNSET, "a")], 2) == ["c", "a"]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"total_tokens": 9, "prompt_tokens": 5}, 9),
        ({"prompt_tokens": 5}, 5),
        ({"total_tokens": 0, "prompt_tokens": 5}, 0),
        ({"total_tokens": 10**12}, 10**12),
        ({"total_tokens": 10**12 + 1}, None),
    ],
)
@FORMATS
def test_p25_usage_is_the_total_or_what_the_prompt_took(floats: bool, usage: object, tokens: int | None) -> None:
    reply = reply_of(unit_vectors(24, 2, 4), floats=floats) | {"usage": usage}
    assert parse_openai(wire(reply), inputs=2, dimensions=4).usage.tokens == tokens


def fed(body: bytes, inputs: int, piece_bytes: int = 4_096) -> ReplyReader:
    reader = ReplyReader(inputs)
    for start in range(0, len(body), piece_bytes):
        reader.feed(body[start : start + piece_bytes])
    return reader


@pytest.mark.parametrize("piece_bytes", [4_096, 10**7])
def test_of_a_large_reply_little_more_than_its_matrix_is_held(piece_bytes: int) -> None:
    body = wire(reply_of(unit_vectors(25, 100, 512), floats=False))
    reader = fed(body, 100, piece_bytes)
    assert reader.size_bytes == len(body)
    assert len(reader._ahead) + sum(map(len, reader._before)) < len(body) / 10
    assert reader.whole_reply() == body
    assert reader.parse(dimensions=512).model == "text-embedding-3-small"


@pytest.mark.parametrize(("floats", "extra"), [(True, 0), (False, 200_000)])
def test_a_reply_of_another_kind_is_held_whole_and_read_all_the_same(floats: bool, extra: int) -> None:
    vectors = unit_vectors(26, 200, 64)
    reply = {"note": "x" * extra} | reply_of(vectors, floats=floats)
    body = wire(reply)
    assert len(body) > 200_000
    reader = fed(body, 200)
    assert reader._whole == reader.whole_reply() == body
    assert np.array_equal(reader.parse(dimensions=64).matrix, vectors)


@pytest.mark.parametrize(("first", "between", "cut"), [(900, 200, True), (1_100, 0, False), (0, 400, False)])
def test_a_vector_is_looked_for_close_by(first: int, between: int, cut: bool) -> None:
    reply = reply_of(unit_vectors(27, 3, 8), floats=False)
    for item in reply["data"]:
        item["note"] = "x" * between
    body = wire({"note": "x" * first} | reply)
    reader = fed(body, 3)
    assert (reader._parse_cut() is not None) is cut
    assert np.array_equal(reader.parse(dimensions=8).matrix, unit_vectors(27, 3, 8))


def test_a_reply_that_turns_out_to_be_of_another_kind_late_is_put_together_again() -> None:
    vectors = unit_vectors(30, 500, 8)
    reply = reply_of(vectors, floats=False)
    reply["data"][400]["note"] = "x" * 400
    body = wire(reply)
    for piece_bytes in (10_000, len(body)):
        reader = fed(body, 500, piece_bytes)
        assert reader.whole_reply() == body
        assert np.array_equal(reader.parse(dimensions=8).matrix, vectors)


@pytest.mark.parametrize("dimensions", [16, 24])
def test_a_reply_of_many_vectors_calls_for_no_collection_of_garbage(dimensions: int) -> None:
    body = wire(reply_of(unit_vectors(31, 2_048, dimensions), floats=False))
    parse_openai(body, inputs=2_048, dimensions=dimensions)
    gc.collect()
    before = gc.get_stats()[0]["collections"]
    parse_openai(body, inputs=2_048, dimensions=dimensions)
    assert gc.get_stats()[0]["collections"] - before <= 1


def test_a_reply_that_holds_a_mark_of_ours_is_read_whole() -> None:
    vectors = unit_vectors(28, 3, 8)
    reply = reply_of(vectors, floats=False) | {"model": "model #1"}
    assert fed(wire(reply), 3)._parse_cut() is None
    parsed = parse_openai(wire(reply), inputs=3, dimensions=8)
    assert parsed.model == "model #1"
    assert np.array_equal(parsed.matrix, vectors)


def test_a_reply_of_more_or_fewer_vectors_than_inputs_is_read_whole_and_refused() -> None:
    body = wire(reply_of(unit_vectors(29, 3, 8), floats=False))
    for inputs in (2, 4):
        assert fed(body, inputs)._parse_cut() is None
        assert said_of(body, inputs=inputs) == f"the reply has 3 vectors for {inputs} inputs"
    assert parse_openai(body, inputs=3, dimensions=8).matrix.shape == (3, 8)


@FORMATS
def test_p22_a_byte_order_mark_before_a_reply_is_no_part_of_it(floats: bool) -> None:
    vectors = unit_vectors(33, 3, 8)
    parsed = parse_openai(b"\xef\xbb\xbf" + wire(reply_of(vectors, floats=floats)), inputs=3, dimensions=8)
    assert np.array_equal(parsed.matrix, vectors)


@FORMATS
@pytest.mark.parametrize("model", [5, None, {"name": "m"}, ["m"]])
def test_p24_a_model_whose_name_is_no_text_has_none(floats: bool, model: object) -> None:
    reply = reply_of(unit_vectors(34, 3, 8), floats=floats) | {"model": model}
    assert parse_openai(wire(reply), inputs=3, dimensions=8).model == ""
