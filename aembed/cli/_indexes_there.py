"""Indexes that are over a column already: what is said of them, and what is done where it was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from aembed.cli._job import Output
from aembed.cli._run import ask, is_interactive
from aembed.cli._show import duration_in_words
from aembed.cli._streams import printable_line, say
from aembed.errors import ConfigError
from aembed.results import Plan, count_in_words
from aembed.stores import Column
from aembed.stores._indexes_there import IndexesThere, SetsIndexesAside

# Measured: a build takes in a row in a twelfth of the time of a write, and has to take in all of them. Chosen: a sixth,
# since searches are slow meanwhile.
LEAST_NEW = 1 / 6
"""Where more than this part of the rows is new, to drop the index and build it again is the sooner way."""


@dataclass(frozen=True, slots=True)
class ColumnIndexes:
    """`column` is None where its kind of database has no such indexes."""

    column: SetsIndexesAside | None
    held: IndexesThere | None
    rebuild: bool
    is_worth_it: bool
    output: Output

    async def set_aside(self, *, may_ask: bool) -> None:
        """Drops what is there where that was asked for, or is answered so on a terminal."""
        if self.column is None or self.held is None or not self.is_worth_it:
            return
        there = _named(self.held.there)
        question = f"Drop {there}, and build it again at the end? Searches are exact, and slow, meanwhile."
        if self.rebuild or (may_ask and is_interactive() and ask(question)):
            await self.column.set_indexes_aside()
            self.output.note(f"dropped: {there}; searches are exact, and slow, until it is built again")

    async def are_missing(self) -> bool:
        return bool(self.column and (await self.column.indexes_there()).aside)

    async def tell_missing(self) -> None:
        if self.column and (aside := (await self.column.indexes_there()).aside):
            say(f"{_named(aside)} was dropped and is not built yet; the next run that comes to its end builds it")


async def look_at_indexes(column: Column, plan: Plan, *, rebuild: bool, output: Output) -> ColumnIndexes:
    """Says what is over the column, and what that costs. Raises ConfigError where it is to be dropped and cannot be."""
    if not isinstance(column, SetsIndexesAside):
        if rebuild:
            raise ConfigError("--rebuild-index is for PostgreSQL; leave it out")
        return ColumnIndexes(None, None, rebuild, False, output)
    held, new = await column.indexes_there(), plan.new + plan.changed
    if held.aside:
        output.note(f"{_named(held.aside)} was dropped by an earlier run and is built once the rows are filled")
    is_worth_it = bool(held.there) and new > LEAST_NEW * (new + held.filled)
    if is_worth_it and rebuild and held.fixed:
        raise ConfigError(f"--rebuild-index: {printable_line(held.fixed)}; leave it out")
    if held.there and new:
        takes = duration_in_words(new * held.seconds_a_row)
        rows = count_in_words(new, "row")
        output.note(
            f"{_named(held.there)} takes in each row as it is written, which makes writes up to 100 times as slow: "
            f"as a rough guess {takes} for {rows}, with an index that is in memory"
        )
        if is_worth_it and rebuild:
            output.note("it is dropped first, and built again once the rows are filled (--rebuild-index)")
        elif is_worth_it and not held.fixed:
            output.note("--index --rebuild-index  drops it first and builds it again once the rows are filled")
    return ColumnIndexes(column, held, rebuild, is_worth_it and not held.fixed, output)


def _named(names: tuple[str, ...]) -> str:
    return f"index {printable_line(', '.join(names))}"
