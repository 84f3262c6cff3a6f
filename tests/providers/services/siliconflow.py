"""SiliconFlow: 32 texts a request, refused with a 413 and a number as code. Its documentation, and issues."""

from __future__ import annotations

from typing import Any, ClassVar

from tests.providers.services._scripted import Answer, ScriptedService


class SiliconFlow(ScriptedService):
    prefix = "siliconflow"
    model = "Qwen/Qwen3-Embedding-0.6B"
    shorter: ClassVar[int | None] = 256
    max_inputs = 32
    max_tokens = 10_000_000
    max_tokens_per_text = 32_768
    prefixes = ("", "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:")
    request_id_header = "x-siliconcloud-trace-id"

    def _say(self, status: int, code: int, message: str) -> Answer:
        return Answer(status, {"code": code, "message": message, "data": None})

    def malformed(self, reason: str) -> Answer:
        return self._say(400, 20_015, reason)

    def unknown_model(self, model: str) -> Answer:
        return self._say(400, 20_012, "Model does not exist. Please check it carefully.")

    def too_many_inputs(self, count: int) -> Answer:
        return self._say(413, 20_042, f"input batch size {count} > maximum allowed batch size {self.max_inputs}")

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = f"input must have less than {self.max_tokens_per_text} tokens"
        return self._say(413, 20_042, reason)

    def refused_text(self, position: int) -> Answer:
        return self._say(400, 20_015, "The parameter is invalid. Please check again.")

    def rate_limited(self) -> Answer:
        reason = "Request was rejected due to rate limiting. If you want more, please contact support."
        return Answer(429, {"message": f"{reason} Details:RPM limit reached.", "data": None})

    def outage(self) -> Answer:
        return self._say(503, 50_505, "System is too busy now. Please try again later.")

    def wrong_key(self, key: str) -> Any:
        return Answer(401, b'"Invalid token"')

    def no_money(self) -> Answer:
        return self._say(403, 30_001, "Sorry, your account balance is insufficient")
