"""In whose words the batch API speaks, by the name of the service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tests.service.batches.gemini import GeminiWire
from tests.service.batches.mistral import MistralWire
from tests.service.batches.openai import OpenAIWire
from tests.service.batches.provider import Batches
from tests.service.batches.voyage import VoyageWire
from tests.service.service import Model


class DashScopeWire(OpenAIWire):
    """OpenAI's words, for a model of its own."""

    def __init__(self, batches: Batches) -> None:
        batches.rules = replace(batches.rules, models={**batches.rules.models, "text-embedding-v4": Model(1_024)})
        super().__init__(batches)


WIRES: Mapping[str, Callable[[Batches], OpenAIWire]] = {
    "openai": OpenAIWire,
    "azure": OpenAIWire,
    "voyage": VoyageWire,
    "mistral": MistralWire,
    "dashscope": DashScopeWire,
    "gemini": GeminiWire,
}
