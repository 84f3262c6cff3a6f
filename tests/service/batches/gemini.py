"""The same in Gemini's words: operations, resumable uploads, a text a line, and one file for answers and errors.

Requests may stand in the batch itself, too: then the answers stand in the operation, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from typing import Any

import msgspec

from tests.service.batches.batch import Batch, Status
from tests.service.batches.faults import TakesEffectLater
from tests.service.batches.files import StoredFile
from tests.service.batches.lines import Failed, Line, Words
from tests.service.batches.openai import HOUR, OpenAIWire
from tests.service.batches.provider import Batches
from tests.service.batches.wire import Answer, Problem, Request, Route, Routes, content_of, said
from tests.service.service import Call, Model
from tests.service.vectors import vectors_of

MODELS = {"gemini-embedding-001": Model(3_072)}
VERSION = "/v1(?:beta)?"
STATES: Mapping[Status, str] = {
    "validating": "PENDING",
    "in_progress": "RUNNING",
    "finalizing": "RUNNING",
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "expired": "EXPIRED",
    "cancelling": "RUNNING",
    "cancelled": "CANCELLED",
}


def error(code: int, status: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status}}


def as_openai(model: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The same request as OpenAI's online endpoint has it."""
    texts = [part["text"] for part in request["content"]["parts"]]
    body: dict[str, Any] = {"model": model, "input": texts, "encoding_format": "float"}
    if width := request.get("outputDimensionality"):
        body["dimensions"] = width
    return body


class WordsOfGemini:
    one_file = True

    def answered(self, line: Line, call: Call) -> Iterator[bytes]:
        values = vectors_of(call.digests, call.dimensions)[0].tolist()
        response = {"embedding": {"values": values}, "tokenCount": call.bill}
        yield msgspec.json.encode({"key": line.custom_id, "response": response}) + b"\n"

    def answered_bytes(self, line: Line, call: Call) -> int | None:
        return None

    def failed(self, failed: Failed) -> bytes:
        return msgspec.json.encode({"key": failed.line.custom_id, "error": _status_of(failed)}) + b"\n"


def _status_of(failed: Failed) -> dict[str, Any]:
    message, code = failed.error.get("message", ""), failed.status
    if code is None:
        return {"code": 1, "message": message, "status": str(failed.error["code"])}
    return {"code": code, "message": message, "status": "INTERNAL" if code >= 500 else "INVALID_ARGUMENT"}


class FormatOfGemini:
    words: Words = WordsOfGemini()

    def read(self, line: Any, batch: Batch) -> tuple[str, Mapping[str, Any]]:
        return line["key"], as_openai(batch.parameters["model"], line["request"])


