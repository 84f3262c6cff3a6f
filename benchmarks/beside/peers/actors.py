"""Ray actors that embed without an end on one key, for `benchmarks.shared_actors`, which ends the process.

    python -m benchmarks.beside.peers.actors coordinator|alone|qps URL PLACE

Each actor of aembed names itself as its project: actor-PID.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
from ray.data import Dataset
from ray.data import range as rows_of

import aembed.integrations.ray as engine
from benchmarks.beside.peers.engines import ACTORS, begin_ray, build_http_stage
from tests.service.own_process import KEY, MODEL

ROWS = ACTORS * engine.ROWS_AT_ONCE * engine.CALLS_PER_BLOCK
"""A block for each actor, which none of them comes to the end of."""
WORDS = 250
TOGETHER, QPS = 8, 4
"""Rows of a request that were put together by hand, and requests a second of each actor: so many, with 313 tokens in
each text, are 80 % of an actor's part of three million tokens a minute; five would be all of it."""


class KnownBatches(engine.EmbedBatches):  # type: ignore[misc]
    async def __call__(self, batch: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        os.environ["OPENAI_PROJECT_ID"] = f"actor-{os.getpid()}"
        async for part in super().__call__(batch):
            yield part


def add_text(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": np.array([f"text {number} " + "word " * WORDS for number in batch["id"]], dtype=object)}


def texts(rows: int) -> Dataset:
    return rows_of(rows, override_num_blocks=ACTORS).map_batches(add_text)


def main() -> None:
    how, url, place = sys.argv[1:]
    begin_ray()
    if how == "qps":
        together = texts(ROWS // 4).map_batches(put_together, batch_size=TOGETHER)
        dataset = build_http_stage(together, url, qps=QPS, max_retries=8)
    else:
        engine.EmbedBatches = KnownBatches  # type: ignore[misc]
        options = {"coordinator": place} if how == "coordinator" else {}
        dataset = engine.embed_dataset(
            texts(ROWS), "text", model=MODEL, actors=ACTORS, api_key=KEY, base_url=url, **options
        )
    for _ in dataset.iter_batches(batch_size=None):
        pass


def put_together(batch: Mapping[str, Any]) -> dict[str, Any]:
    together = np.empty(1, dtype=object)
    together[0] = list(batch["text"])
    return {"texts": together}


if __name__ == "__main__":
    main()
