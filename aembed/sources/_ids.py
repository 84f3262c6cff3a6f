"""Records of different files that have one id: how their files are told apart."""

from __future__ import annotations

from msgspec.structs import replace

from aembed.errors import ConfigError
from aembed.sources._files import File, Unreadable


class IdClashes:
    """The records that share their id with another one, as they are read again.

    `apart` are the files whose ids were made different before.
    """

    def __init__(self, apart: dict[File, File]) -> None:
        self.apart: dict[File, File] = {}
        self._before = apart
        self._places: dict[str, tuple[File | Unreadable, str]] = {}

    def add(self, entry: File | Unreadable, place: str, id: str) -> None:
        """Raises ConfigError where the id stands twice in one file, or where no name of a file makes a difference."""
        if id not in self._places:
            self._places[id] = (entry, place)
            return
        first, first_place = self._places[id]
        if not (isinstance(first, File) and isinstance(entry, File) and self._tell_apart(first, entry)):
            raise ConfigError(
                f"two inputs have the id {id!r}: {first_place} and {place}; rename one of them or leave it out"
            )

    def _tell_apart(self, one: File, other: File) -> bool:
        """Names both by the shortest ends of their paths that are different. Whether that has changed anything."""
        changed, depth = False, 1
        while (names := (_name(one, depth), _name(other, depth)))[0] == names[1] and depth < len(one.path.parts):
            depth += 1
        for file, name in zip((one, other), names, strict=True):
            # A name only ever gets longer, so that this comes to an end. Standard input has none.
            known = self.apart.get(file) or self._before.get(file)
            if file.root is None or (known and len(known.name) >= len(name)):
                changed |= file in self.apart
            else:
                self.apart[file] = replace(file, name=name, apart=True)
                changed = True
        return one != other and changed


def _name(file: File, depth: int) -> str:
    parts = file.path.parts[-max(depth, file.name.count("/") + 1) :]
    return "/".join(parts).replace("//", "/")