class GeminiWire(OpenAIWire):
    def __init__(self, batches: Batches) -> None:
        super().__init__(batches)
        batches.rules = replace(batches.rules, models={**batches.rules.models, **MODELS})
        batches.format = FormatOfGemini()
        self._uploads: dict[str, list[bytes]] = {}
        self._inline: set[str] = set()
        self.routes = Routes(
            batches,
            [
                Route("POST", f"/upload{VERSION}/files", "upload", self.upload),
                Route("GET", f"{VERSION}/files/([^/:]+)", "file", self.file),
                Route("DELETE", f"{VERSION}/files/([^/:]+)", "delete", self.delete),
                Route("GET", f"{VERSION}/files/([^/:]+):download", "content", self.content),
                Route("POST", f"{VERSION}/models/([^/:]+):asyncBatchEmbedContent", "create", self.create),
                Route("GET", f"{VERSION}/batches", "list", self.list_batches),
                Route("GET", f"{VERSION}/batches/([^/:]+)", "get", self.get),
                Route("POST", f"{VERSION}/batches/([^/:]+):cancel", "cancel", self.cancel),
            ],
        )

    # files

    def upload(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        """`start` answers where to; what comes there is kept until it is to be finalized."""
        command = request.headers.get("x-goog-upload-command", "")
        if command == "start":
            number = str(len(self._uploads))
            self._uploads[number] = []
            place = f"http://{request.headers['host']}{request.path}?upload_id={number}&upload_protocol=resumable"
            return said({}, headers=[("x-goog-upload-url", place), ("x-goog-upload-status", "active")])
        pieces = self._uploads.get(request.query.get("upload_id", ""))
        if pieces is None:
            raise Problem(404, error(404, "NOT_FOUND", "No such upload."))
        pieces.append(request.body)
        if "finalize" not in command:
            return said({}, headers=[("x-goog-upload-status", "active")])
        file = self.batches.upload("", "batch", b"".join(pieces), now, 48 * HOUR)
        return said({"file": self.as_file(file)}, headers=[("x-goog-upload-status", "final")])

    def file(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        return said(self.as_file(self._file(id, now)))

    def delete(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        self.batches.files.delete(self._file(id, now).id, now)
        return said({})

    def content(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        return content_of(self._file(id, now), request)

    def _file(self, id: str, now: float) -> StoredFile:
        self.batches.settle(now)
        if found := self.batches.files.find(id, now):
            return found
        raise Problem(
            403,
            error(403, "PERMISSION_DENIED", f"You do not have permission to access the File {id} or it may not exist."),
        )

    def as_file(self, file: StoredFile) -> dict[str, Any]:
        return {
            "name": f"files/{file.id}",
            "mimeType": "application/jsonl",
            "sizeBytes": str(file.size or 0),
            "createTime": self._iso(file.created_at),
            "state": "ACTIVE",
            "source": "UPLOADED",
        }

    # batches

    def create(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        asked = request.json()["batch"]
        given = asked["inputConfig"]
        name = given.get("file_name") or given.get("fileName")
        if name is None:
            lines = [
                {"key": str(number), "request": each["request"]}
                for number, each in enumerate(given["requests"]["requests"])
            ]
            content = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
            file = self.batches.upload("inline", "batch", content, now, inf).id
        else:
            file = self._file(str(name).removeprefix("files/"), now).id
        made = self.batches.create(
            [file],
            now,
            late,
            metadata={"displayName": asked.get("displayName", "")},
            window=48 * HOUR,
            parameters={"model": id},
        )
        if name is None:
            self._inline.add(made.id)
        return said(self.as_batch(made))

    def list_batches(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        listed = self.batches.listed(now)
        size, start = int(request.query.get("pageSize", 50)), int(request.query.get("pageToken", 0))
        page: dict[str, Any] = {"operations": [self.as_batch(batch) for batch in listed[start : start + size]]}
        if start + size < len(listed):
            page["nextPageToken"] = str(start + size)
        return said(page)

    def cancel(self, request: Request, id: str, now: float, late: TakesEffectLater | None) -> Answer:
        batch = self._batch(id, now)
        if batch.is_over:
            raise Problem(400, error(400, "FAILED_PRECONDITION", "The batch is over."))
        self.batches.cancel(batch, now)
        return said({})

    def as_batch(self, batch: Batch) -> dict[str, Any]:
        done, failed = len(batch.answered), len(batch.failed)
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.EmbedContentBatch",
            "model": f"models/{batch.parameters['model']}",
            "displayName": (batch.metadata or {}).get("displayName"),
            "name": f"batches/{batch.id}",
            "createTime": self._iso(batch.created_at),
            "batchStats": {
                "requestCount": str(len(batch.lines)),
                "successfulRequestCount": str(done),
                "failedRequestCount": str(failed),
            },
            "state": f"BATCH_STATE_{STATES[batch.status]}",
        }
        if batch.id not in self._inline:
            metadata["inputConfig"] = {"fileName": f"files/{batch.input_file_ids[0]}"}
        if batch.id in self._inline and batch.is_over:
            metadata["output"] = {"inlinedResponses": {"inlinedResponses": self._inlined(batch)}}
        elif batch.output_file_id:
            metadata["output"] = {"responsesFile": f"files/{batch.output_file_id}"}
        operation: dict[str, Any] = {"name": f"batches/{batch.id}", "metadata": metadata}
        if batch.is_over:
            operation["done"] = True
        if batch.errors:
            (first, *_) = batch.errors
            operation["error"] = {"code": 8, "message": f"{first.code}: {first.message}"}
        return operation

    def _inlined(self, batch: Batch) -> list[dict[str, Any]]:
        """One for each request, in their order."""
        answers = {each.line.number: (each.line, each.call) for each in batch.answered}
        errors = {each.line.number: {"error": _status_of(each)} for each in batch.failed}
        words = WordsOfGemini()

        def answer(number: int) -> dict[str, Any]:
            if number in errors:
                return errors[number]
            line = msgspec.json.decode(b"".join(words.answered(*answers[number])))
            return {"response": line["response"]}

        return [answer(number) for number in range(len(batch.lines))]

    def _iso(self, moment: float) -> str:
        return datetime.fromtimestamp(self.batches.epoch + moment, UTC).isoformat().replace("+00:00", "Z")
