"""`perplexity:` speaks OpenAI's format, but for its vectors: base64 of signed int8, one byte a value.

Sources: perplexityai 0.46.1 (fields, limits, what the bytes are; PERPLEXITY_API_KEY), a recorded reply of August 2026
(1,024 bytes for 1,024 dimensions, where no encoding was asked for) and docs.perplexity.ai (to be compared by cosine).
The values are kept as they come, from -128 to 127, so vectors are not 1 long. Its other encoding, a bit a value, is not
read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from aembed.core.replies import Parsed, ReplyReader
from aembed.core.vectors import squares
from aembed.errors import ConfigError
from aembed.limits import Limits
from aembed.providers._options import OPTIONS
from aembed.providers._provider import HTTPProvider, Reader
from aembed.providers._service import Service

__all__ = ["OPTIONS", "PerplexityProvider", "open_provider"]

PERPLEXITY = Service(
    name="perplexity",
    base_url="https://api.perplexity.ai/v1",
    limits=Limits(max_batch_size=512, max_tokens_per_batch=120_000, max_tokens_per_text=32_000),
    key_variable="PERPLEXITY_API_KEY",
    # langchain-perplexity reads this one.
    other_key_variables=("PPLX_API_KEY",),
    path="/v1",
    encodings={"base64": {"encoding_format": "base64_int8"}, "float": {"encoding_format": "base64_int8"}},
)


class _Int8Reader(ReplyReader):
    def read_encoding(self, parsed: Parsed, dimensions: int | None, proven: bool) -> Parsed:
        # The bytes were taken for float32, four values in each.
        values = np.ascontiguousarray(parsed.matrix, "<f4").view(np.int8).astype(np.float32)
        return replace(parsed, matrix=values, squares=squares(values))


class PerplexityProvider(HTTPProvider):
    """One model of Perplexity, with the keywords of HTTPProvider. `dimensions` is a multiple of 4."""

    service = PERPLEXITY

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(model, **options)
        if self.dimensions is not None and self.dimensions % 4:
            raise ConfigError(f"dimensions={self.dimensions} must be a multiple of 4 for perplexity:{model}")

    def reader(self, inputs: int) -> Reader:
        return _Int8Reader(inputs)


def open_provider(prefix: str, model: str, **options: Any) -> PerplexityProvider:
    return PerplexityProvider(model, **options)
