"""What was uploaded, and what batches wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf


@dataclass(slots=True)
class StoredFile:
    """`pieces` makes the content anew each time: results of 2 GB never stand in memory whole. `size` is None where it
    is not known without making it."""

    id: str
    name: str
    purpose: str
    created_at: float
    expires_at: float
    size: int | None
    pieces: Callable[[], Iterator[bytes]]
    deleted: bool = False

    def is_there(self, now: float) -> bool:
        return not self.deleted and now < self.expires_at

    def content(self) -> bytes:
        return b"".join(self.pieces())


class Files:
    """By id, the oldest first."""

    def __init__(self) -> None:
        self._files: dict[str, StoredFile] = {}

    def keep(self, name: str, purpose: str, content: bytes, now: float, seconds: float = inf) -> StoredFile:
        return self.add(name, purpose, len(content), lambda: iter((content,)), now, seconds)

    def add(
        self,
        name: str,
        purpose: str,
        size: int | None,
        pieces: Callable[[], Iterator[bytes]],
        now: float,
        seconds: float = inf,
    ) -> StoredFile:
        id = f"file-{len(self._files) + 1:06d}"
        self._files[id] = StoredFile(id, name, purpose, now, now + seconds, size, pieces)
        return self._files[id]

    def find(self, id: str, now: float) -> StoredFile | None:
        found = self._files.get(id)
        return found if found and found.is_there(now) else None

    def there(self, now: float) -> list[StoredFile]:
        return [file for file in self._files.values() if file.is_there(now)]

    def delete(self, id: str, now: float) -> bool:
        found = self.find(id, now)
        if found:
            # Its content is forgotten, too: nobody can read it any more.
            found.deleted, found.pieces = True, lambda: iter(())
        return found is not None
