"""`azure:text-embedding-3-small`: a model in a resource of Azure OpenAI, by the v1 API or an older one with its date.

The name is that of the model; Azure knows it by the name of its deployment. Sources: recorded replies, and
lib/azure.py of openai-python 3.57.0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from aembed.batch_protocols import BatchTerms
from aembed.errors import ConfigError
from aembed.providers._batch_provider import BatchHTTPProvider
from aembed.providers._batch_wires import BatchWire
from aembed.providers._options import OPTIONS as OF_ALL
from aembed.providers._rows import OPENAI, OPENAI_BATCHES
from aembed.providers._service import Service

__all__ = ["OPTIONS", "AzureProvider", "open_provider"]

OPTIONS: Mapping[str, str] = {
    **OF_ALL,
    "api_version": "a date, as 2024-10-21: of the API before v1",
    "deployment": "a name; without it, that of the model",
}

AZURE = Service(
    name="azure",
    base_url="",
    limits=OPENAI.limits,
    path="/openai/v1",
    key_variable="AZURE_OPENAI_API_KEY",
    key_header="api-key",
    url_variable="AZURE_OPENAI_ENDPOINT",
    # learn.microsoft.com, "Batch" of Azure OpenAI: OpenAI's files and batches. Its guide names chat models alone, and
    # nobody has shown that embeddings are taken.
    batches=BatchWire(replace(OPENAI_BATCHES.terms, tried=False)),
)


class AzureProvider(BatchHTTPProvider):
    """One model behind `{base_url}/openai/v1/embeddings`, with the keywords of HTTPProvider.

    `deployment` defaults to the name of the model. `api_version` (or OPENAI_API_VERSION) is that of the older API.
    `api_key` is a key of the resource, or an async callable that gives a token of Entra ID. Without it and without
    `base_url`, AZURE_OPENAI_API_KEY and AZURE_OPENAI_ENDPOINT are read.
    """

    def __init__(self, model: str, *, deployment: str = "", api_version: str = "", **options: Any) -> None:
        # A token is a bearer's; a key has a header of its own.
        service = replace(AZURE, key_header="authorization") if callable(options.get("api_key")) else AZURE
        self.deployment = deployment or model
        self.api_version = api_version or os.environ.get("OPENAI_API_VERSION", "").strip()
        if not re.fullmatch(r"|\d{4}-\d\d-\d\d(-preview)?", self.api_version):
            raise ConfigError(f"azure: api_version={self.api_version!r} must be a date, as 2024-10-21")
        super().__init__(model, service=service, **options)
        if self.api_version:
            self.base_url = self.base_url.removesuffix("/v1")

    @property
    def batch_terms(self) -> BatchTerms | None:
        """The older API has none of embeddings."""
        return None if self.api_version else super().batch_terms

    @property
    def path(self) -> str:
        if not self.api_version:
            return "/embeddings"
        deployment = quote(self.deployment, safe="")
        return f"/deployments/{deployment}/embeddings?api-version={self.api_version}"

    def payload(self, texts: Sequence[str], input_type: str) -> Mapping[str, Any]:
        return {**super().payload(texts, input_type), "model": self.deployment}


def open_provider(prefix: str, model: str, **options: Any) -> AzureProvider:
    return AzureProvider(model, **options)
