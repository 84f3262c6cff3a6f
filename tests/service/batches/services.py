"""In whose words the batch API speaks, by the name of the service."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.service.batches.openai import OpenAIWire
from tests.service.batches.provider import Batches

WIRES: Mapping[str, Callable[[Batches], OpenAIWire]] = {"openai": OpenAIWire}
