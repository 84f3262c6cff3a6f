"""Mistral: 256 texts, 16,384 tokens, one code for both; a request's rate by the minute. SDK 3.7.0, recordings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.providers.services._scripted import Answer, Asked, ScriptedService


def _error(status: int, message: str, kind: str, code: str) -> Answer:
    body = {"object": "error", "message": message, "type": kind, "param": None, "code": code}
    return Answer(status, body | {"raw_status_code": status})


class Mistral(ScriptedService):
    prefix = "mistral"
    model = "mistral-embed"
    max_inputs = 256
    max_tokens = 16_384
    dimensions_field = "output_dimension"
    request_id_header = "mistral-correlation-id"
    more_fields = frozenset({"output_dtype", "metadata"})

    def encode(self, asked: Asked, billed: int) -> Any:
        return {"id": f"{self.ledger.requests:032x}", **super().encode(asked, billed)}

    def usage(self, billed: int) -> dict[str, Any]:
        return {"prompt_tokens": billed, "total_tokens": billed, "completion_tokens": 0, "request_count": None}

    def headers_of_success(self, billed: int) -> Mapping[str, str]:
        return {
            "x-ratelimit-limit-req-minute": "360",
            "x-ratelimit-remaining-req-minute": "359",
            "x-ratelimit-tokens-query-cost": str(billed),
        }

    def malformed(self, reason: str) -> Answer:
        detail = {"type": "extra_forbidden", "loc": ["body"], "msg": reason}
        return Answer(422, {"detail": [detail]})

    def unknown_model(self, model: str) -> Answer:
        return _error(400, f"Invalid model: {model}", "invalid_model", "1500")

    def too_many_inputs(self, count: int) -> Answer:
        return _error(400, "Too many inputs in request, split into more batches.", "invalid_request_prompt", "3210")

    def too_many_tokens(self, count: int) -> Answer:
        return _error(400, "Too many tokens overall, split into more batches.", "invalid_request_prompt", "3210")

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = f"Input id {position} has {tokens} tokens, exceeding max {self.max_tokens_per_text} tokens."
        return _error(400, reason, "invalid_request_prompt", "3210")

    def refused_text(self, position: int) -> Answer:
        return _error(400, "Input was refused.", "invalid_request_error", "3000")

    def rate_limited(self) -> Answer:
        return _error(429, "Rate limit exceeded", "rate_limited", "1300")

    def outage(self) -> Answer:
        return _error(503, "Service unavailable.", "internal_server_error", "3000")

    def wrong_key(self, key: str) -> Answer:
        return Answer(401, {"detail": "Invalid API Key"})

    def no_money(self) -> Answer:
        return _error(402, "Payment required.", "payment_required", "1400")


class Codestral(Mistral):
    """Its vectors may be shortened, by a field of another name than OpenAI's."""

    model = "codestral-embed"
    width = 1_536
    shorter: ClassVar[int | None] = 64
