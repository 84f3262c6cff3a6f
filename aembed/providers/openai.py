"""`openai:` and every service that is a row (_rows.py), and every server that speaks OpenAI's `POST /embeddings`."""

from __future__ import annotations

from typing import Any

from aembed.providers._batch_provider import BatchHTTPProvider
from aembed.providers._options import OPTIONS
from aembed.providers._rows import ROWS

__all__ = ["OPTIONS", "OpenAIProvider", "open_provider"]


class OpenAIProvider(BatchHTTPProvider):
    """One model behind `POST {base_url}/embeddings`, with the keywords of HTTPProvider.

    Without `api_key` and `base_url` it reads OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_ORG_ID and OPENAI_PROJECT_ID, as
    the official SDK does; a key is needed at the provider's own address only.
    """

    service = ROWS["openai"]


def open_provider(prefix: str, model: str, **options: Any) -> OpenAIProvider:
    return OpenAIProvider(model, service=ROWS[prefix], **options)
