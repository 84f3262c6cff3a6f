"""This module keeps the key of a provider, or the token that a callable of the user gives."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from aembed.errors import ConfigError, UnavailableError
from aembed.providers._options import KeySource
from aembed.providers._secrets import Secret, check_key


class Credentials:
    """The header that says who asks. A token of a callable is kept until the service refuses it."""

    def __init__(self, key: Secret | KeySource | None, header: str) -> None:
        self.key = key if isinstance(key, Secret) else None
        """The key that goes out now; None where there is none, or none was asked for yet."""
        self._source = None if isinstance(key, Secret) else key
        self._header = header

    async def headers(self) -> Mapping[str, Secret]:
        """Raises ConfigError for a token that no header can carry, UnavailableError where the callable raises."""
        if self.key is None and self._source is not None:
            try:
                token = await self._source()
            except ConfigError:
                raise
            except Exception as error:
                # Its message may hold what the callable knows, so the name of its class is told alone.
                raise UnavailableError(f"api_key() gave no token: it raised {type(error).__name__}") from error
            self.key = check_key(token, "the token that api_key() gave")
        if self.key is None:
            return {}
        # RFC 6750, section 2.1: a bearer token stands behind the name of its scheme.
        return {self._header: self.key.bearer() if self._header == "authorization" else self.key}

    def sign(self, salt: bytes) -> bytes:
        """An HMAC of the key; b"" where there is none, or a callable gives one after the other."""
        if self.key is None or self._source is not None:
            return b""
        return hmac.digest(salt, self.key.reveal().encode(), "sha256")

    def note_refused(self, key: Secret | None) -> bool:
        """Whether another token is worth a try, once the service has refused that one."""
        if self._source is None:
            return False
        if self.key is key:
            self.key = None
        return True
