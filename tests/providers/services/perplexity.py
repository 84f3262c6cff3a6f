"""Perplexity: base64 of signed int8, one byte a value, and nothing else; a cost in `usage`. SDK 0.46.1, a recording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pybase64

from aembed.types import Matrix
from tests.providers.services._scripted import Asked, ScriptedService


class Perplexity(ScriptedService):
    prefix = "perplexity"
    model = "pplx-embed-v1-0.6b"
    width = 1_024
    shorter: ClassVar[int | None] = 256
    max_inputs = 512
    max_tokens = 120_000
    max_tokens_per_text = 32_000
    encodings: ClassVar[Mapping[str | None, str]] = {None: "base64", "base64_int8": "base64"}

    def vectors(self, asked: Asked) -> Matrix:
        rows = super().vectors(asked)
        return np.round(rows / np.abs(rows).max(axis=1, keepdims=True) * 127).astype(np.float32)

    def item(self, row: Matrix, asked: Asked) -> dict[str, Any]:
        return {"object": "embedding", "embedding": pybase64.b64encode(row.astype(np.int8).tobytes()).decode()}

    def usage(self, billed: int) -> dict[str, Any]:
        cost = {"currency": "USD", "input_cost": billed * 4e-9, "total_cost": billed * 4e-9}
        return {"prompt_tokens": billed, "total_tokens": billed, "cost": cost}
