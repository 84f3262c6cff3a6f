"""Which section comes first, for questions that hold an exact name and for questions of prose: three ways to search.

    python -m benchmarks.exact_names [--model local]

The vectors alone; hybrid search; and the usual fusion, for comparison: all words of the question, ranked by FTS5's bm25
and fused by the same rule. 120 questions with a name, made by rule (`tests/exact_names.py`: the section that holds the
name most often is the right one), and 40 of prose, over the two folders of real documents of the tests. The bars: names
are found for twice as many questions as by the vectors alone, and prose no less often.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

from aembed import Embedder, Match, Record
from aembed.core.fusing import DEPTH, fuse
from aembed.core.words import words_of
from benchmarks.results import Bar, finish, table
from tests.exact_names import DOCUMENTS, Question, questions_of, records_of, section_of

WAYS = ("vectors alone", "hybrid", "all words")
KINDS = ("names", "prose")
BEST = "SELECT id FROM words WHERE words MATCH ? ORDER BY rank, id LIMIT ?"


class AllWords:
    """Any word of the question finds a row."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._connection = sqlite3.connect(":memory:")
        self._connection.execute("CREATE VIRTUAL TABLE words USING fts5(id UNINDEXED, text)")
        self._connection.executemany("INSERT INTO words VALUES (?, ?)", [(each.id, each.text) for each in records])

    def close(self) -> None:
        self._connection.close()

    def fuse(self, nearest: Sequence[Match], question: str, k: int) -> list[Match]:
        by_id = {match.id: match for match in nearest}
        asked = " OR ".join(f'"{word}"' for word in words_of(question))
        ranked = [by_id[id] for (id,) in self._connection.execute(BEST, (asked, DEPTH))]
        return fuse(nearest[:DEPTH], ranked, k)


def prose_of(folder: str) -> list[Question]:
    held = json.loads((DOCUMENTS.parent / f"questions_{folder}.json").read_text(encoding="utf-8"))
    return [Question(each["question"], each["section"]) for each in held]


async def answers(model: str, folder: str) -> AsyncIterator[tuple[str, str, str, list[str]]]:
    """Kind of question, way, the right section, and the five that are found."""
    records = records_of(folder)
    with tempfile.TemporaryDirectory() as place, closing(AllWords(records)) as words:
        async with Embedder(model) as embedder:
            store = Path(place) / "sections.db"
            await embedder.embed_into(store, records)
            for kind, questions in zip(KINDS, (questions_of(records), prose_of(folder)), strict=True):
                for question in questions:
                    nearest = await embedder.search(store, question.text, k=len(records))
                    hybrid = await embedder.search(store, question.text, k=5, hybrid=True)
                    found = (nearest[:5], hybrid, words.fuse(nearest, question.text, 5))
                    for way, matches in zip(WAYS, found, strict=True):
                        yield kind, way, question.section, [section_of(match.id) for match in matches]


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="local")
    options = parser.parse_args()
    asked, first, in_five = Counter[str](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for folder in ("python", "npm"):
        async for kind, way, section, found in answers(options.model, folder):
            asked[kind] += way == WAYS[0]
            first[kind, way] += found[0] == section
            in_five[kind, way] += section in found
    rows = [
        {"questions": kind, "of": asked[kind], "way": way, "first": first[kind, way], "in five": in_five[kind, way]}
        for kind in KINDS
        for way in WAYS
    ]
    print(options.model, table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]), sep="\n\n")
    names, prose = (first[kind, "hybrid"] / max(1, first[kind, WAYS[0]]) for kind in KINDS)
    bars = [
        Bar("names, right section first: hybrid to the vectors alone", names, least=2.0, unit=" x"),
        Bar("prose, right section first: hybrid to the vectors alone", prose, least=1.0, unit=" x"),
    ]
    return finish("exact_names", rows, bars, keep=False)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
