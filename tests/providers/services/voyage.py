"""Voyage: input_type, truncation true by default, base64 or nothing, `detail` for every error. SDK 0.5.0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.providers.services._scripted import Answer, ScriptedService


class Voyage(ScriptedService):
    prefix = "voyage"
    model = "voyage-3.5"
    shorter: ClassVar[int | None] = 256
    max_inputs = 1_000
    max_tokens = 320_000
    max_tokens_per_text = 32_000
    input_type_field = "input_type"
    input_types: ClassVar[Mapping[str, str]] = {"document": "document", "query": "query"}
    dimensions_field = "output_dimension"
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float", "base64": "base64"}
    uncut_field = "truncation"
    cuts = True
    more_fields = frozenset({"output_dtype"})

    def usage(self, billed: int) -> dict[str, Any]:
        return {"total_tokens": billed}

    def headers_of_success(self, billed: int) -> Mapping[str, str]:
        return {"x-api-warning": ""}

    def malformed(self, reason: str) -> Answer:
        return Answer(400, {"detail": reason})

    def unknown_model(self, model: str) -> Answer:
        named = ", ".join(f"'voyage-{i}'" for i in range(40))
        return Answer(400, {"detail": f"Model {model} is not supported. Supported models are [{named}]."})

    def too_many_inputs(self, count: int) -> Answer:
        reason = "Request to model failed. The batch size limit is 1000. Your batch size is"
        return Answer(400, {"detail": f"{reason} {count}."})

    def too_many_tokens(self, count: int) -> Answer:
        reason = f"The max allowed tokens per submitted batch is {self.max_tokens}. Your batch has {count} tokens after"
        return Answer(400, {"detail": f"Request to model '{self.model}' failed. {reason} truncation."})

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = f"The example at index {position} in your batch has too many tokens and does not fit into the model's"
        return Answer(
            400, {"detail": f"Request to model '{self.model}' failed. {reason} context window of 32000 tokens."}
        )

    def refused_text(self, position: int) -> Answer:
        return Answer(400, {"detail": "The input was refused."})

    def rate_limited(self) -> Answer:
        reason = "You have not yet added your payment method in the billing page and will have reduced rate limits of"
        return Answer(429, {"detail": f"{reason} 3 RPM and 10K TPM."})

    def outage(self) -> Answer:
        return Answer(502, b"<html><body>Bad Gateway</body></html>", {"content-type": "text/html"})

    def wrong_key(self, key: str) -> Answer:
        return Answer(401, {"detail": "Provided API key is invalid."})

    def no_money(self) -> Answer:
        return Answer(402, {"detail": "Your account is out of credits."})
