"""The words of texts that are in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from aembed.core.words import MOST_LOOKED_AT, Name, Phrase, holds, wanted, weigh_rows, words_of


class WordTable:
    """Which texts hold a word, by their ids."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._ids: dict[str, set[str]] = {}
        for id, text in texts.items():
            for word in set(words_of(text.lower())):
                self._ids.setdefault(word, set()).add(id)

    def rare_rows(self, names: Sequence[Name]) -> dict[str, float]:
        """By id what rare names say of the texts that hold them (weigh_rows)."""
        found: dict[Phrase, dict[str, str]] = {}
        while phrases := wanted(names, found):
            found |= {phrase: self._held(phrase) for phrase in phrases}
        return weigh_rows(names, found, len(self._texts))

    def _held(self, phrase: Phrase) -> dict[str, str]:
        phrase = tuple(word.lower() for word in phrase)
        first, *others = sorted((self._ids.get(word, set()) for word in set(phrase)), key=len)
        ids = first.intersection(*others)
        found = ((id, self._texts[id]) for id in ids)
        held = ((id, text) for id, text in found if len(phrase) == 1 or holds(text, phrase))
        return dict(islice(held, MOST_LOOKED_AT + 1))
