"""`sentence-transformers:NAME` or `sentence-transformers:FOLDER`: a model in this process, by PyTorch.

Documents go through `encode_document` and queries through `encode_query`, which put the model's own prompts before
them. `dimensions` shortens the vectors, and makes them 1 long again.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from aembed.providers._in_process import InProcessProvider, Model, TokenizerCounter, check_installed, space_of
from aembed.types import InputType

logger = logging.getLogger("aembed")

OPTIONS: dict[str, str] = {}
PROMPTS = ("query", "document", "passage", "corpus")
"""The names of those that encode_query and encode_document use."""
NO_LIMIT = 1_000_000
"""A length above it is none: transformers writes 1e30 where a tokenizer names no limit."""


def open_provider(prefix: str, model: str, *, dimensions: int | None, **options: Any) -> InProcessProvider:
    check_installed(prefix, "sentence_transformers", "pip install sentence-transformers", options)
    space = space_of(prefix, model, dimensions)
    download = f"""python -c "from sentence_transformers import SentenceTransformer as S; S('{model}')\""""
    return InProcessProvider(space, partial(_load, space.model, dimensions), download=download)


def _load(name: str, dimensions: int | None) -> Model:
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(name, local_files_only=True, truncate_dim=dimensions)

    def forward(texts: list[str], input_type: InputType) -> Any:
        encode = loaded.encode_query if input_type == "query" else loaded.encode_document
        shortened = dimensions is not None
        return encode(texts, batch_size=len(texts), show_progress_bar=False, normalize_embeddings=shortened)

    most: Any = loaded.max_seq_length
    most = int(most) if most is not None and most < NO_LIMIT else None
    tokenizer: Any = getattr(loaded.tokenizer, "backend_tokenizer", loaded.tokenizer)
    if not hasattr(tokenizer, "to_str"):
        logger.warning("the tokenizer of %s cannot count; texts of more than %s tokens are cut", name, most)
        return Model(forward)
    counter = TokenizerCounter(tokenizer)
    prompts = [text for key, text in (loaded.prompts or {}).items() if key in PROMPTS]
    spent = max(map(counter.count, prompts), default=counter.ends) - counter.ends
    return Model(forward, tokenizer, None if most is None else most - spent)
