"""The dispatcher sends batches for one Embedder on one event loop.

Law 1: one request = one owned task = one reply = one short store transaction. A request is never cancelled once it is
on its way, for it is paid for, and httpcore loses a connection for good when it is cancelled while it connects. So it
runs in a task that the dispatcher owns, and whoever wanted it may leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any
from weakref import ReferenceType, ref

import anyio

from aembed.core.changes import Item
from aembed.core.gate import Gate
from aembed.core.metering import Meter
from aembed.core.pacing import Pacer
from aembed.core.packing import Cap
from aembed.core.sending import NotSent, not_sent_yet
from aembed.dispatch._admission import Admission, Permit
from aembed.dispatch._coordination import SharedLimit
from aembed.dispatch._delivery import Deliver, Delivery, Evidence
from aembed.dispatch._pool import Pool
from aembed.dispatch._probe import Probe
from aembed.dispatch._requests import Requests
from aembed.dispatch._route import Route
from aembed.dispatch._shared import Shared, Waiting, receive_shared
from aembed.dispatch._submission import Submission
from aembed.dispatch._telling import OutageTeller, Teller, origin_of
from aembed.dispatch._wait_report import WaitReport, server_in_words
from aembed.limits import Limits, RetryPolicy
from aembed.preparation import NO_PREPARATION, Preparation
from aembed.protocols import EmbedsAlike, HasAddresses, Provider
from aembed.results import Stats
from aembed.types import InputType

# Chosen: calls that were told of the end have little left to do; one that hangs must not hold up the program's end.
LEAVE_SECONDS = 5.0
"""Those who wait for what was ended may take so many seconds to end, too."""


class _Released(NotSent, asyncio.CancelledError):
    """Nobody wants the request any more, and nothing of it was sent."""


class Dispatcher:
    """Sends batches for one Embedder on one event loop, and owns the tasks that do so."""

    def __init__(
        self,
        provider: Provider,
        limits: Callable[[], Limits],
        *,
        concurrency: int,
        retry: RetryPolicy,
        timeout: float,
        dimensions: int | None,
        pacer: Pacer | Sequence[Pacer],
        random: Random,
        shared: Sequence[SharedLimit] = (),
        meters: Sequence[Meter] = (),
        tell: Teller | None = None,
    ) -> None:
        self.concurrency = concurrency
        self._limits = limits
        admission: Admission | Pool
        if isinstance(provider, HasAddresses) and not isinstance(pacer, Pacer):
            addresses = provider.addresses
            names = [server_in_words(each.space) for each in addresses]
            if len({*names}) < len(names):
                names = [each.space.endpoint or name for each, name in zip(addresses, names, strict=True)]
            admission = Pool(names, pacer, concurrency, retry.max_outage)
            if shared:
                admission.share(shared)
            self.concurrency *= len(addresses)
        else:
            assert isinstance(pacer, Pacer)
            addresses = (provider,)
            gate, waits = Gate(max_outage=retry.max_outage), WaitReport(server_in_words(provider.space))
            admission = Admission(concurrency=concurrency, pacer=pacer, gate=gate, wait_report=waits)
            if shared:
                admission.share(shared[0])
        self._requests = Requests(
            addresses,
            admission,
            retry=retry,
            timeout=timeout,
            dimensions=dimensions,
            random=random,
            start_probe=self._start_probe,
            meters=meters or [Meter() for _ in addresses],
            tell=tell,
        )
        self.is_heard = tell is not None
        """Whether somebody is told of what happens here."""
        if tell:
            self.wait_report.outage = OutageTeller(tell, origin_of(provider))
            for each, address in self._requests.addresses.items():
                each.wait_report.outage = OutageTeller(tell, address.origin)
        self._evidence = Evidence(self._requests, lambda: self.cap)
        alike = isinstance(provider, EmbedsAlike) and provider.embeds_alike
        self._shared = Shared(alike=alike)
        self._owned: set[asyncio.Task[Any]] = set()
        self._unsent: set[asyncio.Task[Any]] = set()
        self._closing = False

    def __repr__(self) -> str:
        return f"<Dispatcher {len(self._owned)} tasks, {self._requests.admission}>"

    @property
    def dimensions(self) -> int | None:
        """How wide the vectors are, where a reply or a store has told."""
        return self._requests.dimensions

    @dimensions.setter
    def dimensions(self, dimensions: int | None) -> None:
        self._requests.dimensions = dimensions

    @property
    def in_flight(self) -> int:
        return self._requests.admission.in_flight

    @property
    def slots(self) -> int:
        """Requests that may be in flight now: fewer than `concurrency` where the provider takes fewer."""
        return self._requests.admission.concurrency

    @property
    def wait_report(self) -> WaitReport:
        """What is waited for now, and what went wrong last."""
        return self._requests.admission.wait_report

    @property
    def cap(self) -> Cap:
        """What the next batch may hold: the provider's limits, its refusals, and the rate limit."""
        limits = self._limits()
        # The smallest of what the provider documents, what its refusals taught, and what the rate limits leave.
        cap = Cap(limits.max_batch_size, limits.max_tokens_per_batch)
        cap = self._evidence.learned_limits.narrow_cap(cap, estimated=limits.estimated)
        if self._evidence.weight.is_limited:
            cap = self._evidence.weight.narrow_cap(cap)
        return self._requests.admission.narrow_cap(cap)

    def start_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task that nobody's cancellation reaches; `drain` waits for it. It begins once the caller waits."""
        # Law 1: it is owned here, so a caller that is cancelled gets its CancelledError at once, and this goes on.
        # A task factory (asyncio.eager_task_factory) could run it to its end before `create_task` returns.
        task = asyncio.Task(coroutine, loop=asyncio.get_running_loop())
        self._owned.add(task)
        task.add_done_callback(self._note_task_end)
        return task

    def _start_probe(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Starts a task whose answer nobody waits for: `drain` ends it, as what was not sent."""
        task = self.start_task(coroutine)
        self._unsent.add(task)
        task.add_done_callback(self._unsent.discard)

    def _note_task_end(self, task: asyncio.Task[None]) -> None:
        """Forgets the task. Its error was told to whoever waited; where nobody does any more, it is no news."""
        self._owned.discard(task)
        if not task.cancelled():
            task.exception()

    async def drain(self, timeout: float, others: Collection[asyncio.Future[None]] = ()) -> None:
        """Waits until everything sent has landed, `timeout` seconds at most, and ends what has not.

        It waits for `others` too, which wait for what is sent here. A request that waits for a connection has not been
        sent, and is ended at once. A cancellation ends the wait.
        """
        # Law 1: what was sent lands before the loop ends, within a limit; a second cancellation ends that.
        self._closing = True
        for unsent in set(self._unsent):
            unsent.cancel()
        try:
            with anyio.move_on_after(timeout):
                while waited := self._others_tasks() | set(others):
                    await asyncio.wait(waited)
        finally:
            for task in self._others_tasks():
                task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.gather(*self._others_tasks(), return_exceptions=True)
                with anyio.move_on_after(LEAVE_SECONDS):
                    while left := set(others):
                        await asyncio.wait(left)

    def _others_tasks(self) -> set[asyncio.Future[Any]]:
        """All owned tasks but the one that asks: a store or a provider may close the Embedder that it works for."""
        return {task for task in self._owned if task is not asyncio.current_task()}

    def make_stats(self, now: float) -> Stats:
        """The counts of this dispatcher, without what waits and what is cached, which are not known here."""
        return self._requests.admission.make_stats(now)

    # queries: what is sent is chosen once it may be sent

    @property
    def seconds_until_open(self) -> float:
        """Seconds until the next request may pass the gate."""
        admission = self._requests.admission
        return 0.0 if admission.is_open else max(0.0, admission.opens_at - asyncio.get_running_loop().time())

    def call_on_close(self, callback: Callable[[], object]) -> None:
        """Called whenever the gate has closed, or stays closed."""
        admission = self._requests.admission
        before = admission.when_closed
        admission.when_closed = lambda: (before(), callback())

    @property
    def startable_queries(self) -> int:
        """How many requests of queries could start now."""
        return self._requests.admission.startable_queries

    async def admit(self, tokens: float, submission: Submission) -> Permit:
        """Leave for one request of queries, to be sent at once. Raises OutageError.

        The submission pays for asking an address of a pool whether it is back.
        """
        route = Route(Probe(self._requests, submission)) if self._requests.pool else None
        permit = await self._requests.admission.enter(tokens, interactive=True, route=route)
        assert permit is not None
        return permit

    def resize(self, permit: Permit, tokens: float, texts: int) -> None:
        """Says how much the request of a permit carries in the end."""
        permit.admission.pacer.resize(permit.reservation, tokens, texts, asyncio.get_running_loop().time())

    async def send(self, batch: Sequence[Item], submission: Submission, deliver: Deliver) -> None:
        """Sends a batch and delivers one answer for each request; what was refused, or failed, is sent in parts.

        Raises the error that stops the job; what was delivered before is good. Queries are no job: a text that is
        refused fails its own calls.
        """
        # A connection that is kept open keeps the context in which it was opened, and must not keep the job with it.
        not_sent_yet.set(partial(self._allow_drain, ref(submission)))
        while batch:
            shared_batch, mine, joined = self._shared.claim(batch, submission)
            try:
                if mine:
                    delivered = partial(self._shared.deliver_shared, shared_batch, deliver)
                    await Delivery(self._evidence, mine, submission, delivered).run()
            finally:
                self._shared.release(shared_batch)
            batch = await receive_shared(joined, submission, deliver) if joined else ()

    def find_sent(self, item: Item, input_type: InputType, preparation: Preparation = NO_PREPARATION) -> Waiting | None:
        """The answer to come to somebody else who has sent this text; None if nobody has."""
        return self._shared.find_sent(item.texts[0], input_type, preparation) if len(item.texts) == 1 else None

    @contextmanager
    def _allow_drain(self, wanted: ReferenceType[Submission]) -> Iterator[None]:
        """While this lasts `drain` ends the task, and so does dropping its submission."""
        task, submission = asyncio.current_task(), wanted()
        assert task is not None
        if self._closing or (submission is not None and submission.dropped):
            raise _Released
        self._unsent.add(task)
        if submission is not None:
            submission.waiting.add(task)
        try:
            yield
        except asyncio.CancelledError as error:
            raise _Released(*error.args) from error
        finally:
            self._unsent.discard(task)
            if submission is not None:
                submission.waiting.discard(task)
