"""Text into the numbers of its WordPieces, as BERT's uncased models read it.

`vocabulary.txt` is that of bert-base-uncased (Apache-2.0): one piece a line, `##` before those that go on in a word.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

UNKNOWN, FIRST, LAST = 100, 101, 102
"""[UNK], [CLS] and [SEP]: the last two stand at the ends of what the model sees."""
LONGEST_WORD = 100
"""Characters; a longer word is unknown as a whole."""
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""Each of these characters is a word."""


def tokens_of(text: str) -> list[int]:
    """The numbers of its pieces, without those of the ends. A name as [SEP] is read as any other text."""
    numbers, found = _vocabulary(), []
    if not text.isascii():
        text = unicodedata.normalize("NFD", text)
    for word in text.translate(_CHARACTERS).split():
        number = numbers.get(word)
        if number is None:
            found += _pieces(word, numbers)
        else:
            found.append(number)
    return found


def _pieces(word: str, numbers: dict[str, int]) -> list[int]:
    """The longest piece that the word begins with, then the longest one of what is left; all or none of it is known."""
    if len(word) > LONGEST_WORD:
        return [UNKNOWN]
    found: list[int] = []
    start, mark = 0, ""
    while start < len(word):
        for end in range(len(word), start, -1):
            if (number := numbers.get(mark + word[start:end])) is not None:
                break
        else:
            return [UNKNOWN]
        found.append(number)
        start, mark = end, "##"
    return found


@cache
def _vocabulary() -> dict[str, int]:
    lines = Path(__file__).with_name("vocabulary.txt").read_text(encoding="utf-8").split("\n")
    return {piece: number for number, piece in enumerate(lines) if piece}


class _Characters(dict[int, str]):
    """What becomes of a character, for str.translate: lower case, alone where it is a word, a blank, or nothing."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)
        is_ascii_sign = character.isascii() and not character.isalnum()
        if character in "\t\n\r" or kind == "Zs":
            became = " "
        elif character == "\ufffd" or kind in ("Cc", "Cf", "Co", "Mn"):
            became = ""
        elif is_ascii_sign or kind[0] == "P" or any(first <= code <= last for first, last in _CJK):
            became = f" {character} "
        else:
            became = " " if character.isspace() else character.lower()
        self[code] = became
        return became


_CHARACTERS = _Characters()
