"""This module knows the texts on their way: whoever wants one that was sent already waits for it, and pays nothing.

This is between the jobs and queries of one Embedder; equal texts of one job are joined before they are offered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from aembed.core.changes import Item
from aembed.core.pieces import combine_pieces
from aembed.dispatch._delivery import Answer, Answered, Deliver, Refused
from aembed.dispatch._submission import Submission
from aembed.errors import AembedError, copy_error
from aembed.preparation import Preparation
from aembed.types import InputType, Reply, Vector


@dataclass(frozen=True, slots=True, eq=False)
class SharedAnswer:
    """The vector that another caller was answered."""

    vector: Vector
    model: str


Outcome: TypeAlias = SharedAnswer | AembedError | None
"""What becomes of a text of somebody else: its vector, an error if it was refused, None if there was no answer."""
Waiting: TypeAlias = "asyncio.Future[Outcome]"
Joined: TypeAlias = list[tuple[Item, Waiting]]


@dataclass(slots=True, eq=False)
class SharedBatch:
    """One batch on its way, by the task that sends it."""

    submission: Submission
    task: asyncio.Task[object] | None
    texts: SharedTexts
    """Where it is listed."""
    size: int = 0
    unanswered: Sequence[Item] = ()
    """The items that others may wait for."""
    listed: list[str] = field(default_factory=list)
    """The texts by which it can be found, once that was asked for."""
    waiting: dict[str, list[Waiting]] = field(default_factory=dict)

    def wait(self, text: str) -> Waiting:
        future: Waiting = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(text, []).append(future)
        return future

    def list_texts(self) -> list[str]:
        """The texts that others may wait for; a text in pieces is none of them."""
        self.listed = [item.texts[0] for item in self.unanswered if len(item.texts) == 1]
        return self.listed

    def note_answered(self, items: Sequence[Item]) -> None:
        """Takes these items off. Most batches are answered whole, and then no item is looked at."""
        done = {*map(id, items)} if len(items) < self.size else None
        self.unanswered = [item for item in self.unanswered if id(item) not in done] if done else ()


@dataclass(eq=False, repr=False)
class SharedTexts:
    """The texts that are on their way. They are hashed once somebody asks for one; a job that is alone never does."""

    _shared_batches: dict[SharedBatch, None] = field(default_factory=dict)
    _by_text: dict[str, SharedBatch] | None = None

    def has_others_texts(self, submission: Submission) -> bool:
        """Whether anything is on its way for somebody else; equal texts of one job are one item already."""
        return self._by_text is not None or any(
            shared_batch.submission is not submission for shared_batch in self._shared_batches
        )

    def get(self, text: str) -> SharedBatch | None:
        if not self._shared_batches:
            return None
        if self._by_text is None:
            self._by_text = {
                text: shared_batch for shared_batch in self._shared_batches for text in shared_batch.list_texts()
            }
        return self._by_text.get(text)

    def add(self, shared_batch: SharedBatch, items: Sequence[Item]) -> None:
        shared_batch.unanswered = items
        self._shared_batches[shared_batch] = None
        if self._by_text is not None:
            self._by_text.update(dict.fromkeys(shared_batch.list_texts(), shared_batch))

    def note_answered(self, shared_batch: SharedBatch, items: Sequence[Item]) -> None:
        if shared_batch.listed:
            self._unlist(shared_batch, [item.texts[0] for item in items])
        shared_batch.note_answered(items)

    def remove(self, shared_batch: SharedBatch) -> None:
        self._unlist(shared_batch, shared_batch.listed)
        self._shared_batches.pop(shared_batch, None)
        if not self._shared_batches:
            self._by_text = None

    def _unlist(self, shared_batch: SharedBatch, texts: Sequence[str]) -> None:
        by_text = self._by_text or {}
        for text in texts:
            if by_text.get(text) is shared_batch:
                del by_text[text]


@dataclass(eq=False, repr=False)
class Shared:
    """The texts on their way, by what makes another vector of an equal text. Prefixes do not: they are in the texts.

    `alike` says that the provider embeds documents and queries alike, so that each may have the other's vector, unless
    a preparation names another type for each.
    """

    alike: bool
    _texts: dict[tuple[str, str], SharedTexts] = field(default_factory=dict[tuple[str, str], SharedTexts])

    def _texts_of(self, input_type: InputType, preparation: Preparation) -> SharedTexts:
        key = "" if self.alike else input_type, preparation.asks(input_type)
        return self._texts.get(key) or self._texts.setdefault(key, SharedTexts())

    def claim(self, batch: Sequence[Item], submission: Submission) -> tuple[SharedBatch, Sequence[Item], Joined]:
        """What is to be sent of a batch, and what is on its way for somebody else, which is joined.

        A text in pieces is always sent.
        """
        texts = self._texts_of(submission.input_type, submission.preparation)
        shared_batch = SharedBatch(submission, asyncio.current_task(), texts)
        mine, new, joined = batch, batch, Joined()
        if texts.has_others_texts(submission):
            holders = [texts.get(item.texts[0]) if len(item.texts) == 1 else None for item in batch]
            held = list(zip(batch, holders, strict=True))
            new = [item for item, holder in held if holder is None]
            mine = batch if submission.interactive else new
            if not submission.interactive:
                joined = [(item, holder.wait(item.texts[0])) for item, holder in held if holder]
        shared_batch.size = len(mine)
        if submission.shares and new:
            texts.add(shared_batch, new)
        return shared_batch, mine, joined

    def find_sent(self, text: str, input_type: InputType, preparation: Preparation) -> Waiting | None:
        """The answer to a request with this text that has been sent; None if there is none that was sent already."""
        shared_batch = self._texts_of(input_type, preparation).get(text)
        return (
            shared_batch.wait(text)
            if shared_batch and shared_batch.task not in shared_batch.submission.waiting
            else None
        )

    def deliver_shared(self, shared_batch: SharedBatch, deliver: Deliver, answer: Answer) -> Awaitable[None]:
        """Tells those who wait first, and then the one who sent the text, who may take long to store it."""
        shared_batch.texts.note_answered(shared_batch, answer.items)
        if shared_batch.waiting:
            self._tell(shared_batch, answer)
        return deliver(answer)

    def _tell(self, shared_batch: SharedBatch, answer: Answer) -> None:
        matrix = combine_pieces(answer.items, answer.reply.matrix) if isinstance(answer, Answered) else None
        for row, item in enumerate(answer.items):
            for future in shared_batch.waiting.pop(item.texts[0], ()) if len(item.texts) == 1 else ():
                if future.done():
                    continue
                if isinstance(answer, Answered):
                    assert matrix is not None
                    # A view of one row would keep the whole batch alive, so each that waits has a copy.
                    future.set_result(SharedAnswer(matrix[row].copy(), answer.reply.model))
                elif isinstance(answer, Refused):
                    future.set_result(copy_error(answer.error))

    def release(self, shared_batch: SharedBatch) -> None:
        """The batch has ended: whoever still waits may send the text for itself."""
        shared_batch.texts.remove(shared_batch)
        for futures in shared_batch.waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)


async def receive_shared(joined: Joined, submission: Submission, deliver: Deliver) -> list[Item]:
    """Delivers what others were answered, as it comes; returns the items for which nobody got an answer."""
    again: list[Item] = []
    while joined:
        await submission.wait(asyncio.wait([future for _, future in joined], return_when=asyncio.FIRST_COMPLETED))
        done = [(item, future.result()) for item, future in joined if future.done()]
        joined = [(item, future) for item, future in joined if not future.done()]
        again += [item for item, outcome in done if outcome is None]
        for model in {outcome.model for _, outcome in done if isinstance(outcome, SharedAnswer)}:
            got = [(item, each) for item, each in done if isinstance(each, SharedAnswer) and each.model == model]
            reply = Reply(np.stack([each.vector for _, each in got]), model, checked=True)
            await deliver(Answered([item for item, _ in got], reply, shared=True))
        for item, outcome in done:
            if isinstance(outcome, AembedError):
                await deliver(Refused([item], outcome))
    return again
