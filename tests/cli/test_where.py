from __future__ import annotations

import uuid
from typing import Any

import pytest

from aembed.cli._where import parse_filters
from aembed.cli.search import search_each
from aembed.embedder import Embedder
from aembed.errors import ConfigError
from aembed.providers.fake import FakeProvider
from aembed.stores.postgresql_column import PostgresColumn
from tests.stage.postgres import run_sql


@pytest.mark.parametrize(
    ("where", "filters"),
    [
        ([], [{}]),
        (["lang=en"], [{"lang": {"in": ["en"]}}]),
        (["year=2024"], [{"year": {"in": [2024, "2024"]}}]),
        (["a=true", "b=null"], [{"a": {"in": [True, "true"]}, "b": {"in": [None, "null"]}}]),
        (["a= 1"], [{"a": {"in": [1, " 1"]}}]),
        # What is JSON, and no number and no word of it, is a text; so is a number that no filter may hold.
        (["a=[1]"], [{"a": {"in": ["[1]"]}}]),
        (['a="1"'], [{"a": {"in": ['"1"']}}]),
        (
            ["a=1e999", "b=99999999999999999999", "c=NaN"],
            [{"a": {"in": ["1e999"]}, "b": {"in": ["9" * 20]}, "c": {"in": ["NaN"]}}],
        ),
        (["a=b=c", "d>e=f"], [{"a": {"in": ["b=c"]}, "d>e": {"in": ["f"]}}]),
        (["lang=en,de"], [{"lang": {"in": ["en,de"]}}]),
        (["lang=en", "lang=de"], [{"lang": {"in": ["en", "de"]}}]),
        (["year!=2024", "year != none"], [{"year": {"nin": [2024, "2024", "none"]}}]),
        (
            ["year>=2000", "year<2020.5"],
            [{"year": {"gte": 2000, "lt": 2020.5}}, {"year": {"gte": "2000", "lt": "2020.5"}}],
        ),
        (["day > 2024-01-31"], [{"day": {"gt": "2024-01-31"}}]),
        (["n<=1", "n>a", "n=2"], [{"n": {"in": [2, "2"], "lte": "1", "gt": "a"}}]),
        (['{"a": [1], "b": {"has": {"c": 2}}}', "d=e"], [{"d": {"in": ["e"]}, "a": [1], "b": {"has": {"c": 2}}}]),
        (['{"a=b'], [{'{"a': {"in": ["b"]}}]),
    ],
    ids=str,
)
def test_what_conditions_mean(where: list[str], filters: list[dict[str, Any]]) -> None:
    """Each way of reading them is a filter."""
    assert repr(parse_filters(where)) == repr(filters)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (["year"], "'year' is not KEY=VALUE, nor KEY!=VALUE"),
        (["=1"], "'=1' is not KEY=VALUE"),
        ([">=2000"], "'>=2000' is not KEY=VALUE"),
        (["<2"], "'<2' is not KEY=VALUE"),
        (["[1]"], r"'\[1\]' is not KEY=VALUE"),
        (["year>1", "year>2"], "compares 'year' twice in the same way"),
        (["year=1", '{"year": 2}'], "'year' stands in a filter in JSON and once more"),
        (['{"year": 1}', '{"year": 2}'], "'year' stands in a filter in JSON and once more"),
        (['{"year": {"$gte": 2}}'], r"where\['year'\]: '\$gte' is no operator; write 'gte'"),
        (['{"year": NaN}'], r"where\['year'\] must be a str, a finite number"),
    ],
)
def test_what_is_no_condition_is_refused(where: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_filters(where)


async def test_a_reading_that_the_columns_type_forbids_is_left_out(database: str) -> None:
    """A text is no number, and 'soon' no date; a year is read as both."""
    table = f"t_{uuid.uuid4().hex[:12]}"
    rows = "VALUES (1, 'one', 'a', 1999, '2024-01-31'), (2, 'two', '9', 2024, '2025-01-31')"
    await run_sql(
        database,
        f"CREATE TABLE {table} (id int PRIMARY KEY, content text, lang text, year int, day date, embedding vector(64))",
        f"INSERT INTO {table} {rows}",
    )
    column = PostgresColumn(database, table, text="content")
    async with Embedder(FakeProvider()) as embedder:
        await embedder.backfill(column)

        async def found(*where: str) -> list[str]:
            matches = await search_each(embedder, column, "a question", 5, parse_filters(where), False)
            return sorted(match.id for match in matches)

        assert await found("year>=2000") == ["2"]
        assert await found("year>=1999.5", "lang>5") == ["2"]
        assert await found("lang>5") == ["1", "2"]
        assert await found("day>2024-06-01") == ["2"]
        with pytest.raises(ConfigError, match=r"'day' is .*date"):
            await found("day>soon")
    await column.aclose()
    await run_sql(database, f"DROP TABLE {table}", "DROP SCHEMA IF EXISTS aembed CASCADE")
