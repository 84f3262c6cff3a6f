"""Which prefixes models were trained with: rows of data, each from the model's own card. See docs/providers.md.

A model that was trained with prefixes finds less without them. Services with a field for the input type need none:
there the type is sent instead (`input_types=`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aembed.errors import ConfigError
from aembed.preparation import NO_PREPARATION, UNPREPARED, Preparation
from aembed.ranges import one_line_of

_SEARCH = "Represent this sentence for searching relevant passages: "
_TASK = "Given a web search query, retrieve relevant passages that answer the query"

PREFIXES: dict[str, Preparation] = {
    # Cards of nomic-ai/nomic-embed-text-v1, -v1.5 and -v2-moe: "the text prompt must include a task instruction
    # prefix".
    r"nomic-embed-text(-v\d(\.\d)?)?(-moe)?": Preparation("search_document: ", "search_query: "),
    # Cards of intfloat/e5-*, e5-*-v2 and multilingual-e5-*: each input should start with "query: " or "passage: ".
    r"(multilingual-)?e5-(small|base|large)(-v2)?": Preparation("passage: ", "query: "),
    # Cards of intfloat/multilingual-e5-large-instruct and e5-mistral-7b-instruct: documents need no instruction.
    r"multilingual-e5-large-instruct|e5-mistral-7b-instruct": Preparation("", f"Instruct: {_TASK}\nQuery: "),
    # Card of mixedbread-ai/mxbai-embed-large-v1: the prompt is for queries alone.
    r"mxbai-embed-large(-v1)?": Preparation("", _SEARCH),
    # Cards of BAAI/bge-*-en and bge-*-en-v1.5: for queries alone. bge-m3 takes none at all.
    r"bge-(small|base|large)-en(-v1\.5)?": Preparation("", _SEARCH),
    # Cards of Snowflake/snowflake-arctic-embed-xs, -s, -m, -m-long, -l and -m-v1.5.
    r"snowflake-arctic-embed(-(xs|s|m|m-long|l))?(-v1\.5)?": Preparation("", _SEARCH),
    # Cards of Snowflake/snowflake-arctic-embed-m-v2.0 and -l-v2.0.
    r"snowflake-arctic-embed-(m|l)-v2\.0|snowflake-arctic-embed2": Preparation("", "query: "),
    # config_sentence_transformers.json of Qwen/Qwen3-Embedding-0.6B, -4B and -8B: no blank behind "Query:".
    r"qwen3-embedding(-\d+(\.\d+)?b)?": Preparation("", f"Instruct: {_TASK}\nQuery:"),
    # Card of google/embeddinggemma-300m, "Prompt Instructions": retrieval.
    r"embeddinggemma(-300m)?": Preparation("title: none | text: ", "task: search result | query: "),
    # Gemini API, "Embeddings": gemini-embedding-2 takes no task type, it is said in the text.
    r"gemini-embedding-2(-preview)?": Preparation("title: none | text: ", "task: search result | query: "),
}
"""By a pattern for the name without its vendor (`nomic-ai/`) and without the tag or file ending of a local server."""
# LM Studio writes "text-embedding-" before the names of models that are not OpenAI's.
_VENDOR = re.compile(r".*/|^text-embedding-")
# Ollama's tags (":v1.5", ":0.6b-q8_0"), and what files and conversions for llama.cpp are called.
_TAG = re.compile(r":[\w.-]*$|[-.](gguf|f16|f32|bf16|q\d\w*)$")


def default_preparation(model: str) -> Preparation:
    """What a model of that name was trained with; nothing for one that is not known."""
    name = _VENDOR.sub("", model.strip().lower())
    while (shorter := _TAG.sub("", name)) != name:
        name = shorter
    return next((held for pattern, held in PREFIXES.items() if re.fullmatch(pattern, name)), NO_PREPARATION)


def chosen_preparation(
    default: Preparation,
    *,
    document_prefix: str | None = None,
    query_prefix: str | None = None,
    input_types: Sequence[str] | str | None = None,
) -> Preparation | None:
    """What a user asks for by these options, those that are None being as `default` says; None where all are.

    `input_types` is the pair of the service's own words for documents and queries, "passage,query" or a tuple; "" sends
    none. Raises ConfigError for what is neither.
    """
    if document_prefix is None and query_prefix is None and input_types is None:
        return None
    types = default.document_type, default.query_type
    if input_types is not None:
        words = (input_types or ",").split(",") if isinstance(input_types, str) else input_types
        if not isinstance(words, list | tuple) or len(words) != 2 or not all(isinstance(word, str) for word in words):
            raise ConfigError(
                f"input_types={one_line_of(input_types)} must be two words, as passage,query: documents, queries"
            )
        types = words[0].strip(), words[1].strip()
    return Preparation(
        default.document_prefix if document_prefix is None else document_prefix,
        default.query_prefix if query_prefix is None else query_prefix,
        *types,
        default.arithmetic,
        default.dtype,
    )


def asked_for(chosen: Preparation | None) -> str:
    """The preparation of the space that a provider asks for: no opinion where nobody has chosen, so that a store's own
    rules; else that one and no other."""
    return "" if chosen is None else str(chosen) or UNPREPARED
