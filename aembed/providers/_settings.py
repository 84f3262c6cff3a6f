"""What a provider over HTTP is told by its user, the environment and its row: checked before any I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from aembed.errors import ConfigError
from aembed.limits import Limits
from aembed.preparation import Preparation
from aembed.providers._form import Encoding
from aembed.providers._options import (
    Headers,
    HTTPOptions,
    KeySource,
    base_url_of,
    check_choice,
    check_dimensions,
    check_encoding,
    check_fields,
    check_flag,
    check_headers,
    check_tokens,
    headers_of,
    is_own,
    key_of,
)
from aembed.providers._prefixes import asked_for, chosen_preparation
from aembed.providers._secrets import Secret
from aembed.providers._service import Fields, Service
from aembed.types import Space


@dataclass(frozen=True, slots=True)
class Settings:
    """`dimensions` is the width that is asked for; None where the model gives its own. `normalised`: its vectors surely
    have length 1. `asks`: the server is asked what its model is."""

    base_url: str
    dimensions: int | None
    key: Secret | KeySource | None
    headers: Headers
    extra_body: Fields
    preparation: Preparation
    may_cut: bool
    encoding: Encoding | None
    normalize: bool | None
    normalised: bool
    asks: bool
    space: Space
    limits: Limits
    price_usd: float | None

    @classmethod
    def check(
        cls,
        service: Service,
        model: str,
        api_key: str | KeySource | None,
        base_url: str | None,
        dimensions: int | None,
        options: HTTPOptions,
    ) -> Self:
        """Raises ConfigError for what cannot be."""
        known = service.model(model)
        url = base_url_of(service, base_url, check_flag("allow_http", options.get("allow_http", False)))
        own = bool(service.base_url) and url == service.base_url
        # A service without an address of its own that has a variable for its key is one that wants a key everywhere.
        key = key_of(service, api_key, required=own or not service.base_url)
        chosen = chosen_preparation(
            wanted := service.preparation_of(model),
            document_prefix=options.get("document_prefix"),
            query_prefix=options.get("query_prefix"),
            input_types=options.get("input_types"),
        )
        preparation = wanted if chosen is None else chosen
        if (preparation.document_type or preparation.query_type) and not service.input_type_field:
            raise ConfigError(f"{service.name}: has no field for input_types; use document_prefix, query_prefix")
        is_unknown = dimensions is None and known.dimensions is None and is_own(url)
        limits = service.limits_of(known, check_tokens(options.get("max_tokens_per_text")))
        # A rate is that of the service's own address: what stands before it, or is like it, has another one.
        rate = limits.texts_per_minute if own else None
        place = "" if own else url
        return cls(
            base_url=service.url_of_key(key.reveal()) if own and isinstance(key, Secret) else url,
            dimensions=check_dimensions(service, model, known, dimensions),
            key=key,
            headers=headers_of(service, check_headers(options.get("headers"))),
            extra_body=check_fields("extra_body", options.get("extra_body")),
            preparation=preparation,
            may_cut=check_flag("truncate", options.get("truncate", False)),
            encoding=check_encoding(options.get("encoding")),
            normalize=check_choice("normalize", options.get("normalize")),
            normalised=known.has_length_1(dimensions),
            asks=bool(service.tells) and (service.is_self_hosted or is_unknown),
            space=Space(service.name, model, dimensions or known.dimensions, place, preparation=asked_for(chosen)),
            limits=replace(limits, texts_per_minute=rate, estimated=not (own and service.counts_are_known)),
            price_usd=known.price_usd,
        )
