"""OpenRouter: white space before the JSON, a provider and a cost in the reply, errors with a number. Recordings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from tests.providers.services._scripted import WAIT, Answer, Asked, ScriptedService


def _error(code: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(code, {"error": {"message": message, "code": code}}, headers or {})


class OpenRouter(ScriptedService):
    prefix = "openrouter"
    model = "openai/text-embedding-3-small"
    options: ClassVar[Mapping[str, Any]] = {"extra_body": {"provider": {"only": ["azure"], "allow_fallbacks": False}}}
    width = 1_536
    shorter: ClassVar[int | None] = 256
    base_path = "/api/v1"
    input_type_field = "input_type"
    input_types: ClassVar[Mapping[str, str]] = {"search_document": "document", "search_query": "query"}
    request_id_header = "x-generation-id"
    more_fields = frozenset({"user", "provider"})

    def encode(self, asked: Asked, billed: int) -> Any:
        body = super().encode(asked, billed) | {"provider": "Azure", "id": "gen-emb-1779000000-abcdefghij"}
        return b"\n         \n" + msgspec.json.encode(body)

    def usage(self, billed: int) -> dict[str, Any]:
        return super().usage(billed) | {"cost": billed * 2e-8, "is_byok": False}

    def malformed(self, reason: str) -> Answer:
        return _error(400, reason)

    def unknown_model(self, model: str) -> Answer:
        return _error(400, f"Model {model} does not exist")

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = f"This endpoint's maximum context length is {self.max_tokens_per_text} tokens. However, you requested"
        return _error(400, f"{reason} about {tokens} tokens. Please reduce the length of the input.")

    def refused_text(self, position: int) -> Answer:
        reason = 'openai/text-embedding-3-small requires moderation on Azure. Your input was flagged for "violence".'
        return _error(403, reason)

    def rate_limited(self) -> Answer:
        return _error(
            429, "Provider returned error: rate-limited upstream. Please retry shortly.", {"retry-after": f"{WAIT}"}
        )

    def outage(self) -> Answer:
        """The 200 is out before its upstream has failed."""
        return Answer(200, b'\n         \n{"error":{"message":"Internal Server Error","code":500}}')

    def wrong_key(self, key: str) -> Answer:
        return _error(401, "No auth credentials found")

    def no_money(self) -> Answer:
        return _error(402, "Insufficient credits. Add more using https://openrouter.ai/settings/credits")
