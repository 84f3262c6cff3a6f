"""Bedrock's models as rows, and requests to AWS without a key of the service: signed by version 4.

The credentials are those that botocore finds (variables, profiles, roles), where it is installed, by the extra
`bedrock`; it is imported in a thread, at the first request.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from urllib.parse import quote, urlsplit

from aembed.errors import AuthenticationError, ConfigError, ProviderError, QuotaExceededError, UnavailableError
from aembed.limits import Limits
from aembed.providers._models import model_of
from aembed.providers._options import Headers, KeySource
from aembed.providers._secrets import Secret
from aembed.providers._service import Service
from aembed.providers._threads import run_in_thread
from aembed.ranges import one_line_of

_TITAN = Service(
    name="bedrock",
    base_url="",
    # One text a call: its 8,192 tokens may have more bytes than four times that, so the sum is no limit beside it.
    limits=Limits(max_batch_size=1, max_tokens_per_batch=65_536, max_tokens_per_text=8_192),
    endpoint="",
    key_variable="AWS_BEARER_TOKEN_BEDROCK",
    encodings={"float": {}},
    tokens_header="x-amzn-bedrock-input-token-count",
)
BEDROCK: Mapping[str, Service] = {
    "titan-embed-text-v2": replace(_TITAN, encodings={"float": {"normalize": True}}),
    "titan-embed": _TITAN,
    "nova": replace(
        _TITAN,
        input_type_field="embeddingPurpose",
        input_types=("GENERIC_INDEX", "GENERIC_RETRIEVAL"),
        dimensions_field="embeddingDimension",
        uncut={"truncationMode": "NONE"},
        cut={"truncationMode": "END"},
    ),
    "cohere.embed": replace(
        _TITAN,
        # Chosen: 300,000 tokens for all texts of a request, since no sum is documented.
        limits=Limits(max_batch_size=96, max_tokens_per_batch=300_000, max_tokens_per_text=128_000),
        input_type_field="input_type",
        input_types=("search_document", "search_query"),
        dimensions_field="output_dimension",
        # Cohere cuts off the end by default, and says nothing.
        uncut={"truncate": "NONE"},
        cut={"truncate": "END"},
    ),
}
"""Families of models, by a part of their names; the first that fits."""
_REFUSED_KEY = ("UnrecognizedClient", "InvalidSignature", "ExpiredToken", "MissingAuthenticationToken")
KINDS: Mapping[str, type[ProviderError]] = {
    "ServiceQuotaExceededException": QuotaExceededError,  # a 400
    "ModelNotReadyException": UnavailableError,  # a 429, which no pace prevents
    **{f"{name}Exception": AuthenticationError for name in _REFUSED_KEY},  # a 403
}
"""What a kind in x-amzn-errortype means, where the status means something else."""


def family_of(model: str) -> Service:
    # Before it may stand a region that shares the load ("us."), or the rest of an ARN.
    bare = re.search(r"(?:amazon|cohere)\..*", model)
    family = next((service for name, service in BEDROCK.items() if bare and name in bare[0]), None)
    if family is None or bare is None:
        raise ConfigError(f"bedrock: {model!r} is not amazon.titan-embed-..., amazon.nova-... or cohere.embed-...")
    known = model_of("bedrock", bare[0])
    return replace(family, models={model: known} if known else {})


def region_of(given: str | None, base_url: str | None, *, signs: bool) -> str:
    """An address of AWS's own names it, too; without any, another address with a key needs none."""
    named = re.fullmatch(r"https://bedrock-runtime\.([a-z0-9-]+)\.amazonaws\.com/*", base_url or "")
    needed = signs or base_url is None
    region = (
        (named[1] if named else given) or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    )
    if (needed or region) and not re.fullmatch(r"[a-z]{2,}(-[a-z0-9]+)+", region):
        wrong = f"region={one_line_of(region)} is no region of AWS" if region else "no region is named"
        raise ConfigError(f"bedrock: {wrong}: pass region=, or type  export AWS_REGION=us-east-1")
    return region


def credentials_of(service: Service) -> KeySource:
    if find_spec("botocore") is None:
        raise ConfigError(
            f"no key for {service.name}: pass api_key=, type  export {service.key_variable}=...  or, to sign with the "
            f'credentials of AWS, pip install "aembed[{service.name}]"'
        )
    return partial(run_in_thread, _read_credentials)


def _read_credentials() -> str:
    """Access key, secret key and token, with colons between. It may ask the network, so it runs in a thread."""
    from botocore.session import Session

    found = Session().get_credentials()
    if found is None:
        raise ConfigError("botocore finds no credentials of AWS: pass api_key=, or type  aws configure")
    frozen = found.get_frozen_credentials()
    return ":".join(filter(None, (frozen.access_key, frozen.secret_key, frozen.token)))


def sign(url: str, body: bytes, credentials: Secret, *, service: str, region: str) -> Headers:
    """The headers that sign a POST of that body, by AWS's Signature Version 4.

    botocore could do it, but writes the token of a session into its own log.
    """
    access_key, secret_key, *token = credentials.reveal().split(":")
    parts, now = urlsplit(url), datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    signed = {"host": parts.netloc, "x-amz-date": now} | ({"x-amz-security-token": token[0]} if token else {})
    names, lines = ";".join(signed), "".join(f"{name}:{value}\n" for name, value in signed.items())
    # The path is encoded once more than it travels, for every service but S3.
    path = quote(parts.path, safe="/~")
    request = f"POST\n{path}\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{now[:8]}/{region}/{service}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret_key}".encode()
    for part in (*scope.split("/"), to_sign):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = f"Credential={access_key}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
    own = {"authorization": f"AWS4-HMAC-SHA256 {signature}", **signed}
    return {name: Secret(value) for name, value in own.items() if name != "host"}
