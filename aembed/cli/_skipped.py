"""What is said of the files in a folder that are not read."""

from __future__ import annotations

from collections.abc import Mapping

from aembed.cli._streams import printable_line
from aembed.sources import missing_endings
from aembed.sources._files import extras_to_install

# Chosen: what one line has room for; the others are counted together.
_NAMED = 8


def skipped_in_words(skipped: Mapping[str, int]) -> str:
    """`9 files skipped: .docx 6, .pdf 2, links 1`: the most frequent kinds first."""
    kinds = sorted(skipped.items(), key=lambda kind: (-kind[1], kind[0]))
    named = [f"{printable_line(kind)} {count:,}" for kind, count in kinds[:_NAMED]]
    if rest := sum(count for _, count in kinds[_NAMED:]):
        named.append(f"others {rest:,}")
    total = sum(skipped.values())
    missing = skipped.keys() & set(missing_endings())
    hint = f"; {extras_to_install(missing)}" if missing else ""
    return f"{total:,} {'file' if total == 1 else 'files'} skipped: {', '.join(named)}{hint}"
