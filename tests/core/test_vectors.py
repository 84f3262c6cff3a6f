from __future__ import annotations

import json
import os
import random
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aembed.core.replies import _REPLY, Parsed, ReplyReader, _parse_whole, decode_reply
from aembed.core.vectors import DimensionError, check
from aembed.errors import InvalidReplyError
from tests.core.broken_replies import KINDS, parse_openai, reply_of, unit_vectors, wire

EXAMPLES = int(os.environ.get("AEMBED_BROKEN_REPLIES", "40"))
FORMS = [
    (name, floats)
    for name in KINDS
    for floats in (True, False)
    if KINDS[name](random.Random(0), reply_of(unit_vectors(0, 4, 8), floats=floats)) is not None
]
FORMATS = pytest.mark.parametrize("floats", [True, False], ids=["floats", "base64"])


@FORMATS
@pytest.mark.parametrize("dimensions", [1, 2, 3, 512, 1536])
def test_vectors_arrive_as_they_were_sent(floats: bool, dimensions: int) -> None:
    vectors = unit_vectors(1, 5, dimensions)
    parsed = parse_openai(wire(reply_of(vectors, floats=floats)), inputs=5, dimensions=dimensions, normalised=True)
    assert np.array_equal(parsed.matrix, vectors)
    assert parsed.matrix.dtype == np.float32
    assert parsed.matrix.flags.c_contiguous
    assert (parsed.model, parsed.usage.tokens, parsed.floats) == ("text-embedding-3-small", 7, floats)


@FORMATS
@given(order=st.permutations(range(9)))
def test_p17_shuffled_items_are_put_in_the_order_of_their_index(floats: bool, order: list[int]) -> None:
    vectors = unit_vectors(2, 9, 6)
    reply = reply_of(vectors, floats=floats)
    reply["data"] = [reply["data"][i] for i in order]
    assert np.array_equal(parse_openai(wire(reply), inputs=9, dimensions=6).matrix, vectors)


@FORMATS
@pytest.mark.parametrize("null", [True, False])
def test_p18_index_missing_or_null_on_all_items_means_their_position(floats: bool, null: bool) -> None:
    """null is what the openai types write for an index that was missing."""
    vectors = unit_vectors(3, 4, 6)
    reply = reply_of(vectors, floats=floats)
    for item in reply["data"]:
        del item["index"]
        item |= {"index": None} if null else {}
    assert np.array_equal(parse_openai(wire(reply), inputs=4, dimensions=6).matrix, vectors)


@FORMATS
@given(order=st.permutations(range(5)), zero=st.sampled_from(["left out", None, "0"]), as_text=st.booleans())
def test_p18_index_may_leave_out_0_and_may_be_text(
    floats: bool, order: list[int], zero: str | None, as_text: bool
) -> None:
    """protobuf's JSON leaves out what is 0, and writes large numbers as text."""
    vectors = unit_vectors(3, 5, 6)
    reply = reply_of(vectors, floats=floats)
    for item in reply["data"]:
        item["index"] = str(item["index"]) if as_text else item["index"]
    if zero == "left out":
        del reply["data"][0]["index"]
    else:
        reply["data"][0]["index"] = zero
    reply["data"] = [reply["data"][i] for i in order]
    assert np.array_equal(parse_openai(wire(reply), inputs=5, dimensions=6).matrix, vectors)


@pytest.mark.parametrize(("kind", "floats"), FORMS)
def test_p16_to_p23_broken_replies_are_all_detected(kind: str, floats: bool) -> None:
    """60 kinds and more; AEMBED_BROKEN_REPLIES=1000 for the long run."""
    rng = random.Random(f"{kind} {floats}")
    for seed in range(EXAMPLES):
        inputs, dimensions = rng.randint(3, 8), rng.randint(8, 24)
        reply = reply_of(unit_vectors(seed, inputs, dimensions), floats=floats)
        broken = KINDS[kind](rng, deepcopy(reply))
        assert broken is not None
        body = wire(broken)
        assert body != wire(reply)
        with pytest.raises(InvalidReplyError):
            parse_openai(body, inputs=inputs, dimensions=dimensions, normalised=True)


