"""Vectors that come with their rows from another store are taken over; those that are not what they say are bought."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aembed import Embedded, Embedder, FakeProvider, Record, Report, SpaceMismatchError, SQLiteStore, Store
from aembed.stores import open_store, schemes
from aembed.types import InputType, Reply, Space
from tests.cli.command import aembed, write_jsonl
from tests.jobs import all_of, records, rows_of, words
from tests.stores.samples import NewPlace

TEXTS = [*words(30), "text 7", "long " * 300]
RECORDS = records(TEXTS, metadata={"page": 1}, source="book")


async def filled(store: Store, provider: FakeProvider, **options: Any) -> Store:
    async with Embedder(provider, **options) as embedder:
        await embedder.embed_into(store, RECORDS)
    return store


async def copied(source: Any, target: Store, provider: FakeProvider, **options: Any) -> Report:
    """Where a job copies: what its provider was asked stands in that one's ledger."""
    async with Embedder(provider, **options) as embedder:
        plan = await embedder.plan(target, source)
        report = await embedder.embed_into(target, source)
    assert (plan.requests > 0) == (report.requests > 0)
    return report


@pytest.mark.parametrize("new", schemes())
@pytest.mark.parametrize("old", schemes())
async def test_t9_a_store_is_copied_without_a_request(old: str, new: str, tmp_path: Path, new_place: NewPlace) -> None:
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    source, target = (open_store(new_place(each, folder)) for each, folder in zip((old, new), folders, strict=True))
    await filled(source, FakeProvider())
    provider = FakeProvider()
    report = await copied(source, target, provider)
    assert (report.stored, report.requests, provider.ledger.texts) == (len(TEXTS), 0, 0)
    before, after = await rows_of(source), await rows_of(target)
    assert before.keys() == after.keys()
    for id, row in after.items():
        assert (row.text, row.metadata, row.source) == (before[id].text, before[id].metadata, before[id].source)
        assert (row.fingerprint, row.space) == (before[id].fingerprint, before[id].space)
        assert np.array_equal(row.vector, before[id].vector)
    assert (await copied(source, target, provider)).unchanged == len(TEXTS)
    await source.aclose()
    await target.aclose()


