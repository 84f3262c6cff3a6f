"""Jobs at services whose lists, states and files are not as OpenAI's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from aembed.batch_protocols import BatchState
from aembed.errors import BadRequestError, InvalidReplyError, NotFoundError, PermissionDeniedError, UnavailableError
from aembed.protocols import Store
from tests.batches.provider import DAY, BatchFake
from tests.batches.test_jobs import in_sqlite, out, records, rows_are_right, run, store  # noqa: F401

pytestmark = pytest.mark.anyio


class Listing(BatchFake):
    """`order` is that of its list; `refuses` are calls that raise this error."""

    def __init__(self, order: str = "oldest first") -> None:
        super().__init__()
        self.order, self.refuses = order, dict[str, Exception]()
        self.before = self._refuse

    def _refuse(self, call: str) -> None:
        if error := self.refuses.get(call):
            raise error

    async def list_batches(self) -> AsyncIterator[BatchState]:
        found = [state async for state in super().list_batches()]
        old = [BatchState(f"old-{n}", "completed", created_at=self.now - 30 * DAY + n) for n in range(150)]
        for state in reversed([*found, *reversed(old)]) if self.order == "oldest first" else [*old[::-1], *found]:
            yield replace(state, created_at=0.0) if self.order == "no times" else state


@in_sqlite
@pytest.mark.parametrize("order", ["oldest first", "no times"])
async def test_q19_a_list_in_another_order_is_read_to_its_end(order: str, store: Store) -> None:  # noqa: F811
    fake, given = Listing(order), records(5)
    fake.lose = ["create"]
    assert (await run(fake, store, given)).submitted == 5
    fake.now += 700
    fake.run_batches()
    assert (await run(fake, store, given)).stored == 5
    assert set(fake.bought.values()) == {1}


@in_sqlite
@pytest.mark.parametrize("error", [NotFoundError("no list"), BadRequestError("after?"), InvalidReplyError("no JSON")])
async def test_q19_without_a_list_what_is_created_is_collected_and_nothing_is_given_up(
    error: Exception,
    store: Store,  # noqa: F811
) -> None:
    fake, given, more = Listing(), records(5), records(3, "more")
    await run(fake, store, given)
    fake.lose = ["create"]
    fake.refuses["list"] = error
    await run(fake, store, more)
    fake.run_batches()
    fake.now += DAY
    report = await run(fake, store, [*given, *more])
    assert (report.stored, report.submitted, len(fake.states)) == (5, 3, 2)
    fake.refuses.clear()
    assert (await run(fake, store, [*given, *more])).stored == 3
    assert set(fake.bought.values()) == {1}


@in_sqlite
async def test_q20_files_that_may_not_be_deleted_hold_nothing_up(store: Store) -> None:  # noqa: F811
    fake, given = Listing(), records(5)
    await run(fake, store, given)
    fake.run_batches()
    fake.refuses["delete"] = PermissionDeniedError("403: not with this key")
    assert (await run(fake, store, given)).stored == 5
    assert await out(store) == []


@in_sqlite
async def test_q20_a_file_that_may_not_be_deleted_is_no_fence(store: Store) -> None:  # noqa: F811
    """Its create is looked for until no one can be on its way any more."""
    fake, given = Listing(), records(5)
    fake.refuses["create"] = UnavailableError("away")
    await run(fake, store, given)
    fake.refuses = {"delete": PermissionDeniedError("403: not with this key")}
    fake.now += DAY
    assert ((await run(fake, store, given)).submitted, len(fake.states)) == (5, 0)
    fake.now += 4 * DAY
    assert ((await run(fake, store, given)).submitted, len(fake.states)) == (5, 1)


@in_sqlite
async def test_q20_files_that_are_in_use_are_deleted_by_a_later_run(store: Store) -> None:  # noqa: F811
    fake, given = Listing(), records(5)
    await run(fake, store, given)
    fake.run_batches()
    fake.refuses["delete"] = UnavailableError("409: in use")
    report = await run(fake, store, given)
    assert (report.stored, report.billed_tokens > 0) == (5, True)
    fake.now += 6 * DAY
    assert (await run(fake, store, given)).billed_tokens == 0
    fake.refuses.clear()
    await run(fake, store, given)
    assert (fake.files, await out(store)) == ({}, [])
    await rows_are_right(store, given)


@in_sqlite
async def test_q20_a_batch_that_cannot_be_understood_holds_up_no_other_and_is_not_waited_for_for_ever(
    store: Store,  # noqa: F811
) -> None:
    fake, given, more = Listing(), records(5), records(3, "more")
    await run(fake, store, given)
    (odd,) = fake.states
    await run(fake, store, more)
    fake.run_batches()
    usual: Any = fake.get_batch

    async def get(id: str) -> BatchState:
        if id == odd:
            raise InvalidReplyError("a state of another kind")
        state: BatchState = await usual(id)
        return state

    fake.get_batch = get  # type: ignore[method-assign]
    report = await run(fake, store, [*given, *more])
    assert (report.stored, report.submitted) == (3, 5)
    fake.now += 4 * DAY
    await run(fake, store, [*given, *more])
    report = await run(fake, store, [*given, *more])
    fake.run_batches()
    assert (await run(fake, store, [*given, *more])).stored == 5
