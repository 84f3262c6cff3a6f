"""Daft: an expression for the embeddings of a column, made by one Embedder a process."""

from __future__ import annotations

from typing import Literal, TypeAlias, Unpack

import daft
from daft import DataType, Expression, Series

from aembed.embedder import Embedder
from aembed.errors import ConfigError
from aembed.integrations.blocking import BlockingEmbedder
from aembed.options import EmbedderOptions
from aembed.protocols import Provider
from aembed.ranges import one_line_of
from aembed.types import Vector

OnError: TypeAlias = Literal["raise", "null"]
# Chosen: four full requests of OpenAI, 50 MB of vectors of 1,536 dimensions.
ROWS_AT_ONCE = 8_192
"""Rows of one call."""


class _Embedding:
    """What Daft makes one of in each of its workers."""

    def __init__(self, model: str | Provider, on_error: OnError, options: EmbedderOptions) -> None:
        self._embedder = BlockingEmbedder(model, **options)
        self._on_error = on_error

    def vectors(self, texts: Series) -> list[Vector | None]:
        found = self._embedder.embed_documents(texts.to_pylist())
        if self._on_error == "raise":
            found.raise_for_failures()
        return list(found)


def embed_text(
    texts: Expression, *, model: str | Provider, on_error: OnError = "raise", **options: Unpack[EmbedderOptions]
) -> Expression:
    """The vectors of a column of texts, as Daft's embedding type of float32, or as lists where the width is not known.

    `options` are those of Embedder: with `cache=` no text is bought twice, whatever workers die. A text that fails
    raises PartialError, or is null with `on_error="null"`. Raises ConfigError, at once, for what cannot work.
    """
    if on_error not in ("raise", "null"):
        raise ConfigError(f'on_error={one_line_of(on_error)} must be "raise" or "null"')
    width = Embedder(model, **options).space.dimensions
    kind = DataType.embedding(DataType.float32(), width) if width else DataType.list(DataType.float32())

    class EmbedColumn(_Embedding):
        embed = daft.method.batch(return_dtype=kind, batch_size=ROWS_AT_ONCE)(_Embedding.vectors)

    expression: Expression = daft.cls(EmbedColumn)(model, on_error, options).embed(texts)
    return expression