async def test_t9_rows_that_are_picked_and_relabelled_keep_their_vectors(tmp_path: Path) -> None:
    source, provider = await filled(open_store(tmp_path / "old.db"), FakeProvider()), FakeProvider()

    async def some() -> AsyncIterator[Any]:
        async for row in source.rows():
            if row.index % 2:
                yield msgspec.structs.replace(row, id=f"new {row.id}", metadata={"label": "x"})
        yield Record("own", "another text")

    target = open_store("memory:")
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(target, some())
    assert (report.stored, provider.ledger.texts) == (len(TEXTS) // 2 + 1, 1)
    rows = await rows_of(target)
    assert all(row.metadata == {"label": "x"} for row in rows.values() if row.id != "own")
    await source.aclose()


@pytest.mark.parametrize("other", [{"model": "another"}, {"dimensions": 32}])
async def test_t9_vectors_of_another_space_are_bought(other: dict[str, Any]) -> None:
    source, provider = await filled(open_store("memory:"), FakeProvider()), FakeProvider(**other)
    report = await copied(source, open_store("memory:"), provider)
    assert (report.stored, provider.ledger.texts) == (len(TEXTS), len(set(TEXTS)))


async def test_t9_another_treatment_of_long_texts_is_another_fingerprint() -> None:
    small = replace(FakeProvider().limits, max_tokens_per_text=1_000)
    source = await filled(open_store("memory:"), FakeProvider(limits=small), too_long="truncate")
    provider = FakeProvider(limits=small)
    report = await copied(source, open_store("memory:"), provider, too_long="split")
    assert (report.stored, provider.ledger.requests) == (len(TEXTS), 1)


async def test_t9_a_text_that_was_edited_behind_the_store_is_bought(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    source = await filled(SQLiteStore(path), FakeProvider())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE aembed_rows SET text = 'edited' WHERE id = 'id3'")
    provider = FakeProvider(keep_texts=True)
    target = open_store("memory:")
    await copied(source, target, provider)
    assert [each.texts for each in provider.ledger.log] == [("edited",)]
    assert (await rows_of(target))["id3"].text == "edited"
    await source.aclose()


def forged(row: Embedded, **changes: Any) -> Embedded:
    return msgspec.structs.replace(row, **changes)


async def test_t9_what_a_source_of_ones_own_says_is_checked() -> None:
    """Wrong fingerprints, spaces, widths, kinds, and numbers that no reply could hold: all of it is bought."""
    held = await all_of((await filled(open_store("memory:"), FakeProvider())).rows())
    good, vector = held[0], held[0].vector
    broken = [
        forged(good, fingerprint=b""),
        forged(good, fingerprint=held[1].fingerprint),
        forged(good, text="another text"),
        forged(good, space=None),
        forged(good, space=replace(good.space or Space("", ""), endpoint="http://elsewhere.example/v1")),
        forged(good, vector=vector[:32]),
        forged(good, vector=vector.astype(np.float64)),
        forged(good, vector=vector.tolist()),
        forged(good, vector=np.zeros_like(vector)),
        forged(good, vector=np.full_like(vector, np.nan)),
        forged(good, vector=np.full_like(vector, np.inf)),
    ]
    for row in broken:
        provider = FakeProvider()
        target = open_store("memory:")
        async with Embedder(provider) as embedder:
            report = await embedder.embed_into(target, [row])
        assert (report.stored, provider.ledger.texts) == (1, 1), row
        await rows_of(target)


class Named(FakeProvider):
    """Its replies name the model."""

    def __init__(self, answers: str) -> None:
        super().__init__()
        self.answers = answers

    async def embed(self, texts: Any, *, input_type: InputType) -> Reply:
        return replace(await super().embed(texts, input_type=input_type), model=self.answers)


async def test_t9_the_name_that_replies_gave_to_the_model_comes_with_the_vectors() -> None:
    source = await filled(open_store("memory:"), Named("model-001"))
    target = open_store("memory:")
    async with Embedder(Named("model-002")) as embedder:
        assert (await embedder.embed_into(target, source)).requests == 0
        with pytest.raises(SpaceMismatchError, match="model-002"):
            await embedder.embed_into(target, [Record("new", "a new text")])
    other = await filled(open_store("memory:"), provider := Named("model-002"))
    async with Embedder(provider) as embedder:
        more = [forged(row, id=f"more {row.id}", index=0) async for row in source.rows()]
        await other.delete([record.id for record in RECORDS[1:]])
        report = await embedder.embed_into(other, more)
    assert report.requests > 0, "vectors of another model may not stand beside those that are here"


class Unmeasured(FakeProvider):
    """Nobody knows how wide its vectors are before a reply."""

    def __init__(self) -> None:
        super().__init__()
        self.space = replace(self.space, dimensions=None)


async def test_t9_the_width_is_known_from_the_vectors_that_come() -> None:
    source = await filled(open_store("memory:"), Unmeasured())
    provider = Unmeasured()
    report = await copied(source, open_store("memory:"), provider)
    assert (report.stored, provider.ledger.requests) == (len(TEXTS), 0)


def test_t9_the_command_copies_a_store_with_its_model(tmp_path: Path, database: str) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": str(number), "text": text} for number, text in enumerate(words(10))])
    assert aembed(tmp_path, "index", "a.jsonl", "-m", "fake:x", "--store", "sqlite:///old.db").code == 0
    new = f"{database}?table=copied"
    planned = aembed(tmp_path, "index", "sqlite:///old.db", "--store", new, "--dry-run", "--json")
    assert {"new": 10, "requests": 0, "tokens": 0}.items() <= planned.json.items()
    ran = aembed(tmp_path, "index", "sqlite:///old.db", "--store", new, "--json")
    assert ran.code == 0
    assert {"stored": 10, "requests": 0, "billed_tokens": 0}.items() <= ran.json.items()
    found = aembed(tmp_path, "search", "text 3", "--store", new, "--json")
    assert found.code == 0
