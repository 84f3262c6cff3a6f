"""What a coordinator is: small states by name, each changed by one worker at a time, and a salt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Change: TypeAlias = Callable[[bytes | None, float], tuple[bytes, T]]
"""What stands there (None: nothing yet) and the database's clock in seconds -> what is to stand there, and a result."""

# Chosen: a budget of a month is drawn from once more on its last day, 31 days after its first.
FORGET_DAYS = 62
"""What has not changed for so long is removed when somebody begins."""
SALT_BYTES = 16


class Coordinator(Protocol):
    """Where workers lease what they share. It holds no key, no text and no id.

    Raises StoreError where it cannot be reached, ConfigError where the place is not one for a coordinator.
    """

    async def prepare(self) -> bytes:
        """Makes what is missing; returns the salt under which keys are signed here."""
        ...

    async def exchange(self, name: str, change: Change[T], *, durable: bool) -> T:
        """Changes one state, and returns the result. It is tried once.

        What is `durable` outlasts a crash of the database on return.
        """
        ...

    async def aclose(self) -> None: ...
