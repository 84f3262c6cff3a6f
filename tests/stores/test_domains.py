"""Columns of domains: over vectors, keys, texts and fingerprints."""

from __future__ import annotations

import pytest

from aembed.embedder import Embedder
from aembed.errors import SpaceMismatchError
from aembed.providers.fake import FakeProvider
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Space
from tests.stage.postgres import run_sql
from tests.stores.tables import backfilled, filled, new_table

CREATE = (
    "CREATE TABLE {table} (id {table}_id PRIMARY KEY, content {table}_text, embedding {table}_v, seen {table}_seen)"
)
DOMAINS = (
    "CREATE DOMAIN {table}_id AS int CHECK (value > 0)",
    "CREATE DOMAIN {table}_text AS text CHECK (value <> '')",
    "CREATE DOMAIN {table}_seen AS bytea CHECK (length(value) = 32)",
)
VECTORS = {
    "wide": ("CREATE DOMAIN {table}_v AS vector(8)",),
    "of no width": ("CREATE DOMAIN {table}_v AS vector",),
    "half": ("CREATE DOMAIN {table}_v AS halfvec(8)",),
    "of a domain": ("CREATE DOMAIN {table}_base AS vector(8)", "CREATE DOMAIN {table}_v AS {table}_base"),
    "checked": ("CREATE DOMAIN {table}_v AS vector CHECK (vector_dims(value) = 8 AND vector_norm(value) > 0.9)",),
}


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("fingerprint", [None, "seen"])
async def test_t19_a_column_of_a_domain_over_vector_is_filled_and_searched(
    database: str, table: str, kind: str, fingerprint: str | None
) -> None:
    await run_sql(database, *(part.format(table=table) for part in (*DOMAINS, *VECTORS[kind])))
    await new_table(database, table, create=CREATE)
    column = PostgresColumn(database, table, text="content", fingerprint=fingerprint)
    if kind in ("wide", "half", "of a domain"):
        with pytest.raises(SpaceMismatchError, match=r"\(8\), the model gives 9"):
            await column.prepare(Space("fake", "other", 9))
    ended = await backfilled(database, table, fingerprint=fingerprint)
    assert ended.report is not None
    assert (ended.report.stored, ended.error) == (100, None)
    assert len(await filled(database, table)) == 100
    assert not (await backfilled(database, table, fingerprint=fingerprint)).bought
    async with Embedder(FakeProvider("fake", 8)) as embedder:
        for indexed in (False, True):
            if indexed and kind not in ("of no width", "checked"):
                await column.create_index()
            (match,) = await embedder.search(column, "section 17", k=1, where={"id": 17})
            assert (match.id, round(match.score, 3)) == ("17", 1.0)
    await column.aclose()


async def test_t19_rows_that_a_domain_refuses_fail_alone(database: str, table: str) -> None:
    picky = "CREATE DOMAIN {table}_v AS vector(8) CHECK (value <-> '[1,0,0,0,0,0,0,0]' < 1.5)"
    await run_sql(database, *(part.format(table=table) for part in (*DOMAINS, picky)))
    await new_table(database, table, create=CREATE)
    ended = await backfilled(database, table)
    assert ended.report is not None
    assert ended.report.stored == len(await filled(database, table)) > 0
    assert ended.report.stored + ended.report.failed == 100
    assert ended.report.failed > 0
    assert set(ended.bought.values()) == {1}
