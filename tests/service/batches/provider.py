"""All files and batches of the simulated service: its queue, its list, its bill. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from random import Random
from typing import Any, Protocol

import msgspec

from tests.service import refusals
from tests.service.batches.batch import Batch, Events, Invalid
from tests.service.batches.faults import Plans, TakesEffectLater
from tests.service.batches.files import Files, StoredFile
from tests.service.batches.lines import Answered, Failed, Line, Words, WordsOfOpenAI, written, written_bytes
from tests.service.ledger import Ledger, tokens_in
from tests.service.service import Refused, Rules, understand


@dataclass(slots=True)
class Limits:
    """What one batch may hold, and what may be in the queue."""

    lines: int = 50_000
    inputs: int = 50_000
    file_bytes: int = 200_000_000
    queue_tokens: float = inf


class Format(Protocol):
    """How a service writes the lines of its files."""

    @property
    def words(self) -> Words: ...

    def read(self, line: Any, batch: Batch) -> tuple[str, Mapping[str, Any]]:
        """The custom id, and the request as OpenAI's online endpoint would have it. Raises KeyError, TypeError,
        ValueError for what is no line."""
        ...


class FormatOfOpenAI:
    words: Words = WordsOfOpenAI()

    def read(self, line: Any, batch: Batch) -> tuple[str, Mapping[str, Any]]:
        if line["method"] != "POST" or line["url"] != "/v1/embeddings":
            raise ValueError("The method or the url of a line is not that of the batch.")
        return line["custom_id"], line["body"]


@dataclass
class Batches:
    """`list_lag` is how many seconds a new batch is not in the list yet. `epoch` is the time of day at moment 0, and
    `ahead` how far tests have advanced the clock."""

    rules: Rules
    ledger: Callable[[], Ledger]
    format: Format = field(default_factory=FormatOfOpenAI)
    limits: Limits = field(default_factory=Limits)
    plans: Plans = field(default_factory=Plans)
    list_lag: float = 0.0
    epoch: float = 1_800_000_000.0
    ahead: float = 0.0
    files: Files = field(default_factory=Files)
    _batches: dict[str, Batch] = field(default_factory=dict)
    _coming: list[tuple[float, Batch]] = field(default_factory=list)

    def advance(self, seconds: float) -> None:
        self.ahead += seconds

    # what services do, in their words

    def upload(self, name: str, purpose: str, content: bytes, now: float, seconds: float) -> StoredFile:
        return self.files.keep(name, purpose, content, now, seconds)

    def create(self, files: Sequence[str], now: float, late: TakesEffectLater | None = None, **rest: Any) -> Batch:
        """`rest` are fields of the batch."""
        at = now + late.seconds if late else now
        id = f"batch_{len(self._batches) + len(self._coming) + 1:06d}"
        lives_on = late is not None and late.runs_without_file
        batch = Batch(
            id,
            files,
            course=self.plans.course(),
            created_at=at,
            listed_at=at + self.list_lag,
            runs_without_file=lives_on,
            **rest,
        )
        if lives_on:
            batch.lines = self._read_lines(batch, now)[0]
        if late:
            self._coming.append((at, batch))
        else:
            self._batches[id] = batch
        return batch

    def find(self, id: str, now: float) -> Batch | None:
        self.settle(now)
        return self._batches.get(id)

    def cancel(self, batch: Batch, now: float) -> None:
        batch.cancel(now, self._events)

    def listed(self, now: float) -> list[Batch]:
        """The youngest first."""
        self.settle(now)
        seen = [batch for batch in self._batches.values() if now >= batch.listed_at]
        return sorted(seen, key=lambda batch: (batch.created_at, batch.id), reverse=True)

    def settle(self, now: float) -> None:
        """Brings everything to that moment, each batch in the order of its creation."""
        for at, batch in sorted(self._coming, key=lambda each: each[0]):
            if at <= now:
                self._coming.remove((at, batch))
                self._batches[batch.id] = batch
        for batch in self._batches.values():
            if not batch.is_over:
                batch.settle(now, self._events)

    # what becomes of a batch

    @property
    def _events(self) -> Events:
        return Events(self._validate, self._run, self._write_files)

    def _validate(self, batch: Batch, at: float) -> Sequence[Invalid]:
        if batch.course.fails:
            return [Invalid(batch.course.fails, f"The batch failed: {batch.course.fails}.")]
        if not batch.runs_without_file:
            batch.lines, errors = self._read_lines(batch, at)
            if errors:
                return errors
        batch.tokens = sum(tokens_in(len(str(text).encode())) for line in batch.lines for text in line.texts)
        queued = sum(each.tokens for each in self._batches.values() if each is not batch and not each.is_over)
        if queued + batch.tokens > self.limits.queue_tokens:
            model = batch.lines[0].body.get("model")
            said = (
                f"Enqueued token limit reached for {model} in organization org-simulated. Limit: "
                f"{self.limits.queue_tokens:,.0f} enqueued tokens. Please try again once some in_progress batches have "
                "been completed."
            )
            return [Invalid("token_limit_exceeded", said)]
        return []

    def _read_lines(self, batch: Batch, at: float) -> tuple[list[Line], list[Invalid]]:
        lines: list[Line] = []
        errors: list[Invalid] = []
        found = [self.files.find(id, at) for id in batch.input_file_ids]
        if not all(found):
            return [], [Invalid("invalid_file", "The input file was deleted, or is not there.")]
        raw = [line for file in found if file for line in file.content().splitlines() if line.strip()]
        for number, text in enumerate(raw):
            try:
                lines.append(Line(number, *self.format.read(msgspec.json.decode(text), batch)))
            except (KeyError, TypeError, ValueError) as error:
                errors.append(Invalid("invalid_json_line", f"This line is not a request: {error}", number + 1))
        ids = [line.custom_id for line in lines]
        if len(set(ids)) < len(ids):
            twice = next(number for number, id in enumerate(ids) if id in ids[:number])
            errors.append(Invalid("duplicate_custom_id", "The custom_id of this line was used before.", twice + 1))
        if not raw:
            errors.append(Invalid("empty_file", "The batch input file is empty."))
        if len(raw) > self.limits.lines:
            errors.append(Invalid("too_many_tasks", f"The batch has more than {self.limits.lines:,} requests."))
        if sum(len(line.texts) for line in lines) > self.limits.inputs:
            errors.append(
                Invalid("too_many_inputs", f"The batch has more than {self.limits.inputs:,} embedding inputs.")
            )
        return lines, errors

    def _run(self, batch: Batch, line: Line) -> None:
        fault = batch.course.lines.get(line.number)
        match fault:
            case "neither file":
                return
            case "status 0":
                batch.failed.append(Failed(line, 0, {"message": "", "type": None, "param": None, "code": None}))
                return
            case "500":
                batch.failed.append(Failed(line, 500, refusals.usual_body(500)["error"]))
                return
            case "refused":
                batch.failed.append(Failed(line, 400, refusals.error("'$.input' is invalid.")["error"]))
                return
        try:
            rules = replace(self.rules, key=None)
            call = understand(rules, {}, msgspec.json.encode(line.body), line.number, batch.created_at)
        except Refused as refused:
            said = refused.status.body if isinstance(refused.status.body, Mapping) else {}
            batch.failed.append(Failed(line, refused.status.code, said.get("error", {})))
            return
        self.ledger().billed(zip(call.digests, call.sizes, strict=True), call.bill)
        batch.billed_tokens += call.bill
        batch.answered.append(Answered(line, call, fault))

    def _write_files(self, batch: Batch, at: float) -> None:
        words = self.format.words
        if (batch.answered or (batch.failed and words.one_file)) and batch.course.output:
            batch.output_file_id = self._write_output(batch, at).id
        if batch.failed and not words.one_file:
            content = b"".join(map(words.failed, batch.failed))
            name = f"{batch.id}_error.jsonl"
            batch.error_file_id = self.files.keep(name, "batch_output", content, at, batch.output_seconds).id

    def _write_output(self, batch: Batch, at: float) -> StoredFile:
        answered, words = in_order(batch), self.format.words
        sizes = [written_bytes(words, each) for each in answered]
        known = [size for size in sizes if size is not None]
        errors = b"".join(map(words.failed, batch.failed)) if words.one_file else b""
        size = sum(known) + len(errors) if len(known) == len(sizes) else None

        def pieces() -> Iterator[bytes]:
            for each in answered:
                yield from written(words, each)
            yield errors

        return self.files.add(f"{batch.id}_output.jsonl", "batch_output", size, pieces, at, batch.output_seconds)


def in_order(batch: Batch) -> list[Answered]:
    match batch.course.order:
        case "input":
            return list(batch.answered)
        case "reversed":
            return batch.answered[::-1]
        case "shuffled":
            return Random(batch.id).sample(batch.answered, len(batch.answered))
