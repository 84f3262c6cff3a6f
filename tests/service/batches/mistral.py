"""The same in Mistral's words: jobs of one model each, and their own states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.service import refusals
from tests.service.batches.batch import Batch, Status
from tests.service.batches.faults import TakesEffectLater
from tests.service.batches.files import StoredFile
from tests.service.batches.lines import Words, WordsOfOpenAI
from tests.service.batches.openai import HOUR, OpenAIWire
from tests.service.batches.provider import Batches
from tests.service.batches.voyage import as_openai
from tests.service.batches.wire import Answer, Problem, Request, Route, said
from tests.service.service import Model

MODELS = {"mistral-embed": Model(1_024)}
STATES: Mapping[Status, str] = {
    "validating": "QUEUED",
    "in_progress": "RUNNING",
    "finalizing": "RUNNING",
    "completed": "SUCCESS",
    "failed": "FAILED",
    "expired": "TIMEOUT_EXCEEDED",
    "cancelling": "CANCELLATION_REQUESTED",
    "cancelled": "CANCELLED",
}


class FormatOfMistral:
    words: Words = WordsOfOpenAI()

    def read(self, line: Any, batch: Batch) -> tuple[str, Mapping[str, Any]]:
        return line["custom_id"], as_openai({**line["body"], **batch.parameters})


class MistralWire(OpenAIWire):
    def __init__(self, batches: Batches) -> None:
        batches.rules = replace(batches.rules, models={**batches.rules.models, **MODELS})
        batches.format = FormatOfMistral()
        super().__init__(batches)

    def routes_of_batches(self) -> list[Route]:
        return [
            Route("POST", "/v1/batch/jobs", "create", self.create),
            Route("GET", "/v1/batch/jobs", "list", self.list_batches),
            Route("GET", "/v1/batch/jobs/([^/]+)", "get", self.get),
            Route("POST", "/v1/batch/jobs/([^/]+)/cancel", "cancel", self.cancel),
        ]

    def create(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        fields = request.json()
        if fields.get("endpoint") != "/v1/embeddings" or not isinstance(fields.get("model"), str):
            raise Problem(422, {"detail": [{"type": "missing", "loc": ["body", "model"], "msg": "Field required"}]})
        files = fields.get("input_files") or []
        if not files or not all(self.batches.files.find(file, now) for file in files):
            raise Problem(404, refusals.error("No such input file."))
        made = self.batches.create(
            files,
            now,
            late,
            metadata=fields.get("metadata"),
            window=fields.get("timeout_hours", 24) * HOUR,
            parameters={"model": fields["model"]},
        )
        return said(self.as_batch(made))

    def as_file(self, file: StoredFile) -> dict[str, Any]:
        made = {"sample_type": "batch_request", "source": "upload", "num_lines": None, "signature": None}
        return {**super().as_file(file), **made}

    def list_batches(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        listed = self.batches.listed(now)
        size = int(request.query.get("page_size", 100))
        start = int(request.query.get("page", 0)) * size
        page = [self.as_batch(batch) for batch in listed[start : start + size]]
        return said({"object": "list", "data": page, "total": len(listed)})

    def as_batch(self, batch: Batch) -> dict[str, Any]:
        done, failed = len(batch.answered), len(batch.failed)
        ended = next(
            (batch.moments[status] for status in ("completed", "expired", "cancelled") if status in batch.moments), None
        )
        return {
            "id": batch.id,
            "object": "batch",
            "input_files": list(batch.input_file_ids),
            "endpoint": "/v1/embeddings",
            "model": batch.parameters["model"],
            "metadata": batch.metadata,
            "errors": [{"message": f"{each.code}: {each.message}", "count": 1} for each in batch.errors],
            "status": STATES[batch.status],
            "created_at": self.time(batch.created_at),
            "started_at": self.time(batch.moments.get("in_progress")),
            "completed_at": self.time(ended),
            "output_file": batch.output_file_id,
            "error_file": batch.error_file_id,
            "total_requests": len(batch.lines),
            "completed_requests": done + failed,
            "succeeded_requests": done,
            "failed_requests": failed,
        }
