"""Questions that hold an exact name, and questions of prose, over real documents: what hybrid search finds first.

Measured when it was made: 57 of 60 names first, 10 by the vectors alone. The floor is a few less: it guards against
getting worse.
"""

from __future__ import annotations

import json
from pathlib import Path

from aembed import Embedder
from tests.exact_names import Question, questions_of, records_of, section_of

FOLDER = "npm"


async def test_hybrid_search_finds_names_and_leaves_prose_to_the_vectors(tmp_path: Path) -> None:
    records = records_of(FOLDER)
    names = questions_of(records)
    held = json.loads((Path(__file__).parent / f"questions_{FOLDER}.json").read_text(encoding="utf-8"))
    prose = [Question(each["question"], each["section"]) for each in held]
    async with Embedder("local") as embedder:
        await embedder.embed_into(tmp_path / "sections.db", records)

        async def first(questions: list[Question], *, hybrid: bool) -> int:
            found = [
                (await embedder.search(tmp_path / "sections.db", q.text, k=1, hybrid=hybrid), q) for q in questions
            ]
            return sum(section_of(match.id) == question.section for (match,), question in found)

        by_vectors = await first(names, hybrid=False)
        assert await first(names, hybrid=True) >= max(53, 2 * by_vectors)
        assert await first(prose, hybrid=True) >= await first(prose, hybrid=False) - 1
