"""Real Daft. `nox -s integrations` installs it and runs this."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from aembed import ConfigError
from tests.service.own_process import KEY, MODEL, ROOT, serving
from tests.service.vectors import vector_of

daft = pytest.importorskip("daft")
engine = pytest.importorskip("aembed.integrations.daft")

# What Daft itself warns of is Daft's.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]
BATCH, CONCURRENCY = 100, 4


async def test_a_column_of_texts_becomes_one_of_vectors(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(20_000)]
    async with serving("--key", KEY) as service:
        options = {"api_key": KEY, "base_url": service.url, "cache": str(tmp_path / "cache.db")}
        frame = daft.from_pydict({"text": texts})
        for _ in range(2):
            made = frame.with_column("vector", engine.embed_text(daft.col("text"), model=MODEL, **options))
            found = await asyncio.to_thread(made.to_pydict)
            assert found["text"] == texts
            for text, vector in zip(texts[::97], found["vector"][::97], strict=True):
                assert np.array_equal(np.asarray(vector, np.float32), vector_of(text))
        assert sum((await service.texts()).values()) == 20_000
    assert str(made.schema()["vector"].dtype).startswith("Embedding[Float32; 1536")


JOB = f"""
    import sys
    import daft
    from aembed.integrations.daft import embed_text
    url, cache = sys.argv[1:]
    texts = [f"text {{number}}" for number in range(20_000)]
    made = embed_text(daft.col("text"), model={MODEL!r}, api_key={KEY!r}, base_url=url, cache=cache,
                      concurrency={CONCURRENCY}, max_batch_size={BATCH})
    daft.from_pydict({{"text": texts}}).with_column("vector", made).collect()
"""


async def test_t25_a_job_that_is_killed_is_run_again_for_what_was_in_flight(tmp_path: Path) -> None:
    """Daft's own runner has no workers that outlive each other: what dies is the whole job."""
    cache = str(tmp_path / "cache.db")
    async with serving("--key", KEY, "--latency", "0.3") as service:
        for bought in (5_000, 12_000):
            command = (sys.executable, "-c", textwrap.dedent(JOB), service.url, cache)
            process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
            while (await service.ledger())["texts"] < bought:
                assert process.returncode is None
                await asyncio.sleep(0.02)
            process.kill()
            await process.wait()
        texts = [f"text {number}" for number in range(20_000)]
        frame = daft.from_pydict({"text": texts})
        options = {"api_key": KEY, "base_url": service.url, "cache": cache}
        made = frame.with_column("vector", engine.embed_text(daft.col("text"), model=MODEL, **options))
        found = await asyncio.to_thread(made.to_pydict)
        billed = sum((await service.texts()).values())
    for text, vector in zip(texts[::97], found["vector"][::97], strict=True):
        assert np.array_equal(np.asarray(vector, np.float32), vector_of(text))
    # What each had in flight, and as many replies that were on their way into the cache.
    assert 20_000 <= billed <= 20_000 + 2 * 2 * CONCURRENCY * BATCH


def test_a_text_that_fails_is_null_or_raises() -> None:
    frame = daft.from_pydict({"text": ["a", "", None]})
    found = frame.with_column("vector", engine.embed_text(daft.col("text"), model="fake:x", on_error="null"))
    assert [vector is None for vector in found.to_pydict()["vector"]] == [False, True, True]
    with pytest.raises(Exception, match="is empty"):
        frame.with_column("vector", engine.embed_text(daft.col("text"), model="fake:x")).collect()
    with pytest.raises(ConfigError, match="on_error="):
        engine.embed_text(daft.col("text"), model="fake:x", on_error="skip")
