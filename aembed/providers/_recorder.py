"""What an unknown server answers where it refuses, or breaks off: written down, so that it can become a test.

One JSON file a reply, in a folder that AEMBED_RECORD or `record=` names. Texts, keys, cookies and vectors are cut out.
Nothing of this may harm a job: what cannot be written is left, with one warning.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aembed.core.quoting import without_any_part
from aembed.errors import ConfigError, ProviderError
from aembed.providers._echoes import without_echoes
from aembed.providers._exchanges import Reader
from aembed.providers._http import HTTPReply
from aembed.providers._secrets import Secret

logger = logging.getLogger("aembed")

VARIABLE = "AEMBED_RECORD"
# Chosen: one may read 200 of them. Without a bound, a job against a broken server would fill the disk.
MOST_FILES = 200
"""In one folder, whoever wrote them."""
# Chosen: three show whether a reply is always the same; more of them would crowd out other kinds.
MOST_ALIKE = 3
"""Of replies that differ in numbers only."""
# Computed: with these 200 files are some 10 million characters at the most, which can still be sent to somebody.
# Smaller, bodies would end before what is odd in them.
MOST_BODY_CHARACTERS, MOST_VALUE_CHARACTERS, MOST_HEADERS = 16_000, 300, 100
_PRIVATE = re.compile(
    r"cookie|authoriz|authenticate|secret|api-?key|(?:access|auth|id|csrf|xsrf|refresh|session)-?token|session|signature|"
    r"organi[sz]ation|project|account|user|location|jwt|client-ip|forwarded|real-ip"
)
_TOKEN = re.compile(
    r"\b(?:Bearer|Basic)\s+[\w.~+/=-]+|\b(?:sk|pk|pa|hf|gsk|xai|jina|key|api)[-_][\w-]{8,}|\beyJ[\w-]{8,}(?:\.[\w-]+)*|"
    r"\bAIza[\w-]{16,}",
    re.IGNORECASE,
)
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/])([A-Za-z0-9+/]{16})[A-Za-z0-9+/]{48,}={0,2}")
_NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\s*,\s*"
_NUMBERS = re.compile(rf"((?:{_NUMBER}){{4}})(?:{_NUMBER}){{4,}}")


@dataclass(eq=False, repr=False)
class Recorder:
    """`secrets` gives the headers of requests that nothing may show."""

    _folder: Path
    _secrets: Callable[[], Sequence[Secret]]
    _seen: Counter[str] = field(default_factory=Counter)
    _full: bool = False

    def __repr__(self) -> str:
        return f"<Recorder {self._folder}>"

    def note(self, texts: Sequence[str], reply: HTTPReply | None, reader: Reader, error: ProviderError) -> None:
        """A reply that was refused or broken; of one that broke off there is what had come."""
        status, headers = (reply.status, reply.headers) if reply else (None, {})
        body = reply.body if reply and reply.body else bytes(reader.whole_reply())
        self.write(texts, status, headers, body, error)

    def write(
        self,
        texts: Sequence[str],
        status: int | None,
        headers: Mapping[str, str],
        body: bytes,
        error: ProviderError,
    ) -> None:
        """Blocks, for longer where there are many texts: call it in a thread. Raises nothing."""
        alike = re.sub(r"\d+", "0", f"{status} {type(error).__name__} {error}")
        if self._full or self._seen[alike] >= MOST_ALIKE:
            return
        self._seen[alike] += 1

        def redact(text: str, most: int) -> str:
            # Cut after what is private has been found: a part of that would not be.
            text = _NUMBERS.sub(r"\1[...] ", _BASE64.sub(r"\1[...]", text))[: 2 * most]
            for secret in self._secrets():
                text = secret.redact(text)
            return without_any_part(_TOKEN.sub("[redacted]", text), texts)[:most]

        reply = {
            "status": status,
            "headers": {
                redact(name, 100): "[cut out]" if _PRIVATE.search(name) else redact(value, MOST_VALUE_CHARACTERS)
                for name, value in list(headers.items())[:MOST_HEADERS]
            },
            # Vectors and texts make up most of a body: eight times what is kept is looked at, and they are cut out of
            # that.
            "body": redact(
                without_echoes(body[: 8 * MOST_BODY_CHARACTERS]).decode("utf-8", "replace"), MOST_BODY_CHARACTERS
            ),
            "body_bytes": len(body),
        }
        record = {
            "request": {"inputs": len(texts), "bytes": sum(len(text.encode("utf-8", "replace")) for text in texts)},
            "reply": reply,
            "error": redact(f"{type(error).__name__}: {error}", 1_000),
        }
        try:
            self._keep(f"{status or 'broken'}-{type(error).__name__}", record)
        except OSError as failed:
            self._full = True
            logger.warning("%s: replies are not recorded any more: %s", self._folder, failed.strerror)

    def _keep(self, name: str, record: Mapping[str, Any]) -> None:
        """Names are made of a status and of a class of ours alone. Several processes may write to one folder."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(list(self._folder.glob("*.json"))) >= MOST_FILES:
            self._full = True
            logger.warning("%s holds %d replies: no more are recorded", self._folder, MOST_FILES)
            return
        data = json.dumps(record, indent=1, ensure_ascii=True)
        for number in range(1, MOST_FILES + 1):
            try:
                descriptor = os.open(
                    self._folder / f"{name}-{number}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
                )
            except FileExistsError:
                continue
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(data + "\n")
            return


def recorder_of(record: object, secrets: Callable[[], Sequence[Secret]]) -> Recorder | None:
    """Where nothing names a folder nothing is recorded. Raises ConfigError for one that cannot be."""
    name = "record"
    if record is None:
        name, record = VARIABLE, os.environ.get(VARIABLE, "").strip() or None
    if record is None:
        return None
    if not isinstance(record, str | os.PathLike) or not str(record).strip():
        raise ConfigError(f"{name}={record!r} must be the path of a folder")
    folder = Path(record).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{name}: {folder} is no folder")
    return Recorder(folder, secrets)
