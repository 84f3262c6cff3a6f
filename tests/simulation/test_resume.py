"""A job that is begun again and again while its inputs, its limits and its luck change, against a small model.

hypothesis draws the steps and shrinks those that fail; AEMBED_MACHINES=500 draws so many histories of each store.
"""

from __future__ import annotations

import gc
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from aembed import Record
from tests.service.faults import Body, Cut, Hang, Late, Mutate, Status, Truncate
from tests.service.mutations import wrong
from tests.service.vectors import digest
from tests.simulation.history import History
from tests.simulation.schedule import Ending, Run, Schedule, StoreFault
from tests.simulation.world import Disk, FileDisk
from tests.stage.clock import run_virtual

MACHINES = int(os.environ.get("AEMBED_MACHINES", "25"))
POISON = frozenset({"poison 0", "poison 1"})
FAULTS = st.sampled_from(
    [
        Status(500),
        Status(503),
        Status(429, headers=[("retry-after", "1")]),
        Hang(),
        Late(20.0),
        Cut(billed=True),
        Cut(billed=False),
        Truncate(0.5),
        Mutate(wrong("shuffled")),
        Body(b"<p>sign in", content_type="text/html"),
    ]
)
STORE_FAULTS = st.sampled_from(
    [StoreFault(0.1, 0.1), StoreFault(refused="before"), StoreFault(refused="after"), StoreFault(before=1_000.0)]
)
ENDINGS = st.one_of(
    st.builds(Ending, st.just("crash"), st.integers(1, 400)),
    st.builds(Ending, st.just("cancel"), st.integers(1, 400), st.sampled_from([0, 0, 1, 20])),
)
LIMITS = {"concurrency": st.integers(1, 4), "batch": st.integers(1, 9)}


