from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed import Embedder, MemoryStore
from aembed.pipeline.seen_keys import SeenKeys, short_key
from tests.jobs import words

KEYS = st.lists(st.binary(min_size=16, max_size=16), max_size=20)


@given(portions=st.lists(KEYS, max_size=5), asked=KEYS)
async def test_keys_on_the_disk_are_found_as_those_in_memory(portions: list[list[bytes]], asked: list[bytes]) -> None:
    seen, added = SeenKeys(most_held=7), set[bytes]()
    for keys in portions:
        await seen.add(keys)
        added.update(keys)
        assert await seen.find([*asked, *keys]) == added.intersection([*asked, *keys])
    assert await seen.find(list(added)) == added
    seen.close()


async def test_keys_stay_in_memory_where_there_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SQLITE_TMPDIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / "gone"))
    seen = SeenKeys(most_held=3)
    keys = [bytes([number] * 16) for number in range(200)]
    for key in keys:
        await seen.add([key])
    assert await seen.find(keys) == set(keys)
    seen.close()


async def test_d16_texts_with_one_short_key_are_all_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan takes one for the other, and so tells requests less. The job asks the store by whole fingerprints."""
    monkeypatch.setattr("aembed.pipeline.seen_keys.short_key", lambda key: short_key(key) & 3)
    store, texts = MemoryStore(), words(2_000)
    async with Embedder("fake:x", max_batch_size=10) as embedder:
        plan = await embedder.plan(store, texts)
        assert (plan.new, plan.inputs) == (2_000, 2_000)
        report = await embedder.embed_into(store, texts)
    assert plan.requests < report.requests == 200
    assert (report.stored, (await store.info()).rows) == (2_000, 2_000)
