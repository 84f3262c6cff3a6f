"""Which of the pending rows are read: all of them, or those that a watch looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aembed.stores._postgresql._columns import ColumnLayout, native
from aembed.stores._postgresql._names import quote_name

# Chosen: a transaction that edits a row and commits later than this is found by the next look at everything.
OVERLAP = {"timestamptz": "60 seconds"}
# Of a time without its zone nobody knows which zone is meant; zones are at most 14 hours from UTC.
OVERLAP_ELSEWHERE = "27 hours"
"""Rows that were edited so long before the last look are looked at once more."""


@dataclass(frozen=True, slots=True)
class Scope:
    """`ids`: these alone. `empty`: those without a vector alone. `since`: those edited at that time or later, by the
    column `updated_at`. `upto`: up to that key."""

    ids: Sequence[str] | None = None
    empty: bool = False
    since: str | None = None
    updated_at: str | None = None
    upto: Sequence[str] | None = None

    def of(self, table: ColumnLayout, last: Sequence[str] | None, first_parameter: int) -> tuple[str, str, list[Any]]:
        """The rows of a SELECT, the condition on those after a key, and the parameters from that one on."""
        parameters: list[Any] = list(last or ())
        condition = (table.is_empty if self.empty else table.is_pending) + table.after(last, first_parameter)
        rows, next_parameter = f"{table.table} AS t", first_parameter + len(parameters)
        if self.ids is not None:
            given = table.given_keys(next_parameter)
            rows += f" JOIN unnest({given['given']}) AS aembed_new ({given['names']}) ON {given['is_key']}"
            parameters += map(list, zip(*map(native, self.ids), strict=True))
        elif self.upto is not None:
            condition += f" AND ({table.key_list}) <= ({table.key_parameters(next_parameter)})"
            parameters += self.upto
        elif self.since is not None and self.updated_at is not None:
            type = table.type_of(self.updated_at)
            overlap = OVERLAP.get(type.rpartition(".")[2].strip('"'), OVERLAP_ELSEWHERE)
            since = f"(${next_parameter}::text::timestamptz - interval '{overlap}')::{type}"
            condition += f" AND t.{quote_name(self.updated_at)} >= {since}"
            parameters.append(self.since)
        return rows, condition, parameters


ALL = Scope()
EMPTY = Scope(empty=True)
