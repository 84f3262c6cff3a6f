"""What is known of models: dimensions, lengths, prices, each with its source and date. The rows are in models.toml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any

# A name in models.toml for each field of Model that is a figure.
FIGURES = {
    "dimensions": "dimensions",
    "widths": "widths",
    "tokens": "max_tokens_per_text",
    "batch_tokens": "max_tokens_per_batch",
    "price": "price_usd",
    "normalised": "normalised",
    "shortened_normalised": "shortened_normalised",
    "encoding": "encoding",
}
OPEN = "open"
"""The group of models whose weights are open: what is known of them wherever they run."""
FREE = frozenset(
    {"fastembed", "infinity", "llamacpp", "lmstudio", "model2vec", "ollama", "sentence-transformers", "tei", "vllm"}
)
"""Where they run on one's own machine, and cost nothing."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where figures were read. `date` is that of the page or release, or the day on which it was read."""

    what: str
    date: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model as one provider serves it. None: no source says it.

    `widths` are those that `dimensions=` may ask for; empty where it cannot be shortened. `price_usd` is in dollars for
    1,000,000 tokens. `normalised`: whole vectors have length 1; `shortened_normalised`: shortened ones, too. `encoding`
    is its tokenizer in tiktoken. `input_types` are the service's words for documents and queries, where those are not
    the same for all its models. `sources` names one in models.toml for each figure, by the name of the field.
    """

    provider: str = ""
    name: str = ""
    dimensions: int | None = None
    widths: Sequence[int] | None = None
    max_tokens_per_text: int | None = None
    max_tokens_per_batch: int | None = None
    price_usd: float | None = None
    normalised: bool | None = None
    shortened_normalised: bool | None = None
    encoding: str | None = None
    input_types: tuple[str, str] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def shortens(self) -> bool | None:
        return None if self.widths is None else len(self.widths) > 0

    def has_length_1(self, dimensions: int | None) -> bool:
        """Whether vectors of that width surely have."""
        whole = dimensions is None or dimensions == self.dimensions
        return bool(self.normalised and (whole or self.shortened_normalised))


def model_of(provider: str, name: str) -> Model | None:
    """What is known of that model as this provider serves it, or of its open weights; None where nothing is."""
    # Ollama gives the tag :latest to a name that has none. Names of models differ in case from one service to another.
    key = name.removesuffix(":latest").lower()
    own = _group(provider).get(key) if provider != OPEN else None
    known = own or _group(OPEN).get(key)
    if known is None or provider not in FREE or known.price_usd is not None:
        return known
    values = {each.name: getattr(known, each.name) for each in fields(known)}
    return Model(**{**values, "price_usd": 0.0})


def providers() -> list[str]:
    return [name for name in _sections() if name != "sources"]


def models(provider: str) -> Iterator[Model]:
    yield from _group(provider).values()


@cache
def sources() -> Mapping[str, Source]:
    return {name: Source(**row) for name, row in _parse("sources").items()}


@cache
def _group(provider: str) -> Mapping[str, Model]:
    if provider not in providers():
        return {}
    group = _parse(provider)
    rows = [_model(provider, row, group["source"]) for row in group["models"]]
    return {row.name.lower(): row for row in rows}


def _model(provider: str, row: Mapping[str, Any], usual: Mapping[str, str]) -> Model:
    named = {**usual, **row.get("source", {})}
    given = {FIGURES[key]: value for key, value in row.items() if key not in ("name", "source")}
    if "widths" in given:
        given["widths"] = _widths(given["widths"], given.get("dimensions"))
    told = {FIGURES[key]: source for key, source in named.items() if FIGURES[key] in given}
    return Model(provider, row["name"], **given, sources=told)


def _widths(said: str | list[int], dimensions: int | None) -> Sequence[int]:
    """A list, "from-to", or "any" up to the whole width."""
    if not isinstance(said, str):
        return tuple(said)
    least, _, most = said.partition("-")
    return range(1, dimensions + 1) if said == "any" and dimensions else range(int(least), int(most) + 1)


def widths_in_words(widths: Sequence[int]) -> str:
    return f"{widths[0]} to {widths[-1]}" if isinstance(widths, range) else ", ".join(map(str, widths))


def _parse(section: str) -> dict[str, Any]:
    # Imported here: who names a model of his own, or none, needs no parser.
    import tomllib

    parsed: dict[str, Any] = tomllib.loads(_sections()[section])
    return parsed


@cache
def _sections() -> Mapping[str, str]:
    """The text of each section: the whole takes 15 ms to parse, and one model is looked up."""
    text = files(__package__).joinpath("models.toml").read_text(encoding="utf-8")
    parts = [part.partition("]\n") for part in f"\n{text}".split("\n[")[1:]]
    return {name: body for name, _, body in parts}
