"""What a job was given is let go of with its end, while the connections that it opened are kept."""

from __future__ import annotations

import gc
from pathlib import Path
from weakref import ref

import pytest

from aembed import Embedder, Record
from tests.service.own_process import KEY, MODEL, serving


class Given(list[object]):
    """A list that can be referred to weakly."""


@pytest.mark.parametrize("verb", ["embed_into", "embed_documents"])
async def test_a_connection_that_is_kept_does_not_keep_the_texts_of_the_job_that_opened_it(
    verb: str, tmp_path: Path
) -> None:
    async with (
        serving("--key", KEY) as service,
        Embedder(MODEL, api_key=KEY, base_url=service.url, max_batch_size=5) as embedder,
    ):
        texts = [f"text {number}" for number in range(50)]
        if verb == "embed_into":
            given = Given(Record(text, text) for text in texts)
            await embedder.embed_into(tmp_path / "rows.db", given)  # type: ignore[arg-type]
        else:
            given = Given(texts)
            await embedder.embed_documents(given)  # type: ignore[arg-type]
        seen = ref(given)
        del given
        gc.collect()
        assert seen() is None
        assert (await embedder.embed_documents(texts[:5])).vectors.shape[0] == 5
