"""What stands below the flags in each help: examples, exit codes, variables of the environment, providers."""

from __future__ import annotations

from aembed.providers import prefixes

# click fills the lines of a help to 80 columns unless a larger width is allowed.
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 10_000}
"""As wide as the terminal is."""


def _block(title: str, *lines: str) -> str:
    """Left as it is written: click would fill the lines."""
    return "\n".join(["\b", f"{title}:", *(f"  {line}" for line in lines)])


EXIT_CODES = _block(
    "Exit codes",
    "0    all stored or unchanged",
    "1    finished, some texts failed",
    "2    usage, configuration or key; nothing was spent",
    "3    stopped early; run the same command again to go on",
    "4    with --batch: texts are out in batches; run the same command again to collect them",
    "129, 130, 143   SIGHUP, Ctrl-C, SIGTERM; what was sent is waited for, a second signal ends at once",
    "141  whoever reads the output has gone",
)
PROVIDERS = _block(
    "Providers (--model PROVIDER:MODEL)",
    "openai:text-embedding-3-small   OpenAI, and with --base-url every server that speaks its format",
    "ollama:nomic-embed-text         Ollama on this machine, or at OLLAMA_HOST",
    "tei:BAAI/bge-small-en-v1.5      text-embeddings-inference at --base-url",
    "local                           a model in this process, without a key: pip install 'aembed[local]'",
    f"all of them: {', '.join(prefixes())}",
)
VARIABLES = _block(
    "Environment",
    "AEMBED_STORE, AEMBED_MODEL      in place of --store and --model",
    "AEMBED_CACHE, AEMBED_COORDINATOR in place of --cache and --coordinator",
    "OPENAI_API_KEY                  the key; OPENAI_BASE_URL, OPENAI_ORG_ID, OPENAI_PROJECT_ID as for the SDK",
    "OLLAMA_HOST                     where Ollama is",
    "HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE   as for httpx",
    "AEMBED_RECORD                   a folder for replies that are refused or broken",
)
INDEX = _block(
    "Examples",
    "aembed index docs",
    "aembed index rows.csv --id-field sku --text-field title -m openai:text-embedding-3-small --max-cost 5",
    "aembed index old.db --store new.db -m openai:text-embedding-3-large",
    "cat rows.jsonl | aembed index - --dry-run",
)
SEARCH = _block(
    "Examples",
    'aembed search "how do I reset my password?"',
    'aembed search "refunds" -k 3 --where lang=en --json',
    'aembed search "refunds" --store "$DATABASE_URL" --table sections --text content',
)
BACKFILL = _block(
    "Examples",
    "aembed backfill --store app.db --table sections --text content --dry-run",
    'aembed backfill --store "$DATABASE_URL" --table sections --text content --create-columns --index',
)
EXPORT = _block(
    "Examples",
    "aembed export notes.parquet --store notes.db",
    "aembed export english.jsonl --where lang=en --overwrite",
    'aembed export sections.npz --store "$DATABASE_URL" --table sections --text content',
)
STATUS = _block(
    "Examples",
    "aembed status --json",
    'aembed status --store "$DATABASE_URL" --table sections --text content',
)
FAILURES = _block("Examples", "aembed failures --store notes.db --json")

MOVE = _block("Examples", "aembed move --store notes.db --base-url http://localhost:8080/v1")
CACHE = _block(
    "Examples",
    "aembed cache --cache cache.db",
    'aembed cache --cache "$DATABASE_URL" --prune 90d',
)
REMOVE = _block(
    "Examples",
    "aembed remove --source docs --dry-run",
    "aembed remove --id 'guide.md#install' --id 'guide.md#use' --store notes.db",
)


def epilog(*blocks: str) -> str:
    return "\n\n".join(blocks)
