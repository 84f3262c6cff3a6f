"""Stage 2 decides what a text is, and whether it has to be paid for.

A fingerprint says what is embedded: text, model, dimensions, input type, what else prepares texts of that type, and for
a text that may be too long what is done about that. A digest says what a row holds: fingerprint, metadata and source.
The key of "unchanged" is the pair (id, digest); the key of "paid for" is the fingerprint alone. Where nothing is kept
beyond the job there are neither: a text is its own key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import inf
from numbers import Integral
from operator import index
from typing import Any, Protocol, TypeAlias
from uuid import UUID

import msgspec
import numpy as np

from aembed.core.spaces import have_same_documents
from aembed.errors import AembedError, InputError
from aembed.limits import Limits
from aembed.preparation import Preparation
from aembed.ranges import is_bool
from aembed.types import Embedded, InputType, Metadata, Record, Space, TooLong

# Chosen: with 128 bits a billion texts collide by chance once in 10^21 stores. Stores that exist hold this width, so
# any other number would make every row look changed, and would be paid for again.
DIGEST_BYTES = 16
"""Width of a fingerprint and of a digest, in bytes."""

Key: TypeAlias = "bytes | str"
"""What equal texts of one job have in common: the fingerprint, or the text itself."""


class Entry(msgspec.Struct, eq=False, gc=False):
    """A record on its way through a job. `fingerprint` and `digest` are b"" where nothing is kept beyond it."""

    index: int
    record: Record
    size_bytes: int
    key: Key
    fingerprint: bytes = b""
    digest: bytes = b""


class Entries(Protocol):
    """Makes the entries of a job's records."""

    def make_entry(self, index: int, record: Record) -> Entry:
        """Raises InputError for a record that no provider and no store can take."""
        ...

    def is_paid_by(self, row: Embedded, entry: Entry) -> bool:
        """Whether the vector that a row carries is the one that its entry would be sent for."""
        ...


class UnstoredEntries:
    """Makes the entries of a job whose results no store keeps: no hash is taken."""

    def make_entry(self, index: int, record: Record) -> Entry:
        if type(record.text) is not str or type(record.id) is not str or record.source is not None:
            record = exact_record(record)
        return Entry(index, record, len(utf8_of(record)), record.text)

    def is_paid_by(self, row: Embedded, entry: Entry) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Fingerprinter:
    """Makes the entries of a job for a store; the hash of everything but the text is taken only once."""

    space: Space
    input_type: InputType
    too_long: TooLong
    max_tokens_per_text: int
    _short: Any = field(init=False)
    _long: Any = field(init=False)
    _longest_bytes: int = field(init=False)
    _elsewhere: dict[str, Fingerprinter] = field(init=False, default_factory=dict)
    """By the origin of another store's space: its fingerprints name the model as that store does."""

    def __post_init__(self) -> None:
        space = self.space
        names = (
            space.origin.partition(":")[::2] if space.origin else (plain_json(space.provider), plain_json(space.model))
        )
        preparation = Preparation.parse(space.preparation)
        # Without a preparation it stands for nothing at all, so that fingerprints of stores without one stay the same.
        part = preparation.part(self.input_type)
        base = blake2b(
            _json_bytes([*names, space.dimensions, self.input_type, *([part] if part else ())]),
            digest_size=DIGEST_BYTES,
        )
        long = base.copy()
        long.update(self.too_long.encode())
        object.__setattr__(self, "_short", base)
        object.__setattr__(self, "_long", long)
        prefix_bytes = len(preparation.prefix(self.input_type).encode())
        object.__setattr__(self, "_longest_bytes", self.max_tokens_per_text - prefix_bytes)

    @property
    def kind(self) -> bytes:
        """What all fingerprints have in common: where this changes any text may have another one."""
        parts = [self._short.hexdigest(), self._long.hexdigest(), self._longest_bytes]
        return blake2b(_json_bytes(parts), digest_size=DIGEST_BYTES).digest()

    def make_entry(self, index: int, record: Record) -> Entry:
        if type(record.text) is not str or type(record.id) is not str or record.source is not None:
            record = exact_record(record)
        data = utf8_of(record)
        fingerprint = self._fingerprint(data)
        try:
            record, holds = _record_with_digest(fingerprint, record)
        except InputError as error:
            raise InputError(f"{record.id!r}: {error}") from None
        return Entry(index, record, len(data), fingerprint, fingerprint, holds)

    def is_paid_by(self, row: Embedded, entry: Entry) -> bool:
        """Whether the row's vector is the one that this entry would be sent for.

        The row's fingerprint is believed only where the text gives the same one here: a row may come from anybody.
        """
        # Law 3: a vector is stored only beside the text that it was made from.
        space = row.space
        if space is None or not (space == self.space or have_same_documents(space, self.space)):
            return False
        fingerprint = entry.fingerprint
        if space.origin != self.space.origin:
            if space.origin not in self._elsewhere:
                self._elsewhere[space.origin] = replace(self, space=replace(self.space, origin=space.origin))
            fingerprint = self._elsewhere[space.origin]._fingerprint(utf8_of(entry.record))
        return row.fingerprint == fingerprint and is_sound(row.vector, self.space.dimensions)

    def _fingerprint(self, data: bytes) -> bytes:
        # A text of no more bytes than tokens allowed fits whatever its tokens are, so too_long cannot change it.
        hasher = (self._long if len(data) > self._longest_bytes else self._short).copy()
        hasher.update(data)
        fingerprint: bytes = hasher.digest()
        return fingerprint


