"""One OpenAPI 3.0 document per dialect, read off the same tables that serve it."""

import re
from http import HTTPStatus
from typing import Any

from vlinders_gateway.dialects import Dialect, Meta
from vlinders_gateway.dialects.paging import Shown
from vlinders_gateway.failures import Refusal
from vlinders_gateway.operations import Operation
from vlinders_gateway.schemas import Schema, Schemas, comments
from vlinders_kit.errors import Violation

VERSION = "1.0.0"

_HERE = object()
"""Stands in an envelope for what it wraps."""

_EXAMPLE = Meta("req_abc123", "2026-02-28T10:30:00Z")
_ERRORS = {
    400: "The request is not valid.",
    401: "No credential, or one that is not valid.",
    403: "The credential does not permit this.",
    404: "There is no such thing.",
    429: "Too many requests, or nothing left to spend. `Retry-After` says when to ask again.",
    503: "Not available at the moment. `Retry-After` says when to ask again.",
}


def document(dialect: Dialect) -> dict[str, Any]:
    """The document of everything that `dialect` serves."""
    schemas = Schemas(dialect.codec, dialect.schemas)
    paths: dict[str, dict[str, Any]] = {}
    for operation, verb, path in dialect.places():
        entry = _operation(dialect, operation, path, schemas)
        paths.setdefault(path, {})[verb.lower()] = entry
    return {
        "openapi": "3.0.3",
        "info": {"title": dialect.title, "version": VERSION},
        "servers": [{"url": mount or "/"} for mount in reversed(dialect.mounts)],
        "security": [{"BearerAuth": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                "BearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
            "headers": _headers(),
            "responses": {_phrase(code): _refused(text) for code, text in _ERRORS.items()},
            "schemas": dict(sorted({"Error": _error(dialect), **schemas.found}.items())),
        },
    }


def _operation(
    dialect: Dialect, operation: Operation, path: str, schemas: Schemas
) -> dict[str, Any]:
    method = operation.descriptor
    says, _, more = comments().get(method.full_name, operation.name).partition("\n\n")
    summary, _, rest = says.removeprefix(f"{operation.name} ").replace("\n", " ").partition(". ")
    in_path = frozenset(re.findall(r"{(\w+)}", path))
    entry: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [method.containing_service.name.removesuffix("Service")],
        "summary": summary[:1].upper() + summary[1:].rstrip("."),
        "description": "\n\n".join(filter(None, (rest, more))),
        "responses": _responses(dialect, operation, schemas),
    }
    parameters = _parameters(dialect, operation, schemas, in_path)
    if parameters:
        entry["parameters"] = parameters
    if operation.public:
        entry["security"] = []
    if operation.policy.scope:
        entry["x-api-key-permission"] = operation.policy.scope
    kind: Any = method.input_type
    if operation.writes and any(field.name not in in_path for field in kind.fields):
        body = schemas.object(kind, asked=True, without=in_path)
        schemas.found[kind.name] = body
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.name}"}}}
        entry["requestBody"] = {"required": True, "content": content}
    return entry


def _parameters(
    dialect: Dialect, operation: Operation, schemas: Schemas, in_path: frozenset[str]
) -> list[Schema]:
    kind: Any = operation.request.DESCRIPTOR
    fields = {dialect.codec.spelling(field): field for field in kind.fields}
    found = [
        _parameter(name, "path", schemas.field(field, asked=True), required=True)
        for name, field in fields.items()
        if field.name in in_path
    ]
    if operation.writes:
        return found
    asked = [field for field in kind.fields if field.name not in (*in_path, "page")]
    for field in asked:
        name = dialect.codec.spelling(field)
        word = dialect.filter_word(name) if operation.items is not None else name
        found.append(_parameter(word, "query", schemas.field(field, asked=True)))
    if operation.items is not None:
        found += [
            _parameter(word, "query", schema) for word, schema in dialect.paging.schemas().items()
        ]
    return found


def _parameter(name: str, place: str, schema: Schema, *, required: bool = False) -> Schema:
    told = {
        word: value for word, value in schema.items() if word not in ("description", "nullable")
    }
    entry: Schema = {"name": name, "in": place, "required": required, "schema": told}
    if "description" in schema:
        entry["description"] = schema["description"]
    return entry


def _responses(dialect: Dialect, operation: Operation, schemas: Schemas) -> dict[str, Any]:
    if operation.items is not None:
        item = schemas.refer(operation.items.message_type, asked=False)
        page = dialect.listed([_HERE], Shown(1, 20, 150), _EXAMPLE)
        schema = _schema_of(page, item)
    else:
        answer = schemas.refer(operation.response.DESCRIPTOR, asked=False)
        bare = operation.name in dialect.bare
        schema = answer if bare else _schema_of(dialect.success(_HERE, _EXAMPLE), answer)
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if operation.piped and "stream" in {
        field.name for field in operation.request.DESCRIPTOR.fields
    }:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    codes = [code for code in _ERRORS if code != 403 or not operation.public]
    return {
        str(operation.success): {
            "description": HTTPStatus(operation.success).phrase,
            "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in _headers()},
            "content": content,
        },
        **{str(code): {"$ref": f"#/components/responses/{_phrase(code)}"} for code in codes},
    }


def _phrase(code: int) -> str:
    return HTTPStatus(code).phrase.title().replace(" ", "")


def _refused(text: str) -> Schema:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _error(dialect: Dialect) -> Schema:
    refusal = Refusal(
        http=400,
        reason="INVALID_REQUEST",
        message="Invalid request parameters",
        violations=(Violation("email", "must be a valid email address"),),
        facts={},
        retry_after=None,
    )
    return _schema_of(dialect.failure(refusal, _EXAMPLE)[1], {})


def _schema_of(value: Any, here: Schema) -> Schema:
    """The schema of an envelope, by an example of it."""
    if value is _HERE:
        return here
    if isinstance(value, dict):
        properties = {name: _schema_of(inner, here) for name, inner in value.items()}
        needed = [name for name in properties if name not in ("details",)]
        return {"type": "object", "properties": properties, "required": needed}
    if isinstance(value, list):
        return {"type": "array", "items": _schema_of(value[0], here)}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "integer", "example": value}
    return {"type": "string", "example": value}


def _headers() -> dict[str, Schema]:
    texts = {
        "X-Request-Id": ("string", "Names this request wherever it is told of."),
        "X-RateLimit-Limit": ("integer", "Requests that may be made in any minute."),
        "X-RateLimit-Remaining": ("integer", "How many of them are left."),
        "X-RateLimit-Reset": ("integer", "Unix seconds at which all of them are there again."),
    }
    return {
        name: {"description": text, "schema": {"type": kind}}
        for name, (kind, text) in texts.items()
    }
