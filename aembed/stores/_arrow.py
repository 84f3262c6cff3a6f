"""Rows as Arrow's record batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from aembed.core.spaces import space_as_json
from aembed.errors import ConfigError
from aembed.types import Matrix, Space

SPACE = "aembed.space"
"""Under this key the metadata of the schema has the space of the vectors, as JSON."""


def import_pyarrow(what: str) -> Any:
    """Raises ConfigError where it is not installed; `what` needs it."""
    try:
        return import_module("pyarrow")
    except ModuleNotFoundError:
        raise ConfigError(f"{what} needs pyarrow:  pip install 'aembed[arrow]'") from None


def make_batch(pa: Any, columns: Sequence[Sequence[str | None]], matrix: Matrix, space: Space | None) -> Any:
    """`columns` are ids, texts, metadata and sources. The matrix is not copied."""
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.string()),
            pa.field("metadata", pa.string()),
            pa.field("source", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), matrix.shape[1]), nullable=False),
        ],
        metadata={SPACE: json.dumps(space_as_json(space))} if space else None,
    )
    arrays = [pa.array(values, pa.string()) for values in columns]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1), pa.float32()), matrix.shape[1])
    return pa.RecordBatch.from_arrays([*arrays, vectors], schema=schema)
