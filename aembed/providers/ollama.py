"""`ollama:` asks Ollama on its own route, `POST /api/embed`, where it can be told to refuse a text that is too long.

Its route in OpenAI's format cuts such a text without a word. That one is asked where the URL has a path (`.../v1`).
Vectors are the same on both, so the space is the same and has the URL of the other route, which older stores hold.
Sources: ollama 0.6.3 (fields, ShowResponse) and recorded replies.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import msgspec

from aembed.core.number_replies import Found, NumbersReader
from aembed.core.numbers import Numbers
from aembed.providers._options import OPTIONS
from aembed.providers._provider import HTTPProvider, Reader
from aembed.providers._rows import OLLAMA, ollama_url
from aembed.providers._server_answers import ServerAnswers

__all__ = ["OPTIONS", "OllamaProvider", "open_provider"]

V1 = OLLAMA.path
NATIVE = replace(
    OLLAMA,
    base_url=OLLAMA.base_url.removesuffix(V1),
    endpoint="/api/embed",
    path="",
    url_of=lambda host: ollama_url(host).removesuffix(V1),
    # The server refuses what is too long, so nothing has to be guessed: a text may fill a request.
    limits=replace(OLLAMA.limits, max_tokens_per_text=OLLAMA.limits.max_tokens_per_batch),
    uncut={"truncate": False},
    cut={"truncate": True},
    tells="api/show",
    is_self_hosted=True,
)
_NUM_CTX = re.compile(r"^num_ctx\s+(\d{1,8})\s*$", re.MULTILINE)


class _Reply(msgspec.Struct):
    embeddings: list[Numbers]
    model: str = ""
    prompt_eval_count: int | None = None


class _Shown(msgspec.Struct):
    model_info: dict[str, Any]
    parameters: str = ""


_REPLY = msgspec.json.Decoder(_Reply)


class OllamaProvider(HTTPProvider):
    """One model of an Ollama, on its own route, with the keywords of HTTPProvider."""

    service = NATIVE

    def reader(self, inputs: int) -> Reader:
        return NumbersReader(inputs, _REPLY, _find)

    def question(self) -> bytes:
        return msgspec.json.encode({"model": self.model})

    def answers(self, body: bytes) -> ServerAnswers:
        """A text may have what the model was trained for, or less where its Modelfile says so."""
        try:
            shown = msgspec.json.decode(body, type=_Shown)
        except (ValueError, RecursionError):
            return ServerAnswers()
        kinds = {name.rpartition(".")[2]: value for name, value in shown.model_info.items() if type(value) is int}
        said = [kinds.get("context_length", 0), *map(int, _NUM_CTX.findall(shown.parameters))]
        return ServerAnswers(kinds.get("embedding_length"), min((most for most in said if most > 0), default=None))


def _find(reply: _Reply) -> Found:
    return Found(reply.embeddings, reply.model, reply.prompt_eval_count)


def open_provider(prefix: str, model: str, *, base_url: str | None = None, **options: Any) -> HTTPProvider:
    # Behind the two slashes of the scheme a path begins with a third one.
    if base_url is not None and base_url.strip().rstrip("/").removesuffix(NATIVE.endpoint).count("/") > 2:
        return HTTPProvider(model, service=OLLAMA, base_url=base_url, **options)
    provider = OllamaProvider(model, base_url=base_url, **options)
    if place := provider.space.endpoint:
        provider.space = replace(provider.space, endpoint=f"{place}{V1}")
    return provider
