from __future__ import annotations

import json
import re
from dataclasses import replace
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aembed.core.changes import DIGEST_BYTES, Entries, Entry, Fingerprinter, UnstoredEntries, oversize_error, row_digest
from aembed.errors import InputError
from aembed.limits import Limits
from aembed.types import Record, Space
from tests.jobs import item_of

SPACE = Space("openai", "text-embedding-3-small", 1_536)
LIMITS = Limits(max_batch_size=2_048, max_tokens_per_batch=300_000, max_tokens_per_text=8_191)
DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]

good_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not text.isspace())
json_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=5,
)
metadata = st.none() | st.dictionaries(st.text("abc"), json_value, max_size=3)


def fingerprinter(**changes: Any) -> Fingerprinter:
    usual = {"space": SPACE, "input_type": "document", "too_long": "error", "max_tokens_per_text": 8_191}
    return Fingerprinter(**(usual | changes))


def entry_of(text: Any, **changes: Any) -> Entry:
    return fingerprinter(**changes).make_entry(0, Record("an id", text))


@given(good_text)
def test_an_equal_text_has_an_equal_fingerprint_wherever_it_stands(text: str) -> None:
    first = fingerprinter().make_entry(0, Record("a", text))
    second = fingerprinter().make_entry(7, Record("b", text, {"page": 3}, "notes.md"))
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == DIGEST_BYTES
    assert first.size_bytes == len(text.encode())


