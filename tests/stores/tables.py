"""Tables of the user's own that refuse, drop or change what is written, and jobs that fill them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from aembed.embedder import Embedder
from aembed.errors import AembedError
from aembed.providers.fake import FakeProvider
from aembed.results import Failure, Report
from aembed.stores.postgresql_column import PostgresColumn
from tests.stage.postgres import run_sql

CREATE = "CREATE TABLE {table} (id int PRIMARY KEY, content text, embedding vector(8), seen bytea)"
ROWS = "INSERT INTO {table} SELECT i, 'section ' || i FROM generate_series(1, {n}) AS i"


async def new_table(
    database: str, table: str, *changes: str, n: int = 100, create: str = CREATE, rows: str = ROWS
) -> None:
    """`changes` come after the rows; {table} stands for the name."""
    statements = [create, rows, *changes]
    await run_sql(database, *(statement.replace("{table}", table).replace("{n}", str(n)) for statement in statements))


def trigger(body: str, when: str = "BEFORE UPDATE", level: str = "ROW", name: str = "hooked") -> Sequence[str]:
    """`body` is PL/pgSQL up to what it returns."""
    constraint = "CONSTRAINT " if "DEFERRABLE" in when else ""
    event, _, rest = when.partition(" DEFERRABLE")
    deferred = f"DEFERRABLE{rest}" if constraint else ""
    return (
        f"CREATE FUNCTION {name}_{{table}}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$",
        f"CREATE {constraint}TRIGGER {name} {event} ON {{table}} {deferred} "
        f"FOR EACH {level} EXECUTE FUNCTION {name}_{{table}}()",
    )


class Ended:
    """How a backfill ended, and what its provider has billed."""

    def __init__(self) -> None:
        self.report: Report | None = None
        self.error: AembedError | None = None
        self.failures: dict[str, AembedError] = {}
        self.bought = Counter[str]()

    def failed(self, failure: Failure) -> None:
        self.failures[failure.id] = failure.error


async def backfilled(
    place: Any, table: str, *, batch: int = 20, provider: FakeProvider | None = None, **options: Any
) -> Ended:
    names = options if "text_sql" in options else {"text": "content", **options}
    column = PostgresColumn(place, table, **names)
    provider = provider or FakeProvider("fake", 8, keep_texts=True)
    provider.ledger.log.clear()
    ended = Ended()
    try:
        async with Embedder(provider, concurrency=4, max_batch_size=batch) as embedder:
            ended.report = await embedder.backfill(column, on_failure=ended.failed)
    except AembedError as error:
        ended.error, ended.report = error, error.report
    finally:
        await column.aclose()
    ended.bought.update(text for request in provider.ledger.log for text in request.texts)
    return ended


async def filled(database: str, table: str) -> list[int]:
    return [id for (id,) in await run_sql(database, f"SELECT id FROM {table} WHERE embedding IS NOT NULL ORDER BY id")]  # noqa: S608
