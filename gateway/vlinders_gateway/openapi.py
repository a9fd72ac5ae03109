"""One OpenAPI 3.0 document per dialect, read off the same tables that serve it."""

import re
from functools import partial
from http import HTTPStatus
from typing import Any

from vlinders_gateway.besides import Further
from vlinders_gateway.dialects import Dialect, Meta
from vlinders_gateway.dialects.paging import Shown
from vlinders_gateway.dialects.shapes import schema_of
from vlinders_gateway.failures import Refusal
from vlinders_gateway.operations import Operation
from vlinders_gateway.schemas import NULL, Schema, Schemas, comments
from vlinders_kit.errors import Violation

VERSION = "1.0.0"

_HERE = object()
"""Stands in an envelope for what it wraps."""

_ANY_FIELD = "{field}"
"""Stands in an envelope for the name of a field."""

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
        "servers": [{"url": mount or "/"} for mount in sorted(dialect.mounts)],
        "security": [{"BearerAuth": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                "BearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
            "headers": _headers(),
            "responses": {
                **{_phrase(code): _refused(dialect, code)[1] for code in _ERRORS},
                "Refused": _refused(dialect, 500)[1],
            },
            "schemas": dict(sorted({"Error": _error(dialect), **schemas.found}.items())),
        },
    }


def _operation(
    dialect: Dialect, operation: Operation, path: str, schemas: Schemas
) -> dict[str, Any]:
    method = operation.descriptor
    says, _, more = comments().get(method.full_name, operation.name).partition("\n\n")
    summary, _, rest = says.removeprefix(f"{operation.name} ").replace("\n", " ").partition(". ")
    in_path = _in_path(dialect, operation, path)
    aside = in_path | dialect.elsewhere(operation)
    entry: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [method.containing_service.name.removesuffix("Service")],
        "summary": summary[:1].upper() + summary[1:].rstrip("."),
        "description": "\n\n".join(filter(None, (rest, more))),
        "responses": _responses(dialect, operation, schemas),
    }
    parameters = _parameters(dialect, operation, schemas, path)
    if parameters:
        entry["parameters"] = parameters
    if operation.public and operation.name not in dialect.credentials:
        entry["security"] = []
    if (permission := dialect.permission(operation)) is not None:
        entry["x-api-key-permission"] = permission
    kind: Any = method.input_type
    if operation.writes and (asked := _body(dialect, operation, schemas, aside)) is not None:
        schemas.found[kind.name] = asked
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.name}"}}}
        entry["requestBody"] = {"required": True, "content": content}
    return entry


def _body(
    dialect: Dialect, operation: Operation, schemas: Schemas, aside: frozenset[str]
) -> Schema | None:
    """The schema of the body, with what it may ask of another operation; None without a body."""
    kind: Any = operation.request.DESCRIPTOR
    asked = schemas.object(kind, asked=True, without=aside)
    if (further := Further.of(dialect, operation)) is not None:
        other: Any = further.operation.request.DESCRIPTOR
        more = schemas.object(other, asked=True, without=frozenset((further.by,)))
        asked["properties"] |= more["properties"]
    return asked if asked["properties"] else None


def _in_path(dialect: Dialect, operation: Operation, path: str) -> frozenset[str]:
    """The fields that a path has, by the contract's names."""
    kind: Any = operation.request.DESCRIPTOR
    spelt = {dialect.codec.spelling(each): each.name for each in kind.fields}
    return frozenset(spelt[name] for name in re.findall(r"{(\w+)}", path))


def _parameters(
    dialect: Dialect, operation: Operation, schemas: Schemas, path: str
) -> list[Schema]:
    kind: Any = operation.request.DESCRIPTOR
    codec, in_path = dialect.codec, _in_path(dialect, operation, path)
    found = [
        _parameter(codec.spelling(field), "path", schemas.field(field, asked=True), required=True)
        for field in kind.fields
        if field.name in in_path
    ]
    if operation.writes:
        return found
    aside = in_path | dialect.elsewhere(operation)
    for field in kind.fields:
        if field.name not in aside and codec.shown(field):
            name = codec.spelling(field)
            word = dialect.filter_word(name) if operation.items is not None else name
            found.append(_parameter(word, "query", schemas.field(field, asked=True)))
    if operation.items is not None:
        words = dialect.paging.schemas([*dialect.sorts(operation)])
        found += [_parameter(word, "query", schema) for word, schema in words.items()]
    return found


def _parameter(name: str, place: str, schema: Schema, *, required: bool = False) -> Schema:
    told = {
        word: value for word, value in schema.items() if word not in ("description", "nullable")
    }
    if "enum" in told:
        told["enum"] = [value for value in told["enum"] if value is not None]
    entry: Schema = {"name": name, "in": place, "required": required, "schema": told}
    if "description" in schema:
        entry["description"] = schema["description"]
    return entry


