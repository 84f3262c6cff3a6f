"""`fastembed:NAME` or `fastembed:FOLDER`: an ONNX model in this process, by Qdrant's package fastembed.

A folder holds the model (`model.onnx`, or one other .onnx file, perhaps below `onnx/`), `tokenizer.json` and
`tokenizer_config.json`; its vectors are made 1 long.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aembed.errors import ConfigError
from aembed.providers._in_process import InProcessProvider, Model, check_installed, is_folder, space_of
from aembed.providers._prefixes import asked_for, chosen_preparation, default_preparation
from aembed.ranges import check_whole_number
from aembed.types import InputType

POOLINGS = {"cls": "CLS", "mean": "MEAN", "lasttoken": "LAST_TOKEN", "none": "DISABLED"}
"""As sentence-transformers names them, and as fastembed does. "none": the model's own output is one vector a text."""
OPTIONS = {
    "document_prefix": "a text",
    "pooling": "cls, mean, lasttoken or none, of a folder that does not say it",
    "query_prefix": "a text",
    "threads": "a whole number; null for as many as the machine has cores",
}
FILES = ("onnx/model.onnx", "model.onnx", "onnx/model_optimized.onnx", "model_optimized.onnx")


def open_provider(
    prefix: str,
    model: str,
    *,
    dimensions: int | None,
    pooling: str | None = None,
    threads: int | None = None,
    document_prefix: str | None = None,
    query_prefix: str | None = None,
    **options: Any,
) -> InProcessProvider:
    check_installed(prefix, "fastembed", 'pip install "aembed[fastembed]"', options)
    if pooling not in (None, *POOLINGS):
        raise ConfigError(f"pooling={pooling!r} must be one of {', '.join(POOLINGS)}")
    threads = None if threads is None else check_whole_number("threads", threads, 1)
    space = space_of(prefix, model, dimensions)
    download = f"""python -c "from fastembed import TextEmbedding; TextEmbedding('{model}')\""""
    # fastembed 0.9.1 puts no prefix before a text, though 16 of its models were made for one.
    wanted = default_preparation(space.model)
    chosen = chosen_preparation(wanted, document_prefix=document_prefix, query_prefix=query_prefix)
    space = replace(space, preparation=asked_for(chosen))
    load, preparation = partial(_load, space.model, pooling, threads), wanted if chosen is None else chosen
    return InProcessProvider(space, load, download=download, preparation=preparation)


def _load(name: str, pooling: str | None, threads: int | None) -> Model:
    from fastembed import TextEmbedding
    from loguru import logger

    options: dict[str, Any] = {} if threads is None else {"threads": threads}
    longest = None
    if is_folder(name):
        options |= {"specific_model_path": name}
        # What the model was trained with: all-MiniLM-L6-v2 has 256 here, and a tokenizer that cuts at 512.
        longest = json.loads(_read(Path(name, "sentence_bert_config.json"), "{}")).get("max_seq_length")
        name = _register(Path(name), pooling)
    known = {row["model"].lower(): row["model"] for row in TextEmbedding.list_supported_models()}
    if name.lower() not in known:
        likely = [row for key, row in known.items() if name.lower().rpartition("/")[2] in key] or known.values()
        raise ConfigError(f"fastembed has no model {name}, and there is no such folder; it knows {', '.join(likely)}")
    # fastembed logs what it raises, as an error of the program.
    logger.disable("fastembed")
    try:
        loaded = TextEmbedding(name, local_files_only=True, **options)
    finally:
        logger.enable("fastembed")

    def forward(texts: list[str], input_type: InputType) -> Any:
        embed = loaded.query_embed if input_type == "query" else loaded.passage_embed
        return list(embed(texts, batch_size=len(texts)))

    tokenizer: Any = getattr(loaded.model, "tokenizer", None)
    cut = tokenizer.truncation if tokenizer else None
    lengths = [length for length in (longest, cut["max_length"] if cut else None) if length]
    return Model(forward, tokenizer, min(lengths, default=None))


def _register(folder: Path, pooling: str | None) -> str:
    """Tells fastembed of the folder, under a name that says how its vectors are made."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    pooling = pooling or _pooling_of(folder)
    name = f"{folder.as_posix()} ({pooling})"
    if all(known["model"] != name for known in TextEmbedding.list_supported_models()):
        source = ModelSource(hf=folder.name)  # nothing is looked for there: the folder is passed
        pooled = PoolingType(POOLINGS[pooling])
        TextEmbedding.add_custom_model(name, pooled, True, source, dim=0, model_file=_file_of(folder))
    return name


def _file_of(folder: Path) -> str:
    for file in FILES:
        if (folder / file).is_file():
            return file
    found = sorted(folder.rglob("*.onnx"))
    if len(found) != 1:
        raise ConfigError(f"{folder} holds {len(found)} files *.onnx; it has to hold {FILES[0]}, or one other")
    return found[0].relative_to(folder).as_posix()


def _pooling_of(folder: Path) -> str:
    """As sentence-transformers writes it. Raises ConfigError for what is not said, or cannot be done."""
    modules = json.loads(_read(folder / "modules.json", "[]"))
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if others := set(kinds) - {"Transformer", "Pooling", "Normalize"}:
        raise ConfigError(
            f"{folder} has a module {min(others)}, which fastembed leaves out; use sentence-transformers:"
        )
    said = json.loads(_read(folder / "1_Pooling" / "config.json", "{}"))
    mode = said.get("pooling_mode")
    known = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "lasttoken"}
    modes = [mode] if mode else [known.get(name, name) for name, on in said.items() if on is True and "mode" in name]
    if len(modes) == 1 and modes[0] in POOLINGS:
        return str(modes[0])
    raise ConfigError(
        f"{folder} does not say how a vector is made of its tokens; pass pooling= ({', '.join(POOLINGS)})"
    )


def _read(path: Path, absent: str) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else absent
