"""Models in this process: the real libraries run models of a few kilobytes, which the tests make."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Lock
from typing import Any

import anyio
import numpy as np
import pytest

from aembed import Embedder, InputError, MemoryStore, Record, open_provider
from aembed.errors import BadRequestError, ConfigError, StoppedError
from aembed.protocols import HasTokenizer, Learns, Provider
from aembed.providers._in_process import InProcessProvider, Model, TokenizerCounter
from aembed.types import InputType, Space

pytest.importorskip("fastembed")

from tests.providers import tiny_models

KINDS = ("fastembed", "model2vec")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_onnx(tmp_path_factory.mktemp("onnx"), pooling="mean_tokens")


@pytest.fixture(scope="module")
def names(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    static = tiny_models.write_model2vec(tmp_path_factory.mktemp("static"))
    return {"fastembed": f"fastembed:{folder}", "model2vec": f"model2vec:{static}"}


def mean_of(*words: str, ends: bool) -> np.ndarray:
    """What the model has to give: the mean of its tokens' vectors, 1 long."""
    tokens, rows = tiny_models.tokenizer(), tiny_models.table()
    found = rows[tokens.encode(" ".join(words), add_special_tokens=ends).ids].mean(axis=0)
    vector: np.ndarray = found / np.linalg.norm(found)
    return vector


@pytest.mark.parametrize("kind", KINDS)
async def test_a_model_in_the_process_gives_what_its_library_gives(kind: str, names: dict[str, str]) -> None:
    provider = open_provider(names[kind])
    assert isinstance(provider, Provider)
    assert isinstance(provider, Learns)
    assert isinstance(provider, HasTokenizer)
    assert (provider.price_usd, provider.space.dimensions) == (0.0, None)
    texts = [("cat", "cat dog moon", "sun " * 9)[i % 3] for i in range(100)]
    reply = await provider.embed(texts, input_type="document")
    expected = [mean_of(*text.split(), ends=kind == "fastembed") for text in texts]
    assert np.allclose(reply.matrix, expected, atol=1e-5)
    assert (reply.matrix.dtype, reply.usage.tokens) == (np.float32, 0)
    assert provider.space == Space(kind, names[kind].partition(":")[2], tiny_models.DIMENSIONS)
    await provider.aclose()
    again = await provider.embed(["cat"], input_type="query")
    assert np.allclose(again.matrix[0], expected[0], atol=1e-5)


async def test_fastembed_gets_the_prefixes_that_its_models_were_made_for(tmp_path: Path) -> None:
    folder = tiny_models.write_onnx(tmp_path / "e5-small-v2", pooling="mean_tokens")
    async with Embedder(f"fastembed:{folder}") as embedder:
        document, query = (await embedder.embed_documents(["cat"]))[0], await embedder.embed_query("cat")
    assert np.allclose(document, mean_of("passage:", "cat", ends=True), atol=1e-5)
    assert np.allclose(query, mean_of("query:", "cat", ends=True), atol=1e-5)
    provider = open_provider(f"fastembed:{folder}", document_prefix="", query_prefix="")
    async with Embedder(provider) as embedder:
        assert np.allclose((await embedder.embed_documents(["cat"]))[0], mean_of("cat", ends=True), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_is_filled_searched_and_found_unchanged(kind: str, names: dict[str, str], tmp_path: Path) -> None:
    records = [Record(str(i), text) for i, text in enumerate(["cat", "dog", "moon", "cat sun " * 3, ""])]
    store = str(tmp_path / "a.db")
    async with Embedder(names[kind]) as embedder:
        first = await embedder.embed_into(store, records)
        assert (first.stored, first.failed, first.cost_usd) == (4, 1, 0.0)
        assert (await embedder.search(store, "moon", k=1))[0].id == "2"
    async with Embedder(names[kind]) as embedder:
        # Before anything else is asked for: a dry run measures texts as the run does.
        plan = await embedder.plan(store, records)
        assert (plan.unchanged, plan.requests) == (4, 0)
        assert (await embedder.embed_into(store, records)).unchanged == 4


async def test_input_types_reach_a_model_that_tells_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path))
    tiny_models.write_cached(tmp_path, "jinaai/jina-embeddings-v3", file="onnx/model.onnx", tasks=True)
    (tmp_path / "models--jinaai--jina-embeddings-v3/snapshots/abc123/onnx/model.onnx_data").touch()
    async with Embedder("fastembed:jinaai/jina-embeddings-v3") as embedder:
        document = (await embedder.embed_documents(["cat"])).vectors[0]
        query = await embedder.embed_query("cat")
    rows, tasks = tiny_models.table()[tiny_models.tokenizer().encode("cat").ids].mean(axis=0), tiny_models.table(2)
    for vector, task in ((query, 0), (document, 1)):
        expected = rows + tasks[task]
        assert np.allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


