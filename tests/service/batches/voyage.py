"""The same in Voyage's words: lines hold the texts alone, the parameters are said once, and a batch has 12 hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.service import refusals
from tests.service.batches.batch import Batch
from tests.service.batches.lines import Words, WordsOfOpenAI
from tests.service.batches.openai import HOUR, OpenAIWire
from tests.service.batches.provider import Batches
from tests.service.batches.wire import Problem
from tests.service.service import Model

MODELS = {"voyage-4": Model(1_024)}
_PARAMETERS = {"model", "input_type", "truncation", "output_dimension", "output_dtype", "encoding_format"}


class FormatOfVoyage:
    words: Words = WordsOfOpenAI()

    def read(self, line: Any, batch: Batch) -> tuple[str, Mapping[str, Any]]:
        if line.keys() != {"custom_id", "body"} or line["body"].keys() != {"input"}:
            raise ValueError("A line holds custom_id and body, and its body the input alone.")
        return line["custom_id"], as_openai({**batch.parameters, "input": line["body"]["input"]})


class VoyageWire(OpenAIWire):
    window = ("12h", 12 * HOUR)

    def __init__(self, batches: Batches) -> None:
        batches.rules = replace(batches.rules, models={**batches.rules.models, **MODELS})
        batches.format = FormatOfVoyage()
        super().__init__(batches)

    def parameters(self, fields: dict[str, Any]) -> dict[str, Any]:
        given = fields.get("request_params")
        if not isinstance(given, dict) or "model" not in given or given.keys() - _PARAMETERS:
            raise Problem(400, refusals.error("request_params must name the model, and nothing that is not known."))
        return given


def as_openai(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same request as OpenAI's online endpoint has it."""
    names = {"model": "model", "input": "input", "encoding_format": "encoding_format", "output_dimension": "dimensions"}
    return {names[name]: value for name, value in body.items() if name in names and value is not None}
