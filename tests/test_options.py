"""Every number that a caller gives is checked before anything is read or sent (row B7)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from aembed import Budget, ConfigError, Embedder, FakeProvider, MemoryStore, RetryPolicy, SQLiteColumn
from tests.jobs import records, words

NEVER: list[Any] = [nan, inf, -inf, True, False, "8", b"8", [8], {}, object, -1, -0.5, 1j]
WHOLE: list[Any] = [*NEVER, 1.5, 8.0, None]
"""None where it is no option of that name; taken out where it is."""


def wrong(values: list[Any], *others: Any, none: bool = False) -> list[Any]:
    return [value for value in [*values, *others] if not (none and value is None)]


OPTIONS: dict[str, list[Any]] = {
    "concurrency": wrong(WHOLE, 0),
    "requests_per_minute": wrong(NEVER, 0, 0.0),
    "tokens_per_minute": wrong(NEVER, 0, 0.0),
    "max_batch_size": wrong(WHOLE, 0, 2_049, none=True),
    "max_tokens_per_batch": wrong(WHOLE, 0, 300_001, none=True),
    "timeout": wrong(NEVER, 0, None),
    "cache_bytes": wrong(WHOLE),
    "cache": [5, "", True, b"cache.db", ["cache.db"]],
    "coordinator": [5, "", True, b"limits.db", ["limits.db"]],
    "cache_queries": [None, 1, 0, "yes"],
    "max_queue_size": wrong(WHOLE, 0, none=True),
    "too_long": [None, "", "shorten", 1, True, ["error"], nan],
    "on_event": [3, "print", b"", ["print"]],
    "retry": [None, 3, "3", True, {"max_retries": 3}, RetryPolicy],
    "budget": [3, "3", True, {"max_cost_usd": 3}, Budget, [3]],
}
RETRIES: dict[str, list[Any]] = {
    "max_retries": wrong(WHOLE),
    "backoff_base": wrong(NEVER, None),
    "backoff_max": wrong(NEVER, None),
    "max_outage": wrong(NEVER, None),
}
BUDGETS: dict[str, list[Any]] = {"max_billed_tokens": wrong(WHOLE, none=True), "max_cost_usd": wrong(NEVER)}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}={value!r}"[:40]) for name, values in table.items() for value in values
    ]


def told(name: str, value: Any, call: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=rf"{name}\b.* must be ") as raised:
        call()
    assert len(str(raised.value)) < 200
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(("name", "value"), cases(OPTIONS))
def test_b7_an_option_that_cannot_be_is_told_with_its_name_and_range(name: str, value: Any) -> None:
    provider = FakeProvider()
    told(name, value, lambda: Embedder(provider, **{name: value}))


@pytest.mark.parametrize(("name", "value"), cases(RETRIES))
def test_b7_a_retry_policy_too(name: str, value: Any) -> None:
    told(name, value, lambda: RetryPolicy(**{name: value}))


@pytest.mark.parametrize(("name", "value"), cases(BUDGETS))
def test_b7_a_budget_too(name: str, value: Any) -> None:
    told(name, value, lambda: Budget(**{name: value}))


@pytest.mark.parametrize("value", [*NEVER, 0, None])
async def test_b7_the_time_of_a_query_too(value: Any) -> None:
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        with pytest.raises(ConfigError, match=r"timeout=.* must be a number of seconds above 0, and finite"):
            await embedder.embed_query("text", timeout=value)
    assert provider.ledger.requests == 0


@pytest.mark.parametrize("value", [*NEVER, None])
async def test_b7_the_time_of_closing_too(value: Any) -> None:
    embedder = Embedder(FakeProvider())
    with pytest.raises(ConfigError, match=r"timeout=.* must be a number of seconds from 0 up, and finite"):
        await embedder.aclose(timeout=value)
    assert len(await embedder.embed_query("it is open")) == 64
    await embedder.aclose(timeout=0)


@pytest.mark.parametrize("value", [*WHOLE, 0])
async def test_b7_how_many_rows_are_searched_or_filled_too(value: Any, tmp_path: Path) -> None:
    provider = FakeProvider()
    column = SQLiteColumn(tmp_path / "none.db", "notes", text="body")
    async with Embedder(provider) as embedder:
        with pytest.raises(ConfigError, match=r"^k=.* must be an int from 1 up$"):
            await embedder.search(MemoryStore(), "text", k=value)
        if value is not None:
            with pytest.raises(ConfigError, match=r"^limit=.* must be an int from 1 up, or None$"):
                await embedder.backfill(column, limit=value)
    assert provider.ledger.requests == 0
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("observer", ["print", 3, object()])
async def test_b7_what_cannot_be_called_is_no_observer(observer: Any) -> None:
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        with pytest.raises(ConfigError, match="on_progress must be a function"):
            await embedder.embed_documents(["text"], on_progress=observer)
        with pytest.raises(ConfigError, match="on_failure must be a function"):
            await embedder.embed_into(MemoryStore(), ["text"], on_failure=observer)
    assert provider.ledger.requests == 0


@pytest.mark.parametrize("model", [None, 3, b"openai:x", object(), ["fake:fake"], FakeProvider])
def test_b7_a_model_is_a_name_or_a_provider(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"model=.* must be a str"):
        Embedder(model)


@pytest.mark.parametrize(
    "option", [{"api_key": "sk-x"}, {"base_url": "http://localhost/v1"}, {"dimensions": 3}, {"http_client": object()}]
)
def test_b7_what_a_provider_object_has_by_itself_is_not_swallowed(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))}= is for a model that is named by a str"):
        Embedder(FakeProvider(), **option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"api_key": 5}, "api_key must be a str or an async callable, not int"),
        ({"api_key": b"sk-secret"}, "api_key must be a str or an async callable, not bytes"),
        ({"base_url": 5}, "base_url must be a str, not int"),
        ({"http_client": "client"}, "http_client must be an AsyncClient of httpx or httpx2, not str"),
        *[
            ({"dimensions": value}, "dimensions=.* must be an int from 1 to 100,000")
            for value in (0, -1, True, "8", nan, 1.5)
        ],
    ],
)
def test_b7_what_goes_to_a_provider_is_looked_at_first(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        Embedder("openai:text-embedding-3-small", **({"api_key": "sk-x"} | option))
    assert "secret" not in str(raised.value)


def test_b7_a_client_that_is_not_for_asyncio_is_none() -> None:
    with httpx.Client() as client, pytest.raises(ConfigError, match="not Client"):
        Embedder("openai:text-embedding-3-small", api_key="sk-x", http_client=client)


async def test_b7_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "app.db") as connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [(text,) for text in words(9)])
    connection.close()
    options: dict[str, Any] = {
        "concurrency": np.int64(2),
        "requests_per_minute": np.float32(6_000),
        "tokens_per_minute": np.int32(1_000_000),
        "max_batch_size": np.uint8(10),
        "timeout": np.float64(20),
        "cache_bytes": np.int64(1_000),
        "max_queue_size": np.int64(5),
        "retry": RetryPolicy(max_retries=np.int64(1), backoff_base=np.float64(0.1)),
        "budget": Budget(max_billed_tokens=np.int64(1_000), max_cost_usd=np.float64(1.0)),
    }
    column = SQLiteColumn(tmp_path / "app.db", "notes", text="body")
    store = MemoryStore()
    async with Embedder(FakeProvider(), **options) as embedder:
        report = await embedder.embed_into(store, records(words(50)))
        assert (await embedder.backfill(column, limit=np.int64(3))).stored == 3
        assert len(await embedder.search(store, "text 7", k=np.int64(2))) == 2
    await column.aclose()
    assert report.stored == 50


def test_b7_what_is_allowed_is_taken() -> None:
    RetryPolicy(max_retries=0, backoff_base=0, backoff_max=0, max_outage=0)
    Budget(max_billed_tokens=0, max_cost_usd=0)
    Budget(None, None)
    Embedder(FakeProvider(), max_queue_size=None, requests_per_minute=0.5, timeout=1, cache_bytes=0)
