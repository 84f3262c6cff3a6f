"""A server with a small pool of threads, as cpp-httplib has it (so llama-server): each serves one connection for as
long as that is kept, and 5 s at rest. More connections are taken and wait. One model computes for all."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from queue import Empty, Queue
from types import TracebackType

from tests.service.connection import Head
from tests.service.ledger import Ledger
from tests.service.service import Service


class FewThreads:
    """Listens while its context is open. `seconds` is what the model takes for a request."""

    def __init__(self, threads: int, *, seconds: float = 0.005, keep_alive: float = 5.0, headers: bool = True) -> None:
        self.service = Service()
        self._seconds = seconds
        self._keep_alive = keep_alive
        self._named = f"keep-alive: timeout={keep_alive:g}, max=100\r\n" if headers else ""
        self._model = threading.Lock()
        self._taken: Queue[socket.socket] = Queue()
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._threads = [
            threading.Thread(target=self._accept),
            *(threading.Thread(target=self._work) for _ in range(threads)),
        ]
        self.connections = 0

    @property
    def ledger(self) -> Ledger:
        return self.service.ledger

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def __enter__(self) -> FewThreads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()
        with suppress(Empty):
            while True:
                self._taken.get_nowait().close()

    def _accept(self) -> None:
        self._listener.settimeout(0.05)
        while not self._closing.is_set():
            with suppress(TimeoutError):
                taken, _ = self._listener.accept()
                self.connections += 1
                self._taken.put(taken)

    def _work(self) -> None:
        while not self._closing.is_set():
            with suppress(Empty), self._taken.get(timeout=0.05) as connection, suppress(OSError):
                connection.settimeout(0.05)
                while self._serve(connection):
                    pass

    def _serve(self, connection: socket.socket) -> bool:
        """One request. False where the connection is over."""
        head, body = self._read(connection)
        if head is None:
            return False
        with self._model:
            time.sleep(self._seconds)
            exchange = self.service.receive(head.headers, body, time.monotonic())
            assert exchange.call is not None
            answer = b"".join(exchange.call.pieces())
            self.service.leave(exchange, intact=True)
        start = (
            f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{self._named}content-length: {len(answer)}\r\n\r\n"
        )
        connection.sendall(start.encode() + answer)
        return True

    def _read(self, connection: socket.socket) -> tuple[Head | None, bytes]:
        data, until = b"", time.monotonic() + self._keep_alive
        while time.monotonic() < until and not self._closing.is_set():
            with suppress(TimeoutError):
                if not (more := connection.recv(65_536)):
                    break
                data += more
                raw, end, body = data.partition(b"\r\n\r\n")
                if end and len(body) >= (head := Head.parse(raw.decode("latin-1").encode())).body_bytes:
                    return head, body
        return None, b""
