"""DashScope's compatible mode: ten texts a request, numbers only. Its documentation only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tests.providers.services._scripted import Answer, ScriptedService, openai_error


class DashScope(ScriptedService):
    prefix = "dashscope"
    model = "text-embedding-v4"
    base_path = "/compatible-mode/v1"
    shorter: ClassVar[int | None] = 256
    max_inputs = 10
    max_tokens = 10_000_000
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float", "float": "float"}

    def too_many_inputs(self, count: int) -> Answer:
        reason = (
            "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be larger"
        )
        return Answer(400, openai_error(f"{reason} than {self.max_inputs}.: input.contents", code="InvalidParameter"))

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 8192]"
        return Answer(400, openai_error(reason, code="InvalidParameter"))

    def refused_text(self, position: int) -> Answer:
        reason = "Input data may contain inappropriate content."
        return Answer(400, openai_error(reason, "data_inspection_failed", code="data_inspection_failed"))

    def rate_limited(self) -> Answer:
        reason = "Requests rate limit exceeded, please try again later."
        return Answer(429, openai_error(reason, "limit_requests", code="limit_requests"))

    def no_money(self) -> Answer:
        reason = "Access denied, please make sure your account is in good standing."
        return Answer(400, openai_error(reason, "Arrearage", code="Arrearage"))
