"""`model2vec:NAME` or `model2vec:FOLDER`: the mean of the vectors of a text's tokens, in this process, by numpy alone.

The package cuts texts to 512 tokens unless it is told otherwise; here the whole text counts.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from aembed.limits import Limits
from aembed.providers._in_process import InProcessProvider, Model, check_installed, is_folder, space_of
from aembed.types import InputType

OPTIONS: dict[str, str] = {}
# Chosen: tens of milliseconds a request; no text is too long.
LIMITS = Limits(max_batch_size=1_024, max_tokens_per_batch=1_000_000, max_tokens_per_text=1_000_000)


def open_provider(prefix: str, model: str, *, dimensions: int | None, **options: Any) -> InProcessProvider:
    check_installed(prefix, "model2vec", "pip install model2vec", options)
    space = space_of(prefix, model, dimensions)
    download = f"""python -c "from model2vec import StaticModel; StaticModel.from_pretrained('{model}')\""""
    return InProcessProvider(space, partial(_load, space.model, dimensions), download=download, limits=LIMITS)


def _load(name: str, dimensions: int | None) -> Model:
    from huggingface_hub import snapshot_download
    from model2vec import StaticModel

    folder = name if is_folder(name) else snapshot_download(name, local_files_only=True)
    loaded = StaticModel.from_pretrained(folder, dimensionality=dimensions)

    def forward(texts: list[str], input_type: InputType) -> Any:
        return loaded.encode(texts, max_length=None, use_multiprocessing=False)

    return Model(forward)
