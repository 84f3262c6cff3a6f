"""What is said of one service, as data: where it is, what one request may carry, and which of its words mean what."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from aembed.limits import Limits
from aembed.preparation import Preparation
from aembed.providers._batch_wires import BatchWire
from aembed.providers._models import Model, model_of
from aembed.providers._prefixes import default_preparation

Fields: TypeAlias = Mapping[str, Any]
"""Fields of a request's body, with their values."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service, as far as it speaks `POST {base_url}{endpoint}` with a JSON body.

    Only what differs from OpenAI's format has to be said; `name` is the prefix that users type. `base_url` is its own
    address, "" where there is none and base_url= is needed. `path` is appended to a base_url that names none.

    The key goes into `key_header`: behind "Bearer " in `authorization`, as it is in any other. It is read from
    `key_variable`, or else from the first of `other_key_variables` that is set: names that SDKs and frameworks read.

    `dimensions_field` is the field that shortens vectors, "" where there is none. `encodings` are the fields that ask
    for vectors in base64 or as numbers; without "base64" it is never asked for. `input_type_field` is the field that
    tells documents and queries apart, and `input_types` are its two values, where its models want them. `uncut` are the
    fields that ask the service to refuse a text that is too long and `cut` those that let it cut, for truncate=True.

    `untyped` is a pattern for names of models that have no input types. `by_prefix`: a model that is known for its
    prefixes gets those and no input type, as a service that passes on to many others says nothing of prefixes itself.

    `counts_are_known`: at its own address tokens are counted for its limits as `limits` say, which replies have shown.
    `tells` is where a server of one's own tells what its model is, as seen from the base URL; "" where it does not.
    `is_self_hosted`: it is always such a server, wherever it stands. `urls_of_keys` are addresses of its own, by how
    keys begin that belong there. `counts_tokens`: its `usage` does, and not characters; `tokens_header`
    counts them where the body does not. `price_usd` is that of a model of which nothing is known.

    `batches` is its batch API, where it has one that takes embeddings.
    """

    name: str
    base_url: str
    limits: Limits
    models: Mapping[str, Model] = field(default_factory=dict)
    endpoint: str = "/embeddings"
    path: str = ""
    key_variable: str = ""
    other_key_variables: tuple[str, ...] = ()
    key_header: str = "authorization"
    url_variable: str = ""
    url_of: Callable[[str], str] = str
    header_variables: Mapping[str, str] = field(default_factory=dict)
    dimensions_field: str = "dimensions"
    encodings: Mapping[Literal["base64", "float"], Fields] = field(
        default_factory=lambda: {"base64": {"encoding_format": "base64"}, "float": {}}
    )
    input_type_field: str = ""
    input_types: tuple[str, str] = ("", "")
    uncut: Fields = field(default_factory=dict)
    cut: Fields = field(default_factory=dict)
    untyped: str = ""
    by_prefix: bool = False
    counts_are_known: bool = False
    tells: str = ""
    is_self_hosted: bool = False
    urls_of_keys: Mapping[str, str] = field(default_factory=dict)
    counts_tokens: bool = True
    tokens_header: str = ""
    price_usd: float | None = None
    batches: BatchWire | None = None

    def model(self, name: str) -> Model:
        """What is known of that model here: by this service, or else by models.toml."""
        return self.models.get(name) or model_of(self.name, name) or Model(self.name, name, price_usd=self.price_usd)

    @property
    def key_variables(self) -> Sequence[str]:
        """Those in which a key may stand. The first one that is set counts."""
        return [name for name in (self.key_variable, *self.other_key_variables) if name]

    def preparation_of(self, model: str) -> Preparation:
        """What is done for a model of that name by default. Where the service has a field that tells queries from
        documents it prepares them itself, so that they have no prefix."""
        own = self.model(model).input_types
        types = self.input_types if own is None else own
        usual = default_preparation(model)
        if (self.by_prefix and usual) or (self.untyped and re.fullmatch(self.untyped, model)):
            return usual
        return Preparation("", "", *types) if any(types) else usual

    def url_of_key(self, key: str) -> str:
        """Its own address for that key."""
        return next((url for start, url in self.urls_of_keys.items() if key.startswith(start)), self.base_url)

    def with_path(self, url: str) -> str:
        """That address with the path that this server always has, where it names none."""
        return f"{url}{self.path}" if self.path and url.count("/") == 2 else url

    def limits_of(self, model: Model, max_tokens_per_text: int | None = None) -> Limits:
        """The smallest of what is known of the service, of the model, and is said of it."""
        most = self.limits.max_tokens_per_text
        longest = min(most, model.max_tokens_per_text or most, max_tokens_per_text or most)
        of_all = min(self.limits.max_tokens_per_batch, model.max_tokens_per_batch or self.limits.max_tokens_per_batch)
        return replace(self.limits, max_tokens_per_text=longest, max_tokens_per_batch=of_all, encoding=model.encoding)
