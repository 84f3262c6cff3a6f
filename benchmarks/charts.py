"""Plain horizontal bars as SVG, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

Kind = Literal["ours", "peer", "limit"]

_WIDTH, _ROW, _BAR = 760, 26, 16
_LABELS, _FIGURES = 240, 170
_TOP, _FOOT = 52, 30
_STYLE = """
    text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f }
    .title { font-size: 15px; font-weight: 600 }
    .note { font-size: 12px; fill: #57606a }
    .ours { fill: #1a7f37 } .peer { fill: #8c959f } .limit { fill: #54aeff }
    text.ours { font-weight: 600 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .note { fill: #8b949e }
      .ours { fill: #3fb950 } .peer { fill: #6e7681 } .limit { fill: #388bfd }
    }
"""


@dataclass(frozen=True, slots=True)
class BarRow:
    """`shown` stands right of the bar: the figure with its unit."""

    label: str
    value: float
    shown: str
    kind: Kind = "peer"


def bars(title: str, rows: Sequence[BarRow], *, subtitle: str = "", note: str = "") -> str:
    """An SVG document; the longest bar is as wide as there is room."""
    height = _TOP + _ROW * len(rows) + (_FOOT if note else 8)
    most = max(row.value for row in rows) or 1.0
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(title, quote=True)}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="0" y="18">{escape(title)}</text>',
        f'<text class="note" x="0" y="37">{escape(subtitle)}</text>',
    ]
    for number, row in enumerate(rows):
        lines += _row(row, _TOP + number * _ROW, most)
    lines.append(f'<text class="note" x="0" y="{height - 10}">{escape(note)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _row(row: BarRow, y: int, most: float) -> list[str]:
    width = max(2.0, row.value / most * (_WIDTH - _LABELS - _FIGURES))
    middle = y + _BAR - 3
    bold = ' class="ours"' if row.kind == "ours" else ""
    return [
        f'<text{bold} x="{_LABELS - 10}" y="{middle}" text-anchor="end">{escape(row.label)}</text>',
        f'<rect class="{row.kind}" x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2"/>',
        f'<text{bold} x="{_LABELS + width + 8:.1f}" y="{middle}">{escape(row.shown)}</text>',
    ]


def write(path: Path, chart: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(chart)
