"""What `--where` says, as filters: `lang=en`, `year>=2000`, `lang!=de`, or a filter as JSON.

A CSV's 2024 is a text, a JSONL's may be a number, and nothing tells which is meant: both are looked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from math import isfinite
from typing import Any, TypeAlias

from aembed.core.filters import SIGNS, parse_filter
from aembed.errors import ConfigError

OPERATORS = {sign: operator for operator, sign in SIGNS.items()}
Condition: TypeAlias = tuple[str, str, str]
"""Key, sign and value."""


def parse_filters(where: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of any of these filters are meant. Raises ConfigError for what is no condition."""
    filters = [each for each in map(_as_json, where) if each is not None]
    conditions = [_split(each) for each in where if _as_json(each) is None]
    by_key: dict[str, list[Condition]] = {}
    for condition in conditions:
        by_key.setdefault(condition[0], []).append(condition)
    given = [*by_key, *(key for each in filters for key in each)]
    for key in given:
        if given.count(key) > 1:
            raise ConfigError(f"--where: {key!r} stands in a filter in JSON and once more; write it in one of them")
    readings = [[(key, meant) for meant in _meanings(key, asked)] for key, asked in by_key.items()]
    found = [dict(pairs) | {key: each[key] for each in filters for key in each} for pairs in product(*readings)]
    for each in found:
        parse_filter(each)
    return found


def _as_json(where: str) -> dict[str, Any] | None:
    try:
        found = json.loads(where) if where.startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _split(where: str) -> Condition:
    key, equals, value = where.partition("=")
    if equals and key[-1:] in ("<", ">", "!"):
        key, sign, value = key[:-1].strip(), key[-1] + "=", value.strip()
    elif equals:
        sign = "="
    else:
        found = re.fullmatch("(.*?)([<>])(.*)", where, re.DOTALL)
        key, sign, value = (part.strip() for part in found.groups()) if found else ("", "", "")
    if not key or not sign:
        raise ConfigError(
            f"--where {where!r} is not KEY=VALUE, nor KEY!=VALUE, KEY>=VALUE, KEY<=VALUE, KEY>VALUE, KEY<VALUE, "
            'nor a filter in JSON, as {"lang": ["en", "de"]}'
        )
    return key, sign, value


def _meanings(key: str, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """What the conditions on one key may mean, each with operators that all have to hold."""
    equal = [value for _, sign, text in conditions if sign == "=" for value in _values_meant(text)]
    unequal = [value for _, sign, text in conditions if sign == "!=" for value in _values_meant(text)]
    common = ({"in": equal} if equal else {}) | ({"nin": unequal} if unequal else {})
    texts = {OPERATORS[sign]: text for _, sign, text in conditions if sign in OPERATORS}
    if len(texts) < sum(sign in OPERATORS for _, sign, _ in conditions):
        raise ConfigError(f"--where compares {key!r} twice in the same way; leave one of them out")
    numbers = {operator: number for operator, text in texts.items() if (number := _number(text)) is not None}
    readings: list[Mapping[str, Any]] = [texts]
    if texts and len(numbers) == len(texts):
        readings.insert(0, numbers)
    return [{**common, **reading} for reading in readings]


def _values_meant(text: str) -> list[str | int | float | bool | None]:
    if (number := _number(text)) is not None:
        return [number, text]
    words: dict[str, bool | None] = {"true": True, "false": False, "null": None}
    return [words[text.strip()], text] if text.strip() in words else [text]


def _number(text: str) -> int | float | None:
    """None for what is no number of JSON, or one that no filter may hold."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if (isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**63) else None
