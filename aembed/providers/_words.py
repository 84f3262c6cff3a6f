"""Words and codes of errors that mean more than their status does, whatever that is.

One table for all services: proxies and gateways give each other's words another status. Who writes them stands beside.
"""

from __future__ import annotations

import re

NO_MONEY_KINDS = re.compile(
    r"insufficient_?(?:\w{1,20}_)?(?:quota|balance|credit|fund)|"  # OpenAI, DeepSeek, Jina, new-api
    r"billing_|account_deactivated|"  # OpenAI
    r"quota_exhausted|credit_balance|payment_required|out_of_credit|"
    r"budget_exceeded|exceeded_budget|"  # LiteLLM: the budget of a key or a team
    r"arrear|"  # DashScope
    r"exceeded_current_quota|"  # Moonshot
    r"servicequotaexceeded|"  # Bedrock, as a 400
    r"1113$|"  # Zhipu
    r"not_enough_balance|"  # Novita
    r"accountoverdue|"  # Volcengine
    r"pre_consume_token_quota|"  # one-api, before whatever it stands
    r"allocationquota\.freetier"  # DashScope
)
"""How the code or type of an error begins, in lower case."""
# Zhipu's code, where it comes as a number.
NO_MONEY_CODES = frozenset({1113})
# What an account has, and may have none of. A budget of tokens is the size of a batch.
_MEANS = (
    r"(?:balance|credits|credit balance|funds|(?<!token )budget|allowance|free (?:tier|trial|(?:allocated )?quota)|"
    r"(?:free )?resource pack\w*|(?:token|user|account) quota|spend(?:ing)? (?:limit|cap))"
)
_FEW_WORDS = r"(?: (?!tokens?\b)[^\s.]{1,40}(?:\.\d+)?){0,6}?"
NO_MONEY = re.compile(
    r"\binsufficient[ _](?:account )?(?:quota|balance|credits?|funds)\b|"
    rf"\b(?:insufficient|not enough|no)(?: \w{{1,20}}){{0,2}} {_MEANS}\b|"
    rf"\b(?:out of|used (?:up|all)|over|exceeded|exhausted|reached){_FEW_WORDS} {_MEANS}\b|"
    rf"\b{_MEANS}{_FEW_WORDS} "
    r"(?:insufficient|too low|exhausted|used up|depleted|consumed|overdue|not enough|expired|ended|exceeded|reached|"
    r"r[ua]n out)\b|\bspend(?:ing)? (?:limit|cap)\b|\busage cap\b|\bunpaid invoice\b|"
    r"\bnot have enough (?:credit|money)|\bused up your quota\b|"
    r"\b(?:your )?account (?:\S{1,80} )?(?:is |was |has been )suspended\b|"  # Fireworks, as a 412
    r"\bout of credits?\b|\baccount (?:is )?(?:overdue|in arrears)\b|\boverdue balance\b|"
    r"\bpayment (?:is |method )?required\b|\bbilling to be enabled\b|"  # Google
    r"\bwill regain access on\b|"  # Anthropic, as a 400
    r"余额不足|额度不足|欠费|"  # new-api, SiliconFlow, Zhipu
    r"(?:\byou )?\bexceeded your current quota, please check your plan and billing\b",  # OpenAI; Google, below
    re.IGNORECASE,
)
NO_QUOTA = re.compile(
    r"\bquota\b.{0,30}\b(?:exceeded|exhausted|reached|used up|replenished)\b|"
    r"\b(?:exceeded|exhausted|reached|out of|over)\b.{0,40}\b(?:quota|usage limits?)\b|"
    r"\b(?:key|usage) limits? (?:exceeded|reached)\b",  # OpenRouter, Portkey
    re.IGNORECASE,
)
"""Money where the status is none of a rate limit's: as a 429 it may be a quota of the minute (Google, Apigee)."""
A_RATE = re.compile(
    r"resource_exhausted|\bretry in\b|\bai\.google\.dev\b|quotaId|"
    r"(?:\b(?:per|an?|each)[ -]|/ ?)(?:second|sec|minute|min)\b|\b[rt]p[ms]\b",
    re.IGNORECASE,
)
"""Google has OpenAI's words of money for a rate, Voyage asks for a card where a rate is small."""
TOO_OFTEN_KINDS = ("rate_limit", "ratelimit", "throttl", "too_many_requests", "toomanyrequests")
TOO_OFTEN = re.compile(
    r"\brate[ -]?limit(?:s|ed|ing)?\b|\btoo many requests\b|\brequest rate\b|\bthrottl(?:ed|ing)\b|"
    r"\brequest limit (?:reached|exceeded)\b|"  # Qianfan, in a 200
    r"\benhance your calm\b|\bcapacity (?:is )?(?:temporarily )?exceeded\b",  # a 420; Cloudflare's code 3040
    re.IGNORECASE,
)
"""A rate limit under other statuses: Google's 403, DashScope's and AWS's 400, a firewall's page."""

