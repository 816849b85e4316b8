"""The HTTP routes as an OpenAPI 3.1 description; requests are described by their own checks."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from edge_server.openai_requests import ChatRequest, CompletionRequest

Json = dict[str, Any]

_REF = "#/components/schemas/"
_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_REFUSALS = {
    400: "The request is wrong, or asks for what is not supported; `param` says where.",
    401: "A valid bearer token is needed.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "This client is at a limit of its own; Retry-After says for how long.",
    503: "The server is at its limit, or shuts down; Retry-After says when to try again.",
}


def describe_api(model: str, *, with_completions: bool) -> Json:
    """The description as JSON; requests must name this model."""
    requests: tuple[type[BaseModel], ...] = (CompletionRequest, ChatRequest)
    _, schemas = models_json_schema(
        [(request, "validation") for request in requests], ref_template=_REF + "{model}"
    )
    for request in requests:
        schemas["$defs"][request.__name__]["properties"]["model"] = {"enum": [model]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tandem edge", "version": "1"},
        "paths": _paths(with_completions=with_completions),
        "components": {
            "schemas": {**schemas["$defs"], "Error": _ERROR},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}],
    }


def _paths(*, with_completions: bool) -> Json:
    plain, form = {"text/plain": {"schema": {"type": "string"}}}, _json_of({"type": "object"})
    paths: Json = {
        "/healthz": {"get": _get("The process can serve.", plain, 503, is_open=True)},
        "/readyz": {"get": _get("New sessions are welcome.", plain, 503, is_open=True)},
        "/metrics": {"get": _get("Metrics for Prometheus.", plain, 401)},
        "/v1/status": {"get": _get("How things stand, for `tandem top`.", form, 401)},
        "/openapi.json": {"get": _get("This description.", form, 401)},
        "/v1/models": {"get": _get("The model.", form, 401)},
        "/v1/models/{model}": {
            "get": _get("The model of that name.", form, 401, 404),
            "parameters": [
                {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
            ],
        },
    }
    if with_completions:
        paths["/v1/completions"] = {"post": _post("Continue a text.", "CompletionRequest")}
        paths["/v1/chat/completions"] = {"post": _post("Answer a chat.", "ChatRequest")}
    return paths


def _get(summary: str, content: Json, *refusals: int, is_open: bool = False) -> Json:
    operation: Json = {
        "summary": summary,
        "responses": {"200": {"description": "Well.", "content": content}},
    }
    for status in refusals:
        body = content if is_open else _json_of({"$ref": _REF + "Error"})
        operation["responses"][str(status)] = {
            "description": "Not now." if is_open else _REFUSALS[status],
            "content": body,
        }
    if is_open:
        operation["security"] = []
    return operation


def _post(summary: str, request: str) -> Json:
    answer = _json_of({"type": "object"})
    answer["text/event-stream"] = {"schema": {"type": "string"}}
    responses: Json = {"200": {"description": "Well.", "content": answer}}
    for status, text in _REFUSALS.items():
        error = _json_of({"$ref": _REF + "Error"})
        responses[str(status)] = {"description": text, "content": error}
    body = {"required": True, "content": _json_of({"$ref": _REF + request})}
    return {"summary": summary, "requestBody": body, "responses": responses}


def _json_of(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
