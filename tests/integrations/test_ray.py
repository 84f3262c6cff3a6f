"""Real Ray, with actors that are killed in mid-block. `nox -s integrations` installs it and runs this."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aembed import ConfigError
from tests.service.own_process import KEY, MODEL, ROOT, serving
from tests.service.vectors import vector_of

ray = pytest.importorskip("ray")
engine = pytest.importorskip("aembed.integrations.ray")

# What Ray itself warns of is Ray's.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]
BATCH, CONCURRENCY = 100, 4


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def texts_of(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "text": f"text {number}"} for number in range(count)]


class DyingBatches(engine.EmbedBatches):  # type: ignore[misc, name-defined]
    """An actor dies in the middle of a call for each file that it finds in the folder DEATHS."""

    async def __call__(self, batch: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        folder = Path(self._options["cache"]).parent / "deaths"
        for death in sorted(folder.iterdir()):
            try:
                death.unlink()
            except FileNotFoundError:
                continue  # another actor has taken it
            asyncio.get_running_loop().call_later(1.0, os._exit, 1)
            break
        async for part in super().__call__(batch):
            yield part


async def test_t25_actors_that_are_killed_in_mid_block_cost_what_was_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = 2
    (tmp_path / "deaths").mkdir()
    for number in range(deaths):
        (tmp_path / "deaths" / str(number)).touch()
    monkeypatch.setattr(engine, "EmbedBatches", DyingBatches)
    monkeypatch.setattr(engine, "ROWS_AT_ONCE", 2_000)
    async with serving("--key", KEY, "--latency", "0.3") as service:
        dataset = engine.embed_dataset(
            ray.data.from_items(texts_of(20_000), override_num_blocks=8),
            "text",
            model=MODEL,
            actors=4,
            cache=str(tmp_path / "cache.db"),
            api_key=KEY,
            base_url=service.url,
            concurrency=CONCURRENCY,
            max_batch_size=BATCH,
        )
        rows = await asyncio.to_thread(dataset.take_all)
        billed = sum((await service.texts()).values())
    assert not list((tmp_path / "deaths").iterdir())
    assert sorted(row["id"] for row in rows) == [*range(20_000)]
    for row in rows:
        assert row["embedding"].dtype == np.float32
        assert np.array_equal(row["embedding"], vector_of(row["text"]))
    # What each had in flight, as often as four calls of one actor go at once; and the word that tells the width.
    assert 20_000 <= billed <= 20_000 + deaths * 4 * CONCURRENCY * BATCH


def test_a_text_that_fails_is_null_or_raises() -> None:
    dataset = ray.data.from_items([{"text": "a"}, {"text": ""}, {"text": None}])
    rows = engine.embed_dataset(dataset, "text", model="fake:x", on_error="null").take_all()
    assert [bool(np.isnan(row["embedding"]).all()) for row in rows] == [False, True, True]
    assert rows[0]["embedding_error"] is None
    assert "is empty" in rows[1]["embedding_error"]
    with pytest.raises(Exception, match=r"2 of 3 texts|is empty"):
        engine.embed_dataset(dataset, "text", model="fake:x").take_all()
    with pytest.raises(ConfigError, match="on_error="):
        engine.embed_dataset(dataset, "text", model="fake:x", on_error="skip")
