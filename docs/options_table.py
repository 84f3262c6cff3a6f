"""docs/options.md, written from the code: signatures, flags, options of providers, variables of the environment.

python -m docs.options_table

What each keyword means is said here, in KEYWORDS; that none is missing and none is too many, the signatures decide.
A test compares the page with what this writes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer.main

import aembed
from aembed.cli._app import TRACEBACK, make_app
from aembed.providers import openai, prefixes
from aembed.providers._recorder import VARIABLE
from aembed.providers._rows import ROWS
from aembed.stores._postgresql import _url

PAGE = Path(__file__).parent / "options.md"

HEAD = """# Options

Every keyword of the library, every flag of the command, and every variable of the environment that aembed reads. This
page is written from the code by `python -m docs.options_table`.

Times are seconds. Money is US dollars. A value that cannot be is a `ConfigError` (exit code 2) that names the option,
before anything is read or sent.
"""

EMBEDDER = {
    "model": '`"provider:model"` (as `openai:text-embedding-3-small`), `"local"`, or a Provider object.',
    "api_key": "The key. None: the provider's own variable of the environment. Of several addresses: one for all, or a "
    "list with one for each.",
    "base_url": "Another server that speaks the same format, or a list of addresses that serve one model. None: the "
    "provider's own address, or its variable.",
    "dimensions": "Shorten the vectors, where the model can.",
    "concurrency": 'The most requests in flight, up to 10,000; `"auto"` begins with 8 and goes up to 64. Each of '
    "several addresses has so many.",
    "requests_per_minute": "A ceiling, for each address. None: learned from the replies.",
    "tokens_per_minute": "A ceiling, in tokens as the provider counts them. None: learned from the replies.",
    "max_batch_size": "The most texts in a request. It may only be smaller than the provider's own limit.",
    "max_tokens_per_batch": "The most tokens in a request. It may only be smaller than the provider's own limit.",
    "too_long": 'What becomes of a text of more tokens than the model takes: it fails (`"error"`), is cut '
    '(`"truncate"`), or is embedded in pieces whose weighted mean is its vector (`"split"`).',
    "retry": "How failed requests are tried again; see RetryPolicy.",
    "timeout": "The most seconds that one request may take.",
    "budget": "The most that jobs may spend: one Budget, or several.",
    "query_budget": "The most that queries may spend, for the life of the Embedder.",
    "cache": "A file, or a `postgresql://` URL, that keeps vectors for any number of processes: what it has is not "
    "bought, see [Many machines](scale.md).",
    "cache_queries": "Keep the vectors of queries there, too.",
    "cache_bytes": "Memory for the vectors of queries that come again. 0: none.",
    "coordinator": "A file, or a `postgresql://` URL, by which workers share the limits of a key, and budgets of a day "
    "or a month; see [Many machines](scale.md#one-limit).",
    "max_queue_size": "The most queries that may wait. None: any number.",
    "http_client": "An AsyncClient of httpx or httpx2 of your own. It is used as it is, and never closed.",
    "on_event": "A plain function that is told of requests, retries, outages, batches and jobs; see "
    "[Seeing it work](observing.md).",
}
VERBS = {
    "texts": "Any iterable or async iterable of str; `search_many` takes no async one.",
    "text": "The text of one query, or of one document.",
    "records": "Any iterable or async iterable of Record or str, another store, or a table in Arrow's form.",
    "store": "A store, or its URL or path. `search` and `search_many` take a column, too.",
    "backlog": "A column of a table of your own.",
    "on_progress": "Called with a Progress, five times a second at the most; may be `async def`.",
    "on_failure": "Called with each Failure; may be `async def`.",
    "retry_failed": "Send texts that were refused by an earlier run once more.",
    "batch": "Through the batch API of the provider, for less money and within a day; see [Batches](batch.md).",
    "fallback_live": "With `batch`: texts that two batches gave nothing are sent live.",
    "watch": "Of `backfill`: go on, and fill what comes, until it is cancelled.",
    "poll": "With `watch`: look for rows at least so often.",
    "recheck": "With `watch`: look at all rows so often.",
    "limit": "Fill so many rows only.",
    "k": "How many rows.",
    "where": "Keep rows whose metadata (or columns) pass this filter; see [Search](searching.md#filters).",
    "hybrid": "Look up exact names of the question, too, and fuse both rankings.",
    "timeout": "The caller's own, for `embed_query`; for `aclose`, how long what was sent may take to arrive.",
}
RETRY = {
    "max_retries": "Server and network errors of a single text, after which it fails while others are answered.",
    "backoff_base": "The first wait; each following one is twice as long.",
    "backoff_max": "The longest wait between two tries.",
    "max_outage": "How long the provider may be away before a job ends with OutageError.",
}
BUDGET = {
    "max_billed_tokens": "The most tokens. None: no limit.",
    "max_cost_usd": "The most dollars, for a model whose price is known. None: no limit.",
    "per": '`"job"`, `"embedder"`, `"day"` or `"month"` (of the clock, in UTC).',
}
STORES = {
    "path": "The file, or a `sqlite:` URL.",
    "place": "A URL, or an asyncpg pool of your own.",
    "table": "The table: `name` or `schema.name`.",
    "storage": '`"vector"` or `"halfvec"`. None: halfvec for more than 2,000 dimensions.',
    "store_text": "Whether texts are kept beside their vectors.",
    "lock_timeout": "How long to wait for another process's lock on the file.",
    "command_timeout": "The most seconds that one transaction may take.",
    "max_store_outage": "How long to wait for a server that is away.",
    "lease_seconds": "After so many seconds without a sign of life the rows of a worker are taken over.",
    "text": "The column of the texts.",
    "text_sql": "An expression over the row, in place of the column of the texts.",
    "vector": "The column of the vectors.",
    "key": "Unique columns. None: the primary key (in SQLite else the rowid).",
    "where": "A condition in SQL: these rows only. It is put into the statements as it is.",
    "fingerprint": "A column that keeps the hash of the text; rows whose text changed since are filled again.",
    "create_columns": "Add the columns of vectors and fingerprints where they are missing.",
    "create_triggers": 'Add triggers that note which rows change: `"watch"` (PostgreSQL) for a watch, `"search"` '
    "(SQLite) for fast searches of a large table.",
    "updated_at": "A column that tells when a row was edited, for a watch without triggers; goes with `fingerprint`.",
}
FAKE = {
    "model": "A name.",
    "dimensions": "The width of the vectors.",
    "latency": "Seconds that each reply takes.",
    "script": "What happens to which request; see Testing your app.",
    "limits": "What one request may carry.",
    "price_usd": "Dollars for 1,000,000 tokens.",
    "keep_texts": "Whether the ledger keeps the texts that were sent.",
    "preparation": "What its model wants of new stores: prefixes or input types.",
    "vectors": "Answers for some texts, in the place of those that are made from them.",
}
VARIABLES = {
    "AEMBED_STORE": "The store of the command, in place of `--store`.",
    "AEMBED_CACHE": "The cache of the command, in place of `--cache`.",
    "AEMBED_COORDINATOR": "The coordinator of the command, in place of `--coordinator`.",
    "AEMBED_MODEL": "The model of the command, where the store has none and `--model` is not given.",
    VARIABLE: "A folder for replies that are refused or broken.",
    TRACEBACK: "Show a mistake of aembed's own with its traceback, which may hold texts.",
    "OPENAI_API_KEY": "The key of `openai:`.",
    "OPENAI_BASE_URL": "The address of `openai:`, where `base_url=` is not given.",
    "OPENAI_ORG_ID": "Sent as the header openai-organization.",
    "OPENAI_PROJECT_ID": "Sent as the header openai-project.",
    "CLOUDFLARE_ACCOUNT_ID": "The account of `cloudflare:`, which stands in its address.",
    "AWS_BEARER_TOKEN_BEDROCK": "The key of `bedrock:`; without it requests are signed with the credentials of AWS.",
    "AWS_REGION, AWS_DEFAULT_REGION": "The region of `bedrock:`, where `region=` is not given.",
    "CO_API_KEY, COHERE_API_KEY": "The key of `cohere:`: the first that is set.",
    "CO_API_URL": "The address of `cohere:`, where `base_url=` is not given.",
    "GOOGLE_API_KEY, GEMINI_API_KEY": "The key of `gemini:`: the first that is set, as google-genai has it.",
    "PERPLEXITY_API_KEY, PPLX_API_KEY": "The key of `perplexity:`: the first that is set.",
    "OLLAMA_HOST": "Where Ollama is: `host`, `host:port`, `:port` or a URL.",
    "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY": "Proxies, as httpx reads them, but never for this machine.",
    "SSL_CERT_FILE, SSL_CERT_DIR": "Certificates to trust.",
    "TIKTOKEN_CACHE_DIR": "Where tiktoken keeps its vocabulary, which counts long texts, and all texts under a budget.",
}
URL_GROUPS = {
    "Of aembed": _url.OURS,
    "TLS and files, as in libpq": _url.PASSED,
    "Settings of the session": _url.SETTINGS,
    "Where and who": _url.CONNECT,
    "Signs of a pooler, which are not passed on": _url.POOLERS,
}


def page() -> str:
    parts = [
        HEAD,
        "## Keywords of Embedder\n\nThe functions of the module (`aembed.embed_documents`, ...) take them, too. A "
        "typed function of yours that hands them on takes `**options: Unpack[aembed.EmbedderOptions]`.\n",
        keywords(aembed.Embedder, EMBEDDER),
        "## Keywords of the verbs\n",
        verbs(),
        "## RetryPolicy\n",
        keywords(aembed.RetryPolicy, RETRY),
        "## Budget\n",
        keywords(aembed.Budget, BUDGET),
        *(part for name in STORE_CLASSES for part in (f"## {name}\n", keywords(getattr(aembed, name), STORES))),
        "## FakeProvider\n",
        keywords(aembed.FakeProvider, FAKE),
        "## Options of a provider\n\n`open_provider(name, option=value)`, or `--option KEY=VALUE` in the command. "
        f"Known providers: {', '.join(f'`{prefix}:`' for prefix in prefixes())}. "
        "Those of every provider that is reached over HTTP:\n",
        table(("option", "values"), ((f"`{name}`", values) for name, values in openai.OPTIONS.items())),
        "## Parameters of a PostgreSQL URL\n\nWhat is not listed is a ConfigError, which names those that are known.\n",
        table(("parameters", ""), ((f"{_listed(names)}", group) for group, names in URL_GROUPS.items())),
        "## Flags of the command\n",
        command_flags(),
        "## Variables of the environment\n",
        table(("variable", "meaning"), ((_listed(name.split(", ")), what) for name, what in variables().items())),
    ]
    return "\n".join(parts)


STORE_CLASSES = ("SQLiteStore", "PostgresStore", "SQLiteColumn", "PostgresColumn")
VERB_NAMES = (
    "embed_documents",
    "embed_query",
    "embed_document",
    "stream",
    "embed_into",
    "plan",
    "backfill",
    "search",
    "search_many",
    "move",
    "aclose",
)


def keywords(owner: Any, meaning: Mapping[str, str]) -> str:
    """Raises KeyError for a keyword that is not described, and ValueError for one that is not there."""
    given = _parameters(owner)
    if meaning is not STORES and (more := meaning.keys() - given.keys()):
        raise ValueError(f"{owner.__name__} has no keyword {sorted(more)}")
    rows = ((f"`{name}`", _type(each.annotation), _default(each), meaning[name]) for name, each in given.items())
    return table(("keyword", "type", "default", "meaning"), rows)


def verbs() -> str:
    found: dict[str, list[str]] = {}
    for verb in VERB_NAMES:
        for name, each in _parameters(getattr(aembed.Embedder, verb)).items():
            found.setdefault(name, []).append(f"`{verb}`" + (f" ({_default(each)})" if _default(each) else ""))
    if found.keys() != VERBS.keys():
        raise ValueError(f"VERBS differs from the signatures in {sorted(found.keys() ^ VERBS.keys())}")
    return table(("keyword", "of", "meaning"), ((f"`{n}`", ", ".join(of), VERBS[n]) for n, of in found.items()))


def command_flags() -> str:
    """Each flag once, with the commands that take it; one that means something else elsewhere stands there again."""
    found: dict[tuple[str, str], tuple[str, str, list[str]]] = {}
    for name, command in typer.main.get_command(make_app()).commands.items():
        for each in command.params:
            if each.param_type_name == "argument":
                flag, text = each.metavar or each.name.upper(), each.help or ""
            else:
                flag, text = ", ".join([*each.opts, *each.secondary_opts]), each.help or ""
            value = "" if each.param_type_name == "argument" or getattr(each, "is_flag", False) else each.metavar or ""
            default = _flag_default(each)
            found.setdefault((flag, text), (value, default, []))[2].append(name)
    rows = (
        (f"`{flag}`" + (f" {value}" if value else ""), default, ", ".join(commands), text)
        for (flag, text), (value, default, commands) in sorted(found.items())
    )
    return table(("flag", "default", "commands", "meaning"), rows)


def variables() -> Mapping[str, str]:
    """Keys of rows need no description. Raises ValueError where a row reads another variable that is not described."""
    keys = {}
    for row in ROWS.values():
        if names := ", ".join(row.key_variables):
            keys[names] = f"The key of `{row.name}:`" + (": the first that is set." if "," in names else ".")
    read = {row.url_variable for row in ROWS.values()} | {
        name for row in ROWS.values() for name in row.header_variables
    }
    if missing := read - {""} - VARIABLES.keys() - keys.keys():
        raise ValueError(f"VARIABLES lacks {sorted(missing)}")
    return {**VARIABLES, **{name: said for name, said in sorted(keys.items()) if name not in VARIABLES}}


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _parameters(owner: Any) -> dict[str, inspect.Parameter]:
    given: Callable[..., Any] = owner.__init__ if inspect.isclass(owner) else owner
    return {name: each for name, each in inspect.signature(given).parameters.items() if name != "self"}


def _type(annotation: Any) -> str:
    return f"`{annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)}`"


def _default(each: inspect.Parameter) -> str:
    return "" if each.default is inspect.Parameter.empty else f"`{_shown(each.default)}`"


def _shown(value: Any) -> str:
    return f"{value:_}" if type(value) is int and value >= 10_000 else repr(value)


def _flag_default(each: Any) -> str:
    value = each.default
    plain = isinstance(value, str | int | float) and not isinstance(value, bool) and not callable(value)
    return f"`{getattr(value, 'value', value)}`" if plain and not each.required else ""


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in (sorted(names) if isinstance(names, set) else names))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
