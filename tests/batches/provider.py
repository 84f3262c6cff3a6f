"""A provider in the process that has batches: with a clock of its own, a ledger, a list that lags, and faults.

    fake = BatchFake(); fake.now += 3600; fake.run_batches()

`lose` names calls whose effect happens and whose answer is lost; `kill` ends the process at a call: `KILLED` is an
error that nothing catches, and after it every call is refused, as a dead process makes none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aembed.batch_protocols import BatchFault, BatchLine, BatchState, BatchTerms, QueueFullError
from aembed.errors import BadRequestError, NotFoundError, UnavailableError
from aembed.preparation import Preparation
from aembed.providers.fake import FakeProvider, fake_vectors
from aembed.types import Reply, Usage

TERMS = BatchTerms(
    max_texts_per_line=4,
    max_tokens_per_line=1_000,
    max_texts_per_file=20,
    max_lines_per_file=100,
    max_bytes_per_file=100_000,
    price_factor=0.5,
    window_seconds=86_400.0,
)
DAY = 86_400.0


class Killed(BaseException):
    """The process has ended."""


class BatchFake(FakeProvider):
    def __init__(self, *, terms: BatchTerms | None = TERMS, price_usd: float = 1.0, **options: Any) -> None:
        super().__init__(price_usd=price_usd, **options)
        self.batch_terms = terms
        self.now = 1_000_000.0
        self.files: dict[str, Any] = {}
        self.states: dict[str, BatchState] = {}
        self.bought = Counter[str]()
        """How often each text was embedded by batches: the ledger."""
        self.list_lag = 0.0
        self.queue_tokens = float("inf")
        self.lose: list[str] = []
        self.outcome: Callable[[str, Sequence[str]], BatchLine | None] = lambda name, texts: None
        """What becomes of a line in the place of a reply."""
        self.before: Callable[[str], None] = lambda call: None
        self.after: Callable[[str], None] = lambda call: None
        self.cut_at: int | None = None
        self.calls = Counter[str]()
        self._made = 0
        self._validated: dict[str, Any] = {}
        """The lines of each batch whose file was there when it was created."""

    # what the provider does by itself

    def run_batches(self, status: str = "completed") -> None:
        """Ends each batch: with that status, or failed where its file is gone."""
        for state in [*self.states.values()]:
            if not state.is_over:
                self.states[state.id] = self._ended(state, status)

    def _ended(self, state: BatchState, status: Any) -> BatchState:
        lines = self._validated.get(state.id)
        if lines is None:
            return replace(state, status="failed", faults=(BatchFault("file_not_found", "no such file"),))
        if status == "failed":
            return replace(state, status="failed", faults=(BatchFault("token_limit_exceeded", "too many"),))
        done: list[BatchLine] = []
        tokens = 0
        for name, texts in lines:
            line = self.outcome(name, texts)
            if line is None:
                spent = sum(len(text) for text in texts)
                tokens += spent
                line = BatchLine(name, Reply(fake_vectors([t.encode() for t in texts], 64), "fake", Usage(spent)))
            if line.reply:
                self.bought.update(texts)
            done.append(line)
        self.files[f"out-{state.id}"] = done
        completed = sum(line.reply is not None for line in done)
        counts = {"total": len(done), "completed": completed, "failed": len(done) - completed}
        return replace(state, status=status, output_file=f"out-{state.id}", tokens=tokens, **counts)

    # the protocol

    def batch_line(self, custom_id: str, texts: Sequence[str], *, preparation: Preparation) -> bytes:
        return json.dumps([custom_id, list(texts)]).encode() + b"\n"

    async def upload_batch_file(self, path: Path, key: str) -> str:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]  # noqa: ASYNC240

        def upload() -> str:
            self._made += 1
            self.files[f"file-{self._made}"] = lines
            return f"file-{self._made}"

        return self._do("upload", upload)

    async def create_batch(self, file_id: str, key: str, *, preparation: Preparation) -> BatchState:
        def create() -> BatchState:
            tokens = sum(len(text) for _, texts in self.files.get(file_id, ()) for text in texts)
            if tokens > self.queue_tokens:
                raise QueueFullError("the queue is full")
            self._made += 1
            id = f"batch-{self._made}"
            if file_id in self.files:
                self._validated[id] = self.files[file_id]
            self.states[id] = BatchState(
                id, "in_progress", key, file_id, created_at=self.now, expires_at=self.now + DAY
            )
            return self.states[id]

        return self._do("create", create)

    async def list_batches(self) -> AsyncIterator[BatchState]:
        seen = self._do("list", lambda: [*self.states.values()])
        for state in reversed(seen):
            if state.created_at + self.list_lag <= self.now:
                yield state

    async def get_batch(self, id: str) -> BatchState:
        def get() -> BatchState:
            if id not in self.states:
                raise NotFoundError("no such batch")
            return self.states[id]

        return self._do("get", get)

    async def batch_results(self, state: BatchState, inputs: Mapping[str, int]) -> AsyncGenerator[BatchLine]:
        lines = self._do("read", lambda: self.files.get(state.output_file or ""))
        if lines is None:
            if state.output_file:
                raise NotFoundError("no such file")
            return
        for number, line in enumerate(lines):
            if number == self.cut_at:
                raise UnavailableError("the file was cut off")
            self.before(f"line {number}")
            yield line

    async def cancel_batch(self, id: str) -> BatchState:
        def cancel() -> BatchState:
            self.states[id] = self._ended(self.states[id], "cancelled")
            return self.states[id]

        return self._do("cancel", cancel)

    async def delete_batch_file(self, file_id: str) -> None:
        self._do("delete", lambda: self.files.pop(file_id, None))

    def _do(self, name: str, effect: Callable[[], Any]) -> Any:
        self.calls[name] += 1
        self.before(name)
        done = effect()
        self.after(name)
        if name in self.lose:
            self.lose.remove(name)
            raise UnavailableError(f"the answer to {name} was lost")
        return done


def refused(name: str, texts: Sequence[str]) -> BatchLine | None:
    """A line that holds the word `bad` is refused for what it contains."""
    if any("bad" in text for text in texts):
        return BatchLine(name, error=BadRequestError("400: bad", status_code=400))
    return None
