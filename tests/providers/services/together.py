"""Together: neither `usage` nor `dimensions`, limits of two seconds, whose wait stands on good replies. SDK 3.1.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tests.providers.services._scripted import WAIT, Answer, ScriptedService, openai_error


class Together(ScriptedService):
    prefix = "together"
    model = "intfloat/multilingual-e5-large-instruct"
    max_inputs = 256
    max_tokens_per_text = 514
    prefixes = ("", "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ")
    dimensions_field = ""
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float"}
    has_usage = False
    floats_only_limit = 256
    more_fields: ClassVar[frozenset[str]] = frozenset()

    def headers_of_success(self, billed: int) -> Mapping[str, str]:
        return {
            "x-ratelimit-limit": "10",
            "x-ratelimit-limit-tokens": "3000000",
            "x-ratelimit-remaining-tokens": "2999000",
            "x-ratelimit-reset": "2",
            "retry-after": "2",
        }

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = (
            f"Input validation error: `inputs` must have less than {self.max_tokens_per_text} tokens. Given: {tokens}"
        )
        return Answer(422, openai_error(reason))

    def rate_limited(self) -> Answer:
        reason = "Request rate limit exceeded by recent use."
        body = {"error": {"message": reason, "type": "rate_limit", "param": None, "code": None}}
        return Answer(429, body | {"error_type": "dynamic_request_limited"}, {"retry-after": f"{WAIT}"})

    def outage(self) -> Answer:
        return Answer(503, openai_error("The server is overloaded.", "server_error", code="service_unavailable"))
