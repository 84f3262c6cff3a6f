"""Texts on their way: whoever wants one that is being sent already waits for that answer, and pays for nothing.

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
    """What another one was answered."""

    vector: Vector
    model: str


Outcome: TypeAlias = Got | AembedError | None
"""None: it ended without an answer for that text. An error: the text was refused."""
Waiting: TypeAlias = "asyncio.Future[Outcome]"
Joined: TypeAlias = list[tuple[Item, Waiting]]


@dataclass(slots=True, eq=False)
class Way:
    """One batch on its way, by the task that sends it."""

    errand: Errand
    task: asyncio.Task[object] | None
    texts: list[str] = field(default_factory=list)
    waiting: dict[str, list[Waiting]] = field(default_factory=dict)

    def wait(self, text: str) -> Waiting:
        future: Waiting = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(text, []).append(future)
        return future


class Shared:
    """`alike`: the provider embeds documents and queries alike, so that each may have the other's vector."""

    def __init__(self, *, alike: bool) -> None:
        one: dict[str, Way] = {}
        self._ways: dict[InputType, dict[str, Way]] = {"document": one, "query": one if alike else {}}

    def claim(self, batch: Sequence[Item], errand: Errand) -> tuple[Way, list[Item], Joined]:
        """What is to be sent of a batch, and what is on its way for somebody else. A text in pieces goes alone."""
        ways, way = self._ways[errand.input_type], Way(errand, asyncio.current_task())
        mine: list[Item] = []
        joined: Joined = []
        for item in batch:
            text = item.texts[0]
            held = ways.get(text) if len(item.texts) == 1 else way
            if held is None:
                mine.append(item)
                if errand.shares:
                    ways[text] = way
                    way.texts.append(text)
            elif held is way or errand.interactive:
                mine.append(item)
            else:
                joined.append((item, held.wait(text)))
        return way, mine, joined

    def sent(self, text: str, input_type: InputType) -> Waiting | None:
        """The answer to a request that has this text and has been sent: not one that waits for its turn."""
        way = self._ways[input_type].get(text)
        return way.wait(text) if way and not way.errand.holds_back(way.task) else None

    async def delivered(self, way: Way, deliver: Deliver, answer: Answer) -> None:
        """Tells those who wait before the one who sent it, who may take his time."""
        ways = self._ways[way.errand.input_type]
        for item in answer.items:
            if ways.get(item.texts[0]) is way:
                del ways[item.texts[0]]
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
                    future.set_result(Got(matrix[row].copy(), answer.reply.model))
                else:
                    future.set_result(copied(answer.error))

    def release(self, way: Way) -> None:
        """The batch has ended. Who still waits may send the text himself."""
        ways = self._ways[way.errand.input_type]
        for text in way.texts:
            if ways.get(text) is way:
                del ways[text]
        for futures in way.waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)


async def received(joined: Joined, errand: Errand, deliver: Deliver) -> list[Item]:
    """Delivers what others were answered, as it comes; returns what nobody got an answer for."""
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
