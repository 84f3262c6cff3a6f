"""What goes out and what comes back, and what is known of a request that got no reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aembed.providers._http._body import Body, ErrorBody, Take, body_of
from aembed.providers._secrets import Secret


@dataclass(frozen=True, slots=True)
class HTTPReply:
    """Header names are in lower case. The body of an error may be cut short."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(slots=True, eq=False)
class Exchange:
    """One POST and how far it has come."""

    url: str
    headers: Mapping[str, str | Secret]
    content: bytes = field(repr=False)
    most_bytes: int
    take: Take | None
    connected: bool = False
    sent: bool = False
    answered: bool = False

    @property
    def stale(self) -> bool:
        """The request went out on a kept connection and no reply began."""
        return self.sent and not self.connected and not self.answered

    def revealed(self) -> list[tuple[str, str]]:
        return [(name, value.reveal() if isinstance(value, Secret) else value) for name, value in self.headers.items()]

    def body_of(self, status: int, headers: Mapping[str, str]) -> Body | ErrorBody:
        """The reply has begun."""
        self.answered = True
        return body_of(status, headers, self.most_bytes, self.take)