def test_p16_to_p23_there_are_60_kinds_of_broken_replies() -> None:
    assert len(KINDS) >= 60
    assert len(FORMS) >= 120


@pytest.mark.parametrize("floats", [True, False])
def test_p19_any_dimension_will_do_where_none_is_known_but_not_two(floats: bool) -> None:
    vectors = unit_vectors(4, 3, 8)
    assert parse_openai(wire(reply_of(vectors, floats=floats)), inputs=3, dimensions=None).matrix.shape == (3, 8)
    ragged = reply_of([vectors[0], vectors[1][:4], vectors[2]], floats=floats)
    with pytest.raises(DimensionError):
        parse_openai(wire(ragged), inputs=3, dimensions=None)


def test_p21_lengths_that_only_fit_when_joined_are_refused() -> None:
    """9 and 7 bytes are 2 x 2 float32 values together; no vector of them would be right."""
    reply = reply_of(unit_vectors(5, 2, 2), floats=False)
    reply["data"][0]["embedding"], reply["data"][1]["embedding"] = "AAAAAAAAAAAA", "AAAAAAAAAA=="
    with pytest.raises(InvalidReplyError):
        parse_openai(wire(reply), inputs=2, dimensions=None)


def test_p19_norms_within_a_tenth_pass_and_others_do_not() -> None:
    vectors = unit_vectors(6, 3, 16)
    for factor in (0.91, 1.0, 1.09):
        check(vectors * np.float32(factor), dimensions=16, normalised=True)
    for factor in (0.89, 1.11):
        scaled = vectors.copy()
        scaled[1] *= np.float32(factor)
        check(scaled, dimensions=16, normalised=False)
        with pytest.raises(InvalidReplyError, match=r"vector 1 has length (0.89|1.11)"):
            check(scaled, dimensions=16, normalised=True)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        5,
        "x",
        [],
        {},
        {"total_tokens": None},
        {"total_tokens": "7"},
        {"total_tokens": -1},
        {"total_tokens": 2**70},
    ],
)
def test_p25_usage_that_says_nothing_is_none(usage: object) -> None:
    reply = reply_of(unit_vectors(7, 2, 4), floats=True) | {"usage": usage}
    assert parse_openai(wire(reply), inputs=2, dimensions=4).usage.tokens is None


def test_usage_and_model_may_be_missing() -> None:
    reply = reply_of(unit_vectors(8, 2, 4), floats=True)
    del reply["usage"], reply["model"]
    parsed = parse_openai(wire(reply), inputs=2, dimensions=4)
    assert (parsed.model, parsed.usage.tokens) == ("", None)


@given(st.binary(max_size=300))
def test_p22_any_bytes_are_an_invalid_reply_and_nothing_else(body: bytes) -> None:
    with pytest.raises(InvalidReplyError):
        parse_openai(body, inputs=2, dimensions=None)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["data", "index", "embedding"]), inner),
    max_leaves=12,
)


@given(JSON)
def test_p22_any_json_is_an_invalid_reply_or_a_sound_matrix(value: object) -> None:
    try:
        parsed = parse_openai(json.dumps(value).encode(), inputs=1, dimensions=None)
    except InvalidReplyError:
        return
    assert parsed.matrix.shape[0] == 1
    assert np.isfinite(parsed.matrix).all()
    assert parsed.matrix.any()


def test_the_message_does_not_carry_the_reply() -> None:
    reply = reply_of(unit_vectors(9, 2, 4), floats=False)
    reply["data"][0]["embedding"] = "!canary!"
    with pytest.raises(InvalidReplyError) as raised:
        parse_openai(wire(reply), inputs=2, dimensions=4)
    assert "canary" not in str(raised.value)


PRETTY = {"compact": (",", ":"), "spaced": (", ", ": "), "pretty": (" ,\n", " :  ")}


def as_whole(body: bytes | bytearray, inputs: int) -> tuple[object, ...] | None:
    try:
        return said(_parse_whole(decode_reply(_REPLY, body), inputs))
    except InvalidReplyError:
        return None


