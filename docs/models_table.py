"""docs/models.md, written from aembed/providers/models.toml.

python -m docs.models_table
python -m docs.models_table --litellm model_prices_and_context_window_backup.json

A test compares the page with what this writes. With `--litellm` it writes nothing, and prints which figures differ from
those in that file of the package litellm, a newer one than the rows name: that is how prices are brought up to date.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aembed.providers._models import Model, Source, models, providers, sources
from docs.options_table import table

PAGE = Path(__file__).parent / "models.md"
HEAD = """# Models

What aembed knows of models before it asks anybody: {rows} rows of {services} services, and of models whose weights are
open. This page is written from `aembed/providers/models.toml` by `python -m docs.models_table`. Each figure has a
source, with its day: the numbers behind the figures are those of the list below each table. An empty cell is a figure
that no source gave; then the server is asked, or its replies tell.

Prices are dollars for 1,000,000 tokens of requests; batch jobs cost less, some regions more. They change, and the
invoice is right. "Shortened to" are the widths that `dimensions=` may ask for. "1 long" says whether vectors have
length 1, and whether shortened ones have.
"""
TITLES = {
    "openai": "OpenAI",
    "nvidia": "NVIDIA",
    "dashscope": "DashScope (Singapore)",
    "siliconflow": "SiliconFlow",
    "deepinfra": "DeepInfra",
    "openrouter": "OpenRouter",
    "open": "Open weights",
}
COLUMNS = {
    "dimensions": "dimensions",
    "widths": "shortened to",
    "max_tokens_per_text": "tokens a text",
    "max_tokens_per_batch": "tokens a request",
    "price_usd": "dollars",
    "normalised": "1 long",
    "shortened_normalised": "1 long, shortened",
}
LITELLM_PREFIXES = {"fireworks": "fireworks_ai/", "together": "together_ai/", "bedrock": "", "openai": "", "open": "-"}


def page() -> str:
    told = sources()
    names = providers()
    rows = sum(len(list(models(name))) for name in names)
    parts = [HEAD.format(rows=rows, services=len(names) - 1)]
    for name in names:
        group = list(models(name))
        columns = [key for key in COLUMNS if any(getattr(row, key) is not None for row in group)]
        used = list(dict.fromkeys(row.sources[key] for row in group for key in columns if key in row.sources))
        parts.append(f"## {TITLES.get(name, name.capitalize())}\n")
        parts.append(table(("model", *(COLUMNS[key] for key in columns)), _lines(group, columns, used)))
        parts.append("".join(f"{i}. {_said(told[source])}\n" for i, source in enumerate(used, 1)))
    return "\n".join(parts)


def _lines(group: Sequence[Model], columns: Sequence[str], used: Sequence[str]) -> Iterator[Sequence[str]]:
    for row in group:
        yield (f"`{row.name}`", *(_shown(row, key, used) for key in columns))


def _shown(row: Model, key: str, used: Sequence[str]) -> str:
    """The figure with the number of its source."""
    value = getattr(row, key)
    return "" if value is None else f"{_in_words(value, key)} <sup>{used.index(row.sources[key]) + 1}</sup>"


def _in_words(value: Any, key: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "widths":
        if isinstance(value, range):
            return f"{value.start:,} to {value.stop - 1:,}"
        return ", ".join(f"{width:,}" for width in value) or "cannot be"
    return f"{value:g}" if key == "price_usd" else f"{value:,}"


def _said(source: Source) -> str:
    what = f"<{source.what}>" if source.what.startswith("https://") and " " not in source.what else source.what
    return f"{what}, {source.date}"


def differences(prices: Mapping[str, Any]) -> Iterator[str]:
    """Figures that differ from litellm's, where the row says that they are litellm's."""
    for provider in providers():
        for row in models(provider):
            named = f"{LITELLM_PREFIXES.get(provider, f'{provider}/')}{row.name}"
            other = prices.get(named, prices.get(row.name.removeprefix("openai/")))
            fields = [key for key, source in row.sources.items() if source == "litellm"]
            if other is None:
                yield from [f"{provider}:{row.name} is not there"] if fields else []
                continue
            theirs = {
                "price_usd": round(1e6 * other.get("input_cost_per_token", 0.0), 6),
                "max_tokens_per_text": other.get("max_input_tokens"),
                "dimensions": other.get("output_vector_size"),
            }
            for key in fields:
                if theirs.get(key) not in (None, getattr(row, key)):
                    yield f"{provider}:{row.name} {key}: {getattr(row, key)}, there {theirs[key]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--litellm", type=Path, help="compare with this file, and write nothing")
    given = parser.parse_args().litellm
    if given:
        print(*differences(json.loads(given.read_text(encoding="utf-8"))), sep="\n")
    else:
        PAGE.write_text(page(), encoding="utf-8")
