"""The pages for people to read an OpenAPI document on: Swagger UI and Redoc, from our own host."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

_ASSETS = files("fastapi_offline") / "static"

_START = """
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  layout: "BaseLayout",
});
"""
"""A file of its own, since no script within a page is run. No validator elsewhere is asked."""

_HEAD = (
    '<!doctype html><html><head><meta charset="utf-8"><title>{title}</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="icon" href="data:,">'
)
_SWAGGER = (
    '<link rel="stylesheet" href="docs/swagger-ui.css"></head><body><div id="swagger-ui"></div>'
    '<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script>'
    "</body></html>"
)
_REDOC = (
    '</head><body style="margin:0"><redoc spec-url="openapi.json"></redoc>'
    '<script src="docs/redoc.standalone.js"></script></body></html>'
)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; font-src data:; worker-src blob:; frame-ancestors 'none'"
)
"""What a browser lets the pages do: nothing goes to another host, and no other page frames them."""


@dataclass(frozen=True)
class File:
    """What is served at one address."""

    body: bytes
    media_type: str
    headers: Mapping[str, str]


def pages(document: dict[str, Any]) -> dict[str, File]:
    """Path, below where the document's own is, → what stands there."""
    head = _HEAD.format(title=escape(document["info"]["title"]))
    guard = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
    found = {
        path: File((head + rest).encode(), "text/html; charset=utf-8", guard)
        for path, rest in (("/docs", _SWAGGER), ("/redoc", _REDOC))
    }
    return found | {f"/docs/{name}": file for name, file in _files().items()}


@functools.cache
def _files() -> dict[str, File]:
    """What the pages load, which browsers may keep for a day."""
    kept = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}
    script, style = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
    return {
        "start.js": File(_START.encode(), script, kept),
        **{
            name: File(
                (_ASSETS / name).read_bytes(), style if name.endswith(".css") else script, kept
            )
            for name in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js")
        },
    }
