"""An index of the words of a column's texts, and the rows that hold rare ones. The server keeps it with every write.

PostgreSQL's parser takes a dotted name for a host and a hyphenated one for several words at once, so that the signs of
which it makes something become spaces before the text comes to it. What is typed is looked up by its words alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import asyncpg

from aembed.core.words import COUNTED_ROWS, MOST_LOOKED_AT, Name, Phrase, wanted, weigh_rows
from aembed.stores._postgresql._database import Connection, taken_back
from aembed.stores._postgresql._index import TableIndex
from aembed.stores._postgresql._names import quote_name

# A tsvector holds less than 1 MB of words and positions; beyond that a write would fail.
MOST_CHARACTERS = 100_000
"""So many characters of a text are indexed: with four bytes each, and each word once, they are 0.8 MB."""
# What PostgreSQL's parser makes more of than the end of a word: hosts, paths, addresses, tags, numbers with a sign.
# replace() of each took 16 us for a text of 1,000 characters, translate() of all 170 us (PostgreSQL 18).
SIGNS = "./-@:<&+"
COUNT = "SELECT count(*) FROM (SELECT FROM {table} LIMIT {most}) AS counted"
# Whether words stand side by side the index does not know. The server would split each text again to see it (185 us for
# 1,000 characters, PostgreSQL 18); a pattern takes a tenth of that.
HELD = """SELECT asked.place::integer, found.id, found.text
    FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]))
        WITH ORDINALITY AS asked (words, pattern, place)
    CROSS JOIN LATERAL (
        SELECT {id} AS id, ({text})::text AS text FROM {table} AS t
        WHERE {words} OPERATOR(pg_catalog.@@)
                pg_catalog.plainto_tsquery('pg_catalog.simple'::pg_catalog.regconfig, asked.words)
            AND (asked.pattern IS NULL OR ({text})::text OPERATOR(pg_catalog.~*) asked.pattern)
        LIMIT {most}) AS found"""
SIDE_BY_SIDE = ("(^|[^[:alnum:]])", "[^[:alnum:]]+", "($|[^[:alnum:]])")
# Without it a small table is read, and each of its texts split into words, for each word that is looked up.
BY_INDEX = "SET LOCAL enable_seqscan = off"


@dataclass(frozen=True, slots=True)
class WordTarget(TableIndex):
    """Over the texts of a table: `text` is an expression over its row, whose columns stand without an alias."""

    text: str

    @property
    def words(self) -> str:
        spaced = f'pg_catalog."left"(({self.text})::text, {MOST_CHARACTERS})'
        for sign in SIGNS:
            spaced = f"pg_catalog.replace({spaced}, '{sign}', ' ')"
        return f"pg_catalog.to_tsvector('pg_catalog.simple'::pg_catalog.regconfig, {spaced})"

    @property
    def name(self) -> str:
        digest = blake2b(f"{self.table}.{self.text}".encode(), digest_size=8).hexdigest()
        return quote_name(f"aembed_words_{digest}")

    def create(self, *, concurrently: bool, only: bool = False) -> str:
        """`only`: of the table without its partitions."""
        how, of = "CONCURRENTLY" if concurrently else "", "ONLY" if only else ""
        return f"CREATE INDEX {how} IF NOT EXISTS {self.name} ON {of} {self.table} USING gin (({self.words}))"


async def may_index_words(target: WordTarget, connection: Connection) -> bool:
    """Whether the server can index them: not an SQL expression that calls something STABLE, as concat_ws() is.

    Tried with an empty table that is taken back.
    """
    async with taken_back(connection):
        try:
            await connection.execute(f"CREATE TEMPORARY TABLE aembed_words (LIKE {target.table})")
            await connection.execute(replace(target, table="pg_temp.aembed_words").create(concurrently=False))
        except asyncpg.InvalidObjectDefinitionError:
            return False
        except asyncpg.InsufficientPrivilegeError:
            return True
    return True


async def rare_rows(
    target: WordTarget, id: str, names: Sequence[Name], connection: Connection
) -> Mapping[tuple[str, str], float]:
    """What rare names say of the rows that hold them (weigh_rows). A row is named by `id`, an expression over it, and
    its text: the next statement has a snapshot of its own."""
    rows: int = await connection.fetchval(COUNT.format(table=target.table, most=COUNTED_ROWS))
    held = HELD.format(id=id, text=target.text, table=target.table, words=target.words, most=MOST_LOOKED_AT + 1)
    await connection.execute(BY_INDEX)
    found: dict[Phrase, dict[tuple[str, str], str]] = {}
    before, between, behind = SIDE_BY_SIDE
    while phrases := wanted(names, found):
        found |= {phrase: {} for phrase in phrases}
        words = [" ".join(phrase) for phrase in phrases]
        # They are letters and digits, which have no meaning in a pattern.
        patterns = [f"{before}{between.join(each)}{behind}" if len(each) > 1 else None for each in phrases]
        for place, key, text in await connection.fetch(held, words, patterns):
            found[phrases[place - 1]][key, text] = text
    return weigh_rows(names, found, rows)