def is_sound(vector: object, dimensions: int | None) -> bool:
    """Whether the vector has that width, is finite and is not zero, as a vector of a reply has to be."""
    if not isinstance(vector, np.ndarray) or vector.dtype != np.float32 or vector.shape != (dimensions,):
        return False
    return 0.0 < float(vector @ vector) < inf


def exact_record(record: Record) -> Record:
    """The same record with a plain str for each subclass of str, and with the text of an id that is a number or a UUID.

    numpy's, BeautifulSoup's and an enum's str are such subclasses: encoders refuse them, and some keep a whole document
    alive. Raises InputError for a source that is no str.
    """
    id: Any = record.id
    text, source = record.text, record.source
    if type(id) is str and type(text) is str and type(source) is str:
        return record
    if source is not None and not isinstance(source, str):
        raise InputError(f"the source of {id!r} must be a str, not {type(source).__name__}")
    if isinstance(id, Integral) and not is_bool(id):
        id = str(index(id))
    elif isinstance(id, UUID):
        id = str(id)
    return Record(_exact_str(id), _exact_str(text), record.metadata, _exact_str(source))


def _exact_str(value: object) -> Any:
    return str.__str__(value) if isinstance(value, str) else value


def plain_json(value: object) -> Any:
    """The value with plain JSON types in the place of subclasses of str and of numpy's scalars, however deep."""
    match value:
        case Mapping():
            return {_plain_scalar(name): plain_json(item) for name, item in value.items()}
        case list() | tuple():
            return [plain_json(item) for item in value]
        case _:
            return _plain_scalar(value)


def _plain_scalar(value: object) -> Any:
    return value.item() if isinstance(value, np.generic) and not isinstance(value, str) else _exact_str(value)


def utf8_of(record: Record) -> bytes:
    """The UTF-8 of the record's text. Raises InputError where it is not a text that can be embedded."""
    # Law 6: what can be refused is refused before money is spent, here because of the text itself.
    id, text = record.id, record.text
    if not isinstance(id, str) or not id:
        given = "an empty str" if id == "" else type(id).__name__
        raise InputError(f"the id must be a str that is not empty, an int or a UUID, not {given}")
    if not isinstance(text, str):
        raise InputError(f"the text of {id!r} must be a str, not {type(text).__name__}")
    if not text or text.isspace():
        raise InputError(f"the text of {id!r} is empty; leave it out")
    try:
        id.encode()
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{id!r} holds a lone surrogate at position {error.start}; "
            "decode its source with errors='replace' or remove it"
        ) from None


def _record_with_digest(fingerprint: bytes, record: Record) -> tuple[Record, bytes]:
    """The record and its digest. Metadata that is JSON except for its types is made plain, as stores can take it."""
    try:
        return record, row_digest(fingerprint, record.metadata, record.source)
    except InputError:
        try:
            metadata = plain_json(record.metadata)
        except RecursionError:
            metadata = record.metadata
        return Record(record.id, record.text, metadata, record.source), row_digest(fingerprint, metadata, record.source)


def row_digest(fingerprint: bytes, metadata: Metadata | None, source: str | None) -> bytes:
    """The digest of what a row holds; it is the fingerprint itself where the row has neither metadata nor a source.

    Raises InputError for what is not JSON.
    """
    if metadata is None and source is None:
        return fingerprint
    hasher = blake2b(fingerprint, digest_size=DIGEST_BYTES)
    hasher.update(_json_bytes([metadata, source]))
    return hasher.digest()


def _json_bytes(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, order="deterministic")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"its metadata or source is not JSON ({type(error).__name__}); use str, numbers, lists, dicts"
        ) from None


class Item(msgspec.Struct, eq=False, gc=False):
    """The text of an entry as it is sent: one or more pieces that travel together.

    `tokens` is what the provider will count for its limits. The texts are a tuple, because a list would be one more
    object for each text that a collection of garbage visits.
    """

    entry: Entry
    texts: tuple[str, ...]
    tokens: float
    weights: tuple[float, ...] = (1.0,)


def oversize_error(item: Item, limits: Limits) -> AembedError | None:
    """The error of an item that fits in no request at all; None if it fits."""
    # Law 12: the pieces of one split text travel together, so all of them have to fit in one request.
    inputs = len(item.texts)
    if inputs > limits.max_batch_size or item.tokens > limits.max_tokens_per_batch:
        return InputError(
            f"the text of {item.entry.record.id!r} needs {inputs} inputs and {item.tokens:,.0f} tokens, "
            f"one request carries {limits.max_batch_size} and {limits.max_tokens_per_batch:,}; cut it into records"
        )
    return None
