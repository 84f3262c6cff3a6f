"""Services that speak OpenAI's format, and what is known of their models: rows of data, each in this one place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from aembed.batch_protocols import BatchTerms
from aembed.core.spaces import LOCAL_SERVERS
from aembed.errors import ConfigError
from aembed.limits import Limits
from aembed.providers._batch_wires import DAY, BatchWire, MistralBatchWire, VoyageBatchWire
from aembed.providers._service import Fields, Service

_NUMBERS_ONLY: Mapping[Literal["base64", "float"], Fields] = {"float": {}}


def ollama_url(host: str) -> str:
    """The server that OLLAMA_HOST names: `host`, `host:port`, `:port`, a URL; 0.0.0.0 is where it listens."""
    scheme, _, rest = host.rpartition("://")
    # 11434 is Ollama's own port, where nothing else is said; a URL has the port of its scheme.
    default = {"https": "443", "http": "80"}.get(scheme, "11434")
    found = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:/\s@?#]*)(?::(\d{1,5}))?/*", rest)
    if found is None or scheme not in ("", "http", "https"):
        raise ConfigError("OLLAMA_HOST is not host:port or a URL without a path; it looks like 127.0.0.1:11434")
    name = "127.0.0.1" if found[1] in ("", "0.0.0.0", "[::]") else found[1]
    return f"{scheme or 'http'}://{name}:{found[2] or default}/v1"


# platform.openai.com/docs/guides/batch: half the price, 24 hours; 50,000 lines, 50,000 texts in all of them, and 200 MB
# a file. Chosen: 500 texts a line, so that a line of results is some MB, and uploaded files go after seven days, should
# nobody come back to delete them.
OPENAI_BATCHES = BatchWire(
    BatchTerms(
        max_texts_per_line=500,
        max_tokens_per_line=300_000,
        max_texts_per_file=50_000,
        max_lines_per_file=50_000,
        max_bytes_per_file=200_000_000,
        price_factor=0.5,
        window_seconds=DAY,
    ),
    file_seconds=7 * 86_400,
)

# The docstring of openai-python's embeddings resource says 2,048 inputs and 300,000 tokens a request, and 8,192 tokens
# an input, of which one is left free.
OPENAI = Service(
    name="openai",
    base_url="https://api.openai.com/v1",
    limits=Limits(max_batch_size=2_048, max_tokens_per_batch=300_000, max_tokens_per_text=8_191),
    counts_are_known=True,
    tells="models",
    key_variable="OPENAI_API_KEY",
    url_variable="OPENAI_BASE_URL",
    header_variables={"OPENAI_ORG_ID": "openai-organization", "OPENAI_PROJECT_ID": "openai-project"},
    batches=OPENAI_BATCHES,
)

# The server answers numbers only, and cuts a text that is longer than its context without a word.
OLLAMA = Service(
    name="ollama",
    base_url=LOCAL_SERVERS["ollama"],
    # Chosen: 256 texts because numbers hold the interpreter while they are parsed (FLOATS_BATCH_SIZE), and 256 tokens
    # for each of them.
    limits=Limits(max_batch_size=256, max_tokens_per_batch=65_536, max_tokens_per_text=8_192),
    encodings=_NUMBERS_ONLY,
    price_usd=0.0,
    url_variable="OLLAMA_HOST",
    path="/v1",
    url_of=ollama_url,
)

# --max-client-batch-size and --max-batch-tokens of text-embeddings-inference, as they are by default; GET /info, which
# stands beside /v1, tells what they are. It refuses a text that is too long, unless --auto-truncate is on.
TEI = Service(
    name="tei",
    base_url=LOCAL_SERVERS["tei"],
    limits=Limits(max_batch_size=32, max_tokens_per_batch=16_384, max_tokens_per_text=8_192),
    tells="../info",
    is_self_hosted=True,
    price_usd=0.0,
    path="/v1",
)

# Chosen: a server of one's own takes what its memory takes, and no number of texts is documented; 256 of them in one
# request fill any GPU. Larger, a request takes long and holds its place in the queue of the server.
_OWN_LIMITS = Limits(max_batch_size=256, max_tokens_per_batch=262_144, max_tokens_per_text=131_072)

# vLLM 0.11: longer than max_model_len is a 400 unless truncate_prompt_tokens is sent; `dimensions` is a 400 for models
# that are not made to be shortened. Its base64 was float64 in 2024, which each reply shows.
VLLM = Service(
    name="vllm",
    base_url=LOCAL_SERVERS["vllm"],
    limits=_OWN_LIMITS,
    tells="models",
    is_self_hosted=True,
    price_usd=0.0,
    path="/v1",
)

# llama-server: a text above --ubatch-size (512 tokens by default, which nothing tells) is a 500 that says so.
LLAMACPP = Service(
    name="llamacpp",
    base_url=LOCAL_SERVERS["llamacpp"],
    limits=_OWN_LIMITS,
    tells="models",
    is_self_hosted=True,
    price_usd=0.0,
    path="/v1",
)

# infinity-emb 0.0.78: 2,048 texts of 122,880 characters (infinity_emb/env.py); `usage` counts characters; it cuts at
# the length of the model, and there is no field that says not to.
INFINITY = Service(
    name="infinity",
    base_url=LOCAL_SERVERS["infinity"],
    limits=Limits(max_batch_size=2_048, max_tokens_per_batch=262_144, max_tokens_per_text=30_720),
    tells="models",
    is_self_hosted=True,
    counts_tokens=False,
    price_usd=0.0,
)

# voyageai 0.5.0 and docs.voyageai.com: 1,000 texts, sums by model (models.toml); `truncation` is true where it is not
# sent; encoding_format knows base64 alone, numbers come without it. Keys of MongoDB's own begin with "al-".
VOYAGE = Service(
    name="voyage",
    base_url="https://api.voyageai.com/v1",
    urls_of_keys={"al-": "https://ai.mongodb.com/v1"},
    limits=Limits(max_batch_size=1_000, max_tokens_per_batch=1_000_000, max_tokens_per_text=32_000),
    key_variable="VOYAGE_API_KEY",
    dimensions_field="output_dimension",
    input_type_field="input_type",
    input_types=("document", "query"),
    uncut={"truncation": False},
    cut={"truncation": True},
    # docs.voyageai.com/docs/batch-inference: a third off, 12 hours, 100,000 lines, 1 GB; what holds for all lines is
    # said once. Chosen: 100,000 texts a file, so that its results stay below 2 GB.
    batches=VoyageBatchWire(
        replace(
            OPENAI_BATCHES.terms,
            max_tokens_per_line=1_000_000,
            max_texts_per_file=100_000,
            max_lines_per_file=100_000,
            max_bytes_per_file=1_000_000_000,
            price_factor=0.67,
            window_seconds=DAY / 2,
        ),
        window="12h",
    ),
)

# Recorded: 257 short texts are refused, as is more than 16,384 tokens in all (code 3210). mistralai 3.7.0 names the
# field.
MISTRAL = Service(
    name="mistral",
    base_url="https://api.mistral.ai/v1",
    limits=Limits(max_batch_size=256, max_tokens_per_batch=16_384, max_tokens_per_text=8_192),
    key_variable="MISTRAL_API_KEY",
    dimensions_field="output_dimension",
    # docs.mistral.ai/capabilities/batch: half the price, 24 hours, 1,000,000 lines. Chosen: 100,000 texts a file.
    batches=MistralBatchWire(
        replace(
            OPENAI_BATCHES.terms,
            max_texts_per_line=256,
            max_tokens_per_line=16_384,
            max_texts_per_file=100_000,
            max_lines_per_file=100_000,
        ),
    ),
)

# openrouter.ai/docs, "Embeddings": it passes the request on, so that limits are those of whoever answers. Many of its
# models want a prefix, and nobody says that it puts one before their texts.
OPENROUTER = Service(
    name="openrouter",
    base_url="https://openrouter.ai/api/v1",
    limits=OPENAI.limits,
    key_variable="OPENROUTER_API_KEY",
    input_type_field="input_type",
    input_types=("search_document", "search_query"),
    by_prefix=True,
)

# docs.nvidia.com, NeMo Retriever Text Embedding NIM 1.13 and 2.2: input_type is passage or query, and asked for by
# models that tell them apart; `truncate` NONE refuses. How many texts it takes depends on its profile.
NVIDIA = Service(
    name="nvidia",
    base_url="https://integrate.api.nvidia.com/v1",
    limits=replace(_OWN_LIMITS, max_tokens_per_text=8_192),
    key_variable="NVIDIA_API_KEY",
    path="/v1",
    input_type_field="input_type",
    input_types=("passage", "query"),
    uncut={"truncate": "NONE"},
    cut={"truncate": "END"},
)

# api.jina.ai/docs: `task` and `embedding_type`; 512 texts as its refusal of November 2025 says. Models before v3 know
# no tasks. jina.ai/api-dashboard/rate-limit, read 2026-11: 100, 500 or 5,000 requests and 0.1, 2 or 50 million tokens a
# minute, by what was paid for, which refusals tell. Chosen: 300,000 tokens, since no sum of a request is documented.
JINA = Service(
    name="jina",
    base_url="https://api.jina.ai/v1",
    limits=Limits(max_batch_size=512, max_tokens_per_batch=300_000, max_tokens_per_text=8_192),
    key_variable="JINA_API_KEY",
    encodings={"base64": {"embedding_type": "base64"}, "float": {"embedding_type": "float"}},
    input_type_field="task",
    input_types=("retrieval.passage", "retrieval.query"),
    untyped=r"jina-(embeddings-v2|clip-v1|colbert).*",
    uncut={"truncate": False},
    cut={"truncate": True},
)

# alibabacloud.com/help, "Text embedding synchronous API", as of 2026-03: ten texts of 8,192 tokens each for
# text-embedding-v3 and -v4, numbers alone. Keys of mainland China belong to dashscope.aliyuncs.com: base_url=.
DASHSCOPE = Service(
    name="dashscope",
    base_url="https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
    limits=Limits(max_batch_size=10, max_tokens_per_batch=81_920, max_tokens_per_text=8_192),
    key_variable="DASHSCOPE_API_KEY",
    encodings=_NUMBERS_ONLY,
    # "Batch" of the same pages: OpenAI's files and batches, half the price.
    batches=BatchWire(replace(OPENAI_BATCHES.terms, max_texts_per_line=10, max_tokens_per_line=81_920)),
)

# docs.siliconflow.com: 32 texts; some of its models take 64, as their refusals say. Chosen: the sum of tokens. Keys of
# siliconflow.cn belong there: base_url=.
SILICONFLOW = Service(
    name="siliconflow",
    base_url="https://api.siliconflow.com/v1",
    limits=Limits(max_batch_size=32, max_tokens_per_batch=300_000, max_tokens_per_text=32_768),
    key_variable="SILICONFLOW_API_KEY",
)

# deepinfra.com and langchain.js: 1,024 texts; base64 is refused. DEEPINFRA_API_TOKEN is what langchain reads.
DEEPINFRA = Service(
    name="deepinfra",
    base_url="https://api.deepinfra.com/v1/openai",
    limits=Limits(max_batch_size=1_024, max_tokens_per_batch=300_000, max_tokens_per_text=32_768),
    key_variable="DEEPINFRA_API_KEY",
    other_key_variables=("DEEPINFRA_API_TOKEN",),
    encodings=_NUMBERS_ONLY,
)

# together 3.1.1: model and input are all that its request has, and a reply may hold no usage. No limit is documented.
TOGETHER = Service(
    name="together",
    base_url="https://api.together.ai/v1",
    limits=replace(_OWN_LIMITS, max_tokens_per_text=32_768),
    key_variable="TOGETHER_API_KEY",
    dimensions_field="",
    encodings=_NUMBERS_ONLY,
)

# docs.fireworks.ai: OpenAI's fields, `dimensions` of nomic's models alone. No limit is documented there; langchain.js
# says 8 texts, which nobody else does: more is sent, and what is refused is divided and teaches it.
FIREWORKS = Service(
    name="fireworks",
    base_url="https://api.fireworks.ai/inference/v1",
    limits=replace(_OWN_LIMITS, max_tokens_per_text=40_960),
    key_variable="FIREWORKS_API_KEY",
    encodings=_NUMBERS_ONLY,
)

# api.doubleword.ai and a recorded reply: OpenAI's format, any width of Qwen3's. No limit is documented. Its batches are
# OpenAI's, too, of 24 hours; what they cost beside live requests nobody says: half, as everywhere.
DOUBLEWORD = Service(
    name="doubleword",
    base_url="https://api.doubleword.ai/v1",
    limits=replace(_OWN_LIMITS, max_tokens_per_text=32_768),
    key_variable="DOUBLEWORD_API_KEY",
    batches=BatchWire(replace(OPENAI_BATCHES.terms, max_texts_per_line=256, max_tokens_per_line=262_144)),
)

# docs.parasail.io: OpenAI's format, for requests and for batches of embeddings at half the price. No limit is
# documented.
PARASAIL = Service(
    name="parasail",
    base_url="https://api.parasail.io/v1",
    limits=replace(_OWN_LIMITS, max_tokens_per_text=32_768),
    key_variable="PARASAIL_API_KEY",
    batches=DOUBLEWORD.batches,
)


def cloudflare_url(account: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z]{1,64}", account):
        raise ConfigError("CLOUDFLARE_ACCOUNT_ID is not the id of an account, as it stands in the address of its page")
    return f"https://api.cloudflare.com/client/v4/accounts/{account}/ai/v1"


# developers.cloudflare.com/workers-ai: at most 100 texts, by the schema of its models; numbers alone. The account is
# part of the address. Its page on limits, of 2026-09: 3,000 requests a minute (1,500 for bge-large), which is more than
# this client sends at a time. Chosen: the sum of tokens, which issue 11316 of cloudflare-docs says to be less for some.
CLOUDFLARE = Service(
    name="cloudflare",
    base_url="",
    limits=Limits(max_batch_size=100, max_tokens_per_batch=300_000, max_tokens_per_text=8_192),
    key_variable="CLOUDFLARE_API_TOKEN",
    url_variable="CLOUDFLARE_ACCOUNT_ID",
    url_of=cloudflare_url,
    dimensions_field="",
    encodings=_NUMBERS_ONLY,
)

_OF_ONES_OWN = (OLLAMA, TEI, VLLM, LLAMACPP, INFINITY)
_HOSTED = (
    OPENAI,
    VOYAGE,
    MISTRAL,
    OPENROUTER,
    NVIDIA,
    JINA,
    DASHSCOPE,
    SILICONFLOW,
    DEEPINFRA,
    TOGETHER,
    FIREWORKS,
    DOUBLEWORD,
    PARASAIL,
)
ROWS: Mapping[str, Service] = {row.name: row for row in (*_OF_ONES_OWN, *_HOSTED, CLOUDFLARE)}
