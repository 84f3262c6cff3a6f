"""Filters as conditions of SQLite: on the metadata of a store's rows, and on the columns of a user's table.

Keys and values are parameters, all of them. What SQLite cannot tell is left to `matches`, in Python: it is right about
everything, but each row of it waits for the interpreter, which a busy event loop holds for milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from json import loads
from math import inf, nextafter
from typing import Any, TypeAlias

from aembed.core.filters import (
    Compared,
    Filter,
    IsObject,
    OneOf,
    Path,
    Test,
    exact,
    no_keys_error,
    parse_filter,
)
from aembed.stores._rules import decode

Condition: TypeAlias = tuple[str, list[Any]]
"""SQL and its parameters."""

MATCHES = "aembed_matches"
"""The name of `matches` in SQL, on connections of ours."""
# SQLite before 3.45 ends a JSON text at \u0000, and so "a\u0000b" would be taken for "a". AND and OR, and no CASE, of
# which SQLite would work out all parts for each row.
HAS_NUL = "metadata GLOB '*\\u0000*'"
ON_METADATA = f"({HAS_NUL}) IS NOT 1 AND {{}} OR {HAS_NUL} AND {MATCHES}(metadata, ?)"
# json_each and not json_extract, in whose paths the dots, quotes and brackets of a key have a meaning.
EXISTS = "EXISTS (SELECT 1 FROM {} WHERE {}.key = ? AND ({}))"
INNER = "json_each(CASE WHEN {0}.key = ? AND {0}.type = 'object' THEN {0}.value END) AS {1}"
# SQLite reads a whole number of more than 64 bits as a float, and true as 1.
IS_WHOLE = "{0}.type = 'integer' AND typeof({0}.value) = 'integer' AND {0}.value"
IS_FLOAT = "typeof({0}.value) = 'real' AND {0}.value"


def matches(metadata: str | None, where: str) -> bool:
    """Whether that metadata passes that filter, both as JSON."""
    return _filter_of(where).matches(decode(metadata))


@lru_cache(maxsize=64)
def _filter_of(where: str) -> Filter:
    return parse_filter(loads(where))


def on_metadata(wanted: Filter) -> Condition:
    if not wanted:
        return "1", []
    numbers = (exact(number) for test in wanted.tests for number in _numbers_of(test))
    if any(not -(2**63) <= number < 2**63 for number in numbers):
        return f"{MATCHES}(metadata, ?)", [wanted.text]
    by_path: dict[Path, list[Test]] = {}
    for test in wanted.tests:
        if not _is_negated(test):
            by_path.setdefault(test.path, []).append(test)
    parts = [_exists(path, tests) for path, tests in by_path.items()]
    for test in filter(_is_negated, wanted.tests):
        sql, parameters = _exists(test.path, [test])
        parts.append((f"NOT {sql}", parameters))
    sql, parameters = _all(parts, " AND ")
    return ON_METADATA.format(sql), [*parameters, wanted.text]


def on_columns(wanted: Filter, column: Callable[[str], str]) -> Condition:
    """`column` gives a name as SQL, and raises ConfigError for one that the table has not."""
    return _all([_test_of_column(test, column(test.path[0])) for test in wanted.tests], " AND ")


def _all(conditions: Iterable[Condition], joint: str) -> Condition:
    parts = list(conditions)
    return joint.join(f"({sql})" for sql, _ in parts), [each for _, values in parts for each in values]


def _numbers_of(test: Test) -> list[int | float]:
    given = test.values if isinstance(test, OneOf) else (test.bound,) if isinstance(test, Compared) else ()
    return [each for each in given if isinstance(each, int | float) and not isinstance(each, bool)]


# metadata


def _is_negated(test: Test) -> bool:
    return isinstance(test, OneOf) and test.negated


def _exists(path: Path, tests: Sequence[Test]) -> Condition:
    """Whether there is a value of which all of these are true, `negated` or not."""
    tables = ["json_each(metadata) AS j0"]
    tables += [INNER.format(f"j{depth}", f"j{depth + 1}") for depth in range(len(path) - 1)]
    last = f"j{len(path) - 1}"
    sql, parameters = _all([_test_of_value(test, last) for test in tests], " AND ")
    return EXISTS.format(", ".join(tables), last, sql), [*path, *parameters]


def _test_of_value(test: Test, row: str) -> Condition:
    """`row` is one of json_each."""
    match test:
        case IsObject():
            return f"{row}.type = 'object'", []
        case Compared(bound=str()):
            return f"{row}.type = 'text' AND {row}.value {test.sign} ?", [test.bound]
        case Compared():
            (bound,) = map(exact, _numbers_of(test))
            sign, least = _among_floats(test.sign, bound)
            whole = f"{IS_WHOLE.format(row)} {test.sign} ?", [bound]
            return _all([whole, (f"{IS_FLOAT.format(row)} {sign} ?", [least])], " OR ")
        case OneOf():
            return _is_one_of(test, row)


def _is_one_of(test: OneOf, row: str) -> Condition:
    numbers = list(map(exact, _numbers_of(test)))
    floats = [float(number) for number in numbers if exact(float(number)) == number]
    words = ["null" if value is None else str(value).lower() for value in test.values if isinstance(value, bool | None)]
    texts = [value for value in test.values if isinstance(value, str)]
    parts: list[tuple[str, Sequence[Any]]] = [
        (f"{row}.type", words),
        (f"{row}.type = 'text' AND {row}.value", texts),
        (IS_WHOLE.format(row), [number for number in numbers if number == int(number)]),
        (IS_FLOAT.format(row), floats),
    ]
    return _all([_is_in(sql, values) for sql, values in parts if values], " OR ") if test.values else ("0", [])


def _is_in(sql: str, values: Sequence[Any]) -> Condition:
    return f"{sql} IN ({', '.join('?' * len(values))})", list(values)


def _among_floats(sign: str, bound: int | float) -> tuple[str, float]:
    """The comparison of floats that says the same of their decimals: the bound may be no float itself."""
    least = nextafter(float(bound), -inf)
    while exact(least) < bound:
        least = nextafter(least, inf)
    return sign if exact(least) == bound else {">": ">=", "<=": "<"}.get(sign, sign), least


# columns


def _test_of_column(test: Test, column: str) -> Condition:
    match test:
        case IsObject():
            raise no_keys_error(test)
        # A comparison gives the column's type to the value beside it, and a date would be compared with the number
        # 2024; with the plus it is compared as the text that it is.
        case Compared(bound=str()):
            return f"typeof({column}) = 'text' AND +{column} {test.sign} ?", [test.bound]
        case Compared():
            return f"typeof({column}) IN ('integer', 'real') AND {column} {test.sign} ?", [test.bound]
        case OneOf():
            sql, values = _is_in(column, [value for value in test.values if value is not None])
            sql += f" OR {column} IS NULL" if None in test.values else ""
            return f"({sql}) IS NOT 1" if test.negated else sql, values
