"""This module takes the texts of users out of messages: providers quote what they refuse, and it belongs in no log.

A quote is found by the letters and digits of a text alone, in their order: JSON, Python and HTML each escape what is
between them in a way of their own, and errors are shown on one line.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile

# Chosen: a shorter run may be there by accident ("the input is"), and the reason of the provider would be lost with it.
LEAST_CHARACTERS = 12
"""A quote has at least so many characters."""
SHOWN = "[text]"
# Chosen: as LEAST_CHARACTERS; with a stride of half of it each run of 17 letters holds a gram that is looked for.
_GRAM, _STRIDE = 12, 6
"""How many letters are looked for at once, and at every how many letters of a text."""
# In _QUOTED 48 characters are 4 * LEAST_CHARACTERS: longer quotes are found by their letters.
_QUOTED = re.compile(r"(?<=[\"'`“‘«])[^\"'`“”‘’«»\\]{1,48}(?=[\\\"'`”’»])")
# Chosen: among 64 characters there are LEAST_CHARACTERS letters in all but odd texts.
_BEGINNING = 64
"""So many characters of a text's beginning are used to look for it."""
_ESCAPED = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|.)|&(?:#\w{1,6}|[a-z]{2,6});|[^\W_]", re.DOTALL)
_LETTER = re.compile(r"[^\W_]")
_BETWEEN = re.compile(r"[\W_]+")


def without_quotes(message: str, texts: Sequence[str]) -> str:
    """The message with every quote of the start of one of these texts taken out, however it is spelt there."""
    letters = _Letters(message)
    for text in texts:
        start = _BETWEEN.sub("", text[:_BEGINNING])[:LEAST_CHARACTERS]
        if len(start) == LEAST_CHARACTERS:
            if start in letters.run:
                letters = _Letters(message := letters.without(text, start))
        elif len(text) >= LEAST_CHARACTERS and text[:LEAST_CHARACTERS] in message:
            letters = _Letters(message := _cut_quotes(message, text))
    return message


def without_any_part(message: str, texts: Sequence[str]) -> str:
    """The message without any part of these texts: from the middle of one, or a short one between quotation marks.

    It takes time for each character of the texts, so only recordings, which are made to be read, are treated so.
    """
    letters = _Letters(message)
    grams = defaultdict[str, list[int]](list)
    for at in range(len(letters.run) - _GRAM + 1):
        grams[letters.run[at : at + _GRAM]].append(at)
    quoted = bytearray(len(letters.run))
    for text in texts:
        run = _BETWEEN.sub("", text)
        for here in range(0, len(run) - _GRAM + 1, _STRIDE):
            for there in grams.get(run[here : here + _GRAM], ()):
                if not quoted[there]:
                    back = _common_length(letters.run[:there][::-1], run[:here][::-1])
                    on = _common_length(letters.run[there:], run[here:])
                    quoted[there - back : there + on] = b"\1" * (back + on)
    short = {text.strip() for text in texts if len(text) < 4 * LEAST_CHARACTERS}
    parts, done = [], 0
    for found in re.finditer(b"\1+", quoted):
        parts.append(message[done : letters.places[found.start()][0]])
        done = letters.places[found.end() - 1][1]
    shown = SHOWN.join([*parts, message[done:]])
    return _QUOTED.sub(lambda found: SHOWN if found[0].strip() in short else found[0], shown)


class _Letters:
    """The letters and digits of a message, and where each of them stands."""

    def __init__(self, message: str) -> None:
        self._message = message
        spelt = [(letter, found.span()) for found in _ESCAPED.finditer(message) for letter in _unescape(found)]
        self.run = "".join(letter for letter, _ in spelt)
        self.places = [place for _, place in spelt]

    def without(self, text: str, start: str) -> str:
        places = [found.span() for found in _LETTER.finditer(text[: 2 * len(self._message)])]
        sought = "".join(text[first] for first, _ in places)
        before = text[: places[0][0]]
        parts, done, at = [], 0, self.run.find(start)
        while at >= 0:
            length = _common_length(self.run[at:], sought)
            first, last = self.places[at][0], self.places[at + length - 1][1]
            first -= len(before) if self._message[done:first].endswith(before) else 0
            last += _common_length(self._message[last:], text[places[length - 1][1] :])
            parts.append(self._message[done:first])
            done, at = last, self.run.find(start, at + length)
        return SHOWN.join([*parts, self._message[done:]])


def _unescape(found: re.Match[str]) -> str:
    """The letter or digit that was found; nothing for an escaped character of another kind."""
    if code := found[1] or found[2]:
        letter = chr(int(code, 16))
    else:
        letter = html.unescape(found[0]) if found[0].startswith("&") else found[0]
    return letter if letter.isalnum() and len(letter) == 1 else ""


def _cut_quotes(message: str, text: str) -> str:
    start = text[:LEAST_CHARACTERS]
    at = message.find(start)
    while at >= 0:
        message = message[:at] + SHOWN + message[at + _common_length(message[at:], text) :]
        at = message.find(start, at + len(SHOWN))
    return message


def _common_length(one: str, other: str) -> int:
    """How many characters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
