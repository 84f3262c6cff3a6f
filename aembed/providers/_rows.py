"""Services that speak OpenAI's format, and what is known of their models: rows of data, each in this one place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from aembed.core.spaces import LOCAL_SERVERS
from aembed.errors import ConfigError
from aembed.providers._service import Fields, Service
from aembed.types import Limits

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

# --max-client-batch-size and --max-batch-tokens of text-embeddings-inference, as they are by default. What a
# text may hold depends on the model: the server refuses one that is too long.
TEI = Service(
    name="tei",
    base_url=LOCAL_SERVERS["tei"],
    limits=Limits(max_batch_size=32, max_tokens_per_batch=16_384, max_tokens_per_text=8_192),
    price_usd=0.0,
    path="/v1",
)

ROWS: Mapping[str, Service] = {row.name: row for row in (OPENAI, OLLAMA, TEI)}
