"""A TCP proxy that breaks what passes through it, at any byte, in either direction.

async with Proxy(server.port) as proxy:
    proxy.cut_after = 1_000         # replies end there; proxy.up has the same for requests
    ...                             # the client connects to 127.0.0.1:proxy.port
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

_PIECE_BYTES = 65_536
_DRIPS_PER_SECOND = 20


@dataclass(slots=True)
class Lane:
    """What happens to the bytes of one direction. Positions count from the start of each connection.

    `cut_after`: the connection ends there, with a reset if `reset`. `stall_after`: nothing passes from there on until
    `resume`. `drop_after`: what follows is swallowed. `delay`: seconds that each piece waits. `bytes_per_second`: a
    drip. All may be changed while bytes flow: they are read again for each piece.
    """

    cut_after: int | None = None
    reset: bool = False
    stall_after: int | None = None
    drop_after: int | None = None
    delay: float = 0.0
    bytes_per_second: float | None = None
    passed_bytes: int = 0
    _resumed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def resume(self) -> None:
        self.stall_after = None
        self._resumed.set()
        self._resumed = asyncio.Event()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Returns at the end of the stream, or where it is cut."""
        at = 0
        while not self._is_cut(at) and (data := await reader.read(_PIECE_BYTES)):
            while data and not self._is_cut(at):
                await self._until_resumed(at)
                size = min(len(data), self._next_piece(at))
                if self.drop_after is None or at < self.drop_after:
                    await self._pass(data[:size], writer)
                at, data = at + size, data[size:]

    def _is_cut(self, at: int) -> bool:
        return self.cut_after is not None and at >= self.cut_after

    async def _until_resumed(self, at: int) -> None:
        while self.stall_after is not None and at >= self.stall_after:
            await self._resumed.wait()

    def _next_piece(self, at: int) -> int:
        marks = (self.cut_after, self.stall_after, self.drop_after)
        ahead = [mark - at for mark in marks if mark is not None and mark > at]
        drip = max(1, int(self.bytes_per_second / _DRIPS_PER_SECOND)) if self.bytes_per_second else _PIECE_BYTES
        return min([*ahead, drip])

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.delay)
        writer.write(data)
        await writer.drain()
        self.passed_bytes += len(data)
        if self.bytes_per_second:
            await asyncio.sleep(len(data) / self.bytes_per_second)


class Proxy:
    """`up` carries what the client sends, `down` what the server answers."""

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self.up, self.down = Lane(), Lane()
        self.host, self.port, self._target_port = host, 0, target_port
        self.connections = 0
        self._pairs: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    @property
    def cut_after(self) -> int | None:
        return self.down.cut_after

    @cut_after.setter
    def cut_after(self, position: int | None) -> None:
        self.down.cut_after = position

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    async def __aenter__(self) -> Proxy:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        await self.drop_connections()

    async def listen(self) -> None:
        """Takes connections (again, on the same port)."""
        self._listener = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """New connections are refused; those that are open go on."""
        if self._listener:
            self._listener.close()
            self._listener = None

    async def drop_connections(self) -> None:
        """Resets every open connection."""
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cancel()
        await asyncio.gather(*pairs, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        pair = asyncio.create_task(self._join(reader, writer))
        self._pairs.add(pair)
        pair.add_done_callback(self._pairs.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers, reset = [writer], True
        try:
            far_reader, far_writer = await asyncio.open_connection(self.host, self._target_port)
            writers.append(far_writer)
            reset = await self._carry_both((reader, far_writer), (far_reader, writer))
        except OSError:
            pass
        finally:
            await _end(writers, reset=reset)

    async def _carry_both(
        self,
        up: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        down: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> bool:
        """Until either direction ends; returns whether the end is a reset."""
        lanes = {
            asyncio.create_task(self.up.carry(*up)): self.up,
            asyncio.create_task(self.down.carry(*down)): self.down,
        }
        try:
            done, _ = await asyncio.wait(lanes, return_when=asyncio.FIRST_COMPLETED)
            return any(task.exception() is not None or lanes[task].reset for task in done)
        finally:
            for task in lanes:
                task.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)


async def _end(writers: list[asyncio.StreamWriter], *, reset: bool) -> None:
    for writer in writers:
        if reset:
            sock: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        writer.close()
    for writer in writers:
        with contextlib.suppress(OSError):
            await writer.wait_closed()
