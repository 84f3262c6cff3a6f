"""What an Embedder has told a listener, and whether it is whole."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from aembed.events import (
    Event,
    JobBegan,
    JobEnded,
    OutageBegan,
    OutageEnded,
    RequestAnswered,
    RequestFailed,
    RequestRefused,
    RequestRetried,
    RequestStarted,
)


class Heard(list[Event]):
    """Everything that was told, in order."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, *kinds: type) -> list[Any]:
        return [event for event in self if isinstance(event, kinds)]

    def check(self) -> None:
        """Each request goes the way that events.py draws, each job has an end, and no outage begins before the end of
        the one before."""
        ways = defaultdict[int, list[Any]](list)
        for event in self.of(RequestStarted, RequestAnswered, RequestRefused, RequestRetried, RequestFailed):
            ways[event.request].append(event)
        for way in ways.values():
            *tries, last = way
            assert isinstance(last, RequestAnswered | RequestFailed), way
            assert isinstance(way[0], RequestStarted)
            assert {(each.texts, each.tokens, each.input_type, each.model) for each in way} == {
                (last.texts, last.tokens, last.input_type, last.model)
            }
            number = 0
            for before, event in zip([None, *tries], tries, strict=False):
                if isinstance(event, RequestStarted):
                    number += 1
                    assert before is None or isinstance(before, RequestRetried), way
                else:
                    assert isinstance(event, RequestRefused | RequestRetried), way
                    assert isinstance(before, RequestStarted | RequestRefused), way
                assert event.try_number == number
            assert last.try_number == number
        began, ended = self.of(JobBegan), self.of(JobEnded)
        assert sorted(each.job for each in began) == sorted(each.job for each in ended)
        away = set[tuple[str, int | None]]()
        for event in self.of(OutageBegan, OutageEnded):
            assert isinstance(event, OutageEnded) == ((event.address, event.port) in away)
            away ^= {(event.address, event.port)}
