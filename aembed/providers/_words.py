"""Words and codes of errors that mean more than their status does, whatever that is.

One table for all services: proxies and gateways give each other's words another status. Who writes them stands beside.
"""

from __future__ import annotations

import re

NO_MONEY_KINDS = re.compile(
    r"insufficient_|"  # OpenAI, DeepSeek, Jina
    r"billing_|account_deactivated|"  # OpenAI
    r"quota_exhausted|credit_balance|payment_required|out_of_credit|"
    r"budget_exceeded|exceeded_budget|"  # LiteLLM: the budget of a key or a team
    r"arrear|"  # DashScope
    r"exceeded_current_quota|"  # Moonshot
    r"servicequotaexceeded|"  # Bedrock, as a 400
    r"1113$"  # Zhipu
)
"""How the code or type of an error begins, in lower case."""
# Zhipu's code, where it comes as a number.
NO_MONEY_CODES = frozenset({1113})
NO_MONEY = re.compile(
    r"\binsufficient[ _](?:account )?(?:quota|balance|credits?|funds)\b|"
    r"\bbudget has been exceeded\b|\bexceeded (?:your|its|the) (?:\w+ )?budget\b|"  # LiteLLM
    r"\b(?:your )?(?:credit |account )?balance is (?:too low|insufficient)\b|"  # Anthropic
    r"\b(?:your )?account (?:\S{1,80} )?is suspended\b|"  # Fireworks, as a 412
    r"\bout of credits?\b|\baccount (?:is )?(?:overdue|in arrears)\b|"
    r"(?:\byou )?\bexceeded your current quota, please check your plan and billing\b",  # OpenAI; Google, below
    re.IGNORECASE,
)
A_RATE = re.compile(r"resource_exhausted|\bretry in\b|\bai\.google\.dev\b|quotaId", re.IGNORECASE)
"""Google has OpenAI's words of money for a rate."""

BAD_KEY = re.compile(
    r"\b(?:invalid|incorrect|malformed|missing|expired)[^.]{0,20}\bapi[ _-]?key|"
    r"\bapi[ _-]?key[^.]{0,20}\b(?:invalid|incorrect|not valid|expired|missing|required)",
    re.IGNORECASE,
)
BAD_SETTING = re.compile(
    r"\bmodel\b.{0,100}\b(?:not found|does ?n[o']t exist|not supported|not available)|"
    r"\b(?:invalid|unknown|unsupported|no such) model\b|"
    r"not support[^.]{0,40}\bdimensions?\b|\bdimensions?\b[^.]{0,60}not (?:supported|permitted|allowed)|"
    r"\b(?:minimum|maximum)\b.{0,20}['\"`]dimensions['\"`]|"  # OpenAI, which leaves `param` null there
    r"\b(?:unrecognized|unknown|unsupported)[^.]{0,20}\b(?:argument|parameter|field)|"
    r"\bextra (?:inputs|fields) (?:are )?not permitted",
    re.IGNORECASE | re.DOTALL,
)
BAD_MODEL_FIRST = re.compile(
    r"(?:the )?model [^\s,]{1,100} (?:is not supported|(?:was )?not found|does ?n[o']t exist)\b", re.IGNORECASE
)
"""How a reason may begin that then names every model there is (Voyage). Further on it may be a text that is quoted."""
CANNOT_EMBED = re.compile(
    r"\bnot support embeddings?\b|\bpooling type\b.{0,40}\bnot\b",  # llama.cpp, Ollama
    re.IGNORECASE,
)
NOT_IN_CLEAR = re.compile(
    r"\bhttp request (?:was sent )?to (?:an? )?https\b|\brequires tls\b|\bplain http to an ssl", re.IGNORECASE
)
CERTIFICATE_WANTED = re.compile(r"\bno required (?:ssl|client) certificate", re.IGNORECASE)

PASSING = re.compile(
    r"\bdial tcp\b|\bconnection (?:refused|reset)\b|\bECONN(?:REFUSED|RESET)\b|"  # gateways written in Go; in Node
    r"\bno healthy upstream\b|\bupstream connect error\b|"  # Envoy
    r"\bno successful provider responses\b|"  # OpenRouter
    r"\ball connection attempts failed\b|\bAPIConnectionError\b",  # httpx, behind vLLM's routers; LiteLLM
    re.IGNORECASE,
)
"""What a gateway says of a server behind it that is away, under statuses like 400 and 404, or in a 200."""

TOO_LONG = re.compile(
    r"\b(?:inputs?|prompt|texts?)(?: \([^()]{0,30}\))?(?: is| are| was| were)? too (?:large|long)\b|"
    r"\bphysical batch size\b|"  # llama.cpp, as a 500
    r"\b(?:exceed|longer than|larger than)\w*\b.{0,40}\b(?:context|sequence|input|token)s?\b.{0,20}\b"
    r"(?:length|window|size|limit)\b|"  # Ollama
    r"\bexceed\w*\b.{0,20}\bmax(?:imum)?\b.{0,20}\b(?:length|tokens)\b|"
    r"\btoo many (?:input )?(?:tokens|inputs|texts)\b",  # Cohere, Mistral
    re.IGNORECASE,
)
"""What is refused for what it holds, so in a 5xx too: no wait helps."""
OF_CONTENT = re.compile(
    r"\bcontent[ _-]?(?:polic|filter|management|moderat|violat)\w*|"  # Azure, OpenAI's moderation, as a 400 or a 403
    r"\bmoderation\b|\b(?:has been|was|were) flagged\b|\bdata_inspection_failed\b|"  # OpenRouter; DashScope
    r"\bguardrails?\b|\b(?:unsafe|inappropriate|sensitive) content\b",  # Bedrock, LiteLLM; Zhipu
    re.IGNORECASE,
)
"""What one text is refused for, under statuses like 403: neither the key nor the account is."""
ABOUT_LENGTH = re.compile(
    r"\b(?:long|longer|large|larger|shorter|length|size|exceed\w*|maximum|characters?|tokens?|context|truncat\w*)\b",
    re.IGNORECASE,
)
"""What a refusal of a single text may say where it is too long for its server, in whatever words."""