@given(st.lists(good_text, unique=True, min_size=2))
def test_different_texts_have_different_fingerprints(texts: list[str]) -> None:
    assert len({entry_of(text).fingerprint for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "change",
    [
        {"space": replace(SPACE, provider="ollama")},
        {"space": replace(SPACE, model="text-embedding-3-large")},
        {"space": replace(SPACE, dimensions=512)},
        {"input_type": "query"},
    ],
)
@given(text=good_text)
def test_what_changes_the_vector_changes_the_fingerprint(change: dict[str, Any], text: str) -> None:
    assert entry_of(text, **change).fingerprint != entry_of(text).fingerprint


@given(good_text, st.integers(1, 40))
def test_too_long_matters_only_for_a_text_that_may_be_too_long(text: str, most: int) -> None:
    choices = ("error", "truncate", "split")
    found = {entry_of(text, too_long=choice, max_tokens_per_text=most).fingerprint for choice in choices}
    assert len(found) == (1 if len(text.encode()) <= most else 3)


@given(st.lists(good_text, unique=True, max_size=20), st.sampled_from(["error", "truncate", "split"]))
def test_a_short_text_is_never_taken_for_a_long_one(texts: list[str], too_long: str) -> None:
    texts = list(dict.fromkeys([*texts, *(too_long + text for text in texts)]))
    found = {entry_of(text, too_long=too_long, max_tokens_per_text=6).fingerprint for text in texts}
    assert len(found) == len(texts)


@given(good_text, metadata, metadata, st.none() | st.text("abc"), st.none() | st.text("abc"))
def test_a_row_is_unchanged_only_if_text_metadata_and_source_are(
    text: str, one: Any, other: Any, source: str | None, moved: str | None
) -> None:
    first = fingerprinter().make_entry(0, Record("a", text, one, source))
    second = fingerprinter().make_entry(1, Record("a", text, other, moved))
    assert (first.digest == second.digest) == (canonical(one, source) == canonical(other, moved))
    assert first.fingerprint == second.fingerprint


def canonical(metadata: Any, source: str | None) -> str:
    return json.dumps([metadata, source], sort_keys=True)


def test_the_order_of_metadata_is_no_change() -> None:
    first = fingerprinter().make_entry(0, Record("a", "text", {"x": 1, "y": {"p": 1, "q": 2}}))
    second = fingerprinter().make_entry(0, Record("a", "text", {"y": {"q": 2, "p": 1}, "x": 1}))
    assert first.digest == second.digest


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u2003\u00a0"])
def test_i1_an_empty_text_is_refused_by_its_id(text: str) -> None:
    with pytest.raises(InputError, match="'an id' is empty"):
        entry_of(text)


@given(st.one_of(st.none(), st.integers(), st.floats(), st.binary(), st.lists(st.text()), st.booleans()))
def test_i2_what_is_not_a_str_is_refused_by_its_id_and_type(value: Any) -> None:
    with pytest.raises(InputError, match=f"'an id' must be a str, not {type(value).__name__}"):
        entry_of(value)


@pytest.mark.parametrize(
    ("id", "shown"),
    [
        ("", "an empty str"),
        (1.5, "float"),
        (True, "bool"),
        (np.float64(1), "float64"),
        (None, "NoneType"),
        (b"a", "bytes"),
        (("a", 1), "tuple"),
    ],
)
def test_i2_b11_an_id_of_another_type_is_refused_by_its_name(id: Any, shown: str) -> None:
    with pytest.raises(InputError, match=f"the id must be a str that is not empty, an int or a UUID, not {shown}$"):
        fingerprinter().make_entry(0, Record(id, "text"))


class Colour(StrEnum):
    RED = "red"


class Shade(str, Enum):  # noqa: UP042 - its str() is not its value
    DARK = "dark"


class Number(IntEnum):
    SEVEN = 7


class Marked(str):
    """As BeautifulSoup's and others' are."""

    def __str__(self) -> str:
        return f"<{super().__str__()}>"

    def encode(self, *_: Any) -> bytes:
        return b"something else"


A_UUID = "123e4567-e89b-42d3-a456-426614174000"


@pytest.mark.parametrize(
    ("id", "text"),
    [
        (17, "17"),
        (-1, "-1"),
        (0, "0"),
        (2**70, str(2**70)),
        (np.int64(5), "5"),
        (np.uint8(5), "5"),
        (Number.SEVEN, "7"),
        (UUID(A_UUID), A_UUID),
        (np.str_("a"), "a"),
        (Colour.RED, "red"),
        (Shade.DARK, "dark"),
        (Marked("x"), "x"),
    ],
)
def test_b6_b11_an_id_is_taken_as_its_text(id: Any, text: str) -> None:
    for entries in (fingerprinter(), UnstoredEntries()):
        entry = entries.make_entry(0, Record(id, "text"))
        assert (entry.record.id, type(entry.record.id)) == (text, str)
        assert entry.digest == entries.make_entry(0, Record(text, "text")).digest


@pytest.mark.parametrize("value", [np.str_("red"), Colour.RED, Shade("dark"), Marked("x")], ids=repr)
def test_b6_texts_sources_and_metadata_become_plain_str(value: Any) -> None:
    same = str.__str__(value)
    metadata = {value: [value, {"deep": (value, np.int64(3), np.float64(0.5), np.bool_(True))}], "n": np.int32(1)}
    entry = fingerprinter().make_entry(0, Record("a", value, metadata, value))
    record = entry.record
    wanted = {same: [same, {"deep": [same, 3, 0.5, True]}], "n": 1}
    assert (record.text, record.source, record.metadata) == (same, same, wanted)
    assert {type(record.text), type(record.source), *map(type, record.metadata or ())} == {str}
    assert json.dumps(record.metadata) == json.dumps(wanted)
    assert entry.digest == fingerprinter().make_entry(0, Record("a", same, wanted, same)).digest
    assert type(UnstoredEntries().make_entry(0, Record("a", value)).key) is str


def test_b6_a_name_of_the_model_may_be_of_an_enum() -> None:
    space = Space(Shade("dark"), Marked("small"), 3)
    plain = Fingerprinter(Space("dark", "small", 3), "document", "error", 8_191)
    entry = Fingerprinter(space, "document", "error", 8_191).make_entry(0, Record("a", "text"))
    assert entry.fingerprint == plain.make_entry(0, Record("a", "text")).fingerprint


@pytest.mark.parametrize("source", [5, Path("notes.md"), b"notes.md", ["notes.md"]])
def test_b11_a_source_of_another_type_is_refused_by_its_name(source: Any) -> None:
    for entries in (fingerprinter(), UnstoredEntries()):
        with pytest.raises(InputError, match=f"the source of 'a' must be a str, not {type(source).__name__}"):
            entries.make_entry(0, Record("a", "text", None, source))


@given(st.text(st.characters()))
def test_i7_a_text_is_accepted_exactly_if_utf8_can_carry_it(text: str) -> None:
    assume(text and not text.isspace())
    surrogate = any("\ud800" <= character <= "\udfff" for character in text)
    if not surrogate:
        assert entry_of(text).size_bytes == len(text.encode())
        return
    with pytest.raises(InputError, match="'an id' holds a lone surrogate at position") as raised:
        entry_of(text)
    raised.value.args[0].encode()


def test_i7_an_id_with_a_lone_surrogate_is_refused_in_words_that_can_be_printed() -> None:
    with pytest.raises(InputError, match="lone surrogate") as raised:
        fingerprinter().make_entry(0, Record("a\ud800", "text"))
    raised.value.args[0].encode()


@pytest.mark.parametrize("value", [{"a": object()}, {"a": "\ud800"}, {"a": DEEP}, {("a", "b"): 1}])
def test_metadata_that_is_not_json_is_refused_by_its_id(value: Any) -> None:
    with pytest.raises(InputError, match="'an id': its metadata or source is not JSON"):
        fingerprinter().make_entry(0, Record("an id", "text", value))


def test_i17_an_item_that_fits_in_no_request_is_refused_with_the_numbers() -> None:
    assert oversize_error(item_of(*["x"] * 2_048, tokens=300_000.0), LIMITS) is None
    for item in (item_of(*["x"] * 2_049, tokens=300_000.0), item_of("x", tokens=300_000.1)):
        error = oversize_error(item, LIMITS)
        assert isinstance(error, InputError)
        assert "'an id' needs" in str(error)
        assert "300,000" in str(error)


def test_an_edited_text_changes_the_digest_of_a_row_with_metadata() -> None:
    one, other = (row_digest(fingerprint * 16, {"page": 1}, "a.md") for fingerprint in (b"a", b"b"))
    assert one != other
    assert len(one) == DIGEST_BYTES


@pytest.mark.parametrize("entries", [fingerprinter(), UnstoredEntries()])
def test_an_entry_knows_its_place(entries: Entries) -> None:
    assert entries.make_entry(7, Record("a", "text")).index == 7


@given(st.lists(good_text, unique=True))
def test_where_nothing_is_kept_a_text_is_its_own_key(texts: list[str]) -> None:
    entries = [UnstoredEntries().make_entry(0, Record("a", text, {"any": object()})) for text in texts]
    assert [entry.key for entry in entries] == texts
    assert [entry.size_bytes for entry in entries] == [len(text.encode()) for text in texts]


@pytest.mark.parametrize("record", [Record("a", " "), Record("a", 3), Record("", "text"), Record("a", "\ud800")])
def test_where_nothing_is_kept_the_same_texts_are_refused(record: Record) -> None:
    with pytest.raises(InputError) as raised:
        UnstoredEntries().make_entry(0, record)
    with pytest.raises(InputError, match=re.escape(str(raised.value))):
        fingerprinter().make_entry(0, record)


def test_a_row_with_nothing_but_a_text_has_its_fingerprint_as_digest() -> None:
    assert row_digest(b"f" * 16, None, None) == b"f" * 16
    assert len({row_digest(b"f" * 16, *kept) for kept in ((None, None), (None, "a.md"), ({"page": 1}, None))}) == 3


def test_the_message_says_how_metadata_is_no_json() -> None:
    with pytest.raises(InputError, match=r"'a': its metadata or source is not JSON \(TypeError\); use str"):
        fingerprinter().make_entry(0, Record("a", "text", {"x": object()}))