LONG = " ".join(["cat", "dog", "moon", "sun"] * 10)


async def test_a_text_that_is_too_long_is_counted_and_never_cut_in_silence(folder: Path) -> None:
    provider = open_provider(f"fastembed:{folder}")
    with pytest.raises(BadRequestError, match="42 tokens, the model takes 16") as raised:
        await provider.embed(["cat", LONG, "dog"], input_type="document")
    told = raised.value
    assert (told.offender, told.requested_tokens, told.max_tokens, told.about_length) == (1, 42, 16, True)
    async with Embedder(f"fastembed:{folder}") as embedder:
        embeddings = await embedder.embed_documents(["cat", LONG, "dog"])
        assert [failure.index for failure in embeddings.failures] == [1]
        with pytest.raises(InputError, match="42 tokens, the limit is 16"):
            raise embeddings.failures[0].error
        with pytest.raises((InputError, BadRequestError), match="42 tokens"):
            await embedder.embed_query(LONG)


async def test_too_long_cuts_at_the_models_own_tokens(folder: Path) -> None:
    words = LONG.split()
    async with Embedder(f"fastembed:{folder}", too_long="truncate") as embedder:
        cut = (await embedder.embed_documents([LONG])).vectors[0]
        assert np.allclose(cut, mean_of(*words[:14], ends=True), atol=1e-5)
    async with Embedder(f"fastembed:{folder}", too_long="split") as embedder:
        whole = (await embedder.embed_documents([LONG])).vectors[0]
    pieces = [words[:14], words[14:28], words[28:]]
    weighted = sum((len(piece) + 2) * mean_of(*piece, ends=True) for piece in pieces)
    assert whole @ (weighted / np.linalg.norm(weighted)) > 0.999


@pytest.mark.parametrize("text", ["cat", LONG, "aé🙂" * 40, "cat" * 50, "  \n " * 30 + "dog", "日本語" * 20])
@pytest.mark.parametrize("most", [4, 16])
def test_pieces_are_the_text_and_fit(text: str, most: int) -> None:
    counter = TokenizerCounter(tiny_models.tokenizer())
    pieces = list(counter.cut(text, most))
    assert "".join(pieces) == text
    assert max(map(counter.count, pieces)) <= most


async def test_a_static_model_takes_the_whole_of_a_long_text(names: dict[str, str]) -> None:
    async with Embedder(names["model2vec"]) as embedder:
        found = (await embedder.embed_documents(["cat " * 900 + "dog " * 900])).vectors[0]
    assert np.allclose(found, mean_of("cat", "dog", ends=False), atol=1e-4)


async def test_a_text_of_which_the_model_knows_nothing_fails_alone(names: dict[str, str]) -> None:
    async with Embedder(names["model2vec"]) as embedder:
        embeddings = await embedder.embed_documents(["cat", "!!!", "dog"])
    assert [str(failure.error) for failure in embeddings.failures] == [
        "the model knows no token of the text: its vector is zero"
    ]


