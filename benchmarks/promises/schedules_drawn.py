"""What happens while workers fill a table, drawn from a seed: edits, deletes, kills, freezes, cuts."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Literal, TypeAlias

from benchmarks.promises.schedules_tables import Table, table_of
from tests.service.shapes import SERVERS

LAST_EVENT = 1.6
"""Seconds after the workers have begun."""
Kind: TypeAlias = Literal[
    "edit", "delete", "replace", "insert", "kill", "freeze", "join", "cut", "lose replies", "restart pooler"
]
CUTS: tuple[Kind, ...] = ("cut", "lose replies", "restart pooler")


@dataclass(frozen=True, slots=True)
class Event:
    """`rows` is how many are edited, deleted, replaced or inserted."""

    at: float
    kind: Kind
    rows: int

    def __str__(self) -> str:
        return f"{self.at:5.2f} s  {self.kind}" + (f" {self.rows} rows" if self.rows else "")


@dataclass(frozen=True, slots=True)
class Schedule:
    """What follows from a seed. `marked`: the table has a fingerprint column, so that an edit needs no more."""

    seed: int
    rows: int
    batch: int
    concurrency: int
    marked: bool
    events: tuple[Event, ...]
    table: Table = field(default_factory=Table)
    server: str | None = None
    """Which one of tests/service/shapes.py the service is."""

    @property
    def is_dry(self) -> bool:
        """The account is dry from some request on, until the last run: workers end and say so."""
        return self.server is not None and self.server.startswith("dry")

    @property
    def has_deadly_texts(self) -> bool:
        return self.server is not None and self.server.startswith("deadly")

    def is_deadly(self, id: int) -> bool:
        return self.has_deadly_texts and id % 120 == 7

    def is_lost(self, id: int) -> bool:
        """Whether that row can get no vector: its table keeps none, or the service dies of its text."""
        return self.table.is_lost(id) or self.is_deadly(id)

    @property
    def in_flight(self) -> int:
        """Texts that one worker has sent and not stored, at the most."""
        return self.batch * self.concurrency

    def __str__(self) -> str:
        kind = "with a fingerprint" if self.marked else "without fingerprint"
        head = f"seed {self.seed}: {self.rows} rows {kind}, {self.concurrency} x {self.batch} in flight a worker"
        head += f", {self.table}" + (f", server: {self.server}" if self.server else "")
        return "\n".join([head, *(f"  {event}" for event in self.events)])


def schedule_of(seed: int) -> Schedule:
    """At least one edit, delete, kill and cut each."""
    random = Random(seed)
    kinds: list[Kind] = ["edit", "delete", "kill", random.choice(CUTS)]
    more: tuple[Kind, ...] = ("edit", "edit", "delete", "replace", "insert", "kill", "freeze", "join", *CUTS)
    kinds += random.choices(more, k=random.randint(2, 8))
    events = [Event(random.uniform(0.0, LAST_EVENT), kind, _rows(kind, random)) for kind in kinds]
    return Schedule(
        seed,
        rows=random.randint(150, 500),
        batch=random.choice((4, 8, 16)),
        concurrency=random.choice((1, 2, 3)),
        marked=random.random() < 0.5,
        events=tuple(sorted(events, key=lambda event: event.at)),
        table=table_of(seed),
        server=Random(f"the server of {seed}").choice([None, None, None, *SERVERS]),
    )


def _rows(kind: Kind, random: Random) -> int:
    return random.randint(1, 40) if kind in ("edit", "delete", "replace", "insert") else 0
