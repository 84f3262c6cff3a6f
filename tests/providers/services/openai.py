"""OpenAI itself: the error bodies are those that were recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tests.providers.services._scripted import ScriptedService


class OpenAI(ScriptedService):
    prefix = "openai"
    model = "text-embedding-3-small"
    width = 1_536
    shorter: ClassVar[int | None] = 256

    def headers_of_success(self, billed: int) -> Mapping[str, str]:
        return {
            "openai-processing-ms": "12",
            "x-ratelimit-limit-requests": "5000",
            "x-ratelimit-remaining-requests": "4999",
            "x-ratelimit-reset-requests": "12ms",
        }
