"""Bedrock's InvokeModel: Titan, Nova and Cohere, as recorded, behind a key or a signature that is checked here."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from tests.providers.raw_server import Request
from tests.providers.services._scripted import KEY, Answer, Asked, Refused, ScriptedService

ACCESS_KEY, SECRET_KEY = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
REGION = "eu-central-1"


def is_signed(request: Request) -> bool:
    """Whether the request has a right signature of version 4, by the steps of AWS's own description."""
    found = re.fullmatch(
        rf"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/(\d{{8}})/{REGION}/bedrock/aws4_request, "
        r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
        request.headers.get("authorization", ""),
    )
    if found is None:
        return False
    day, names, signature = found.groups()
    signed = "".join(f"{name}:{' '.join(request.headers[name].split())}\n" for name in names.split(";"))
    # Every service but S3 has the path encoded once more than it travels.
    path = quote(request.target, safe="/~")
    canonical = f"POST\n{path}\n\n{signed}\n{names}\n{hashlib.sha256(request.body).hexdigest()}"
    scope = f"{day}/{REGION}/bedrock/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{scope}\n{digest}"
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (day, REGION, "bedrock", "aws4_request", to_sign):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.compare_digest(key.hex(), signature)


class Titan(ScriptedService):
    prefix = "bedrock"
    model = "amazon.titan-embed-text-v2:0"
    base_path = ""
    request_id_header = "x-amzn-requestid"
    width = 1_024
    shorter: ClassVar[int | None] = 256
    max_inputs = 1
    max_tokens = 10**9
    max_tokens_per_text = 8_192
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float", "float": "float"}
    has_index = False

    def is_embedding(self, request: Request) -> bool:
        return request.target.endswith("/invoke")

    def respond(self, request: Request) -> Any:
        if is_signed(request):
            request = Request(request.connection, request.target, {"authorization": f"Bearer {KEY}"}, request.body)
        return super().respond(request)

    def decode(self, request: Request) -> Asked:
        if request.target != f"/model/{quote(self.model, safe='')}/invoke":
            raise Refused(self.unknown_model(unquote(request.target)))
        return self.decode_body(json.loads(request.body))

    def decode_body(self, fields: dict[str, Any]) -> Asked:
        if unknown := fields.keys() - {"inputText", "dimensions", "normalize", "embeddingTypes"}:
            raise Refused(self.malformed(f"extraneous key [{min(unknown)}] is not permitted"))
        if fields.get("dimensions") not in (None, 256, 512, 1_024):
            raise Refused(self.malformed("dimensions is not a valid enum value"))
        return Asked([fields["inputText"]], dimensions=fields.get("dimensions"))

    def encode(self, asked: Asked, billed: int) -> Any:
        if not asked.texts:
            return {"inputTextTokenCount": billed}
        (row,) = self.vectors(asked).tolist()
        return {"embedding": row, "embeddingsByType": {"float": row}, "inputTextTokenCount": billed}

    def headers_of_success(self, billed: int) -> Mapping[str, str]:
        return {"x-amzn-bedrock-input-token-count": str(billed), "x-amzn-bedrock-invocation-latency": "83"}

    def malformed(self, reason: str) -> Answer:
        return error(400, "ValidationException", f"Malformed input request: #: {reason}, please reformat your input.")

    def unknown_model(self, model: str) -> Answer:
        return error(400, "ValidationException", "The provided model identifier is invalid.")

    def too_many_inputs(self, count: int) -> Answer:
        return self.malformed(f"#/texts: expected maximum item count: {self.max_inputs}, found: {count}")

    def too_long(self, position: int, tokens: int) -> Answer:
        most = self.max_tokens_per_text
        reason = (
            f"400 Bad Request: Too many input tokens. Max input tokens: {most}, request input token count: {tokens}"
        )
        return error(400, "ValidationException", reason)

    def refused_text(self, position: int) -> Answer:
        return self.malformed("the text is invalid")

    def rate_limited(self) -> Answer:
        reason = "Too many requests, please wait before trying again."
        return error(429, "ThrottlingException", reason)

    def outage(self) -> Answer:
        reason = "The model is not ready for inference. Wait and try your request again."
        return error(429, "ModelNotReadyException", reason)

    def wrong_key(self, key: str) -> Answer:
        return error(403, "UnrecognizedClientException", "The security token included in the request is invalid.")

    def no_money(self) -> Answer:
        reason = "Your request exceeds the service quota for your account."
        return error(400, "ServiceQuotaExceededException", reason)


class Nova(Titan):
    model = "amazon.nova-2-multimodal-embeddings-v1:0"
    width = 3_072
    max_tokens_per_text = 8_172
    input_types: ClassVar[Mapping[str, str]] = {"GENERIC_INDEX": "document", "GENERIC_RETRIEVAL": "query"}
    cuts = True
    uncut_field = "truncationMode"

    def decode_body(self, fields: dict[str, Any]) -> Asked:
        if fields.keys() - {"schemaVersion"} != {"taskType", "singleEmbeddingParams"}:
            raise Refused(self.malformed("extraneous key is not permitted"))
        given = fields["singleEmbeddingParams"]
        if given.keys() - {"embeddingPurpose", "embeddingDimension", "text"}:
            raise Refused(self.malformed("extraneous key is not permitted"))
        if given.get("embeddingPurpose") not in self.input_types or fields["taskType"] != "SINGLE_EMBEDDING":
            raise Refused(self.malformed("embeddingPurpose is not a valid enum value"))
        asked = self.input_types[given["embeddingPurpose"]]
        uncut = given["text"]["truncationMode"] == "NONE"
        return Asked([given["text"]["value"]], asked, given.get("embeddingDimension"), uncut=uncut)

    def encode(self, asked: Asked, billed: int) -> Any:
        rows = self.vectors(asked).tolist() if asked.texts else []
        return {"embeddings": [{"embeddingType": "TEXT", "embedding": row} for row in rows]}


class CohereOnBedrock(Titan):
    model = "us.cohere.embed-v4:0"
    width = 1_536
    max_inputs = 96
    max_tokens_per_text = 128_000
    input_types: ClassVar[Mapping[str, str]] = {"search_document": "document", "search_query": "query"}
    cuts = True
    uncut_field = "truncate"

    def decode_body(self, fields: dict[str, Any]) -> Asked:
        if fields.keys() - {"texts", "input_type", "truncate", "embedding_types", "output_dimension"}:
            raise Refused(self.malformed("extraneous key is not permitted"))
        if fields.get("input_type") not in self.input_types:
            raise Refused(self.malformed("required key [input_type] not found"))
        asked = self.input_types[fields["input_type"]]
        return Asked(fields["texts"], asked, fields.get("output_dimension"), uncut=fields.get("truncate") == "NONE")

    def encode(self, asked: Asked, billed: int) -> Any:
        rows = {"float": self.vectors(asked).tolist()}
        texts = [text.lower() for text in asked.texts]
        return {"id": "c371ba42", "texts": texts, "embeddings": rows, "response_type": "embeddings_by_type"}


class CohereV3OnBedrock(CohereOnBedrock):
    model = "cohere.embed-english-v3"
    width = 1_024
    shorter: ClassVar[int | None] = None
    max_tokens_per_text = 512

    def encode(self, asked: Asked, billed: int) -> Any:
        rows = self.vectors(asked).tolist()
        return {"id": "c371ba42", "texts": asked.texts, "embeddings": rows, "response_type": "embeddings_floats"}


def error(status: int, kind: str, message: str) -> Answer:
    named = {"x-amzn-errortype": f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    return Answer(status, {"message": message}, named)
