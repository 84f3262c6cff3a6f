"""A hybrid search: what comes first, and what is refused before the question is paid for."""

from __future__ import annotations

from pathlib import Path

import pytest

from aembed import Embedder, FakeProvider, MemoryStore, PostgresStore, Record, SQLiteStore
from aembed.errors import ConfigError
from aembed.protocols import SearchesWords, Store

RECORDS = [Record(f"{i:02d}", f"section {i} sets option_{i} and more") for i in range(40)]


async def test_a_row_that_holds_the_name_comes_first(tmp_path: Path) -> None:
    async with Embedder(FakeProvider()) as embedder:
        await embedder.embed_into(tmp_path / "notes.db", RECORDS)
        question = "what does option_17 do"
        plain = await embedder.search(tmp_path / "notes.db", question, k=40)
        assert [match.rank for match in plain] == list(range(1, 41))
        assert [match.score for match in plain] == sorted((match.score for match in plain), reverse=True)
        assert plain[0].id != "17"
        hybrid = await embedder.search(tmp_path / "notes.db", question, k=3, hybrid=True)
        assert [match.rank for match in hybrid] == [1, 2, 3]
        assert [match.id for match in hybrid] == ["17", plain[0].id, plain[1].id]
        scores = {match.id: match.score for match in plain}
        assert [match.score for match in hybrid] == [scores[match.id] for match in hybrid]
        filtered = await embedder.search(tmp_path / "notes.db", question, k=3, hybrid=True, where={"n": 1})
        assert filtered == []


async def test_many_questions_are_answered_as_each_by_itself(tmp_path: Path) -> None:
    questions = [f"what does option_{i} do" for i in (3, 17, 39, 77)]
    async with Embedder(FakeProvider()) as embedder:
        await embedder.embed_into(tmp_path / "notes.db", RECORDS)
        found = await embedder.search_many(tmp_path / "notes.db", questions, k=4, hybrid=True)
        assert [matches[0].id for matches in found[:3]] == ["03", "17", "39"]
        assert found == [await embedder.search(tmp_path / "notes.db", each, k=4, hybrid=True) for each in questions]
        plain = await embedder.search_many(tmp_path / "notes.db", questions, k=4)
        assert [[match.rank for match in matches] for matches in plain] == [[1, 2, 3, 4]] * 4


class Plain:
    """A store of the user's own, which finds no words."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        if name in ("prepare_words", "search_words"):
            raise AttributeError(name)
        return getattr(self._store, name)


async def test_a_store_that_finds_no_words_is_refused_and_nothing_is_paid() -> None:
    provider, store = FakeProvider(), Plain(MemoryStore())
    assert not isinstance(store, SearchesWords)
    assert isinstance(store, Store)
    async with Embedder(provider) as embedder:
        await embedder.embed_into(store, RECORDS)
        sent = provider.ledger.requests
        with pytest.raises(ConfigError, match=r"Plain does not find words.*SearchesWords"):
            await embedder.search(store, "option_17", hybrid=True)
        with pytest.raises(ConfigError, match="Plain does not find words"):
            await embedder.search_many(store, ["option_17"], hybrid=True)
        assert provider.ledger.requests == sent
        assert len(await embedder.search(store, "option_17")) == 5


async def test_a_store_without_texts_is_refused_and_nothing_is_paid(database: str) -> None:
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        for name, keeps in (("with_texts", True), ("without", False)):
            store = PostgresStore(database, table=name, store_text=keeps)
            await embedder.embed_into(store, RECORDS)
            await store.aclose()
        sent = provider.ledger.requests
        for options in ({}, {"store_text": False}):
            store = PostgresStore(database, table="without", **options)
            with pytest.raises(ConfigError, match="keeps no texts"):
                await embedder.search(store, "option_17", hybrid=True)
            await store.aclose()
        assert provider.ledger.requests == sent
        store = PostgresStore(database, table="with_texts")
        assert (await embedder.search(store, "option_17", hybrid=True))[0].id == "17"
        await store.aclose()


async def test_behind_a_pooler_the_index_is_built_over_a_direct_connection(database: str, pooled: str) -> None:
    async with Embedder(FakeProvider()) as embedder:
        behind, direct = PostgresStore(pooled, table="p"), PostgresStore(database, table="p")
        await embedder.embed_into(behind, RECORDS)
        with pytest.raises(ConfigError, match="direct connection"):
            await embedder.search(behind, "option_17", hybrid=True)
        await direct.index_words()
        assert (await embedder.search(behind, "option_17", hybrid=True))[0].id == "17"
        await behind.aclose()
        await direct.aclose()


async def test_an_empty_store_gives_nothing_without_a_request(tmp_path: Path) -> None:
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        for store in (MemoryStore(), SQLiteStore(tmp_path / "new.db")):
            assert await embedder.search(store, "option_17", hybrid=True) == []
    assert provider.ledger.requests == 0
    assert not (tmp_path / "new.db").exists()
