"""Exact names in a question: options, functions, error codes. Which are looked up, and which rows they speak for.

A word is a name where it is written as one: with a digit, an underscore or a dot in it, a dash before it, a capital
letter behind the first, or quotation marks around it. Words of prose are left to the vectors, however rare they
are: looked up as well, they put the right section first for fewer questions than the vectors alone
(benchmarks.exact_names). Who types one or two words is looking for those.

A store finds rows in which words stand side by side. Its words are runs of letters and digits, in either case, so that
`--batch-size`, `max_tokens` and `os.path` are found as they are written, whatever stands between their words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import TypeAlias, TypeVar

Phrase: TypeAlias = tuple[str, ...]
"""Words that stand side by side, as they are typed: a database has its own rule for what is the same in either case."""
Key = TypeVar("Key")

_WORD = re.compile(r"[^\W_]+")
_BETWEEN_NAMES = re.compile(r"[()\[\]{}<>,;=\"`]+")
_BETWEEN_PIECES = re.compile(r"[^\w-]+")
_AROUND = "\"'`\u2018\u2019\u201c\u201d()[]{}<>.,;:!?*"
_QUOTED = re.compile(r"""[(\[]*(["'`\u2018\u201c]).+["'`\u2019\u201d][)\].,;:!?]*""")
_PROSE = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]{1,3}|(?:-[^\W\d_]+)+)")
"""Prose has signs in its words, too: `isn't`, `Alice's`, `clean-up`."""

# Chosen: one or two words are keywords, three may be a sentence.
MOST_KEYWORDS = 2
# Chosen: an error message that is pasted has fifty. Larger, a pasted page would be looked up word by word.
MOST_PHRASES = 64
# Chosen: a URL has about a dozen words.
MOST_WORDS = 16
# Chosen: longer than any name, and a SHA-512 in hexadecimal digits. PostgreSQL refuses a word of more than 2,046 bytes.
MOST_CHARACTERS = 200
# Chosen: smaller numbers count things; those of three digits and more are codes, ports and years.
LEAST_DIGITS = 3

# Chosen: names of more rows than that say little about which of them is meant.
RARE = 200
"""A name is rare where at most one row of so many holds it."""
# Measured: of 120 names in stores of 300 and 400 rows 93 are found with 1, 94 with 3, 95 with 5.
LEAST_ROWS = 3
# Chosen: the vectors of so many rows are read for a name. Larger, a search of a large store would read thousands.
MOST_ROWS = 250
COUNTED_ROWS = MOST_ROWS * RARE
"""A store of more rows than that need not be counted to the end."""
# Chosen: as many texts are read for a name; many hold the words of `--all`, and few of those this option. Larger, a
# name of common words would cost more than a search.
MOST_LOOKED_AT = 500
# Chosen: the vectors of 1,000 rows of 1,536 floats are 6 MB.
MOST_ROWS_TOGETHER = 1_000


@dataclass(frozen=True, slots=True)
class Name:
    """`written` is what was typed, `phrase` its words; `parts` are looked at where no row holds the whole."""

    written: str
    phrase: Phrase
    parts: tuple[Name, ...] = ()

    def phrases(self) -> Iterator[Phrase]:
        yield self.phrase
        for part in self.parts:
            yield from part.phrases()


def names_in(question: str) -> list[Name]:
    """The names of a question, each once, as whole as they are written, and numbers with the word before."""
    chunks = question.split()
    has_all = len(chunks) <= MOST_KEYWORDS
    shouts = not any(character.islower() for character in question)
    found: list[Name] = []
    before = ""
    for chunk in chunks:
        words = words_of(chunk)
        if len(words) == 1 and words[0].isdecimal():
            found += _number(words[0], before)
        elif has_all or _is_name(chunk, shouts):
            found += [name for part in _BETWEEN_NAMES.split(chunk) for name in _named(part)]
        before = words[-1] if words else ""
    # The longest first: where a page is pasted, they are the ones that no other page has.
    names, left = list[Name](), MOST_PHRASES
    for name in sorted(dict.fromkeys(found), key=lambda name: -sum(map(len, name.phrase))):
        left -= sum(1 for _ in name.phrases())
        if left >= 0:
            names.append(name)
    return names


def words_of(text: str) -> Phrase:
    return tuple(_WORD.findall(text))


def _is_name(chunk: str, shouts: bool) -> bool:
    core = chunk.strip(_AROUND)
    return (
        core.startswith("-")
        or any(character.isdigit() or character == "_" for character in core)
        or (not shouts and any(character.isupper() for character in core[1:]))
        or (len(words_of(core)) > 1 and not _PROSE.fullmatch(core))
        or _QUOTED.fullmatch(chunk) is not None
    )


def _number(digits: str, before: str) -> Sequence[Name]:
    """`HTTP 429`, `error 1045`: a number by itself may stand for anything, and is looked at where the two are not."""
    alone = _usable([Name(digits, (digits,))]) if len(digits) >= LEAST_DIGITS else ()
    return _usable([Name(f"{before} {digits}", (before, digits), alone)]) if before else alone


def _named(part: str) -> Sequence[Name]:
    pieces = [Name(piece, words) for piece in _BETWEEN_PIECES.split(part) if (words := words_of(piece))]
    return _usable([Name(part.strip(_AROUND), words_of(part), _usable(pieces) if len(pieces) > 1 else ())])


def _usable(names: Iterable[Name]) -> tuple[Name, ...]:
    """In the place of a name that is too long its parts. Single characters (`e.g.`) are no name."""
    kept: list[Name] = []
    for name in names:
        longest = max(map(len, name.phrase), default=0)
        if len(name.phrase) > MOST_WORDS or longest > MOST_CHARACTERS:
            kept += name.parts
        elif longest > 1:
            kept.append(name)
    return tuple(kept)


def wanted(names: Sequence[Name], found: Mapping[Phrase, Collection[object]]) -> list[Phrase]:
    """What is to be looked up next, each once: first the names, then the parts of those that no row holds."""

    def next_of(name: Name) -> Iterator[Phrase]:
        if name.phrase not in found:
            yield name.phrase
        elif not found[name.phrase]:
            for part in name.parts:
                yield from next_of(part)

    return list(dict.fromkeys(phrase for name in names for phrase in next_of(name)))


def most_rows(rows: int) -> int:
    """In how many rows of so many a rare name may be."""
    # In a handful of rows any word is in a few.
    least = min(LEAST_ROWS, 1 + rows // 20)
    return min(MOST_ROWS, max(least, rows // RARE))


def weigh_rows(names: Sequence[Name], found: Mapping[Phrase, Mapping[Key, str]], rows: int) -> dict[Key, float]:
    """What the rare names of a question say of each row that holds one: more for a rarer name, and for each of several.

    `found` are the rows that hold a phrase, each with its text; where they are more than MOST_LOOKED_AT, only so many
    and one more.
    """
    rare = {part: held for name in names for part, held in _rare(name, found, most_rows(rows))}
    weights: dict[Key, float] = {}
    left = MOST_ROWS_TOGETHER
    for held in sorted(rare.values(), key=len):
        left -= len(held)
        if left < 0:
            break
        for key in held:
            weights[key] = weights.get(key, 0.0) + log(1 + min(rows, COUNTED_ROWS) / len(held))
    return weights


def _rare(name: Name, found: Mapping[Phrase, Mapping[Key, str]], most: int) -> Iterator[tuple[Name, Collection[Key]]]:
    """The name, or those of its parts, that few rows hold: as it is written, else as words that stand side by side."""
    held = found.get(name.phrase, {})
    if len(held) > MOST_LOOKED_AT:
        return
    # As it was typed, signs and all, and no longer one.
    as_typed = re.compile(rf"(?<![\w-]){re.escape(name.written)}(?![\w-])", re.IGNORECASE)
    written = [key for key, text in held.items() if as_typed.search(text)]
    if 0 < len(keys := written or list(held)) <= most:
        yield name, keys
    elif not held:
        for part in name.parts:
            yield from _rare(part, found, most)


def holds(text: str, phrase: Phrase) -> bool:
    """Whether these words, in lower case, stand side by side in a text."""
    words = words_of(text.lower())
    first, size = phrase[0], len(phrase)
    return any(word == first and words[at : at + size] == phrase for at, word in enumerate(words))


def may_hold(text: str, phrase: Phrase) -> bool:
    """Looser than `holds`: a database may know other letters than Python does."""
    folded = text.casefold()
    return all(word.casefold() in folded for word in phrase)
