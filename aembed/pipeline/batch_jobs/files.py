"""The lines of one file, as they are gathered; their texts are on disk only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from aembed.batch_protocols import OutText
from aembed.core.changes import Item


class Total(NamedTuple):
    """What a file holds up to the end of a line. The pieces of a text that was split count as `texts`."""

    size_bytes: int = 0
    texts: int = 0
    tokens: float = 0.0
    cost: float = 0.0


@dataclass(eq=False)
class BatchFile:
    path: Path
    lines: list[list[OutText]] = field(default_factory=list)
    _totals: list[Total] = field(default_factory=list)
    """One after each line."""

    @property
    def total(self) -> Total:
        return self._totals[-1] if self._totals else Total()

    def add(self, items: Sequence[Item], line: bytes, cost: float) -> None:
        with self.path.open("ab") as file:
            file.write(line)
        size_bytes, texts, tokens, before = self.total
        texts += sum(len(item.texts) for item in items)
        tokens += sum(item.tokens for item in items)
        # Law 12: the pieces of one split text travel together; one that is whole needs no weight.
        weights = [item.weights if len(item.texts) > 1 else (1.0,) for item in items]
        self.lines.append([OutText(item.entry.fingerprint, each) for item, each in zip(items, weights, strict=True)])
        self._totals.append(Total(size_bytes + len(line), texts, tokens, before + cost))

    def cut(self, most_cost: float) -> list[list[OutText]]:
        """Takes off, and returns, the last lines, so that the rest costs no more than that."""
        kept = bisect_right(self._totals, most_cost, key=lambda total: total.cost)
        taken = self.lines[kept:]
        del self.lines[kept:], self._totals[kept:]
        with self.path.open("ab") as file:
            file.truncate(self.total.size_bytes)
        return taken


def line_id(key: str, line: int) -> str:
    """The custom_id of a line."""
    return f"{key}-{line}"
