"""Parasail: OpenAI's format. Documentation only."""

from __future__ import annotations

from typing import ClassVar

from tests.providers.services._scripted import ScriptedService


class Parasail(ScriptedService):
    prefix = "parasail"
    model = "BAAI/bge-m3"
    max_inputs = 256
    shorter: ClassVar[int | None] = None
    max_tokens_per_text = 8_192