def _responses(dialect: Dialect, operation: Operation, schemas: Schemas) -> dict[str, Any]:
    refused = {
        str(_refused(dialect, code)[0]): {"$ref": f"#/components/responses/{_phrase(code)}"}
        for code in _ERRORS
        if code != 403 or not operation.public
    }
    success: dict[str, Any] = {
        "description": HTTPStatus(operation.success).phrase,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in _headers()},
    }
    if operation.redirect:
        success["headers"] |= {"Location": {"schema": {"type": "string", "format": "uri"}}}
    else:
        success["content"] = _content(dialect, operation, schemas)
    rest = {"$ref": "#/components/responses/Refused"}
    return {str(operation.success): success, **refused, "default": rest}


def _content(dialect: Dialect, operation: Operation, schemas: Schemas) -> dict[str, Any]:
    row = _row(dialect, operation, schemas)
    if operation.items is not None:
        pages = (Shown(page, 20, 150) for page in (1, 8))  # the first and the last
        schema = _schema_of([dialect.listed([_HERE], page, _EXAMPLE) for page in pages], row)
    elif operation.name in dialect.bare:
        schema = row
    else:
        schema = _schema_of([dialect.success(_HERE, _EXAMPLE)], row)
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if operation.piped and "stream" in operation.request.DESCRIPTOR.fields_by_name:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return content


def _row(dialect: Dialect, operation: Operation, schemas: Schemas) -> Schema:
    """The schema of the answer, or of the items of its list, in the shape that it has here."""
    if operation.items is None and not operation.response.DESCRIPTOR.fields:
        return {"type": "object"} if dialect.empty is not None else NULL
    kind: Any = operation.row
    shape = dialect.shape(operation)
    if shape is None:
        # What engines leave out of a piped answer is not written in as null.
        return schemas.refer(kind, asked=operation.piped)
    joined = {join.name: join.rows.message_type for join in dialect.joins.get(operation.name, ())}
    found: Schema = schema_of(shape, partial(schemas.at, kind, joined))
    return found


def _phrase(code: int) -> str:
    return HTTPStatus(code).phrase.title().replace(" ", "")


def _refused(dialect: Dialect, code: int) -> tuple[int, Schema]:
    """The HTTP status that the dialect has for a failure, and the response."""
    text = _ERRORS.get(code, "Whatever else goes wrong.")
    refusal = Refusal(code, "REASON", text, (), {}, None)
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    status = dialect.failure(refusal, _EXAMPLE)[0]
    return status, {"description": refusal.message, "content": content}


def _error(dialect: Dialect) -> Schema:
    broken = Violation(_ANY_FIELD, "must be a valid email address", "string.email")
    plain = Refusal(429, "RATE_LIMITED", "Too many requests.", (), {}, 1)
    fields = Refusal(400, "INVALID_REQUEST", "Invalid request parameters", (broken,), {}, None)
    examples = [dialect.failure(refusal, _EXAMPLE)[1] for refusal in (fields, plain)]
    return _schema_of(examples, {})


def _schema_of(values: list[Any], here: Schema) -> Schema:
    """The schema of an envelope, by examples of it: what only some of them have may be absent."""
    value = values[0]
    if value is _HERE:
        return here
    if isinstance(value, dict):
        if _ANY_FIELD in value:
            inner = _schema_of([value[_ANY_FIELD]], here)
            return {"type": "object", "additionalProperties": inner}
        names = dict.fromkeys(name for each in values for name in each)
        properties = {
            name: _schema_of([each[name] for each in values if name in each], here)
            for name in names
        }
        needed = [name for name in names if all(name in each for each in values)]
        return {"type": "object", "properties": properties} | (
            {"required": needed} if needed else {}
        )
    if isinstance(value, list):
        return {"type": "array", "items": _schema_of([value[0]], here)}
    if isinstance(value, bool):
        return {"type": "boolean"} | ({"enum": [value]} if len({*values}) == 1 else {})
    if isinstance(value, int):
        return {"type": "integer", "example": value}
    if value is None:
        return NULL
    return {"type": "string", "example": value}


def _headers() -> dict[str, Schema]:
    texts = {
        "X-Request-Id": ("string", "Names this request wherever it is told of."),
        "X-RateLimit-Limit": ("integer", "Requests that may be made in a window of time."),
        "X-RateLimit-Remaining": ("integer", "How many of them are left."),
        "X-RateLimit-Reset": ("integer", "Unix seconds at which all of them are there again."),
    }
    return {
        name: {"description": text, "schema": {"type": kind}}
        for name, (kind, text) in texts.items()
    }
