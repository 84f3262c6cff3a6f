"""The language of `where`: what a filter may say, and whether the metadata of a row passes it.

    {"lang": ["en", "de"], "year": {"gte": 2000, "lt": 2020}, "author": {"has": {"name": "Ann"}}}

A key is a key of the metadata, letter by letter: dots, dollars and quotes mean nothing in it. A value is equal, a list
is any of its values, a mapping holds operators, all of which have to hold. Inside of `has` the same begins anew, with
the keys of the object that is the value.

A filter is parsed into tests, all of which have to hold. Each is about the value at the end of a path of keys; the
stores translate the tests, and `matches` is what these translations have to agree with:

- A value is only ever equal to, or compared with, one of its own type: true is not 1, and "1" is not 1.
- A number is the one that JSON writes. 1 and 1.0 are equal; a float beyond 2**53 is the decimal that it is written as.
- Texts are compared code point by code point.
- `ne` and `nin` are true of each row of which `eq` and `in` are not: of one without the key, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from math import isfinite
from operator import ge, gt, le, lt
from typing import Any, TypeAlias

from aembed.errors import ConfigError

Scalar: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str, ...]
"""The keys from the metadata down to a value; of a table, the name of a column."""

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {">": gt, ">=": ge, "<": lt, "<=": le}
SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
OPERATORS = ("eq", "ne", "in", "nin", *SIGNS, "has")
ADVICE = f"a list means any of its values, and a mapping holds operators: {', '.join(OPERATORS)}"
# Chosen: a number is two of the 32,766 parameters that a statement of SQLite may have.
MOST_VALUES = 10_000
"""Of a filter, those of all its lists together."""
# Chosen: SQLite reads expressions of a depth of 1,000, and each condition is a part of one.
MOST_TESTS = 100
# Chosen: SQLite joins 64 tables at the most, and each key inside of another is one more.
DEEPEST = 16
LARGEST_WHOLE = 2**53
"""Up to here each whole number is a float of its own."""
NOTHING = object()
"""The value of a key that is not there."""


@dataclass(frozen=True)
class OneOf:
    """The value is one of these; `negated`: it is none of them, or there is no value."""

    path: Path
    values: tuple[Scalar, ...]
    negated: bool = False

    def holds(self, value: Any) -> bool:
        return (_identity(value) in self._identities) != self.negated

    @cached_property
    def _identities(self) -> frozenset[object]:
        return frozenset(map(_identity, self.values))


@dataclass(frozen=True)
class Compared:
    """The value is a number, or a text, as the bound is, and stands to it as the sign says."""

    path: Path
    sign: str
    bound: str | int | float

    def holds(self, value: Any) -> bool:
        if isinstance(value, bool):
            return False
        if isinstance(self.bound, str):
            return isinstance(value, str) and COMPARISONS[self.sign](value, self.bound)
        return isinstance(value, int | float) and COMPARISONS[self.sign](exact(value), exact(self.bound))


@dataclass(frozen=True)
class IsObject:
    """The value is an object, whose keys other tests are about."""

    path: Path

    def holds(self, value: Any) -> bool:
        return isinstance(value, Mapping)


Test: TypeAlias = OneOf | Compared | IsObject


@dataclass(frozen=True, slots=True)
class Filter:
    """Tests that all have to hold; without any, each row passes. `text` is the filter as JSON."""

    tests: tuple[Test, ...] = ()
    text: str = "{}"

    def __bool__(self) -> bool:
        return bool(self.tests)

    def matches(self, metadata: Mapping[str, Any] | None) -> bool:
        for test in self.tests:
            value: Any = metadata or {}
            for key in test.path:
                value = value.get(key, NOTHING) if isinstance(value, Mapping) else NOTHING
            if not test.holds(value):
                return False
        return True


def parse_filter(where: object) -> Filter:
    """The filter that `where` says. Raises ConfigError, which names the key, for what is not in the language."""
    if where is None:
        return Filter()
    tests = tuple(_tests_of_keys("where", (), where))
    values = sum(len(test.values) for test in tests if isinstance(test, OneOf))
    if values > MOST_VALUES:
        raise ConfigError(f"where holds {values:,} values; the most is {MOST_VALUES:,}: search in several parts")
    if len(tests) > MOST_TESTS:
        raise ConfigError(f"where holds {len(tests):,} conditions; the most is {MOST_TESTS}: leave some of them out")
    return Filter(tests, json.dumps(where, ensure_ascii=False, default=dict))


def exact(number: int | float) -> int | float:
    """The number that JSON writes, for comparisons: the decimal of a large float is not the float's own value."""
    if isinstance(number, float) and abs(number) >= LARGEST_WHOLE and isfinite(number):
        return int(Decimal(repr(number)))
    return number


