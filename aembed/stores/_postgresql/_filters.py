"""Filters as conditions of PostgreSQL: on the metadata of a store's rows, and on the columns of a user's table.

Keys and values are parameters, all of them, and all of them travel as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncpg

from aembed.core.filters import Compared, Filter, IsObject, OneOf, Path, Scalar, Test, no_keys_error
from aembed.errors import ConfigError
from aembed.stores._postgresql._columns import ColumnLayout
from aembed.stores._postgresql._names import quote_name

Condition: TypeAlias = tuple[str, list[Any]]
"""SQL, "" where each row passes, and the values of its parameters."""

FIRST_PARAMETER = 3
"""$1 is the query's vector, and $2 how many rows are wanted."""
UNREADABLE = ("22003", "22007", "22008", "22P02")
"""What PostgreSQL says of a value that is none of the type: out of range, no date, or written otherwise."""
NUMBERS, TEXTS = "N", "S"
"""Categories of types."""


@dataclass(eq=False, repr=False)
class _Parameters:
    first: int = FIRST_PARAMETER
    values: list[Any] = field(default_factory=list)

    def add(self, value: Any, type: str = "text") -> str:
        self.values.append(value)
        return f"${len(self.values) + self.first - 1}::{type}"


def on_metadata(wanted: Filter) -> Condition:
    parameters = _Parameters()
    sql = " AND ".join(f"({_test_at_path(test, parameters)})" for test in wanted.tests)
    return sql, parameters.values


def on_columns(wanted: Filter, table: ColumnLayout, *, first_parameter: int = FIRST_PARAMETER) -> Condition:
    """Raises ConfigError for a column that the table has not, or that cannot be compared so."""
    parameters = _Parameters(first_parameter)
    sql = " AND ".join(f"({_test_of_column(test, table, parameters)})" for test in wanted.tests)
    return sql, parameters.values


@contextmanager
def explain_unreadable(wanted: Filter, table: ColumnLayout) -> Iterator[None]:
    """Raises ConfigError where a value of the filter is none of its column's type."""
    try:
        yield
    except asyncpg.DataError as error:
        if not wanted or error.sqlstate not in UNREADABLE:
            raise
        named = ", ".join(sorted({f"{test.path[0]!r} is {table.types[test.path[0]]}" for test in wanted.tests}))
        raise ConfigError(f"where: a value is not what its column of {table.table} holds ({named})") from None


# metadata


def _test_at_path(test: Test, parameters: _Parameters) -> str:
    # No row holds NUL: PostgreSQL refuses it in jsonb, and in a parameter.
    if any("\0" in key for key in test.path):
        return "true" if isinstance(test, OneOf) and test.negated else "false"
    match test:
        case OneOf():
            return _is_one_of(test, parameters)
        case IsObject():
            return f"jsonb_typeof({_value_at(test.path, parameters)}) = 'object'"
        case Compared(bound=str() as limit):
            value, text = _value_at(test.path, parameters), _text_at(test.path, parameters)
            sign, bound = _without_nul(test.sign, limit)
            return f"""jsonb_typeof({value}) = 'string' AND ({text}) COLLATE "C" {sign} {parameters.add(bound)}"""
        case Compared():
            value, text = _value_at(test.path, parameters), _text_at(test.path, parameters)
            bound = f"{parameters.add(json.dumps(test.bound))}::numeric"
            # CASE, because of two conditions PostgreSQL may try the second one first, and a text is no numeric.
            return f"CASE WHEN jsonb_typeof({value}) = 'number' THEN ({text})::numeric {test.sign} {bound} END"


def _is_one_of(test: OneOf, parameters: _Parameters) -> str:
    """By containment, for which an index over the metadata (GIN) is used where there is one."""
    objects = list[str]()
    for value in _kept(test.values):
        held: Any = value
        for key in reversed(test.path):
            held = {key: held}
        objects.append(json.dumps(held, ensure_ascii=False))
    if not objects:
        return "true" if test.negated else "false"
    if len(objects) == 1:
        sql = f"metadata @> {parameters.add(objects[0])}::jsonb"
    else:
        sql = f"metadata @> ANY ({parameters.add(objects, 'text[]')}::jsonb[])"
    return f"({sql}) IS NOT TRUE" if test.negated else sql


def _kept(values: Sequence[Scalar]) -> Iterator[Scalar]:
    """Those that a row may hold."""
    return (value for value in values if not (isinstance(value, str) and "\0" in value))


def _value_at(path: Path, parameters: _Parameters) -> str:
    return "metadata" + "".join(f" -> {parameters.add(key)}" for key in path)


def _text_at(path: Path, parameters: _Parameters) -> str:
    return f"{_value_at(path[:-1], parameters)} ->> {parameters.add(path[-1])}"


def _without_nul(sign: str, bound: str) -> tuple[str, str]:
    """The same comparison of texts that hold no NUL: any text that goes on where NUL stands is larger."""
    start, nul, _ = bound.partition("\0")
    return ({">=": ">", "<": "<="}.get(sign, sign) if nul else sign), start


# columns


def _test_of_column(test: Test, table: ColumnLayout, parameters: _Parameters) -> str:
    name = test.path[0]
    column, type = f"t.{quote_name(name)}", table.type_of(name)
    match test:
        case IsObject():
            raise no_keys_error(test)
        case OneOf():
            given = [parameters.add(_as_text(value)) for value in _kept(test.values) if value is not None]
            parts = [f"{column} IN ({', '.join(f'{each}::{type}' for each in given)})"] if given else []
            parts += [f"{column} IS NULL"] if None in test.values else []
            sql = " OR ".join(parts) or "false"
            return f"({sql}) IS NOT TRUE" if test.negated else sql
        case Compared(bound=str() as limit) if table.categories[name] == TEXTS:
            sign, bound = _without_nul(test.sign, limit)
            return f"""{column} COLLATE "C" {sign} {parameters.add(bound)}::{type}"""
        case Compared() if table.categories[name] == NUMBERS:
            # As numeric, since 2000.5 is no integer, and 10,000,000,000 is none of 32 bits.
            return f"{column} {test.sign} {parameters.add(_as_text(test.bound))}::numeric"
        case Compared(bound=str()):
            return f"{column} {test.sign} {parameters.add(test.bound)}::{type}"
        case Compared():
            raise ConfigError(
                f"where[{name!r}]: {test.bound} is a number, and column {name!r} of {table.table} is {type}; compare "
                f"it with a str, as a date with '2024-01-31'"
            )


def _as_text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
