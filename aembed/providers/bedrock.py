"""`bedrock:` invokes embedding models of AWS, `POST /model/MODEL/invoke`: Titan and Nova one text a call, Cohere 96.

Sources: botocore 1.44.8 (bedrock-runtime), litellm 1.110.2 and pydantic-ai-slim 2.68.0 (bodies), recorded replies. A
key of Bedrock is sent as it is; without one, requests are signed with the credentials of AWS (_aws.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import msgspec

from aembed.core.number_replies import Found, NumbersReader
from aembed.errors import ProviderError
from aembed.providers import _options
from aembed.providers._aws import KINDS, credentials_of, family_of, region_of, sign
from aembed.providers._provider import HTTPProvider, Reader

OPTIONS = {**_options.OPTIONS, "region": "a region of AWS, as eu-central-1"}


class _Item(msgspec.Struct):
    embedding: list[float]


class _Reply(msgspec.Struct):
    """Titan has `embedding`; Nova a list of objects, Cohere v3 one of vectors, v4 an object with `float`."""

    embedding: list[float] | None = None
    embeddings: list[list[float] | _Item] | dict[str, list[list[float]]] = []


_REPLY = msgspec.json.Decoder(_Reply)


class BedrockProvider(HTTPProvider):
    """One model of Bedrock, with the keywords of HTTPProvider."""

    signs_for = ""
    """The region that requests are signed for; "" where the key is one of Bedrock's own."""

    @property
    def path(self) -> str:
        # The colon of a model id travels as %3A, as botocore writes it.
        return f"/model/{quote(self.model, safe='')}/invoke"

    def payload(self, texts: Sequence[str], input_type: str) -> Mapping[str, Any]:
        fields = self.fields(input_type)
        if self.service.limits.max_batch_size > 1:
            return {"texts": texts, **fields}
        if "truncationMode" not in fields:
            return {"inputText": texts[0], **fields}
        text = {"value": texts[0], "truncationMode": fields.pop("truncationMode")}
        return {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": {**fields, "text": text}}

    def reader(self, inputs: int) -> Reader:
        return NumbersReader(inputs, _REPLY, _find)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> type[ProviderError] | None:
        # Behind the name may stand `:http://...`.
        return KINDS.get(headers.get("x-amzn-errortype", "").partition(":")[0])

    def headers(self, url: str, body: bytes) -> _options.Headers:
        key = self._credentials.key
        return sign(url, body, key, service="bedrock", region=self.signs_for) if key and self.signs_for else {}


def _find(reply: _Reply) -> Found:
    if reply.embedding is not None:
        return Found([reply.embedding])
    held = reply.embeddings.get("float", []) if isinstance(reply.embeddings, dict) else reply.embeddings
    return Found([each.embedding if isinstance(each, _Item) else each for each in held])


def open_provider(
    prefix: str, model: str, *, region: str | None = None, api_key: Any = None, **options: Any
) -> BedrockProvider:
    """The region is that of the option, or of AWS_REGION or AWS_DEFAULT_REGION; vectors of all of them are alike."""
    family = family_of(model)
    signs = api_key is None and not os.environ.get(family.key_variable, "").strip()
    region = region_of(region, options.get("base_url"), signs=signs)
    address = f"https://bedrock-runtime.{region}.amazonaws.com" if region else ""
    key = credentials_of(family) if signs else api_key
    provider = BedrockProvider(model, service=replace(family, base_url=address), api_key=key, **options)
    provider.signs_for = region if signs else ""
    return provider
