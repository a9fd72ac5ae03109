"""What can be read without a credential: the documents of the API, and whether it is there."""

from collections.abc import Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse


def add_to(app: FastAPI, *, ready: Callable[[], bool]) -> None:
    """Adds `/healthz` and `/readyz` to `app`."""

    async def alive(request: Request) -> PlainTextResponse:
        return PlainTextResponse("alive\n")

    async def is_ready(request: Request) -> PlainTextResponse:
        return PlainTextResponse(*(("ready\n", 200) if ready() else ("not ready\n", 503)))

    app.add_route("/healthz", alive, ["GET"], include_in_schema=False)
    app.add_route("/readyz", is_ready, ["GET"], include_in_schema=False)