# what is not there


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[socket.socket]:
    """A listener in the place of the hub, and empty caches, for a process that is started."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        for name in ("HF_HOME", "FASTEMBED_CACHE_PATH"):
            monkeypatch.setenv(name, str(tmp_path))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        listener.setblocking(False)
        yield listener


ADVICE = {
    "fastembed:BAAI/bge-small-en-v1.5": "TextEmbedding('BAAI/bge-small-en-v1.5')\"",
    "fastembed:bge-small-en-v1.5": "it knows BAAI/bge-small-en-v1.5",
    "model2vec:minishlab/potion-base-8M": "StaticModel.from_pretrained('minishlab/potion-base-8M')\"",
}


def test_a_model_that_is_not_there_is_told_and_not_downloaded(hub: socket.socket) -> None:
    code = """if True:
        import asyncio, sys
        from aembed import ConfigError, Embedder

        async def main():
            for name in sys.argv[1:]:
                try:
                    await Embedder(name).embed_documents(["cat"])
                except ConfigError as error:
                    print(str(error).replace(chr(10), " "))

        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", code, *ADVICE], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for line, advice in zip(done.stdout.splitlines(), ADVICE.values(), strict=True):
        assert advice in line
    with pytest.raises(BlockingIOError):
        hub.accept()


def test_the_command_says_so_in_one_line(hub: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cat dog")
    command = ["-m", "aembed", "index", "a.txt", "--model", "fastembed:BAAI/bge-small-en-v1.5", "--option", "threads=1"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: fastembed cannot load BAAI/bge-small-en-v1.5")
    assert len(done.stderr.splitlines()) == 2


async def test_a_query_tells_it_too(hub: socket.socket) -> None:
    async with Embedder("fastembed:BAAI/bge-small-en-v1.5") as embedder:
        with pytest.raises(ConfigError, match="to download it, type"):
            await embedder.embed_query("cat")


@pytest.mark.parametrize(
    ("prefix", "command"),
    [
        ("fastembed", r'pip install "aembed\[fastembed\]"'),
        ("model2vec", "pip install model2vec"),
        ("sentence-transformers", "pip install sentence-transformers"),
    ],
)
def test_without_its_package_it_says_what_to_type(
    prefix: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_provider("fake:x")
    __import__(f"aembed.providers.{prefix.replace('-', '_')}")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    for name in [name for name in sys.modules if name.partition(".")[0] == prefix.replace("-", "_")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=command):
        open_provider(f"{prefix}:some/model")


def test_naming_a_model_imports_no_library() -> None:
    code = """if True:
        import sys
        from aembed import Embedder
        Embedder("fastembed:BAAI/bge-small-en-v1.5"), Embedder("model2vec:minishlab/potion-base-8M")
        print(sorted({"fastembed", "onnxruntime", "model2vec", "tokenizers"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"threads": 0}, "threads=0 must be an int from 1"),
        ({"pooling": "max"}, "pooling='max' must be one of cls, mean, lasttoken, none"),
        ({"api_key": "sk-1"}, "takes no api_key"),
        ({"base_url": "http://localhost"}, "takes no base_url"),
        ({"encoding": "float"}, "has no option 'encoding'"),
    ],
)
def test_options_that_cannot_be_are_told_at_once(options: dict[str, Any], told: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        open_provider(f"fastembed:{folder}", **options)
    with pytest.raises(ConfigError, match="there is no folder /no/such"):
        open_provider("fastembed:/no/such")


async def test_dimensions_that_the_model_does_not_have_are_told(names: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="has 8 dimensions, not 4"):
        await Embedder(names["fastembed"], dimensions=4).embed_documents(["cat"])
    shortened = await Embedder(names["model2vec"], dimensions=4).embed_documents(["cat"])
    assert np.allclose(np.linalg.norm(shortened.vectors, axis=1), 1, atol=1e-5)


# folders


async def test_a_folder_says_how_its_vectors_are_made_or_the_option_does(tmp_path: Path) -> None:
    made = tiny_models.write_onnx(tmp_path / "a", file="onnx/model.onnx", pooling="cls_token")
    rows = tiny_models.table()
    first = (await open_provider(f"fastembed:{made}").embed(["cat", "dog"], input_type="document")).matrix
    assert np.allclose(first, [rows[2] / np.linalg.norm(rows[2])] * 2, atol=1e-5)
    last = await open_provider(f"fastembed:{made}", pooling="lasttoken", threads=1).embed(["cat"], input_type="query")
    assert np.allclose(last.matrix[0], rows[3] / np.linalg.norm(rows[3]), atol=1e-5)
    tiny_models.write(made / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    mean = await open_provider(f"fastembed:{made}").embed(["cat"], input_type="query")
    assert np.allclose(mean.matrix[0], mean_of("cat", ends=True), atol=1e-5)


async def test_a_folder_says_how_long_a_text_may_be(tmp_path: Path) -> None:
    made = tiny_models.write_onnx(tmp_path, pooling="mean_tokens")
    tiny_models.write(made / "sentence_bert_config.json", {"max_seq_length": 8})
    with pytest.raises(BadRequestError, match="11 tokens, the model takes 8"):
        await open_provider(f"fastembed:{made}").embed(["cat " * 9], input_type="document")


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("pooling", "does not say how a vector is made of its tokens; pass pooling="),
        ("dense", "has a module Dense, which fastembed leaves out; use sentence-transformers:"),
        ("model", r"holds 0 files \*.onnx"),
        ("tokenizer", "Could not find tokenizer.json"),
    ],
)
async def test_a_folder_that_cannot_be_used_is_told(broken: str, told: str, tmp_path: Path) -> None:
    made = tiny_models.write_onnx(tmp_path, pooling=None if broken == "pooling" else "mean_tokens")
    if broken == "dense":
        kinds = ("Transformer", "Pooling", "Dense")
        tiny_models.write(made / "modules.json", [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds])
    if broken in ("model", "tokenizer"):
        (made / {"model": "model.onnx", "tokenizer": "tokenizer.json"}[broken]).unlink()
    with pytest.raises(ConfigError, match=told):
        await Embedder(f"fastembed:{made}").embed_into(MemoryStore(), [Record("a", "cat")])


async def test_a_link_to_another_folder_is_another_model(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        tiny_models.write_onnx(tmp_path / name, pooling="mean_tokens")
    link = tmp_path / "current"
    link.symlink_to("v1")
    first = open_provider(f"fastembed:{link}").space
    link.unlink()
    link.symlink_to("v2")
    assert first.model.endswith("/v1")
    assert open_provider(f"fastembed:{link}").space.model.endswith("/v2")


# one pass at a time, and the loop beside it


class Passes:
    """Forward passes that wait until they are told, and tell how many ran at a time."""

    def __init__(self) -> None:
        self.go, self.began = Event(), Event()
        self.log: list[tuple[list[str], InputType]] = []
        self.most = self._now = 0
        self._lock = Lock()

    def __call__(self, texts: list[str], input_type: InputType) -> Any:
        if texts == ["dimensions"]:
            return np.ones((1, 4))
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.log.append((texts, input_type))
        self.began.set()
        assert self.go.wait(30)
        with self._lock:
            self._now -= 1
        if "break" in texts:
            raise RuntimeError(f"cannot read {texts}")
        return np.ones((len(texts), 4))

    def provider(self, most: int | None = None) -> InProcessProvider:
        model = Model(self, tiny_models.tokenizer() if most else None, most)
        return InProcessProvider(Space("test", "passes"), lambda: model, download="nothing")

    async def wait_for_one(self) -> None:
        assert await asyncio.to_thread(self.began.wait, 30)
        self.began.clear()


async def test_a_caller_that_is_cancelled_leaves_at_once_and_no_second_pass_runs_beside_the_first() -> None:
    passes = Passes()
    provider = passes.provider()
    running = asyncio.create_task(provider.embed(["a"], input_type="document"))
    await passes.wait_for_one()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not passes.go.is_set()
    following = [asyncio.create_task(provider.embed(["b"], input_type="query")) for _ in range(3)]
    await asyncio.sleep(0.01)
    passes.go.set()
    for reply in await asyncio.gather(*following):
        assert reply.matrix.shape == (1, 4)
    assert (passes.most, len(passes.log)) == (1, 4)


async def test_an_embedder_closes_though_a_pass_goes_on() -> None:
    passes = Passes()
    embedder = Embedder(passes.provider())
    job = asyncio.create_task(embedder.embed_documents(["a", "b"]))
    await passes.wait_for_one()
    await embedder.aclose(timeout=0)
    with pytest.raises(StoppedError):
        await job
    assert not passes.go.is_set()
    passes.go.set()


async def test_documents_that_wait_for_their_turn_are_let_go_of_at_the_end() -> None:
    passes = Passes()
    embedder = Embedder(passes.provider())
    job = asyncio.create_task(embedder.embed_documents([f"text {i}" for i in range(200)]))
    await passes.wait_for_one()
    closing = asyncio.create_task(embedder.aclose())
    await asyncio.sleep(0.01)
    passes.go.set()
    await closing
    with pytest.raises(StoppedError) as raised:
        await job
    assert raised.value.report is not None
    assert raised.value.report.stored == len(passes.log[0][0])
    assert len(passes.log) == 1


async def test_a_deadline_does_not_throw_away_what_is_being_computed() -> None:
    passes = Passes()
    with anyio.move_on_after(0.01) as scope:
        running = asyncio.create_task(passes.wait_for_one())
        running.add_done_callback(lambda _: asyncio.get_running_loop().call_later(0.03, passes.go.set))
        reply = await passes.provider().embed(["a"], input_type="document")
    assert scope.cancel_called
    assert not scope.cancelled_caught
    assert reply.matrix.shape == (1, 4)


async def test_a_query_goes_between_the_slices_of_documents() -> None:
    passes = Passes()
    provider = passes.provider(most=2_000)
    documents = ["cat " * 600] * 3
    jobs = [asyncio.create_task(provider.embed(documents, input_type="document")) for _ in range(2)]
    await passes.wait_for_one()
    query = asyncio.create_task(provider.embed(["moon"], input_type="query"))
    await asyncio.sleep(0.02)
    passes.go.set()
    await asyncio.gather(*jobs, query)
    assert [kind for _, kind in passes.log] == ["document", "query", *["document"] * 5]


async def test_what_a_library_raises_fails_that_text_alone_and_is_quoted_without_it() -> None:
    passes = Passes()
    passes.go.set()
    async with Embedder(passes.provider()) as embedder:
        embeddings = await embedder.embed_documents(["cat", "break", "dog"])
    assert [failure.index for failure in embeddings.failures] == [1]
    assert "the model failed: RuntimeError" in str(embeddings.failures[0].error)
    assert isinstance(embeddings.failures[0].error, BadRequestError)


def test_a_program_that_is_interrupted_ends(folder: Path, tmp_path: Path) -> None:
    """With the real library in the middle of a job: no thread of it keeps the process."""
    code = """if True:
        import asyncio, itertools, signal, sys
        from aembed import Embedder

        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts tests in the background ignores it

        async def main():
            async with Embedder(sys.argv[1]) as embedder:
                async with embedder.stream(f"cat {i} dog" for i in itertools.count()) as results:
                    async for result in results:
                        if result.index == 200:
                            print("under way", flush=True)

        asyncio.run(main())
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"fastembed:{folder}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way\n"
        process.send_signal(2)
        _, told = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in told
    assert process.returncode in (-2, 130)
