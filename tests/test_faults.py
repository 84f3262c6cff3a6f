"""FAULTS.md and the tests name the same rows: P8 is `test_p8_...`, and `test_p16_to_p23_...` stands for eight."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROW = re.compile(r"^\| ([A-Z]\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
NUMBERED = re.compile(r"test_((?:[abcdeginpqstxz]\d+_(?:to_)?)+)")
TEST = re.compile(r"^ *(?:async )?def (test_\w+)", re.MULTILINE)
SPAN = re.compile(r"([a-z])(\d+)_(?:to_\1(\d+)_)?")


def rows_of(name: str) -> Iterator[str]:
    """The rows that a test's name carries."""
    found = NUMBERED.match(name)
    for letter, first, last in SPAN.findall(found[1] if found else ""):
        yield from (f"{letter.upper()}{number}" for number in range(int(first), int(last or first) + 1))


def numbered_tests() -> dict[str, list[str]]:
    found = defaultdict(list)
    for path in sorted([*HERE.rglob("test_*.py"), *(HERE.parent / "benchmarks" / "tests").glob("test_*.py")]):
        for name in TEST.findall(path.read_text(encoding="utf-8")):
            for row in rows_of(name):
                found[row].append(f"{path.relative_to(HERE.parent)}::{name}")
    return found


TESTS = numbered_tests()
ROWS = ROW.findall((HERE / "FAULTS.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("test_p8_one_bad_text", ["P8"]),
        ("test_p5_p6_n10_the_first_verdict", ["P5", "P6", "N10"]),
        ("test_p16_to_p19_broken_replies", ["P16", "P17", "P18", "P19"]),
        ("test_p1_p16_to_p17_n4_odd", ["P1", "P16", "P17", "N4"]),
        ("test_i13_to_the_end", ["I13"]),
        ("test_b3_a13_of_two_letters", ["B3", "A13"]),
        ("test_p256_curves", ["P256"]),
        ("test_utf8_text", []),
        ("test_a_p8_is_not_at_the_start", []),
    ],
)
def test_the_rows_in_a_name(name: str, rows: list[str]) -> None:
    assert list(rows_of(name)) == rows


@pytest.mark.parametrize(("row", "fault", "behaviour"), ROWS)
def test_each_row_has_a_test_and_says_what_happens(row: str, fault: str, behaviour: str) -> None:
    assert TESTS.get(row), f"no test is named test_{row.lower()}_..."
    assert fault.endswith(".")
    assert behaviour.endswith(".")


@pytest.mark.parametrize("row", sorted(TESTS))
def test_each_numbered_test_has_a_row(row: str) -> None:
    assert row in {name for name, _, _ in ROWS}, f"FAULTS.md has no row {row}: {', '.join(TESTS[row])}"


def test_no_row_stands_twice() -> None:
    names = [name for name, _, _ in ROWS]
    assert len(names) == len(set(names)) > 50
