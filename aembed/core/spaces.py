"""This module decides which vectors may stand beside each other in one store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from aembed.core.addresses import is_same_place
from aembed.preparation import Preparation, document_part, kept_form
from aembed.types import Space

# The ports by default; 8080 is llama-server's, and the one on which text-embeddings-inference is published by habit.
LOCAL_SERVERS = {
    "ollama": "http://localhost:11434/v1",
    "tei": "http://localhost:8080/v1",
    "vllm": "http://localhost:8000/v1",
    "llamacpp": "http://localhost:8080/v1",
    "infinity": "http://localhost:7997",
}
"""Where a provider's own server is that runs on this machine: what the endpoint "" stands for."""


def merge_spaces(held: Space | None, asked: Space) -> Space | None:
    """The space that both describe, with the dimensions that either of them knows; None if they differ.

    Where `asked` says nothing of a preparation, that of `held` rules.
    """
    # Law 6: what can be refused is refused before money is spent; a store of another model is.
    if held is None:
        return settled_space(asked)
    if (held.provider, held.model) != (asked.provider, asked.model) or not share_a_place(held, asked):
        return None
    if None not in (held.dimensions, asked.dimensions) and held.dimensions != asked.dimensions:
        return None
    prepared = kept_form(held.preparation)
    if asked.preparation and kept_form(asked.preparation) != prepared:
        return None
    dimensions = asked.dimensions or held.dimensions
    # A pool that was at A and B is still the same at B and C, so whoever keeps the space keeps all of its addresses.
    # One address is told as it is asked for, whatever name of this machine was kept.
    endpoint = asked.endpoint
    if held.endpoint != asked.endpoint and " " in held.endpoint + asked.endpoint:
        known = [_place(asked, place) for place in places_of(asked)]
        more = [each for each in places_of(held) if not any(is_same_place(_place(held, each), one) for one in known)]
        endpoint = pooled_endpoint(asked.provider, [*places_of(asked), *more])
    return replace(asked, dimensions=dimensions, endpoint=endpoint, origin=held.origin, preparation=prepared)


def settled_space(asked: Space) -> Space:
    """The space of a store that is new, as it is kept."""
    prepared = kept_form(asked.preparation)
    return asked if prepared == asked.preparation else replace(asked, preparation=prepared)


def differ_in_preparation(held: Space, asked: Space) -> bool:
    """Whether that alone keeps them apart."""
    return merge_spaces(held, replace(asked, preparation="")) is not None and merge_spaces(held, asked) is None


def have_same_documents(one: Space, other: Space) -> bool:
    """Whether a text has the same vector in the rows of both: they may differ in what is done to queries."""
    if document_part(one.preparation) != document_part(other.preparation):
        return False
    return merge_spaces(replace(one, preparation=""), replace(other, preparation="")) is not None


def space_as_json(space: Space) -> dict[str, Any]:
    """What a store keeps of it. An aembed that knows no preparation reads one without as before."""
    kept = asdict(space)
    if not kept_form(space.preparation):
        del kept["preparation"]
    return kept


def space_from_json(kept: Mapping[str, Any]) -> Space:
    """Raises ConfigError for a preparation that this aembed does not know."""
    space = Space(**kept)
    if space.preparation:
        Preparation.parse(space.preparation)
    return space


def space_after_move(held: Space, asked: Space) -> Space:
    """`asked`, whose vectors are the same, in the place of `held`: the fingerprints of the rows stay what they are."""
    origin = held.origin or f"{held.provider}:{held.model}"
    if origin == f"{asked.provider}:{asked.model}":
        origin = ""
    prepared = kept_form(asked.preparation or held.preparation)
    return replace(asked, dimensions=asked.dimensions or held.dimensions, origin=origin, preparation=prepared)


def is_still(held: Space, prepared: Space) -> bool:
    """Whether vectors of the model that was prepared for may be written where this space is held: it may have moved."""
    name = f"{prepared.provider}:{prepared.model}"
    same = document_part(held.preparation) == document_part(prepared.preparation)
    return same and name in (f"{held.provider}:{held.model}", held.origin)


def pooled_endpoint(provider: str, places: Iterable[str]) -> str:
    """The endpoint of a pool of these: one name, however they are ordered. The provider's own address, "", is named
    by its prefix, as in "openai:"."""
    names = sorted({place or f"{provider}:" for place in places})
    return "" if names == [f"{provider}:"] else " ".join(names)


def places_of(space: Space) -> list[str]:
    """The addresses that an endpoint stands for: one, or those of a pool; "" is the provider's own."""
    return ["" if name == f"{space.provider}:" else name for name in space.endpoint.split(" ")]


def share_a_place(one: Space, other: Space) -> bool:
    """Whether both have an address in common, so that a pool may gain addresses and lose others."""
    others = [_place(other, place) for place in places_of(other)]
    return any(is_same_place(_place(one, place), each) for place in places_of(one) for each in others)


def _place(space: Space, place: str) -> str:
    return place or LOCAL_SERVERS.get(space.provider, "")


def is_same_model(one: str, other: str) -> bool:
    """Whether two names in replies mean one model: routers write them with and without a vendor, in any case."""
    if one == other:
        return True
    (vendor, _, name), (other_vendor, _, other_name) = (model.casefold().rpartition("/") for model in (one, other))
    return name == other_name and (vendor == other_vendor or not (vendor and other_vendor))