def _identity(value: Any) -> object:
    """Equal for values that are equal in JSON; NOTHING for what no filter can name: a list, an object, no value."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return (value,)  # True would be equal to 1
    return exact(value) if isinstance(value, int | float) else NOTHING


def no_keys_error(test: IsObject) -> ConfigError:
    return ConfigError(
        f"where[{test.path[0]!r}]['has'] is for the metadata of a store: {test.path[0]!r} is a column of a table, and "
        "has no keys inside; name another column, or select them in the where of the column"
    )


# parsing: `place` is what messages name, as where['author']['has']['name']


def _tests_of_keys(place: str, path: Path, where: object) -> list[Test]:
    if not isinstance(where, Mapping):
        raise ConfigError(f"{place} must be a mapping of keys to values, not {type(where).__name__}")
    tests: list[Test] = []
    for key, condition in where.items():
        here = f"{place}[{key!r}]"
        if not isinstance(key, str):
            raise ConfigError(f"{here}: a key must be a str, not {type(key).__name__}")
        _check_text(here, key)
        tests += _tests_of_condition(here, (*path, str.__str__(key)), condition)
    return tests


def _tests_of_condition(place: str, path: Path, condition: object) -> list[Test]:
    if not isinstance(condition, Mapping):
        values = condition if isinstance(condition, list | tuple) else [condition]
        return [OneOf(path, tuple(_scalar(place, value) for value in values))]
    if not condition:
        raise ConfigError(f"{place} is an empty mapping; {ADVICE}")
    tests: list[Test] = []
    for operator, operand in condition.items():
        if operator not in OPERATORS:
            raise _unknown_operator_error(place, operator)
        tests += _tests_of_operator(f"{place}[{operator!r}]", path, operator, operand)
    return tests


def _tests_of_operator(place: str, path: Path, operator: str, operand: object) -> list[Test]:
    match operator:
        case "eq" | "ne":
            return [OneOf(path, (_scalar(place, operand),), operator == "ne")]
        case "in" | "nin":
            if not isinstance(operand, list | tuple):
                raise ConfigError(f"{place} must be a list of values, not {type(operand).__name__}")
            return [OneOf(path, tuple(_scalar(place, value) for value in operand), operator == "nin")]
        case "has":
            if len(path) >= DEEPEST:
                raise ConfigError(f"{place} is more than {DEEPEST} keys deep; name fewer")
            return [IsObject(path), *_tests_of_keys(place, path, operand)]
        case _:
            bound = _scalar(place, operand)
            if bound is None or isinstance(bound, bool):
                raise ConfigError(f"{place} must be a number or a str, not {bound}; only those are smaller or larger")
            return [Compared(path, SIGNS[operator], bound)]


def _scalar(place: str, value: object) -> Scalar:
    """As an object of the plain type. Raises ConfigError for what is no scalar of JSON."""
    match value:
        case bool() | None:
            return value
        case str():
            return _check_text(place, value)
        # sqlite3 raises OverflowError for an int of more than 64 bits.
        case int() if -(2**63) <= value < 2**63:
            return int(value)
        case float() if isfinite(value):
            return float(value)
        case _:
            raise ConfigError(
                f"{place} must be a str, a finite number of at most 64 bits, a bool or None, not "
                f"{'such a number' if isinstance(value, int | float) else type(value).__name__}; {ADVICE}"
            )


def _check_text(place: str, text: str) -> str:
    plain = str.__str__(text)
    if not plain.isascii() and any("\ud800" <= letter <= "\udfff" for letter in plain):
        raise ConfigError(f"{place} holds a lone surrogate, which no row holds; replace it")
    return plain


def _unknown_operator_error(place: str, operator: object) -> ConfigError:
    bare = operator.removeprefix("$") if isinstance(operator, str) else ""
    if bare in OPERATORS:
        return ConfigError(f"{place}: {operator!r} is no operator; write {bare!r}, without the $")
    return ConfigError(
        f"{place}: {operator!r} is no operator; there are {', '.join(OPERATORS)}. "
        f"A key inside of the value is named by  {{'has': {{{operator!r}: ...}}}}"
    )
