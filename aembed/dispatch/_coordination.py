"""This module asks the coordinator: one place for all workers of a key, where each leases its share of the limits.

    Coordination    the coordinator of one Embedder: opened at the first use, asked in turn, closed with it
    SharedLimit     one address, while requests go there: a task renews its lease, and nobody waits for it meanwhile

What is decided there is in core/shares.py. Where the coordinator cannot be asked, limits go on at the last share, and
budgets wait: what was drawn may be spent.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import TypeVar

import anyio

from aembed.core.gate import Gate
from aembed.core.pacing import Pacer, Unit
from aembed.core.shares import (
    LEASE_SECONDS,
    Account,
    Ask,
    Lease,
    ToldLimit,
    lease,
    leave,
    read_state,
    wanted_share,
    write_state,
)
from aembed.errors import AembedError, StoreError, copy_error
from aembed.protocols import Provider, SignsAccount
from aembed.stores import open_coordinator
from aembed.stores._coordinators import Change, Coordinator

logger = logging.getLogger("aembed")

T = TypeVar("T")

# Chosen: two renewals of a lease may fail before it ends. Smaller, each worker would cost the database more.
RENEW_SECONDS = 2.0
"""A lease is renewed after so many seconds."""
# Chosen: others renew within two seconds, and leave then what is a newcomer's.
AGAIN_SECONDS, AWAY_SECONDS = 0.25, 1.0
"""Where nothing is free yet, or the coordinator did not answer, it is asked again after so many seconds."""
ENOUGH = 0.5
"""With so much of what is its due a worker waits until its lease is to be renewed."""
ANSWER_SECONDS = 2.5
"""Within so many seconds the coordinator answers, or counts as away."""
# Chosen: a worker that has nothing to send costs nothing; its share is free as soon as it has left.
IDLE_SECONDS = 5.0
"""After so many seconds without a request the share is given back."""
# Chosen: as long as a store that is away is waited for.
LONGEST_ABSENCE = 90.0
"""Who needs more of a budget waits so many seconds for a coordinator that is away."""
LEAVE_SECONDS = 2.0
"""An Embedder that is closed takes so many seconds at the most to give back what it holds."""
FIRST_SHARE = 1.0 / 32.0
"""Batches are made for this share of a limit until a share is known."""


class Coordination:
    """The coordinator of one Embedder. Raises ConfigError for what is no place of one."""

    def __init__(self, place: str | Path) -> None:
        self._place = place
        self._coordinator: Coordinator | None = open_coordinator(place)
        self._salt = b""
        self._process = os.getpid()
        self._is_away = False
        self._closing = False
        self.give_back: Callable[[], Awaitable[object]] | None = None
        """Gives back what is held beside the limits; awaited when nothing was sent for a while, and at the end."""
        self.limits: Sequence[SharedLimit] = ()
        """Those of the dispatcher that works now."""

    @property
    def workers(self) -> int:
        """How many workers share the limits, as far as the last leases tell."""
        return max((limit.workers for limit in self.limits), default=1)

    async def name_account(self, provider: Provider) -> str:
        """The name under which a provider's model and key stand in the coordinator; it tells nothing of the key."""
        await self._open()
        digest, space = hashlib.sha256(self._salt), provider.space
        for part in (space.provider, space.endpoint or "", space.model):
            digest.update(f"{len(part)} {part}".encode())
        if isinstance(provider, SignsAccount):
            digest.update(provider.sign_account(self._salt))
        return digest.hexdigest()[:32]

    async def ask(self, name: str, change: Change[T], *, durable: bool = False) -> T:
        """Changes what stands under that name, in one try. Raises StoreError where the coordinator is away."""
        coordinator = await self._open()
        try:
            with anyio.fail_after(LEAVE_SECONDS if self._closing else ANSWER_SECONDS):
                result = await coordinator.exchange(name, change, durable=durable)
        except (StoreError, TimeoutError) as error:
            told = error if isinstance(error, StoreError) else StoreError("the coordinator did not answer in time")
            if not self._is_away and not self._closing:
                logger.warning(
                    "%s; until the coordinator is there again, limits are shared as before, and budgets are spent as "
                    "far as they were drawn",
                    told,
                )
            self._is_away = True
            raise told from None
        if self._is_away:
            logger.info("the coordinator is there again")
        self._is_away = False
        return result

    async def ask_until_there(self, name: str, change: Change[T]) -> T:
        """The same durably, waiting for a coordinator that is away. Raises StoreError in the end."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LONGEST_ABSENCE
        while True:
            try:
                return await self.ask(name, change, durable=True)
            except StoreError:
                if self._closing or loop.time() >= until:
                    raise
            await anyio.sleep(AWAY_SECONDS)

    async def aclose(self) -> None:
        """Gives back what is held, and closes the coordinator; what comes later opens it again."""
        self._closing = True
        limits, self.limits = self.limits, ()
        try:
            if self.give_back:
                await self.give_back()
            with anyio.move_on_after(LEAVE_SECONDS):
                for limit in limits:
                    await limit.aclose()
        finally:
            # Also where this was cancelled: who goes on to renew a lease would open the coordinator again.
            for limit in limits:
                limit.stop()
            coordinator, self._coordinator, self._salt = self._coordinator, None, b""
            self._closing = self._is_away = False
            if coordinator:
                await coordinator.aclose()

    async def _open(self) -> Coordinator:
        if self._process != os.getpid():
            # After a fork its thread, or its connection, is the parent's.
            self._process, self._coordinator, self._salt = os.getpid(), None, b""
        coordinator = self._coordinator = self._coordinator or open_coordinator(self._place)
        if not self._salt:
            self._salt = await coordinator.prepare()
        return coordinator


class SharedLimit:
    """The limits of one address, of which this worker has a leased share."""

    def __init__(self, coordination: Coordination, provider: Provider, pacer: Pacer) -> None:
        self._coordination, self._provider, self._pacer = coordination, provider, pacer
        self._worker = secrets.token_hex(8)
        self._name = ""
        self.share = self._due = 0.0
        self.workers = 1
        self._ends_at = self._used_at = -inf
        self._is_cut_off = self._was_there = self._is_member = False
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._answered, self._told = anyio.Event(), anyio.Event()
        self._limits: dict[str, ToldLimit] = {}
        """Those that the coordinator has, as far as is known here."""
        self._pause_until = -inf
        """The end of the last pause that was made, by the coordinator's clock."""
        self._closed_until: tuple[float, bool] | None = None
        self._resumes = False
        self._gate: Gate | None = None
        self._is_busy: Callable[[], bool] = bool
        self._notify: Callable[[], object] = lambda: None
        pacer.expect_share(FIRST_SHARE)

    def attach(self, gate: Gate, is_busy: Callable[[], bool], notify: Callable[[], object]) -> None:
        """`is_busy` says whether requests are under way or wait; `notify` is called when the pacer has changed."""
        self._gate, self._is_busy, self._notify = gate, is_busy, notify

    async def wait_for_share(self) -> None:
        """Returns at once while a lease lasts. Raises StoreError where the coordinator was never reached."""
        loop = asyncio.get_running_loop()
        self._used_at = loop.time()
        while not self._may_send(loop.time()):
            if self._task is None or self._task.done():
                self._error = None
                self._task = loop.create_task(self._keep_lease())
            await self._answered.wait()
            if self._error:
                raise copy_error(self._error) if isinstance(self._error, AembedError) else self._error
            self._used_at = loop.time()

    def tell_closed(self, until: float, *, limited: bool) -> None:
        """The gate has closed here until then: the others are told at once."""
        self._closed_until, self._resumes = (until, limited), False
        self._told.set()

    def tell_open(self) -> None:
        """The provider has answered again."""
        self._closed_until, self._resumes = None, True
        self._told.set()

    async def aclose(self) -> None:
        """Gives the share back."""
        if task := self.stop():
            await asyncio.wait([task])
        await self._leave()

    def stop(self) -> asyncio.Task[None] | None:
        """Asks for no more shares; returns the task that did, which ends now."""
        task, self._task = self._task, None
        if task is None or task.done():
            return None
        task.cancel()
        return task

    def _may_send(self, now: float) -> bool:
        return self.share > 0.0 and (now < self._ends_at or self._is_cut_off)

    async def _keep_lease(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._name = self._name or await self._coordination.name_account(self._provider)
            while loop.time() - self._used_at < IDLE_SECONDS or self._is_busy():
                await self._renew()
                self._tell_answered()
                pause = RENEW_SECONDS if self.share >= ENOUGH * self._due else AGAIN_SECONDS
                pause = AWAY_SECONDS if self._is_cut_off else pause
                with anyio.move_on_after(pause):
                    await self._told.wait()
            await self._leave()
            if self._coordination.give_back:
                await self._coordination.give_back()
        except Exception as error:
            # Also of a provider that cannot sign its account: whoever waits would ask again and again.
            self._error = error
        finally:
            self._task = None
            self._tell_answered()

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        # Counted from before it is asked for: by the database's clock the lease ends no sooner.
        asked = loop.time()
        self._told, ask = anyio.Event(), self._make_ask(asked)
        try:
            granted = await self._coordination.ask(self._name, partial(_lease, ask))
        except StoreError:
            if not self._was_there:
                raise
            self._is_cut_off = True
            return
        self._is_cut_off, self._was_there, self._ends_at = False, True, asked + LEASE_SECONDS
        self._take(granted, ask, loop.time())
        self._is_member = granted.share > 0.0

    def _make_ask(self, now: float) -> Ask:
        known = {unit: ToldLimit(*limit) for unit, limit in self._pacer.told_limits().items()}
        told: dict[str, ToldLimit] = {unit: limit for unit, limit in known.items() if self._limits.get(unit) != limit}
        closed, self._closed_until, resumes = self._closed_until, None, self._resumes
        self._resumes = False
        return Ask(
            self._worker,
            wanted_share(*self._pacer.used_share(now, 2.0 * LEASE_SECONDS)),
            self.share if self._is_member else 0.0,
            told,
            self._pacer.refused_slots,
            pause_seconds=max(0.0, closed[0] - now) if closed else 0.0,
            limited=bool(closed and closed[1]),
            resumes=resumes,
        )

    def _take(self, granted: Lease, ask: Ask, now: float) -> None:
        self.workers, self._due, self._limits = granted.workers, granted.due, dict(granted.limits)
        units: tuple[Unit, ...] = ("requests", "tokens", "texts")
        for unit in units:
            if (limit := granted.limits.get(unit)) and unit not in ask.limits:
                self._pacer.learn_limit(unit, limit.per_minute, limit.window, now)
        if granted.share > 0.0 and (granted.share != self.share or not self._is_member):
            self._pacer.take_share(granted.share, now, joins=granted.workers > 1 and not self._is_member)
        if granted.slots and not self._is_member:
            self._pacer.begin_with_slots(granted.slots)
        self.share = granted.share
        pause = granted.pause
        if pause and pause.until > self._pause_until:
            self._pause_until = pause.until
            if self._gate and not ask.pause_seconds:
                self._gate.note_told(now, granted.pause_seconds, limited=pause.limited)
        self._notify()

    async def _leave(self) -> None:
        self._is_cut_off, self._is_member, self._ends_at, held = False, False, -inf, self._ends_at
        if held == -inf or not self._name:
            return
        try:
            await self._coordination.ask(self._name, partial(_leave, self._worker))
        except AembedError as error:
            # It ends by itself in a few seconds.
            logger.debug("a share was not given back: %s", error)

    def _tell_answered(self) -> None:
        self._answered.set()
        self._answered = anyio.Event()


def _lease(ask: Ask, written: bytes | None, now: float) -> tuple[bytes, Lease]:
    account, granted = lease(read_state(Account, written), ask, now)
    return write_state(account), granted


def _leave(worker: str, written: bytes | None, now: float) -> tuple[bytes, None]:
    return write_state(leave(read_state(Account, written), worker)), None
