"""What can be read without a credential: the documents of the API, and whether it is there."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from vlinders_gateway.dialects import CANONICAL, DIALECTS
from vlinders_gateway.exchange import encode
from vlinders_gateway.openapi import document
from vlinders_gateway.page import page

PAGES = ("/docs", "/redoc")
"""Where people read a document. It is one page, which needs no script and no other host."""


def add_to(app: FastAPI, *, ready: Callable[[], bool]) -> None:
    """Adds each dialect's documents, `/healthz` and `/readyz`. No limit counts them."""

    async def is_alive(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def is_ready(request: Request) -> Response:
        return PlainTextResponse(*(("ready\n", 200) if ready() else ("not ready\n", 503)))

    app.add_route("/healthz", is_alive, ["GET"], include_in_schema=False)
    app.add_route("/readyz", is_ready, ["GET"], include_in_schema=False)
    for dialect in DIALECTS:
        described = document(dialect)
        read = _always(encode(described), "application/json")
        shown = _always(page(described).encode(), "text/html; charset=utf-8")
        for mount in dialect.mounts if dialect is CANONICAL else dialect.mounts[:1]:
            for path in dialect.described_at:
                app.add_route(mount + path, read, ["GET"], include_in_schema=False)
            for path in PAGES:
                app.add_route(mount + path, shown, ["GET"], include_in_schema=False)


def _always(body: bytes, media_type: str) -> Any:
    """The handler of what never changes while the process runs."""
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}

    async def tell(request: Request) -> Response:
        return Response(body, media_type=media_type, headers=headers)

    return tell
