"""Refusals as services, servers and gateways write them, and as others might: what each of them means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aembed.errors import (
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    UnavailableError,
)
from tests.providers.test_errors import openai_error

Case = tuple[int, Any]
"""The status and the body."""


MONEY: Mapping[str, Case] = {
    "new-api 403": (403, openai_error("用户额度不足, 剩余额度: ¥0.000000", "new_api_error", "insufficient_user_quota")),
    "one-api token quota 403": (
        403,
        openai_error(
            "token quota is not enough, token remain quota: $0.01", "one_api_error", "pre_consume_token_quota_failed"
        ),
    ),
    "one-api 500": (500, openai_error("user quota is not enough", "one_api_error", "insufficient_user_quota")),
    "anthropic-like 400 usage limits": (
        400,
        openai_error(
            "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
            "invalid_request_error",
        ),
    ),
    "novita": (403, {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "not enough balance", "metadata": {}}),
    "not enough balance 400": (400, {"code": 40012, "msg": "Not enough balance to run this request"}),
    "openrouter key limit": (
        403,
        {
            "error": {
                "message": "Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys",
                "code": 403,
            }
        },
    ),
    "dashscope free tier": (
        403,
        {
            "code": "AllocationQuota.FreeTierOnly",
            "message": "The free tier of the model has been exhausted. If you wish to continue access the model on a paid basis, please disable the free tier only mode in the management console.",  # noqa: E501
            "request_id": "x",
        },
    ),
    "free quota 429": (429, {"code": "Throttling.AllocationQuota", "message": "Free allocated quota exceeded."}),
    "perplexity 401": (
        401,
        openai_error(
            "You exceeded your current quota, please check your plan and billing details.", "insufficient_quota", 401
        ),
    ),
    "out of credits 400": (400, {"message": "You have run out of credits. Please purchase more at https://x.ai"}),
    "no credits left": (429, {"detail": "No credits remaining on this account"}),
    "credits exhausted": (429, {"errors": [{"message": "Account credits exhausted", "code": "E_CREDITS"}]}),
    "spend cap": (400, {"error": "Organization spending cap reached"}),
    "spend limit 429": (429, {"error": {"message": "Project spend limit of $20.00 exceeded", "type": "limit"}}),
    "hf credits": (
        429,
        {
            "error": "You have exceeded your monthly included credits for Inference Providers. Subscribe to PRO to get 20x more monthly allowance."  # noqa: E501
        },
    ),
    "litellm over budget 400": (
        400,
        openai_error("ExceededBudget: User=u over budget. Spend=1.2, Budget=1.0", "auth_error", "400"),
    ),
    "litellm 429 budget": (
        429,
        openai_error("Budget has been exceeded! Current cost: 5.1, Max budget: 5.0", "budget_exceeded", "429"),
    ),
    "problem+json": (
        403,
        {
            "type": "https://api.acme.dev/problems/out-of-credit",
            "title": "You do not have enough credit.",
            "status": 403,
            "detail": "Your current balance is 30, but that costs 50.",
        },
    ),
    "minimax nested": (400, {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
    "watsonx": (
        403,
        {
            "errors": [
                {
                    "code": "token_quota_reached",
                    "message": "This account has reached its allowed token quota",
                    "more_info": "",
                }
            ],
            "trace": "x",
            "status_code": 403,
        },
    ),
    "tencent": (
        400,
        {
            "Response": {
                "Error": {
                    "Code": "FailedOperation.FreeResourcePackExhausted",
                    "Message": "Your free resource pack is exhausted",
                },
                "RequestId": "x",
            }
        },
    ),
    "volc": (
        403,
        openai_error(
            "The request failed because your account has an overdue balance.", "Forbidden", "AccountOverdueError", ""
        ),
    ),
    "volc 429 endpoint": (
        429,
        {
            "error": {
                "code": "AccountOverdueError",
                "message": "The request failed because your account has an overdue balance.",
            }
        },
    ),
    "apim quota": (
        403,
        {"statusCode": 403, "message": "Out of call volume quota. Quota will be replenished in 02:11:33."},
    ),
    "payment": (400, {"detail": "Payment required: please add a payment method"}),
    "chinese": (429, {"message": "账户余额不足,请充值"}),
    "chinese arrears": (403, {"msg": "账号已欠费", "code": 30001}),
    "xai": (
        403,
        {
            "code": "The caller does not have permission to execute the specified operation",
            "error": "Your team x has either used all available credits or reached its monthly spending limit.",
        },
    ),
    "xai 429": (
        429,
        {
            "code": "Some resource has been exhausted",
            "error": "Your team x has either used all available credits or reached its monthly spending limit. To continue making API requests, please purchase more credits.",  # noqa: E501
        },
    ),
    "message is JSON text": (
        400,
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {
                    "raw": '{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","code":"insufficient_quota"}}',  # noqa: E501
                    "provider_name": "X",
                },
            }
        },
    ),
    "json in message": (
        500,
        openai_error(
            'litellm.RateLimitError: {"error": {"code": "insufficient_quota", "type": "insufficient_quota"}}',
            None,
            "500",
        ),
    ),
    "upper-case words": (400, {"error": "INSUFFICIENT CREDIT BALANCE"}),
    "trial over 429": (429, {"error": "Your free trial has ended, please upgrade your plan"}),
    "quota used up 429": (429, {"error": {"message": "You have used up your quota for this billing period."}}),
    "lifetime tokens": (429, {"error": "Token allowance exhausted. Upgrade your plan to continue."}),
    "weekly": (429, {"error": "you have reached your weekly usage limit, upgrade for higher limits"}),
    "24h": (429, {"error": {"message": "Limit of 1000 requests per 24 hours reached"}}),
    "github ByDay": (
        429,
        openai_error(
            "Rate limit of 150 per 86400s exceeded for UserByModelByDay. Please wait 42713 seconds before retrying.",
            None,
            "RateLimitReached",
        ),
    ),
    "today": (429, {"message": "You have used all your free requests for today"}),
    "this month": (429, {"message": "Request quota for this month has been consumed"}),
    "429 limit 0 words": (429, {"message": "quota limit = 0 for model embed-x on your plan"}),
    "429 limit (0)": (429, {"message": "Requests per minute limit (0) exceeded"}),
    "0 RPM": (429, {"message": "Your plan allows 0 requests per minute for this model"}),
    "more a": (429, {"error": {"message": "This request would exceed your account's spend limit."}}),
    "more c": (400, {"code": "InsufficientFunds", "message": "top up your wallet"}),
    "more d": (429, {"error": {"code": "quota_exceeded", "message": "Monthly token quota exceeded for workspace w1"}}),
    "more f": (402, b"please pay"),
    "more g": (422, {"detail": "Your prepaid balance has run out"}),
    "more h": (500, {"message": "upstream error: Your credit balance is too low to access the API"}),
    "more i": (503, {"error": {"message": "credits exhausted, top up at https://x"}}),
    "more j": (424, {"error": "insufficient credits"}),
    "more k": (
        429,
        {"type": "urn:problem:quota", "title": "Quota exhausted", "detail": "You used 100% of your monthly quota"},
    ),
    "more l": (400, {"errors": ["Account suspended due to unpaid invoice"]}),
    "more n": (429, {"message": "You have exceeded your daily allotment of embeddings"}),
    "more o": (400, ["insufficient balance"]),
    "more p": (429, b"Daily quota exceeded"),
    "more r": (
        429,
        {"error": {"message": "Rate limit reached for requests per day. Limit: 200 / day. Please try again in 7m12s."}},
    ),
    "more s": (429, {"message": "Hard usage cap hit for organization"}),
}

TOO_OFTEN: Mapping[str, Case] = {
    "voyage no card": (
        429,
        {
            "detail": "You have not yet added your payment method in the billing page and will have reduced rate limits of 3 RPM and 10K TPM. To unlock our standard rate limits, please add a payment method in the billing page for the appropriate organization."  # noqa: E501
        },
    ),
    "cohere trial minute": (429, {"message": "trial token rate limit exceeded, limit is 100000 tokens per minute"}),
    "cohere trial calls": (
        429,
        {
            "message": "You are using a Trial key, which is limited to 100 API calls / minute. You can continue to use the Trial key for free or upgrade to a Production key with higher rate limits at 'https://dashboard.cohere.com/api-keys'."  # noqa: E501
        },
    ),
    "vertex": (
        429,
        {
            "error": {
                "code": 429,
                "message": "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_per_base_model with base model: textembedding-gecko. Please submit a quota increase request.",  # noqa: E501
                "status": "RESOURCE_EXHAUSTED",
            }
        },
    ),
    "google 403": (
        403,
        {
            "error": {
                "errors": [{"domain": "usageLimits", "reason": "rateLimitExceeded", "message": "Rate Limit Exceeded"}],
                "code": 403,
                "message": "Rate Limit Exceeded",
            }
        },
    ),
    "400 throttling code": (
        400,
        {"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded, please try again later."},
    ),
    "400 rate_limit_exceeded": (
        400,
        openai_error("Rate limit reached for requests", "requests", "rate_limit_exceeded"),
    ),
    "403 html too many": (
        403,
        b"<html><head><title>Too Many Requests</title></head><body><h1>Too Many Requests</h1></body></html>",
    ),
    "apigee": (
        429,
        {
            "fault": {
                "faultstring": "Rate limit quota violation. Quota limit  exceeded. Identifier : x",
                "detail": {"errorcode": "policies.ratelimit.QuotaViolation"},
            }
        },
    ),
    "html 429": (
        429,
        b"<html><head><title>429 Too Many Requests</title></head><body><h1>429 Too Many Requests</h1><hr><center>nginx</center></body></html>",  # noqa: E501
    ),
    "cloudflare 1015": (
        429,
        b"<html><head><title>Access denied | x used Cloudflare to restrict access</title></head><body><h1>Access denied | x used Cloudflare to restrict access</h1><p>error code: 1015. You are being rate limited</p></body></html>",  # noqa: E501
    ),
    "cloudflare text": (429, b"error code: 1015"),
    "more d": (429, {"error": "Too many concurrent requests (max 4)"}),
    "more n": (400, {"error": {"code": "ThrottlingException", "message": "Rate exceeded"}}),
    "more o": (403, {"message": "Request throttled"}),
    "more q": (400, {"error": {"type": "too_many_requests", "message": "Concurrency limit"}}),
}

WAITS: Mapping[str, tuple[Any, float]] = {
    "azure": (
        openai_error(
            "Requests to the Embeddings_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded call rate limit of your current OpenAI S0 pricing tier. Please retry after 17 seconds. Please go here: https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit.",  # noqa: E501
            None,
            "429",
        ),
        17.0,
    ),
    "drf": ({"detail": "Request was throttled. Expected available in 12 seconds."}, 12.0),
    "wait words": ({"error": "Too many requests, please wait 8 seconds."}, 8.0),
    "wait for": ({"error": "Too many requests; wait for 1.5s before sending more"}, 1.5),
    "in 1 minute": ({"error": "Too many requests, retry in 1 minute"}, 60.0),
    "min and sec": ({"error": "Try again in 1 minute 5 seconds"}, 65.0),
    "resets in": ({"error": "Rate limit hit. Limit resets in 20 seconds"}, 20.0),
    "retryAfterSeconds": ({"error": {"message": "slow", "retryAfterSeconds": 9}}, 9.0),
    "retry_after_s str": ({"detail": {"message": "slow", "retry_after_seconds": "9"}}, 9.0),
    "retry-after in body": ({"message": "slow", "retry-after": 4}, 4.0),
    "RetryAfter": ({"Error": {"Message": "slow", "RetryAfter": "4s"}}, 4.0),
    "metadata headers": (
        {"error": {"message": "Rate limit exceeded", "code": 429, "metadata": {"headers": {"Retry-After": "11"}}}},
        11.0,
    ),
    "more a": (b"Slow down! Retry in 5 seconds", 5.0),
    "more b": ({"error": {"message": "busy", "retry_in": 3}}, 3.0),
    "more c": ({"message": "Try again after 10s"}, 10.0),
    "more e": ({"message": "Please slow down, next request allowed in 2.5 seconds"}, 2.5),
    "more f": (
        {
            "error": {
                "message": "x",
                "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "33s"}],
            }
        },
        33.0,
    ),
    "more g": ({"retry_after": "2.5", "message": "x"}, 2.5),
    "more h": ({"data": {"retryAfter": 4}, "message": "x"}, 4.0),
    "more i": ({"message": "Limit resets in 00:00:09"}, 9.0),
    "more j": ({"message": "wait 2 min"}, 120.0),
}

RESETS: Mapping[str, Mapping[str, str]] = {
    "ratelimit-reset IETF": {"ratelimit-limit": "10", "ratelimit-remaining": "0", "ratelimit-reset": "7"},
    "ratelimit IETF list": {"ratelimit": '"default";r=0;t=6', "ratelimit-policy": '"default";q=100;w=60'},
    "x-rate-limit-reset epoch": {
        "x-rate-limit-limit": "10",
        "x-rate-limit-remaining": "0",
        "x-rate-limit-reset": "1796047205",
        "date": "Mon, 30 Nov 2026 14:00:00 GMT",
    },
    "x-ratelimit-reset epoch ms": {
        "x-ratelimit-limit": "10",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "1796047205000",
        "date": "Mon, 30 Nov 2026 14:00:00 GMT",
    },
}

PASSING = (
    "upstream request timeout",
    "context deadline exceeded",
    "read tcp 10.0.0.1:33->10.0.0.2:80: i/o timeout",
    "socket hang up",
    "fetch failed",
    "Connection error.",
    "connect ETIMEDOUT 10.0.0.1:443",
    "getaddrinfo EAI_AGAIN api",
    "Cannot connect to host api:443 ssl:default",
    "HTTPConnectionPool(host='x', port=80): Max retries exceeded with url: /v1",
    "Server disconnected without sending a response.",
    "Service temporarily unavailable",
    "upstream connect error or disconnect/reset before headers",
    "Bad gateway",
    "The server is overloaded, please try again later",
    "no available server to handle this request",
    "Remote end closed connection without response",
    "Temporary failure in name resolution",
    "upstream server is currently unavailable",
    "Backend unavailable",
    "model server not ready",
    "Failed to establish a new connection: [Errno 111] Connection refused",
    "error sending request for url (http://10.0.0.1/embed): connection closed before message completed",
    "the model is starting, retry shortly",
    "stream closed",
    "broken pipe",
    "operation timed out",
    "Request timed out.",
    "No instances available",
    "all workers are busy",
    "Model acme/embed is currently loading",
    "The endpoint is warming up",
)

MOST_INPUTS: Mapping[str, int] = {
    "Too many inputs for model. The max number of inputs is 16. We hope to increase the number of inputs per request soon.": 16,  # noqa: E501
    "Too many inputs. The max number of inputs is 1.": 1,
    "Malformed input request: #/texts: expected maximum item count: 96, found: 128, please reformat your input and try again.": 96,  # noqa: E501
    "AiError: Bad input: '/text' must NOT have more than 100 items": 100,
    "Array must contain at most 100 element(s)": 100,
    "Too big: expected array to have <=100 items": 100,
    '"input" must contain less than or equal to 100 items': 100,
    "The input array length must be less than or equal to 25": 25,
    "Maximum of 25 inputs per request": 25,
    "Cannot embed more than 64 texts at once": 64,
    "number of inputs cannot exceed 64": 64,
    "max_batch_size is 8, got 32": 8,
    "Number of texts (256) exceeds the maximum (50)": 50,
    "Number of inputs exceeds limit of 32": 32,
    "expected at most 20 elements in input": 20,
    "Only 10 inputs are allowed per call": 10,
    "no more than 5 texts may be sent": 5,
    "You can embed up to 16 texts per request": 16,
    "Input list must contain between 1 and 50 items": 50,
    "Number of documents must be <= 32": 32,
    "The number of inputs must be between 1 and 96": 96,
    "Request contains 128 inputs, maximum allowed is 96": 96,
    "Too many inputs: 128 > 96": 96,
    "The request has too many inputs. Max: 128": 128,
    "Batch too large: 256 items, limit 100": 100,
    "batch size 128 exceeds max 32": 32,
    "batch_size must not be greater than 10": 10,
    "invalid request: total number of texts must be at most 96, received 128": 96,
    "InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be larger than 10.: input.contents": 10,  # noqa: E501
    "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n": 100,
    "Input validation error: `inputs` must have at most 32 items": 32,
    "ensure this value has at most 32 items": 32,
    "List should have at most 32 items after validation, not 64": 32,
    "1 instances are allowed per prediction. Actual: 20": 1,
    "5 instance(s) is allowed per prediction. Actual: 20.": 5,
    "Batch size limit: 16 (got 100)": 16,
    "embeddings request limited to 256 inputs": 256,
    "the array of inputs is limited to 2,048 entries": 2048,
    "input数组最大长度为 64": 64,
    "The size of 'input' should be in range [1, 25]": 25,
    "The batch contains 200 texts but only 100 are allowed": 100,
    "inputs: ensure this list has no more than 50 elements": 50,
    "Number of input strings 300 is greater than 250": 250,
    "max 10 inputs": 10,
    "a maximum of 64 documents can be embedded at once": 64,
    "limit: 16 texts per request": 16,
    "too many texts (100), the limit is 32": 32,
    "This endpoint accepts up to 20 inputs": 20,
    "Expected between 1 and 96 texts": 96,
    "input list length 128 exceeds 64": 64,
    "Request exceeds the maximum number of inputs (25)": 25,
    "The maximum batch size is 8 but you sent 100": 8,
    "cannot process more than 5 items": 5,
    "batch size must be between 1 and 32": 32,
    "Array length should be <= 16": 16,
    "maxItems: 48": 48,
    "expected array length at most 48": 48,
    "Max allowed inputs per call: 12": 12,
    "inputs must not contain more than 1000 items": 1000,
    "Only one input is supported": 1,
    "A batch may have 30 texts at most": 30,
    "list too long (max 40)": 40,
}

TOO_LONG = (
    "This model's maximum context length is 512 tokens. However, you requested 600 tokens in the input for embedding generation. Please reduce the length of the input.",  # noqa: E501
    "Input length 9000 exceeds the maximum allowed token length of 8192",
    "Input validation error: `inputs` must have less than 512 tokens. Given: 1024",
    "Input text exceeds the maximum length (max: 8192)",
    "String should have at most 122880 characters",
    "The input text is too long",
    "Token limit exceeded",
    "Sequence length 600 > 512",
    "Malformed input request: expected maxLength: 50000, actual: 60001, please reformat your input and try again.",
    "Too many input tokens. Max input tokens: 8192, request input token count: 9001",
    "the input length exceeds the context length",
    "prompt is too long: 9000 tokens > 8192 maximum",
    "input (700 tokens) is larger than the max context size (512 tokens). skipping",
    "Requested token count exceeds the model's maximum context length of 8192 tokens.",
    "Text too long: 9001 tokens (limit: 8192)",
    "The input exceeds the model's limit of 512 tokens",
    "Range of input length should be [1, 8192]",
    "input must have less than 8192 tokens",
    "Token indices sequence length is longer than the specified maximum sequence length for this model (600 > 512)",
    "The size of tensor a (600) must match the size of tensor b (512) at non-singleton dimension 1",
    "the max length of each text in input is 1000 characters",
    "text has 9000 tokens, more than the 8192 allowed",
    "Document exceeds context window",
    "max_seq_length 512 exceeded",
    "input too long",
    "prompt exceeds maximum length",
    "Content is too long, shorten it",
    "this text is over the limit of 2,000 characters",
    "Maximum tokens per text is 512; got 600",
    "Your input has too many tokens (600 > 512)",
    "Input exceeded token limit of 2048",
)

OFFENDERS: Mapping[str, Any] = {
    "input[7]: too long": openai_error("input[7]: too long", None),
    "texts[7] is too long": openai_error("texts[7] is too long", None),
    "documents[7] exceeds the maximum length": openai_error("documents[7] exceeds the maximum length", None),
    "requests[7].content is empty": openai_error("requests[7].content is empty", None),
    "Input text at index 7 exceeds the maximu": openai_error(
        "Input text at index 7 exceeds the maximum length of 512 tokens", None
    ),
    "#/texts/7: expected maxLength: 2048, act": openai_error("#/texts/7: expected maxLength: 2048, actual: 3000", None),
    "input.7: String should have at most 100 ": openai_error(
        "input.7: String should have at most 100 characters", None
    ),
    "loc texts": {"detail": [{"loc": ["body", "texts", 7], "msg": "too long", "type": "x"}]},
    "loc inputs": {"detail": [{"loc": ["body", "inputs", 7], "msg": "too long", "type": "x"}]},
    "path str": {"errors": [{"path": "input.7", "message": "too long"}]},
    "instancePath": {"errors": [{"instancePath": "/input/7", "message": "must NOT have more than 100 characters"}]},
}

SETTINGS: Mapping[str, tuple[int, Any, type[ProviderError]]] = {
    "google key 400": (
        400,
        {
            "error": {
                "code": 400,
                "message": "API key not valid. Please pass a valid API key.",
                "status": "INVALID_ARGUMENT",
            }
        },
        AuthenticationError,
    ),
    "400 unauthorized": (400, {"error": "Unauthorized"}, AuthenticationError),
    "400 no auth header": (400, {"message": "No authorization header provided"}, AuthenticationError),
    "400 bearer": (400, {"message": "Missing bearer token in Authorization header"}, AuthenticationError),
    "400 invalid token": (400, {"error": {"message": "invalid access token"}}, AuthenticationError),
    "400 revoked": (400, {"message": "This API key has been revoked"}, AuthenticationError),
    "400 disabled key": (400, {"message": "API key is disabled"}, AuthenticationError),
    "token expired": (400, {"message": "The security token included in the request is expired"}, AuthenticationError),
    "500 key": (500, openai_error("Incorrect API key provided: sk-x", None, "invalid_api_key"), AuthenticationError),
    "model 400": (400, {"error": "unknown model 'foo'"}, NotFoundError),
    "model not exist": (
        400,
        {"code": 20012, "message": "Model does not exist. Please check it carefully.", "data": None},
        NotFoundError,
    ),
    "model 400 b": (400, {"message": "Invalid value for 'model': foo. Expected one of: a, b"}, NotFoundError),
    "model validation": (400, {"message": "The provided model identifier is invalid."}, NotFoundError),
    "decommissioned": (
        400,
        openai_error(
            "The model `foo` has been decommissioned and is no longer supported.", None, "model_decommissioned"
        ),
        NotFoundError,
    ),
    "deprecated": (410, {"message": "gone"}, NotFoundError),
    "no model loaded": (400, {"error": "No models loaded. Please load a model in the developer page"}, NotFoundError),
    "dims set": (400, openai_error("Invalid dimensions: must be one of [256, 512, 1024]", None), NotFoundError),
    "dims b": (400, {"detail": "output_dimension should be one of 256, 512, 1024, 2048"}, NotFoundError),
    "input_type": (400, {"error": "'input_type' parameter is required for asymmetric models"}, NotFoundError),
    "input type b": (
        400,
        {"message": "invalid request: input_type is required; valid values are search_document, search_query"},
        NotFoundError,
    ),
    "task": (
        422,
        {"detail": [{"loc": ["body", "task"], "msg": "Input should be 'retrieval.passage'", "type": "enum"}]},
        NotFoundError,
    ),
    "extra": (
        422,
        {"detail": [{"loc": ["body", "truncate"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]},
        NotFoundError,
    ),
    "not embed": (400, openai_error("This model is not an embedding model", None), NotFoundError),
    "not embed 2": (
        400,
        openai_error("The model is not supported for embeddings / does not support Embeddings API", None),
        NotFoundError,
    ),
    "not embed 3": (
        500,
        {
            "error": {
                "message": "This server does not support embeddings. Start it with `--embeddings`",
                "type": "not_supported_error",
            }
        },
        NotFoundError,
    ),
    "unsupported path": (404, b"404 page not found", NotFoundError),
    "region": (
        403,
        {
            "error": {
                "code": "unsupported_country_region_territory",
                "message": "Country, region, or territory not supported",
            }
        },
        PermissionDeniedError,
    ),
    "more a": (400, {"message": "Model acme does not support embedding"}, NotFoundError),
    "more b": (400, {"error": 'model "x" not found, try pulling it first'}, NotFoundError),
    "more c": (
        422,
        {"detail": [{"loc": ["body", "dimensions"], "msg": "Input should be 256", "type": "literal_error"}]},
        NotFoundError,
    ),
    "more f": (403, {"error": "forbidden"}, PermissionDeniedError),
    "more g": (400, {"detail": "Invalid API key provided"}, AuthenticationError),
    "more h": (400, {"error": {"message": "The requested model 'x' does not exist."}}, NotFoundError),
    "more i": (400, {"message": "x-api-key header is required"}, AuthenticationError),
    "more j": (400, {"error": {"code": "unsupported_model", "message": "bad"}}, NotFoundError),
    "more k": (400, {"message": "Unknown model: foo"}, NotFoundError),
    "more l": (400, {"message": "api-version query parameter (?api-version=) is required"}, NotFoundError),
}

IN_A_200: Mapping[str, tuple[Any, type[ProviderError]]] = {
    "baidu 200 daily": ({"error_code": 17, "error_msg": "Open api daily request limit reached"}, QuotaExceededError),
    "200 rate": ({"error_code": 18, "error_msg": "Open api qps request limit reached"}, RateLimitError),
    "200 minimax": (
        {"base_resp": {"status_code": 1002, "status_msg": "rate limit exceeded(RPM)"}, "vectors": None},
        RateLimitError,
    ),
    "200 lambda": ({"statusCode": 429, "body": '{"message":"Too many requests"}'}, RateLimitError),
    "200 vllm object error": (
        {"object": "error", "message": "Too many requests", "type": "TooManyRequests", "code": 429},
        RateLimitError,
    ),
    "200 string error": ({"error": "Internal server error"}, UnavailableError),
    "200 status error": ({"status": "error", "message": "upstream request timeout"}, UnavailableError),
    "200 err": ({"error_code": 336003, "error_msg": "the number of texts must not exceed 16"}, BadRequestError),
    "200 key 2": ({"code": 401, "msg": "Unauthorized"}, AuthenticationError),
    "200 model": ({"code": 404, "msg": "model not found"}, NotFoundError),
}

OF_A_TEXT: Mapping[str, Case] = {
    "quote rate": (400, openai_error("Input contains invalid text: 'rate limit exceeded, please upgrade'", None)),
    "quote credit": (400, openai_error("cannot process the text 'you are out of credits and over budget'", None)),
    "content": (
        400,
        openai_error(
            "The response was filtered due to the prompt triggering content management policy", None, "content_filter"
        ),
    ),
    "content 403": (403, {"detail": "Input was flagged by moderation"}),
    "dashscope inspection": (
        400,
        {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."},
    ),
    "empty text": (400, {"detail": "Input cannot contain empty strings or empty lists"}),
    "bytes limit": (413, {"error": "Request body exceeds the 1048576 byte limit"}),
    "blocked": (403, {"message": "Forbidden: request blocked by security policy"}),
}
