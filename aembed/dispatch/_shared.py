"""This module knows the texts on their way: whoever wants one that was sent already waits for it, and pays nothing.

This is between the jobs and queries of one Embedder; equal texts of one job are joined before they are offered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from aembed.core.changes import Item
from aembed.core.pieces import combined
from aembed.dispatch._delivery import Answer, Answered, Deliver, Refused
from aembed.dispatch._errand import Errand
from aembed.errors import AembedError, copied
from aembed.types import InputType, Reply, Vector


@dataclass(frozen=True, slots=True, eq=False)
class Got:
    """The vector that another caller was answered."""

    vector: Vector
    model: str


Outcome: TypeAlias = Got | AembedError | None
"""What becomes of a text of somebody else: its vector, an error if it was refused, None if there was no answer."""
Waiting: TypeAlias = "asyncio.Future[Outcome]"
Joined: TypeAlias = list[tuple[Item, Waiting]]


@dataclass(slots=True, eq=False)
class Way:
    """One batch on its way, by the task that sends it."""

    errand: Errand
    task: asyncio.Task[object] | None
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

    def answered(self, items: Sequence[Item]) -> None:
        """Takes these items off. Most batches are answered whole, and then no item is looked at."""
        done = {*map(id, items)} if len(items) < self.size else None
        self.unanswered = [item for item in self.unanswered if id(item) not in done] if done else ()


class Texts:
    """The texts that are on their way. They are hashed once somebody asks for one; a job that is alone never does."""

    def __init__(self) -> None:
        self._ways: dict[Way, None] = {}
        self._by_text: dict[str, Way] | None = None

    def concern(self, errand: Errand) -> bool:
        """Whether anything is on its way for somebody else; equal texts of one job are one item already."""
        return self._by_text is not None or any(way.errand is not errand for way in self._ways)

    def get(self, text: str) -> Way | None:
        if not self._ways:
            return None
        if self._by_text is None:
            self._by_text = {text: way for way in self._ways for text in way.list_texts()}
        return self._by_text.get(text)

    def add(self, way: Way, items: Sequence[Item]) -> None:
        way.unanswered = items
        self._ways[way] = None
        if self._by_text is not None:
            self._by_text.update(dict.fromkeys(way.list_texts(), way))

    def answered(self, way: Way, items: Sequence[Item]) -> None:
        if way.listed:
            self._unlist(way, [item.texts[0] for item in items])
        way.answered(items)

    def remove(self, way: Way) -> None:
        self._unlist(way, way.listed)
        self._ways.pop(way, None)
        if not self._ways:
            self._by_text = None

    def _unlist(self, way: Way, texts: Sequence[str]) -> None:
        by_text = self._by_text or {}
        for text in texts:
            if by_text.get(text) is way:
                del by_text[text]


class Shared:
    """The texts on their way by input type.

    `alike` says that the provider embeds documents and queries alike, so that each may have the other's vector.
    """

    def __init__(self, *, alike: bool) -> None:
        one = Texts()
        self._texts: dict[InputType, Texts] = {"document": one, "query": one if alike else Texts()}

    def claim(self, batch: Sequence[Item], errand: Errand) -> tuple[Way, Sequence[Item], Joined]:
        """What is to be sent of a batch, and what is on its way for somebody else, which is joined.

        A text in pieces is always sent.
        """
        texts, way = self._texts[errand.input_type], Way(errand, asyncio.current_task())
        mine, new, joined = batch, batch, Joined()
        if texts.concern(errand):
            holders = [texts.get(item.texts[0]) if len(item.texts) == 1 else None for item in batch]
            held = list(zip(batch, holders, strict=True))
            new = [item for item, holder in held if holder is None]
            mine = batch if errand.interactive else new
            if not errand.interactive:
                joined = [(item, holder.wait(item.texts[0])) for item, holder in held if holder]
        way.size = len(mine)
        if errand.shares and new:
            texts.add(way, new)
        return way, mine, joined

    def sent(self, text: str, input_type: InputType) -> Waiting | None:
        """The answer to a request with this text that has been sent; None if there is none that was sent already."""
        way = self._texts[input_type].get(text)
        return way.wait(text) if way and not way.errand.holds_back(way.task) else None

    async def delivered(self, way: Way, deliver: Deliver, answer: Answer) -> None:
        """Tells those who wait first, and then the one who sent the text, who may take long to store it."""
        self._texts[way.errand.input_type].answered(way, answer.items)
        if way.waiting:
            self._tell(way, answer)
        await deliver(answer)

    def _tell(self, way: Way, answer: Answer) -> None:
        matrix = combined(answer.items, answer.reply.matrix) if isinstance(answer, Answered) else None
        for row, item in enumerate(answer.items):
            for future in way.waiting.pop(item.texts[0], ()) if len(item.texts) == 1 else ():
                if future.done():
                    continue
                if isinstance(answer, Answered):
                    assert matrix is not None
                    # A view of one row would keep the whole batch alive, so each that waits has a copy.
                    future.set_result(Got(matrix[row].copy(), answer.reply.model))
                else:
                    future.set_result(copied(answer.error))

    def release(self, way: Way) -> None:
        """The batch has ended: whoever still waits may send the text for itself."""
        self._texts[way.errand.input_type].remove(way)
        for futures in way.waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)


async def received(joined: Joined, errand: Errand, deliver: Deliver) -> list[Item]:
    """Delivers what others were answered, as it comes; returns the items for which nobody got an answer."""
    again: list[Item] = []
    while joined:
        await errand.wait(asyncio.wait([future for _, future in joined], return_when=asyncio.FIRST_COMPLETED))
        done = [(item, future.result()) for item, future in joined if future.done()]
        joined = [(item, future) for item, future in joined if not future.done()]
        again += [item for item, outcome in done if outcome is None]
        for model in {outcome.model for _, outcome in done if isinstance(outcome, Got)}:
            got = [(item, each) for item, each in done if isinstance(each, Got) and each.model == model]
            reply = Reply(np.stack([each.vector for _, each in got]), model, checked=True)
            await deliver(Answered([item for item, _ in got], reply, shared=True))
        for item, outcome in done:
            if isinstance(outcome, AembedError):
                await deliver(Refused([item], outcome))
    return again
