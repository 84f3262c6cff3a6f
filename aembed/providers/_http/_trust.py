"""The certificates that servers are judged by."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx

from aembed.errors import ConfigError
from aembed.providers._threads import run_in_thread


@dataclass(eq=False, repr=False)
class Trust:
    """Those that SSL_CERT_FILE or SSL_CERT_DIR name, else certifi's: read once, at the first use of TLS."""

    _context: ssl.SSLContext | None = None
    _making: anyio.Lock = field(default_factory=anyio.Lock)

    async def context(self) -> ssl.SSLContext:
        """Raises ConfigError."""
        if self._context is None:
            async with self._making:
                if self._context is None:
                    # Reading the certificates takes 20 to 100 ms: in a thread (law 11).
                    self._context = await run_in_thread(make_context)
        return self._context


def make_context() -> ssl.SSLContext:
    """Raises ConfigError, which names the variable of the environment that is wrong."""
    file, folder = os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", "")
    if file:
        named, problem = f"SSL_CERT_FILE={file}", "" if Path(file).exists() else "it names no file"
        if Path(file).is_dir():
            problem = "it names a folder (SSL_CERT_DIR is for those)"
    elif folder:
        named, problem = f"SSL_CERT_DIR={folder}", "" if Path(folder).is_dir() else "it names no folder"
    else:
        named, problem = "", ""
    if not problem:
        try:
            return httpx.create_ssl_context()
        except OSError as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            problem = f"{reason} ({error.filename})" if error.filename else f"{reason}"
    advice = "set it to a file of PEM certificates, or unset it" if file else "set it right, or unset it"
    raise ConfigError(f"{named or 'TLS cannot be set up'}: {problem}" + (f"; {advice}" if named else ""))
