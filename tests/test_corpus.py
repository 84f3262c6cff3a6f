from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sections import MAX_BYTES, MIN_BYTES, SECTIONS, cut, sections

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return sections()


def test_there_are_as_many_distinct_sections_as_promised(corpus: list[str]) -> None:
    assert len(corpus) == len(set(corpus)) == SECTIONS == 19_207


def test_each_has_300_to_2500_bytes(corpus: list[str]) -> None:
    sizes = [len(text.encode()) for text in corpus]
    assert (MIN_BYTES, MAX_BYTES) == (300, 2_500)
    assert min(sizes) >= MIN_BYTES
    assert max(sizes) <= MAX_BYTES


def test_they_come_from_pydoc_and_from_the_sources(corpus: list[str]) -> None:
    assert any(text.startswith('The "assert" statement') for text in corpus)
    assert any("class OrderedDict(dict):" in text for text in corpus)
    assert not any("\x00" in text for text in corpus)


def test_fewer_are_the_first_of_all(corpus: list[str]) -> None:
    assert sections(100) == corpus[:100]


def test_too_many_are_an_error_that_says_how_many_there_are() -> None:
    with pytest.raises(LookupError, match=r"sections of 10,000,000 wanted in .*Lib/test"):
        sections(10_000_000)


def test_the_command_writes_the_same_file_each_time(tmp_path: Path, corpus: list[str]) -> None:
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    command = [sys.executable, "-m", "tests.sections", "--count", "500", "--out"]
    shown = [
        subprocess.run([*command, str(file)], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for file in files
    ]
    content = files[0].read_bytes()
    lines = [json.loads(line) for line in content.splitlines()]
    assert [line["text"] for line in lines] == corpus[:500]
    assert len({line["id"] for line in lines}) == 500
    assert content == files[1].read_bytes()
    assert shown[0] == shown[1]
    assert hashlib.sha256(content).hexdigest() in shown[0]
    assert f"500 sections, {sum(len(text.encode()) for text in corpus[:500]):,} bytes" in shown[0]


@given(st.lists(st.text(alphabet="aé\n d", max_size=1_500), max_size=8).map("\n\n".join))
def test_a_cut_keeps_the_limits_and_the_words_in_order(text: str) -> None:
    pieces = list(cut(text))
    assert all(MIN_BYTES <= len(piece.encode()) <= MAX_BYTES for piece in pieces)
    rest = iter("".join(text.split()))
    assert all(character in rest for piece in pieces for character in "".join(piece.split()))