BAD_KEY = re.compile(
    r"\b(?:invalid|incorrect|malformed|missing|expired)[^.]{0,20}\b(?:api[ _-]?key|(?:access|bearer|security) token)|"
    r"\b(?:api[ _-]?key|(?:access|bearer|security) token)[^.]{0,50}"
    r"\b(?:invalid|incorrect|not valid|expired|missing|required|revoked|disabled)|"
    r"^unauthori[sz]ed\b|\bno authorization header\b|\blogin fail|\bauthentication (?:failed|required)\b",
    re.IGNORECASE,
)
BAD_SETTING = re.compile(
    r"\bmodel\b.{0,100}\b(?:not found|does ?n[o']t exist|not supported|not available|decommissioned)|"
    r"\b(?:invalid|unknown|unsupported|no such) model\b|\bmodel (?:identifier|id|name) is invalid\b|"
    r"\binvalid value for ['\"`]?model\b|\bno models? loaded\b|\bnot have access to the model\b|"
    r"not support[^.]{0,40}\bdimensions?\b|\bdimensions?\b[^.]{0,60}not (?:supported|permitted|allowed)|"
    r"\binvalid (?:output[ _])?dimensions?\b|(?:\b|_)dimensions? (?:must|should) be one of\b|"
    r"\bapi-version\b|"  # Azure
    r"\b(?:input|task)_type\b['\"`]?[^.]{0,20}\b(?:required|must be|should be|invalid)|"  # NVIDIA, Cohere
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
    r"\bnot support embeddings?\b|\bpooling type\b.{0,40}\bnot\b|"  # llama.cpp, Ollama
    r"\bnot an embeddings? model\b",
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
    r"\ball connection attempts failed\b|\bAPIConnectionError\b|"  # httpx, behind vLLM's routers; LiteLLM
    r"\bconnection (?:error|timed? ?out|aborted)\b|\bdisconnected\b|\bclosed connection\b|"  # openai, aiohttp, urllib3
    r"\bcannot connect to host\b|\bmax retries exceeded\b|\bfailure in name resolution\b|"
    r"\bETIMEDOUT\b|\bEAI_AGAIN\b|\bsocket hang up\b|\bfetch failed\b|"  # Node
    r"\bdeadline exceeded\b|\bbad gateway\b|\btimed out\b|"
    r"\b(?:i/o|request|gateway|read|connect|upstream) time-?out\b|"  # Go, Envoy
    r"\b(?:connection|stream) (?:was )?closed\b|\bbroken pipe\b|\breset by peer\b|\berror sending request\b|"  # Rust
    r"\bunavailable\b|\boverloaded\b|\b(?:is|are) busy\b|\binternal server error\b|"
    r"\bno (?:instances?|servers?|workers?|endpoints?|replicas?|capacity)\b.{0,20}\bavailable\b|"
    r"\btry again later\b|\bno available server\b|无可用渠道|"  # Traefik; new-api, which calls it model_not_found
    r"\b(?:currently|still|is) (?:loading|starting)\b|\bwarming up\b|\binitiali[sz]ing\b|\bstarting up\b|"
    r"\bnot (?:yet )?ready\b",  # Hugging Face, Triton
    re.IGNORECASE,
)
"""What a gateway says of a server that is away or not up yet, under statuses like 400 and 404, or in a 200."""

TOO_LONG = re.compile(
    r"\b(?:inputs?|prompt|texts?|content|documents?)(?: \([^()]{0,30}\))?(?: is| are| was| were)? too (?:large|long)\b|"
    r"\bphysical batch size\b|"  # llama.cpp, as a 500
    r"\b(?:exceed|longer than|larger than)\w*\b.{0,40}\b(?:context|sequence|input|token)s?\b.{0,20}\b"
    r"(?:length|window|size|limit)\b|"  # Ollama
    r"\bexceed\w*\b.{0,20}\bmax(?:imum)?\b.{0,20}\b(?:length|tokens)\b|"
    r"\btoo many (?:input )?(?:tokens|inputs|texts)\b|"  # Cohere, Mistral
    r"\b(?:tokens?|characters?|(?:max|sequence|input)[ _]?length)\b.{0,40}\b"
    r"(?:exceed\w*|longer|larger|(?:less|more) than|at most|should be|limit)\b|"
    r"\bmax\w{0,20}length\b.{0,20}\bexceeded\b|\bmax(?:imum)? tokens per text\b|"
    r"\b(?:exceeds?|less than|at most|limit of)\b.{0,40}\b(?:tokens?|characters?)\b|"  # TEI, pydantic
    r"\blength (?:of )?\d{1,9} > \d|\bmax(?:imum)? ?length\b|\bsize of tensor a\b",  # torch
    re.IGNORECASE,
)
"""What is refused for what it holds, so in a 5xx too: no wait helps."""
OF_CONTENT = re.compile(
    r"\bcontent[ _-]?(?:polic|filter|management|moderat|violat)\w*|"  # Azure, OpenAI's moderation, as a 400 or a 403
    r"\bmoderation\b|\b(?:has been|was|were) flagged\b|\bdata_inspection_failed\b|"  # OpenRouter; DashScope
    r"\b(?:request|access) (?:was |has been )?blocked\b|\bsecurity policy\b|\bfirewall\b|"  # of what stands before it
    r"\bguardrails?\b|\b(?:unsafe|inappropriate|sensitive) content\b",  # Bedrock, LiteLLM; Zhipu
    re.IGNORECASE,
)
"""What one text is refused for, under statuses like 403: neither the key nor the account is."""
TOO_LONG_KINDS = ("context_length", "too_long", "max_tokens_per_request")
ABOUT_LENGTH = re.compile(
    r"\bmax_?length\b|\b(?:long|longer|large|larger|shorter|length|size|exceed\w*|maximum|characters?|tokens?|context|truncat\w*)\b",
    re.IGNORECASE,
)
"""What a refusal of a single text may say where it is too long for its server, in whatever words."""
