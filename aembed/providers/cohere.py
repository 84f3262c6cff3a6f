"""`cohere:` speaks Cohere's own format, `POST /v2/embed`.

Sources: cohere 7.3.1 (fields; CO_API_KEY and CO_API_URL), its documentation (96 texts a request, 2,000 inputs a minute)
and recorded replies. The `texts` of a reply are not those that were sent (v3 models write them in lower case), so
vectors are matched by position. The SDK knows base64, too, but no reply in it was recorded: numbers are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aembed.core.headers import parse_hints
from aembed.core.number_replies import Found, NumbersReader
from aembed.core.numbers import Numbers
from aembed.limits import Limits
from aembed.providers._options import OPTIONS
from aembed.providers._provider import HTTPProvider, Reader
from aembed.providers._service import Service
from aembed.types import Hints

__all__ = ["OPTIONS", "CohereProvider", "open_provider"]

COHERE = Service(
    name="cohere",
    base_url="https://api.cohere.com/v2",
    # 128,000 tokens are what a text of v4 and v5 may have. Chosen: 300,000 for all texts of a request, since no sum is
    # documented; one that is refused is split, and the next are smaller.
    limits=Limits(max_batch_size=96, max_tokens_per_batch=300_000, max_tokens_per_text=128_000, texts_per_minute=2_000),
    endpoint="/embed",
    path="/v2",
    key_variable="CO_API_KEY",
    # langchain-cohere, LiteLLM and Haystack read this one.
    other_key_variables=("COHERE_API_KEY",),
    url_variable="CO_API_URL",
    dimensions_field="output_dimension",
    encodings={"float": {"embedding_types": ["float"]}},
    input_type_field="input_type",
    input_types=("search_document", "search_query"),
    # Without this it cuts off the end of a text that is too long, and says nothing.
    uncut={"truncate": "NONE"},
    cut={"truncate": "END"},
)


class _Billed(msgspec.Struct):
    input_tokens: int | None = None


class _Meta(msgspec.Struct):
    billed_units: _Billed | None = None


class _Reply(msgspec.Struct):
    embeddings: dict[str, list[Numbers]]
    meta: _Meta | None = None


_REPLY = msgspec.json.Decoder(_Reply)


class CohereProvider(HTTPProvider):
    """One model of Cohere, with the keywords of HTTPProvider."""

    service = COHERE

    def payload(self, texts: Sequence[str], input_type: str) -> Mapping[str, Any]:
        return {"model": self.model, "texts": texts, **self.fields(input_type)}

    def reader(self, inputs: int) -> Reader:
        return NumbersReader(inputs, _REPLY, _find)

    def hints(self, headers: Mapping[str, str]) -> Hints | None:
        """A trial key is held to so many calls a minute, which these headers count."""
        trial = {
            f"x-ratelimit-{kind}-requests": headers[name]
            for kind in ("limit", "remaining")
            if (name := f"x-trial-endpoint-call-{kind}") in headers
        }
        return parse_hints({**headers, **trial}) if trial else None


def _find(reply: _Reply) -> Found:
    billed = reply.meta.billed_units if reply.meta else None
    return Found(reply.embeddings.get("float", []), tokens=billed.input_tokens if billed else None)


def open_provider(prefix: str, model: str, **options: Any) -> CohereProvider:
    return CohereProvider(model, **options)
