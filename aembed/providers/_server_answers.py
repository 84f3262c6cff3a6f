"""What a server tells of its models by `GET /models` or `GET /info`, before anything is sent to it.

text-embeddings-inference tells at /info how many texts and tokens it takes, and whether it cuts. llama.cpp tells
`meta.n_ctx` and `meta.n_embd` of the one model that it has, whatever name is asked for; vLLM and SGLang tell
`max_model_len`; infinity counts characters in `usage`, and is known by `owned_by`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from aembed.limits import Limits
from aembed.types import Space

logger = logging.getLogger("aembed")

_CONTEXTS = ("n_ctx", "n_ctx_train", "max_model_len")
_COUNTS_CHARACTERS = frozenset({"infinity"})
# Chosen: no model reads ten million tokens; a larger number means "without a limit", or something else.
_MOST = 10_000_000


@dataclass(frozen=True, slots=True)
class ServerAnswers:
    """None where it says nothing. `counts_tokens`: its `usage` does. `cuts`: it shortens long texts by itself."""

    dimensions: int | None = None
    max_tokens_per_text: int | None = None
    counts_tokens: bool = True
    max_batch_size: int | None = None
    max_tokens_per_batch: int | None = None
    cuts: bool = False

    def narrow(self, limits: Limits) -> Limits:
        """Those limits with what was told: of a text the smaller one, of a request what the server says."""
        return replace(
            limits,
            max_batch_size=self.max_batch_size or limits.max_batch_size,
            max_tokens_per_batch=self.max_tokens_per_batch or limits.max_tokens_per_batch,
            max_tokens_per_text=min(self.max_tokens_per_text or limits.max_tokens_per_text, limits.max_tokens_per_text),
        )

    def warn_of_cuts(self, space: Space) -> None:
        if self.cuts:
            most = self.max_tokens_per_text or "its model takes"
            way_out = "start it without --auto-truncate"
            logger.warning("%s cuts texts of more tokens than %s and does not say so: %s", space, most, way_out)


def read_answers(body: bytes, model: str) -> ServerAnswers:
    """Nothing here raises: what is odd is not said."""
    try:
        said = msgspec.json.decode(body)
        if isinstance(said, dict) and "max_client_batch_size" in said:
            return ServerAnswers(
                max_tokens_per_text=next(_numbers_at([said], ("max_input_length",)), None),
                max_batch_size=next(_numbers_at([said], ("max_client_batch_size",)), None),
                max_tokens_per_batch=next(_numbers_at([said], ("max_batch_tokens",)), None),
                cuts=said.get("auto_truncate") is True,
            )
        served = [item for item in said["data"] if isinstance(item, dict)]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ServerAnswers()
    found = next((item for item in served if _is(item, model)), served[0] if len(served) == 1 else None)
    if found is None:
        return ServerAnswers()
    meta = found.get("meta")
    both = [found, meta] if isinstance(meta, dict) else [found]
    return ServerAnswers(
        dimensions=next(_numbers_at(both, ("n_embd",)), None),
        max_tokens_per_text=min(_numbers_at(both, _CONTEXTS), default=None),
        counts_tokens=found.get("owned_by") not in _COUNTS_CHARACTERS,
    )


def _is(item: Mapping[str, Any], model: str) -> bool:
    aliases = item.get("aliases")
    return model == item.get("id") or (isinstance(aliases, list) and model in aliases)


def _numbers_at(places: Sequence[Mapping[str, Any]], names: tuple[str, ...]) -> Iterator[int]:
    for place in places:
        for name in names:
            if type(value := place.get(name)) is int and 0 < value <= _MOST:
                yield value