class Resumed(RuleBasedStateMachine):
    """`inputs` is what the user wants stored now; `model` what the store must hold once a run has met no fault."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[str, str] = {}
        self.model: dict[str, str] = {}
        self.seen: set[str] = set()
        self.texts = self.runs = 0

    def disk(self) -> Disk | FileDisk:
        return Disk()

    @initialize(named=st.booleans(), sigma=st.sampled_from([0.0, 0.7]), **LIMITS)
    def begin(self, named: bool, sigma: float, concurrency: int, batch: int) -> None:
        schedule = Schedule(
            seed=1,
            concurrency=concurrency,
            batch=batch,
            batch_tokens=300_000,
            sigma=sigma,
            poison=POISON,
            named=named,
            runs=[],
        )
        self.history = History(schedule, self.disk())

    # what the user does

    @rule(count=st.integers(1, 12))
    def add(self, count: int) -> None:
        for _ in range(count):
            self.inputs[f"id{self.texts}"] = self._new_text()

    @rule(count=st.integers(1, 3))
    def add_equal_texts(self, count: int) -> None:
        text = self._new_text()
        for number in range(count):
            self.inputs[f"equal {self.texts} {number}"] = text

    @precondition(lambda self: self.inputs)
    @rule(data=st.data())
    def edit(self, data: Any) -> None:
        """No text comes back that was there before: it may have to be paid for again."""
        self.inputs[self._one(data)] = self._new_text()

    @precondition(lambda self: self.inputs)
    @rule(data=st.data())
    def leave_out(self, data: Any) -> None:
        """What is stored of it by then stays."""
        id = self._one(data)
        del self.inputs[id]
        self.model.pop(id, None)
        if row := self.history.disk.held().get(id):
            self.model[id] = row[0]

    @rule(text=st.sampled_from(sorted(POISON)))
    def poison(self, text: str) -> None:
        self.inputs[text] = text

    @precondition(lambda self: self.history.disk.held())
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        """From the store: what is deleted may be bought again."""
        held = self.history.disk.held()
        ids = data.draw(st.lists(st.sampled_from(sorted(held)), min_size=1, max_size=5, unique=True))
        self.history.disk.begin(Run([]))
        assert run_virtual(self.history.disk.delete, ids) == len(ids)
        deleted = [digest(held[id][0].encode()) for id in ids]
        self.history.excused.update(deleted)
        self.history.disk.paid_for -= set(deleted)
        for id in ids:
            self.model.pop(id, None)

    @rule(**LIMITS)
    def change_limits(self, concurrency: int, batch: int) -> None:
        self.history.schedule = replace(self.history.schedule, concurrency=concurrency, batch=batch)
        self.history.books.ledger.max_in_flight = 0

    # what becomes of it

    @precondition(lambda self: self.inputs)
    @rule(
        faults=st.dictionaries(st.integers(0, 15), FAULTS, max_size=4),
        store=st.dictionaries(st.integers(0, 20), STORE_FAULTS, max_size=3),
        ending=st.none() | ENDINGS,
        source=st.sampled_from(["list", "iterator", "stream"]),
    )
    def run_with_faults(self, faults: Any, store: Any, ending: Any, source: Any) -> None:
        self._run(Run(self._records(), source, faults=faults, store=store, ending=ending))

    @precondition(lambda self: self.inputs)
    @rule(
        revoked=st.none() | st.integers(0, 5),
        raises=st.none() | st.integers(0, 10),
        source=st.sampled_from(["iterator", "stream"]),
    )
    def run_with_a_bad_key_or_source(self, revoked: int | None, raises: int | None, source: Any) -> None:
        self._run(Run(self._records(), source, revoked=revoked, raises=raises))

    @precondition(lambda self: self.inputs)
    @rule(source=st.sampled_from(["list", "iterator", "stream"]))
    def run_to_the_end(self, source: Any) -> None:
        """Twice: the second time there is nothing to do."""
        run = Run(self._records(), source)
        assert self._run(run) == "done"
        self.model.update((id, text) for id, text in self.inputs.items() if text not in POISON)
        held = self.history.disk.held()
        assert {id: held[id][0] for id in self.model} == self.model
        requests, writes = self.history.books.ledger.requests, self.history.disk.writes
        assert self._run(run) == "done"
        assert (self.history.books.ledger.requests, self.history.disk.writes) == (requests, writes)

    def teardown(self) -> None:
        if self.inputs and hasattr(self, "history"):
            self.run_to_the_end("list")

    def _run(self, run: Run) -> str:
        self.runs += 1
        end = self.history.run(self.runs, run)
        held = self.history.disk.held()
        # What is no input any more stays as it is; what is one may be new or old until the end.
        untouched = self.model.keys() - self.inputs.keys()
        assert {id: held[id][0] for id in untouched} == {id: self.model[id] for id in untouched}
        assert held.keys() <= self.model.keys() | self.inputs.keys() | self.seen
        self.seen |= held.keys()
        return end.kind

    def _records(self) -> list[Record]:
        return [Record(id, text) for id, text in self.inputs.items()]

    def _new_text(self) -> str:
        self.texts += 1
        return f"text {self.texts}" + " word" * (self.texts % 9)

    def _one(self, data: Any) -> str:
        chosen: str = data.draw(st.sampled_from(sorted(self.inputs)))
        return chosen


class ResumedOnAFile(Resumed):
    def disk(self) -> Disk | FileDisk:
        self.folder = tempfile.TemporaryDirectory()
        return FileDisk(Path(self.folder.name) / "rows.db")

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            if hasattr(self, "folder"):
                self.history.disk.begin(Run([]))
                self.folder.cleanup()


@pytest.fixture(autouse=True)
def of_the_dead_no_word(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A process that is killed leaves coroutines that never began: they are no leak of the program."""
    caplog.set_level(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        yield
        gc.collect()


@pytest.mark.parametrize("machine", [Resumed, ResumedOnAFile], ids=["memory", "file"])
def test_c2_x1_whatever_is_done_between_the_runs_of_a_job_it_ends_with_what_is_wanted(machine: Any) -> None:
    chosen = settings(
        max_examples=MACHINES, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=chosen)
