"""Stage 3: does a text fit, and what does it cost? The only file that imports tiktoken.

A byte-level tokenizer makes at most one token of a byte, so a text of no more bytes than tokens allowed
fits, uncounted. Only longer ones are tokenized, in a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache
from math import ceil
from typing import Any, TypeAlias

from aembed.core.billing import LEAST_SHARE, Billing
from aembed.core.changes import Entry, Item, oversize_error
from aembed.errors import BadRequestError, InputError
from aembed.limits import Limits
from aembed.preparation import NO_PREPARATION, Preparation
from aembed.protocols import HasTokenizer, TokenCounter
from aembed.types import InputType, TooLong

logger = logging.getLogger("aembed")

# Read out of both vocabularies (tiktoken 0.14). Were a later one's longer, texts that fit would be refused uncounted.
LONGEST_TOKEN_BYTES = 128
"""Of cl100k_base and o200k_base: a text of more bytes than that per token allowed is too long, uncounted."""

# Chosen: English has four to five characters a token, so that a block is some three pieces. Smaller, more text at the
# ends of blocks is tokenized twice; larger, what is cut off for "truncate" is tokenized for nothing.
BLOCK_CHARACTERS = 16
"""Characters tokenized at once, for each token allowed: a long text is cut in time linear to its length."""

# Chosen: a server that refuses 32 characters as too long means something else.
LEAST_CHARACTERS = 32
"""No text is cut to fewer because its provider refused it."""
# Chosen: the parts of a text differ in their tokens for each character. Larger, a piece that has more of them is
# refused once again; smaller, more of the text is lost.
SAFE_SHARE = 0.9
"""Of a limit in tokens, where a text is cut by its characters."""

ADVICE = 'cut it into records, or choose too_long="truncate" or "split"'

RunInThread: TypeAlias = Callable[..., Awaitable[Any]]


class TiktokenCounter:
    """Real counts by tiktoken. Loading the vocabulary may download it."""

    def __init__(self, encoding: str) -> None:
        import tiktoken

        self._encoding = tiktoken.get_encoding(encoding)

    def count(self, text: str) -> int:
        return len(self._encode(text))

    def cut(self, text: str, max_tokens: int) -> Iterator[str]:
        size, start = BLOCK_CHARACTERS * max_tokens, 0
        while start < len(text):
            block, end = text[start : start + size], start
            for piece in self._cut_block(block, max_tokens, is_last=start + size >= len(text)):
                yield piece
                end += len(piece)
            if end == start:
                size *= 2
            start = end

    def _cut_block(self, block: str, max_tokens: int, *, is_last: bool) -> Iterator[str]:
        """Pieces of the block; what is left of it at the end is given only if nothing follows."""
        tokens = self._encode(block)
        start = token = 0
        # Cut inside a character of several tokens, the rest has more of them than are left here: it is counted too.
        while len(tokens) - token > max_tokens or (is_last and start and self.count(block[start:]) > max_tokens):
            last = min(token + max_tokens, len(tokens) - 1)
            token, end = self._piece_end(block, start, tokens, last, max_tokens)
            yield block[start:end]
            start = end
        if is_last:
            yield block[start:]

    def _piece_end(self, block: str, start: int, tokens: list[int], token: int, max_tokens: int) -> tuple[int, int]:
        """The last token boundary at which the piece, tokenized alone, is short enough."""
        while True:
            # Where the token starts; one that starts inside a character counts from that one's start. tiktoken's own
            # decode_with_offsets() makes objects of every token, and holds up the loop from its thread.
            end = len(self._encoding.decode_bytes(tokens[:token]).decode(errors="ignore"))
            if end <= start:
                raise InputError(f"no part of the text has {max_tokens} tokens or fewer")
            if self.count(block[start:end]) <= max_tokens:
                return token, end
            token -= 1

    def _encode(self, text: str) -> list[int]:
        # encode_ordinary() dies of a BaseException on a million spaces and a letter; this raises ValueError.
        try:
            return self._encoding.encode(text, disallowed_special=())
        except ValueError:
            raise InputError("the tokenizer cannot read it (one very long run of a character)") from None


class ByteCounter:
    """The bound where no tokenizer is known or can be had: a token is at least one byte."""

    def count(self, text: str) -> int:
        return len(text.encode())

    def cut(self, text: str, max_tokens: int) -> Iterator[str]:
        data, start = text.encode(), 0
        while start < len(data):
            piece = data[start : start + max_tokens].decode("utf-8", errors="ignore")
            if not piece:
                raise InputError(f"no part of the text has {max_tokens} bytes or fewer")
            yield piece
            start += len(piece.encode())


class Measure:
    """Makes an item of an entry: pieces that fit, and their cost in the provider's own estimate.

    `exact`: every text is counted, where its tokenizer is known and can be had, because its cost must not be more.
    `preparation` has the prefix that each text, and each piece of one, is sent, counted and billed with.
    `provider` may have the tokenizer of its model (HasTokenizer).
    """

    def __init__(
        self,
        limits: Limits,
        too_long: TooLong,
        run_in_thread: RunInThread,
        *,
        exact: bool = False,
        billing: Billing | None = None,
        preparation: Preparation = NO_PREPARATION,
        input_type: InputType = "document",
        provider: object = None,
    ) -> None:
        self.preparation = preparation
        self._prefix = preparation.prefix(input_type)
        self._prefix_bytes = len(self._prefix.encode())
        self._billing = billing or Billing()
        self._tokenizer_of = provider if isinstance(provider, HasTokenizer) else None
        self._limits = limits
        self._too_long = too_long
        self.run_in_thread = run_in_thread
        self.exact = exact and limits.encoding is not None
        self._counter: TokenCounter | None = None

    def measure_quickly(self, entry: Entry) -> Item | None:
        """The item of a text that fits by its bytes alone; None where that or loading the tokenizer takes long."""
        size_bytes = self._prefix_bytes + entry.size_bytes
        if size_bytes > self._limits.max_tokens_per_text:
            return None
        if self.exact:
            return self._measure(entry) if self._counter else None
        return Item(entry, (self._prefix + entry.record.text,), size_bytes / self._limits.bytes_per_token)

    async def measure(self, entry: Entry) -> Item:
        """The item of any text. Raises InputError for one that is too long and may not be cut."""
        item: Item = await self.run_in_thread(self._measure, entry)
        return item

    def shorten(self, item: Item, error: BadRequestError) -> bool:
        """Cuts more off an item that was refused alone as too long, or cuts it in more pieces, as `too_long` says.

        By what the refusal names, else by half. False where nothing may be cut, or too little is left to be cut.
        """
        prefix = self._prefix
        texts = [text[len(prefix) :] for text in item.texts]
        longest = max(texts, key=len)
        if self._too_long == "error" or not error.about_length or len(longest) < 2 * LEAST_CHARACTERS:
            return False
        # A refusal without numbers: half finds the limit in as many requests as the text has doublings above it.
        share = 0.5
        if error.max_tokens and error.requested_tokens and error.max_tokens < error.requested_tokens:
            # Chosen: a tenth at the least, whatever a refusal says: one wrong number must not cut nearly all of a text.
            share = max(0.1, SAFE_SHARE * error.max_tokens / error.requested_tokens)
        most = max(LEAST_CHARACTERS, int(share * len(longest)))
        if self._too_long == "truncate":
            pieces = [texts[0][:most]]
        else:
            pieces = [text[start : start + most] for text in texts for start in range(0, len(text), most)]
        sizes = [float(len(piece.encode())) for piece in pieces]
        tokens = (sum(sizes) + len(pieces) * self._prefix_bytes) / self._limits.bytes_per_token
        cut = Item(item.entry, tuple(prefix + piece for piece in pieces), tokens, tuple(sizes))
        if oversize_error(cut, self._limits):
            return False
        item.texts, item.tokens, item.weights = cut.texts, cut.tokens, cut.weights
        return True

    # what budgets are asked for: what was counted, or what those bytes may cost

    @property
    def _is_counting(self) -> bool:
        return self.exact and isinstance(self._counter, TiktokenCounter)

    @property
    def most_billed_for_a_token(self) -> float:
        """Of the provider's own estimate."""
        return 1.0 if self._is_counting else self._limits.bytes_per_token * self._billing.most_tokens_per_byte

    def most_billed(self, texts: Sequence[str], tokens: float) -> int:
        """For texts of items that were made here, which are estimated at so many tokens."""
        return ceil(tokens if self._is_counting else self._billing.most_billed(texts))

    def believed_bill(self, texts: Sequence[str], tokens: float, billed: int | None) -> int | None:
        """What a reply says that they cost, if it can be meant."""
        if billed is None:
            return None
        good = billed * LEAST_SHARE >= tokens if self._is_counting else self._billing.is_believed(texts, billed)
        return billed if good else None

    def most_cost(self, item: Item) -> float:
        """The most that may be billed for this item, as part of a request."""
        return item.tokens if self._is_counting else self._billing.most_billed(item.texts)

    def _measure(self, entry: Entry) -> Item:
        models_own = self._tokenizer_of.counter() if self._tokenizer_of else None
        counter = self._counter = models_own or load_counter(self._limits.encoding)
        size_bytes = self._prefix_bytes + entry.size_bytes
        try:
            own = counter.count(self._prefix) if self._prefix else 0
            pieces = [self._prefix + piece for piece in self._pieces(counter, entry, size_bytes, own)]
            counts = [counter.count(piece) for piece in pieces]
            if self._too_long == "error" and size_bytes > self._limits.max_tokens_per_text:
                self._refuse_too_long(counter, size_bytes, counts[0])
        except InputError as error:
            raise InputError(f"the text of {entry.record.id!r}: {error}") from None
        sizes = [len(piece.encode()) for piece in pieces]
        estimates = [size / self._limits.bytes_per_token for size in sizes]
        known = estimates if isinstance(counter, ByteCounter) else counts
        tokens = sum(map(max, estimates, known))
        return Item(entry, tuple(pieces), tokens, tuple(float(max(1, each - own)) for each in counts))

    def _pieces(self, counter: TokenCounter, entry: Entry, size_bytes: int, own: int) -> list[str]:
        """The pieces without the prefix, which has `own` tokens; with it none has more than are allowed."""
        text, most = entry.record.text, self._limits.max_tokens_per_text
        if size_bytes <= most:
            return [text]
        if self._too_long == "error":
            if size_bytes > most * LONGEST_TOKEN_BYTES:
                raise InputError(f"{size_bytes:,} bytes cannot be {most:,} tokens, the limit; {ADVICE}")
            return [text]
        # A byte pair tokenizer may cut the text otherwise behind a prefix: one token is left for that.
        room = most - own - 1 if own else most
        if room < 1:
            raise InputError(f"a prefix of {own:,} tokens leaves no room in {most:,}, the limit of the model")
        if self._too_long == "truncate":
            return [next(counter.cut(text[: room * LONGEST_TOKEN_BYTES], room))]
        return list(counter.cut(text, room))

    def _refuse_too_long(self, counter: TokenCounter, size_bytes: int, count: float) -> None:
        """Without a tokenizer the provider decides on texts that its own estimate lets through."""
        about, most = "", self._limits.max_tokens_per_text
        if isinstance(counter, ByteCounter):
            about, count = "about ", size_bytes / self._limits.bytes_per_token
        if count > most:
            raise InputError(f"{about}{count:,.0f} tokens, the limit is {most:,}; {ADVICE}")


@cache
def load_counter(encoding: str | None) -> TokenCounter:
    """tiktoken's counts, or the byte bound where its vocabulary cannot be had. Blocks: call it in a thread."""
    if encoding is None:
        return ByteCounter()
    try:
        return TiktokenCounter(encoding)
    except Exception as error:
        logger.warning(
            "tiktoken has no vocabulary %s (%s); texts are measured by their bytes", encoding, type(error).__name__
        )
        return ByteCounter()
