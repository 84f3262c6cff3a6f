"""Cloudflare's Workers AI, in OpenAI's format: the account stands in the address. Its documentation only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tests.providers.services._scripted import Answer, ScriptedService


def _error(status: int, code: int, message: str) -> Answer:
    said = {"result": {}, "success": False, "errors": [{"code": code, "message": message}], "messages": []}
    return Answer(status, said)


class Cloudflare(ScriptedService):
    prefix = "cloudflare"
    model = "@cf/baai/bge-m3"
    base_path = "/client/v4/accounts/0123456789abcdef/ai/v1"
    max_inputs = 100
    max_tokens = 10_000_000
    dimensions_field = ""
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float"}
    request_id_header = "cf-ray"

    def too_many_inputs(self, count: int) -> Answer:
        return _error(400, 8001, "AiError: Bad input: Error: oneOf at '/' not met: array too long, at most 100 items")

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = f"AiError: Bad input: The estimated number of input tokens ({tokens}) exceeded this model context"
        return _error(413, 5021, f"{reason} window limit ({self.max_tokens_per_text}).")

    def refused_text(self, position: int) -> Answer:
        return _error(400, 5006, "AiError: Bad input: text cannot be embedded")

    def rate_limited(self) -> Answer:
        return _error(429, 3040, "AiError: Capacity temporarily exceeded, please try again.")

    def outage(self) -> Answer:
        return _error(500, 3043, "AiError: Internal server error")

    def wrong_key(self, key: str) -> Answer:
        return _error(401, 10000, "Authentication error")

    def no_money(self) -> Answer:
        reason = "you have used up your daily free allocation of 10,000 neurons, please upgrade to the paid plan"
        return _error(429, 4006, f"AiError: {reason}")
