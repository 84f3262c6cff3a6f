"""Questions that hold an exact name, made by rule from the real documents of the tests.

A name is an option, a function, a file or a code, as it is written. It is asked for where at most five sections hold
it and one of them holds it more often than every other: that one is right. Sixty of each folder, evenly spaced in the
order of the names, each in the next of four forms. The rule knows nothing of how a store splits a text into words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aembed.sources import open_paths
from aembed.types import Record

DOCUMENTS = Path(__file__).parent / "documents"
FORMS = ("What does {} do?", "How do I use {}?", "Where is {} explained?", "{}")
QUESTIONS = 60
MOST_SECTIONS = 5
_NAME = re.compile(
    r"""(?<![\w.-])(?:
        --[a-z]+(?:-[a-z]+)*                        # an option
        | __[a-z]+__ | [a-z]+(?:_[a-z0-9]+)+        # __getattr__, max_size
        | [a-z_]+(?:\.[A-Za-z_]+)+                  # os.path, package.json
        | [A-Z][a-z]+(?:[A-Z][a-z]+)+               # TypeError
        | [A-Z]+[0-9_][A-Z0-9_]*                    # E2BIG
    )(?![\w-]|\.\w)""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    section: str


def records_of(folder: str) -> list[Record]:
    """The sections of a folder of `tests/documents`."""
    return [item for item in open_paths([DOCUMENTS / folder]).records() if isinstance(item, Record)]


def section_of(id: str) -> str:
    """Parts of a long section count as the section."""
    return id.split("~")[0]


def questions_of(records: Sequence[Record], most: int = QUESTIONS) -> list[Question]:
    found = sorted(_names_and_sections(records))
    picked = [found[place * len(found) // most] for place in range(most)] if len(found) > most else found
    return [Question(FORMS[i % len(FORMS)].format(name), section) for i, (name, section) in enumerate(picked)]


def _names_and_sections(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    counts: dict[str, Counter[str]] = {}
    for record in records:
        for name in _NAME.findall(record.text):
            counts.setdefault(name, Counter())[section_of(record.id)] += 1
    for name, held in counts.items():
        (section, often), *others = held.most_common(2)
        if len(held) <= MOST_SECTIONS and not (others and others[0][1] == often):
            yield name, section
