"""What a provider must do, and what one may do besides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from aembed.limits import Limits
from aembed.preparation import Preparation
from aembed.types import InputType, Reply, Space


@runtime_checkable
class Provider(Protocol):
    """Turns one batch of texts into one matrix."""

    @property
    def space(self) -> Space:
        """Which vectors it makes; `dimensions` is None where only a reply can tell. An attribute will do."""
        ...

    @property
    def limits(self) -> Limits:
        """What one request may carry. It may change with the replies."""
        ...

    @property
    def price_usd(self) -> float | None:
        """US dollars for 1,000,000 tokens, None where it is not known."""
        ...

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        """One request. Row i of the reply belongs to texts[i]. Raises only ProviderError."""
        ...

    async def aclose(self) -> None:
        """Closes the connections that it made itself, and nothing that it was given."""
        ...


@runtime_checkable
class Learns(Protocol):
    """A provider that finds out what it is connected to. It may change its `space` and `limits` by that."""

    async def learn(self) -> None:
        """Called before each job. Sends no text and costs nothing; raises nothing that a request would not."""
        ...


@runtime_checkable
class EmbedsAlike(Protocol):
    """A provider that may embed documents and queries alike: then a text on its way as one serves as the other."""

    @property
    def embeds_alike(self) -> bool: ...


@runtime_checkable
class Prepares(Protocol):
    """A provider whose model wants its texts prepared, by a prefix or an input type."""

    @property
    def preparation(self) -> Preparation:
        """For stores that are new, and where there is no store. A store that holds rows goes on with its own.

        What a user has asked for stands in `space.preparation`, too: then a store of another preparation is refused.
        """
        ...


@runtime_checkable
class EmbedsPrepared(Provider, Protocol):
    """A provider that sends what a preparation says beside its prefixes: an input type, or a dtype."""

    async def embed_prepared(self, texts: Sequence[str], *, input_type: InputType, preparation: Preparation) -> Reply:
        """Called in the place of `embed`. The texts have their prefixes already.

        The service is told what the rest of the preparation says and nothing else, whatever the model wants of new
        stores: `preparation.type(input_type)` in its own field, and nothing there where that is "".
        """
        ...


@runtime_checkable
class FollowsStores(Provider, Protocol):
    """A provider of several models: a store goes on with the one that made its rows."""

    def for_store(self, held: Space) -> Provider | None:
        """The provider of a store of that space, where it is another one; None where this one is right, or none is.

        Raises ConfigError where the space is one of its own, and it cannot be had.
        """
        ...


@runtime_checkable
class HasAddresses(Provider, Protocol):
    """A provider of one model that is served at several addresses, each with limits and outages of its own."""

    @property
    def addresses(self) -> Sequence[Provider]:
        """One for each address. Requests go to these, and `embed` of the whole is not called."""
        ...


@runtime_checkable
class SignsAccount(Protocol):
    """A Provider whose limits belong to a key. Without it a coordinator takes all who ask for its model for one."""

    def sign_account(self, salt: bytes) -> bytes:
        """An HMAC of the key under that salt, by which nobody finds the key; b"" where there is no key, or one that
        changes by itself."""
        ...


class TokenCounter(Protocol):
    """Counts and cuts in the tokenizer's own tokens. Called in a thread: it may take long."""

    def count(self, text: str) -> int: ...

    def cut(self, text: str, max_tokens: int) -> Iterator[str]:
        """Pieces of at most `max_tokens` tokens; joined they are the text."""
        ...


@runtime_checkable
class HasTokenizer(Protocol):
    """A provider that has the tokenizer of its model, so that a text is counted and cut exactly as the model does."""

    def counter(self) -> TokenCounter | None:
        """None where it has none after all. Called in a thread: it may load the model."""
        ...
