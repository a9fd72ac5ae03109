"""The page for people to read an OpenAPI document on: plain HTML that needs no other host."""

import json
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1c2024; background: #fff }
code, pre { font: 14px/1.5 ui-monospace, monospace }
pre { background: #f4f5f7; padding: .75rem 1rem; overflow-x: auto; border-radius: 6px }
details { border: 1px solid #d9dce1; border-radius: 6px; margin: .5rem 0; padding: .5rem 1rem }
summary { cursor: pointer }
table { border-collapse: collapse; width: 100% }
td, th { border-bottom: 1px solid #e6e8ec; padding: .3rem .6rem .3rem 0; text-align: left;
  vertical-align: top }
.verb { display: inline-block; font-weight: 600; min-width: 4.5rem }
.quiet { color: #60646c }
@media (prefers-color-scheme: dark) {
  body { color: #edeef0; background: #18191b } pre { background: #212225 }
  details, td, th { border-color: #363a3f }
}
"""


def page(document: dict[str, Any]) -> str:
    """The whole page."""
    title = escape(document["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><h1>{title}</h1>"
        '<p class="quiet">Machine-readable: <a href="openapi.json">openapi.json</a>. '
        "Send an API key or access token as <code>Authorization: Bearer …</code>.</p>"
        f"{''.join(_sections(document))}</html>"
    )


def _sections(document: dict[str, Any]) -> Iterator[str]:
    by_tag: defaultdict[str, list[str]] = defaultdict(list)
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            by_tag[operation["tags"][0]].append(_operation(verb, path, operation, document))
    for tag, operations in sorted(by_tag.items()):
        yield f"<h2>{escape(tag)}</h2>{''.join(operations)}"


def _operation(verb: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    needs = "needs no credential" if operation.get("security") == [] else "needs a credential"
    if (permission := operation.get("x-api-key-permission")) is not None:
        needs = f"access token, or API key with {permission}"
    parts = [
        f'<details id="{escape(operation["operationId"])}"><summary><span class="verb">'
        f"{verb.upper()}</span> <code>{escape(path)}</code> — {escape(operation['summary'])}"
        f'</summary><p>{escape(operation["description"])}</p><p class="quiet">{escape(needs)}</p>'
    ]
    if "parameters" in operation:
        rows = [(row["name"], row["schema"], row) for row in operation["parameters"]]
        parts.append("<h4>Parameters</h4>" + _table(rows, document))
    if "requestBody" in operation:
        body = _resolved(
            operation["requestBody"]["content"]["application/json"]["schema"], document
        )
        needed = body.get("required", ())
        rows = [
            (name, schema, {"required": name in needed, **schema})
            for name, schema in body["properties"].items()
        ]
        parts.append("<h4>Body</h4>" + _table(rows, document))
    parts.append("<h4>Answer</h4>")
    for status, answer in operation["responses"].items():
        if status.startswith("2") and "content" in answer:
            schema = answer["content"]["application/json"]["schema"]
            example = json.dumps(_example(schema, document), indent=2, ensure_ascii=False)
            parts.append(f"<p>{status}</p><pre>{escape(example)}</pre>")
    return "".join(parts) + "</details>"


def _table(rows: list[tuple[str, dict[str, Any], dict[str, Any]]], document: dict[str, Any]) -> str:
    cells = (
        f"<tr><td><code>{escape(name)}</code><td>{escape(_kind(schema, document))}"
        f"<td>{'required' if row.get('required') else ''}"
        f"<td>{escape(row.get('description', ''))}"
        for name, schema, row in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _kind(schema: dict[str, Any], document: dict[str, Any]) -> str:
    schema = _resolved(schema, document)
    if "anyOf" in schema:
        return _kind(schema["anyOf"][0], document)
    if "enum" in schema:
        return " | ".join(json.dumps(value).strip('"') for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_kind(schema['items'], document)}"
    return str(schema.get("format") or schema.get("type") or "any")


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _example(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """A value of the form that `schema` tells."""
    schema = _resolved(schema, document)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], document)
    if "example" in schema:
        return schema["example"]
    if "properties" in schema:
        return {name: _example(inner, document) for name, inner in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_example(schema["items"], document)]
    if schema.get("format") == "date-time":
        return "2026-02-28T10:30:00Z"
    choices = schema.get("enum", ())
    if len(choices) == 1:
        return choices[0]
    kind = "|".join(choices) or "string"
    return {"integer": 0, "number": 0.0, "boolean": False, "string": kind}.get(
        schema.get("type", ""), {}
    )
