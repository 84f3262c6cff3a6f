"""Real Daft. `nox -s integrations` installs it and runs this."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from aembed import ConfigError
from tests.service.own_process import KEY, MODEL, serving
from tests.service.vectors import vector_of

daft = pytest.importorskip("daft")
engine = pytest.importorskip("aembed.integrations.daft")

# What Daft itself warns of is Daft's.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]


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


def test_a_text_that_fails_is_null_or_raises() -> None:
    frame = daft.from_pydict({"text": ["a", "", None]})
    found = frame.with_column("vector", engine.embed_text(daft.col("text"), model="fake:x", on_error="null"))
    assert [vector is None for vector in found.to_pydict()["vector"]] == [False, True, True]
    with pytest.raises(Exception, match="is empty"):
        frame.with_column("vector", engine.embed_text(daft.col("text"), model="fake:x")).collect()
    with pytest.raises(ConfigError, match="on_error="):
        engine.embed_text(daft.col("text"), model="fake:x", on_error="skip")
