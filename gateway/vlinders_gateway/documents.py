"""What can be read without a credential: the documents of the API, and whether it is there."""

import functools
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from vlinders_gateway.dialects import CANONICAL, DIALECTS
from vlinders_gateway.exchange import encode
from vlinders_gateway.openapi import document
from vlinders_gateway.pages import File, pages


def add_to(app: FastAPI, *, ready: Callable[[], bool]) -> None:
    """Adds each dialect's documents, `/healthz` and `/readyz`. No limit counts them."""

    async def is_alive(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def is_ready(request: Request) -> Response:
        return PlainTextResponse(*(("ready\n", 200) if ready() else ("not ready\n", 503)))

    app.add_route("/healthz", is_alive, ["GET"], include_in_schema=False)
    app.add_route("/readyz", is_ready, ["GET"], include_in_schema=False)
    for address, file in _files().items():
        app.add_route(address, _always(file), ["GET"], include_in_schema=False)


@functools.cache
def _files() -> dict[str, File]:
    """Address → what stands there: made of the contracts, and so made once."""
    found: dict[str, File] = {}
    for dialect in DIALECTS:
        described = document(dialect)
        told = File(encode(described), "application/json", {})
        served = dict.fromkeys(dialect.described_at, told) | pages(described)
        for mount in dialect.mounts if dialect is CANONICAL else dialect.mounts[:1]:
            found |= {mount + path: file for path, file in served.items()}
    return found


def _always(file: File) -> Any:
    """The handler of what never changes while the process runs."""

    async def tell(request: Request) -> Response:
        return Response(file.body, media_type=file.media_type, headers=file.headers)

    return tell
