"""The connections to one server: made when needed, kept for the next request."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from aembed.providers._http._connection import Connection
from aembed.providers._http._connection_limit import ConnectionLimit
from aembed.providers._http._message import Exchange


@dataclass(eq=False, repr=False)
class Connections:
    """Belongs to one event loop. Who wants one when no more are served waits for a turn, and has sent nothing."""

    _connect: Callable[[], Awaitable[Connection]]
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _served: ConnectionLimit = field(default_factory=ConnectionLimit)
    _resting: list[Connection] = field(default_factory=list)
    _turns: deque[asyncio.Future[None]] = field(default_factory=deque)
    _timer: asyncio.TimerHandle | None = None
    answered: bool = False

    def __repr__(self) -> str:
        return f"<Connections {len(self._resting)} rest, {len(self._turns)} wait, {self._served}>"

    async def take(self, exchange: Exchange) -> Connection:
        """The one that rests for the shortest time, or a new one. Raises what `connect` raises."""
        while (connection := self._take_rested()) is None:
            if self._served.may_open(self._loop.time()):
                caller = self._served.note_opened()
                try:
                    connection = await self._connect()
                except BaseException:
                    self._served.note_closed(caller)
                    self._serve_next()
                    raise
                connection.caller = caller
                connection.when_lost = partial(self._note_lost, connection)
                exchange.connected = True
                break
            await self._turn()
        self._served.note_asked(connection.caller, exchange.content_bytes, self._loop.time())
        return connection

    def give_back(self, connection: Connection) -> None:
        now = self._loop.time()
        if connection.finish():
            self.answered = True
            self._served.note_answered(connection.caller, now)
        if connection.usable and not self._served.has_to_give_way(now):
            connection.keep_for_reuse(now)
            self._resting.append(connection)
        else:
            self._close(connection)
        self._serve_next()
        self._watch(now)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        while self._resting:
            self._close(self._resting.pop())

    def _take_rested(self) -> Connection | None:
        """Those that rested for too long are closed."""
        now = self._loop.time()
        while self._resting and not self._resting[0].may_rest(now):
            self._close(self._resting.pop(0))
        while self._resting:
            connection = self._resting.pop()
            if connection.may_rest(now):
                return connection
            self._close(connection)
        return None

    def _close(self, connection: Connection) -> None:
        connection.abort()
        self._served.note_closed(connection.caller)

    def _note_lost(self, connection: Connection) -> None:
        self._served.note_closed(connection.caller)
        self._serve_next()

    # turns, where no more connections are served

    async def _turn(self) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        self._turns.append(turn)
        try:
            await turn
        except BaseException:
            if turn in self._turns:
                self._turns.remove(turn)
            else:
                self._serve_next()
            raise

    def _serve_next(self) -> None:
        if self._turns and (self._resting or self._served.may_open(self._loop.time())):
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)

    # connections that wait for a place while others rest

    def _watch(self, now: float) -> None:
        if self._resting and self._timer is None:
            seconds = self._served.seconds_until_one_waits(now)
            if seconds is not None:
                self._timer = self._loop.call_later(seconds, self._open_for_next)

    def _open_for_next(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._resting and self._served.has_to_give_way(now):
            self._close(self._resting.pop(0))
        self._watch(now)
