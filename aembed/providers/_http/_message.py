"""What goes out and what comes back, and what is known of a request that got no reply."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from aembed.core.sending import not_sent_yet
from aembed.providers._http._body import Body, ErrorBody, Take, body_of
from aembed.providers._http._upload import Upload
from aembed.providers._secrets import Secret

EXTENSION = "aembed"
"""The extension of a request of httpx that holds its Exchange."""


@dataclass(frozen=True, slots=True)
class HTTPReply:
    """Header names are in lower case. The body of an error may be cut short.

    `framed`: it said where it ends; else it ended where the connection did. `via`: the proxy that may have said it,
    where that cannot be told from the server.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    framed: bool = True
    via: str = ""


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and how far it has come."""

    url: str
    headers: Mapping[str, str | Secret]
    content: bytes | Upload = field(repr=False)
    most_bytes: int
    take: Take | None = None
    method: str = "POST"
    connected: bool = False
    sent: bool = False
    answered: bool = False
    _dialing: AbstractContextManager[None] = field(default_factory=nullcontext)

    @property
    def content_bytes(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.size_bytes

    @property
    def is_stale(self) -> bool:
        """The request went out on a kept connection and no reply began."""
        return self.sent and not self.connected and not self.answered

    def begin(self) -> None:
        """It is about to go out; a client's auth may send it more than once."""
        self.connected = self.sent = self.answered = False

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore calls it at each step of a request."""
        step = event.partition(".")[2]
        if step.startswith("connect_tcp."):
            self._dial(step.removeprefix("connect_tcp."), info)
        if step == "send_request_headers.started":
            self.sent, self.answered = True, False
        self.connected |= step.startswith("connect_")
        self.answered |= step == "receive_response_headers.complete"

    def _dial(self, step: str, info: Mapping[str, Any]) -> None:
        """Nothing has been sent until there is a connection. One that is cancelled later, within its handshake of TLS,
        would be left open by httpcore."""
        if step == "started":
            self._dialing = not_sent_yet.get()()
            self._dialing.__enter__()
        else:
            error = info.get("exception")
            self._dialing.__exit__(type(error) if error else None, error, error and error.__traceback__)

    def revealed_headers(self) -> list[tuple[str, str]]:
        headers = [
            (name, value.reveal() if isinstance(value, Secret) else value) for name, value in self.headers.items()
        ]
        # httpx names the length of bytes, and would send what has none in chunks.
        return headers if isinstance(self.content, bytes) else [*headers, ("content-length", f"{self.content_bytes}")]

    def body_of(self, status: int, headers: Mapping[str, str], *, framed: bool) -> Body | ErrorBody:
        """The reply has begun."""
        self.answered = True
        return body_of(status, headers, self.most_bytes, self.take, framed=framed)
