"""One job on Ray Data or Daft, in a process of its own: `benchmarks.engines` and `benchmarks.shared_actors` begin it.

    python -m benchmarks.beside.peers.engines CONTESTANT URL FOLDER ROWS ...

It prints a line when it is ready, and for each number of rows waits for a line, embeds so many texts, and says in JSON
how many vectors came and how many of those that were looked at are wrong.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from tests.sections import sections
from tests.service.own_process import KEY, MODEL, ROOT
from tests.service.vectors import vector_of

Vectors: TypeAlias = Iterator[tuple[Sequence[str], Sequence[Any]]]
"""Texts and their vectors, a part at a time."""
Job: TypeAlias = Callable[[pa.Table, str, Path], Vectors]

ACTORS = 4
SECTIONS = 4_096
"""Different sections, each with a number in front, make all the texts."""


def texts(count: int) -> pa.Table:
    some = sections(SECTIONS)
    return pa.table({"text": [f"{number} {some[number % SECTIONS]}" for number in range(count)]})


# the contestants


def aembed_on_ray(actors: int, shared: bool, table: pa.Table, url: str, folder: Path) -> Vectors:
    import ray

    from aembed.integrations.ray import embed_dataset

    options: dict[str, Any] = {"api_key": KEY, "base_url": url}
    if shared:
        options |= {"cache": str(folder / f"cache-{len(table)}.db"), "coordinator": str(folder / "limits.db")}
    dataset = embed_dataset(ray.data.from_arrow(table), "text", model=MODEL, actors=actors, **options)
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
        yield batch["text"], batch["embedding"]


def ray_http_stage(together: int, table: pa.Table, url: str, folder: Path) -> Vectors:
    """As its documentation has it each row is a request; more texts are put together by hand before."""
    import ray

    whole = table["text"].to_pylist()
    rows = [{"texts": whole[start : start + together]} for start in range(0, len(whole), together)]
    for row in build_http_stage(ray.data.from_items(rows), url).iter_rows():
        yield row["texts"], row["embeddings"]


def build_http_stage(dataset: Any, url: str, **settings: Any) -> Any:
    """Ray's own stage over rows with the column `texts`, a list in each."""
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    def request(row: Mapping[str, Any]) -> dict[str, Any]:
        together = list(row["texts"])
        return {"texts": together, "payload": {"model": MODEL.partition(":")[2], "input": together}}

    def vectors(row: Mapping[str, Any]) -> dict[str, Any]:
        found = [each["embedding"] for each in row["http_response"]["data"]]
        return {"texts": row["texts"], "embeddings": np.asarray(found, np.float32)}

    config = HttpRequestProcessorConfig(
        url=f"{url}/embeddings", headers={"Authorization": f"Bearer {KEY}"}, concurrency=ACTORS, **settings
    )
    return build_processor(config, preprocess=request, postprocess=vectors)(dataset)


def aembed_on_daft(table: pa.Table, url: str, folder: Path) -> Vectors:
    import daft

    from aembed.integrations.daft import embed_text

    made = embed_text(daft.col("text"), model=MODEL, api_key=KEY, base_url=url)
    yield from of_frame(daft.from_arrow(table).with_column("embedding", made))


def daft_embed_text(table: pa.Table, url: str, folder: Path) -> Vectors:
    import daft
    from daft.ai.openai.provider import OpenAIProvider
    from daft.functions import embed_text

    provider = OpenAIProvider(api_key=KEY, base_url=url)
    made = embed_text(daft.col("text"), provider=provider, model=MODEL.partition(":")[2])
    yield from of_frame(daft.from_arrow(table).with_column("embedding", made))


def of_frame(frame: Any) -> Vectors:
    for batch in frame.to_arrow_iter():
        column = batch.column("embedding")
        lists = getattr(column, "storage", column)
        vectors = np.asarray(lists.flatten(), np.float32).reshape(len(batch), -1)
        yield batch.column("text").to_pylist(), vectors


RAY: Mapping[str, Job] = {
    "aembed, 1 actor": partial(aembed_on_ray, 1, False),
    "aembed, 4 actors": partial(aembed_on_ray, ACTORS, False),
    "aembed, 1 actor, cache and coordinator": partial(aembed_on_ray, 1, True),
    "aembed, 4 actors, cache and coordinator": partial(aembed_on_ray, ACTORS, True),
    "HTTP stage": partial(ray_http_stage, 1),
    "HTTP stage, 500 texts a row by hand": partial(ray_http_stage, 500),
}
DAFT: Mapping[str, Job] = {"aembed": aembed_on_daft, "embed_text": daft_embed_text}
CONTESTANTS = {f"Ray: {name}": job for name, job in RAY.items()} | {f"Daft: {name}": job for name, job in DAFT.items()}


def begin_ray() -> None:
    import ray

    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    environment = {"env_vars": {"PYTHONPATH": path}}
    ray.init(num_cpus=ACTORS + 2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    ray.data.DataContext.get_current().enable_progress_bars = False


def count(vectors: Vectors) -> dict[str, int]:
    rows = wrong = 0
    for some, found in vectors:
        rows += len(some)
        wrong += sum(not np.allclose(vector_of(text), one) for text, one in islice(zip(some, found, strict=True), 2))
    return {"rows": rows, "wrong": wrong}


def main() -> None:
    name, url, folder, *counts = sys.argv[1:]
    if name.startswith("Ray"):
        begin_ray()
    tables = [texts(int(count)) for count in counts]
    print("ready", flush=True)
    for table in tables:
        sys.stdin.readline()
        print(json.dumps(count(CONTESTANTS[name](table, url, Path(folder)))), flush=True)


if __name__ == "__main__":
    main()