def said(parsed: Parsed) -> tuple[object, ...]:
    return parsed.matrix.shape, parsed.matrix.tobytes(), parsed.model, parsed.usage.tokens, parsed.floats


def agree(body: bytes, inputs: int, piece_bytes: int = 1_000) -> bool:
    """Whether the vectors were cut out; if so, the parser of the whole reply says the same of it."""
    reader = ReplyReader(inputs)
    for start in range(0, len(body), piece_bytes):
        reader.feed(body[start : start + piece_bytes])
    cut, whole = reader._parse_cut(), as_whole(body, inputs)
    # Put together again it is the same reply; padding may have had other bits that mean nothing.
    assert reader.whole_reply() == body or as_whole(reader.whole_reply(), inputs) == whole
    assert cut is None or said(cut) == whole, body
    return cut is not None


@pytest.mark.parametrize("separators", PRETTY.values(), ids=PRETTY)
@pytest.mark.parametrize("dimensions", [1, 2, 3, 16, 384])
def test_vectors_are_cut_out_whatever_the_white_space(separators: tuple[str, str], dimensions: int) -> None:
    reply = reply_of(unit_vectors(10, 12, dimensions), floats=False)
    for piece_bytes in (1, 7, 100, 10_000, 1_000_000):
        assert agree(json.dumps(reply, separators=separators).encode(), 12, piece_bytes)
        assert agree(json.dumps(reply, separators=separators, indent=2).encode(), 12, piece_bytes)


@given(order=st.permutations(range(12)), names=st.permutations(["object", "index", "embedding"]))
def test_vectors_are_cut_out_whatever_the_order(order: list[int], names: list[str]) -> None:
    reply = reply_of(unit_vectors(11, 12, 6), floats=False)
    reply["data"] = [{name: reply["data"][i][name] for name in names} for i in order]
    assert agree(wire(reply), 12)


@pytest.mark.parametrize(("kind", "floats"), FORMS)
def test_p16_to_p23_both_parsers_agree_on_broken_replies(kind: str, floats: bool) -> None:
    rng = random.Random(f"agree {kind} {floats}")
    for seed in range(EXAMPLES):
        inputs = rng.randint(3, 8)
        broken = KINDS[kind](rng, reply_of(unit_vectors(seed, inputs, rng.randint(8, 24)), floats=floats))
        assert broken is not None
        agree(wire(broken), inputs)


MARKS = [
    b'"',
    b"\\",
    b"#0",
    b"#1",
    b"=",
    b"==",
    b"A",
    b"AAAA",
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b" ",
    b"0",
    b"1",
    b"\xff",
]
PHRASES = [b'"embedding":"', b'"embedding":"AAAA"', b'"embedding":"#0"', b'"index":', b'{"embedding":"', b"null", b"\n"]
PIECES = st.sampled_from(MARKS + PHRASES)
REPLIES = [wire(reply_of(unit_vectors(seed, 3, dimensions), floats=False)) for seed, dimensions in ((12, 3), (13, 2))]


@settings(max_examples=500)
@given(
    body=st.sampled_from(REPLIES),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 30), PIECES), min_size=1, max_size=4),
    piece_bytes=st.integers(1, 400),
)
def test_p22_both_parsers_agree_on_replies_edited_anywhere(
    body: bytes, edits: list[tuple[int, int, bytes]], piece_bytes: int
) -> None:
    for start, length, piece in edits:
        body = body[:start] + piece + body[start + length :]
    agree(body, 3, piece_bytes)


def test_a_vector_that_stands_elsewhere_is_not_taken_for_one() -> None:
    """The decoy has the form of a vector, and the item's own is written in a form that is not looked for."""
    decoy = b'{"data":[{"x":{"embedding":"AAAAgD8A"},"index":0,"embedding" \n\n\n\n\n\n\n\n\n\n: "#0"}]}'
    assert not agree(decoy, 1)
    with pytest.raises(InvalidReplyError):
        parse_openai(decoy, inputs=1, dimensions=None)
