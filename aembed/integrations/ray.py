"""Ray Data: a column of embeddings for a dataset, made by actors that each have one Embedder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from math import nan
from typing import Any, Literal, TypeAlias, Unpack

import numpy as np
from ray.data import ActorPoolStrategy, Dataset

from aembed.embedder import Embedder
from aembed.errors import ConfigError
from aembed.options import EmbedderOptions
from aembed.protocols import Provider
from aembed.ranges import check_whole_number, one_line_of

OnError: TypeAlias = Literal["raise", "null"]
# Chosen: four full requests of OpenAI, 50 MB of vectors of 1,536 dimensions.
ROWS_AT_ONCE = 8_192
"""Rows of one call."""
# Measured (Ray 2.60): of one block four asynchronous calls are under way at most, of two blocks only one.
CALLS_PER_BLOCK = 4
# Chosen: an actor waits for the network most of the time.
CPUS = 0.25


class EmbedBatches:
    """The class for `Dataset.map_batches`: it adds the vectors of a column as a float32 tensor column.

    One Embedder an actor, made in the actor's event loop. Nobody closes it, as Ray tears nothing down: what was sent
    is in the cache, where there is one.
    """

    def __init__(
        self, column: str, *, model: str | Provider, output: str, on_error: OnError, options: EmbedderOptions
    ) -> None:
        self._column, self._output, self._on_error = column, output, on_error
        self._model, self._options = model, options
        self._embedder: Embedder | None = None

    async def __call__(self, batch: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Raises PartialError for texts that fail, unless they are to be null."""
        if self._embedder is None:
            self._embedder = Embedder(self._model, **self._options)
        found = await self._embedder.embed_documents(list(batch[self._column]))
        if self._on_error == "raise":
            yield {**batch, self._output: found.vectors}
            return
        errors = np.full(len(found), None, dtype=object)
        for failure in found.failures:
            errors[failure.index] = str(failure.error)
        yield {**batch, self._output: found.filled(nan), f"{self._output}_error": errors}


def embed_dataset(
    dataset: Dataset,
    column: str,
    *,
    model: str | Provider,
    output: str = "embedding",
    actors: int = 1,
    on_error: OnError = "raise",
    **options: Unpack[EmbedderOptions],
) -> Dataset:
    """The dataset with a column of vectors of the texts in `column`, a float32 tensor of shape (dimensions,) a row.

    `options` are those of Embedder, and reach each actor: with `cache=` no text is bought twice, whatever actors die.
    A text that fails, as an empty one, raises PartialError; with `on_error="null"` its vector is NaN, since a tensor
    column has no null, and the column `<output>_error` has the reason. Rows come in the order of the dataset.
    Raises ConfigError for what cannot work.
    """
    if on_error not in ("raise", "null"):
        raise ConfigError(f'on_error={one_line_of(on_error)} must be "raise" or "null"')
    actors = check_whole_number("actors", actors, 1)
    given = {"column": column, "model": model, "output": output, "on_error": on_error, "options": options}
    rows = dataset.repartition(target_num_rows_per_block=ROWS_AT_ONCE * CALLS_PER_BLOCK)
    return rows.map_batches(
        EmbedBatches,
        fn_constructor_kwargs=given,
        batch_size=ROWS_AT_ONCE,
        batch_format="numpy",
        compute=ActorPoolStrategy(size=actors),
        num_cpus=CPUS,
    )
