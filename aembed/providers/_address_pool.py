"""A model that is served at several addresses: regional deployments, or a server on each of two GPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from operator import is_not
from typing import Any

from aembed.core.spaces import pooled_endpoint
from aembed.errors import ConfigError, UnavailableError
from aembed.limits import Limits
from aembed.options import Key
from aembed.preparation import Preparation
from aembed.protocols import EmbedsAlike, EmbedsPrepared, Learns, Prepares, Provider
from aembed.ranges import one_line_of
from aembed.types import InputType, Reply, Space


class AddressPool:
    """Providers of one model, each with its own address, as one provider of one space.

    What a request may carry is what all of them take. A Dispatcher sends to each of `addresses` by itself, with slots,
    limits and a gate for each; whoever calls `embed` here has them in turn.
    """

    def __init__(self, addresses: Sequence[Provider]) -> None:
        self.addresses = tuple(addresses)
        """In the order in which they were given."""
        spaces = [provider.space for provider in self.addresses]
        self._endpoint = pooled_endpoint(spaces[0].provider, [space.endpoint for space in spaces])
        self._in_turn = cycle(self.addresses)
        self._spaces, self._space = spaces, self._make_space(spaces)
        self._each = [provider.limits for provider in self.addresses]
        self._limits = _least(self._each)

    def __repr__(self) -> str:
        return f"<AddressPool {self.space}>"

    @property
    def space(self) -> Space:
        """Raises ConfigError where the addresses say that their vectors are of several widths."""
        # It is read for each query, and stays the same object until one of theirs is another.
        spaces = [provider.space for provider in self.addresses]
        if any(map(is_not, spaces, self._spaces)):
            self._spaces, self._space = spaces, self._make_space(spaces)
        return self._space

    def _make_space(self, spaces: Sequence[Space]) -> Space:
        widths = {space.dimensions for space in spaces} - {None}
        if len(widths) > 1:
            each = ", ".join(f"{space.endpoint or space.provider}: {space.dimensions}" for space in spaces)
            raise ConfigError(f"base_url names servers whose vectors are of several widths ({each}): give those of one")
        return replace(spaces[0], dimensions=widths.pop() if widths else None, endpoint=self._endpoint)

    @property
    def limits(self) -> Limits:
        each = [provider.limits for provider in self.addresses]
        if any(map(is_not, each, self._each)):
            self._each, self._limits = each, _least(each)
        return self._limits

    @property
    def price_usd(self) -> float | None:
        """The highest of theirs, so that no budget is exceeded."""
        prices = [provider.price_usd for provider in self.addresses]
        known = [price for price in prices if price is not None]
        return max(known) if len(known) == len(prices) else None

    @property
    def preparation(self) -> Preparation:
        first = self.addresses[0]
        return first.preparation if isinstance(first, Prepares) else Preparation()

    @property
    def embeds_alike(self) -> bool:
        return all(isinstance(provider, EmbedsAlike) and provider.embeds_alike for provider in self.addresses)

    async def learn(self) -> None:
        """Asks all of them at once; one that is away is asked another time."""
        asked = [provider.learn() for provider in self.addresses if isinstance(provider, Learns)]
        told = await asyncio.gather(*asked, return_exceptions=True)
        errors = [error for error in told if isinstance(error, BaseException)]
        for error in errors:
            if not isinstance(error, UnavailableError) or len(errors) == len(self.addresses):
                raise error

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        return await next(self._in_turn).embed(texts, input_type=input_type)

    async def embed_prepared(self, texts: Sequence[str], *, input_type: InputType, preparation: Preparation) -> Reply:
        provider = next(self._in_turn)
        if isinstance(provider, EmbedsPrepared):
            return await provider.embed_prepared(texts, input_type=input_type, preparation=preparation)
        return await provider.embed(texts, input_type=input_type)

    async def aclose(self) -> None:
        ended = await asyncio.gather(*[provider.aclose() for provider in self.addresses], return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error


def _least(each: Sequence[Limits]) -> Limits:
    """What all of them take."""
    return replace(
        each[0],
        max_batch_size=min(limits.max_batch_size for limits in each),
        max_tokens_per_batch=min(limits.max_tokens_per_batch for limits in each),
        max_tokens_per_text=min(limits.max_tokens_per_text for limits in each),
        estimated=any(limits.estimated for limits in each),
        requests_per_day=_sum_of([limits.requests_per_day for limits in each]),
        tokens_per_day=_sum_of([limits.tokens_per_day for limits in each]),
    )


def _sum_of(limits: Sequence[int | None]) -> int | None:
    """Of a day, where each of them has such a limit."""
    known = [limit for limit in limits if limit is not None]
    return sum(known) if len(known) == len(limits) else None


def open_addresses(open_one: Callable[[str, Key], Provider], base_urls: Sequence[str], api_key: Any) -> Provider:
    """One provider for these addresses. One key is for all of them, and a list of keys has one for each.

    Raises ConfigError for an address that is given twice, and for a list of another length.
    """
    urls = list(base_urls)
    if not urls or not all(isinstance(url, str) for url in urls):
        raise ConfigError(f"base_url={one_line_of(base_urls)} must be a str, or a list of one or more")
    keys = list(api_key) if isinstance(api_key, list | tuple) else [api_key] * len(urls)
    if len(keys) != len(urls):
        raise ConfigError(f"api_key has {len(keys)} keys, for {len(urls)} addresses in base_url: give one for each")
    providers = [open_one(url, key) for url, key in zip(urls, keys, strict=True)]
    places = [provider.space.endpoint for provider in providers]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise ConfigError(f"base_url names {twice or providers[0].space.provider} twice: an address has one limit")
    return providers[0] if len(providers) == 1 else AddressPool(providers)
