"""Answers in other shapes than the contract's: said once, for the JSON and for its schema alike.

A shape is a mapping from a name to where its value comes from: a path in the answer (`account.id`),
a shape inside, or a value that is always the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

Json = Any
Shape = Mapping[str, Any]


def pick(paths: str) -> dict[str, str]:
    """The shape of the values at `paths`, each under the last word of its own."""
    return {path.rpartition(".")[2]: path for path in paths.split()}


def shaped(shape: Shape, answer: Mapping[str, Json]) -> dict[str, Json]:
    """`answer` in that shape."""
    return {name: _value(source, answer) for name, source in shape.items()}


def _value(source: Any, answer: Mapping[str, Json]) -> Json:
    if isinstance(source, Mapping):
        return shaped(source, answer)
    if not isinstance(source, str):
        return source
    found: Any = answer
    for word in source.split("."):
        found = found[word] if found is not None else None
    return found


def schema_of(shape: Shape, at: Callable[[str], Json]) -> Json:
    """The JSON schema of answers in that shape; `at` tells the schema of what is at a path."""
    properties = {name: _schema(source, at) for name, source in shape.items()}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _schema(source: Any, at: Callable[[str], Json]) -> Json:
    if isinstance(source, Mapping):
        return schema_of(source, at)
    if isinstance(source, str):
        return at(source)
    if source is None:
        return {"type": "string", "nullable": True, "enum": [None]}
    kind = "boolean" if isinstance(source, bool) else "integer"
    return {"type": kind, "enum": [source]}
