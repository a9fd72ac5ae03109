"""The port that clients never see: is the process alive, does it serve, and its figures."""

from collections.abc import Callable

from prometheus_client import generate_latest

from vlinders_gateway.exchange import Receive, Scope, Send


class Internal:
    """`/healthz`: alive. `/readyz`: 200 while requests can be served, else 503. `/metrics`."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, body = self._answer(scope["path"])
        headers = [
            (b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, path: str) -> tuple[int, bytes]:
        if path == "/healthz":
            return 200, b"alive\n"
        if path == "/readyz":
            return (200, b"ready\n") if self._ready() else (503, b"not ready\n")
        if path == "/metrics":
            return 200, generate_latest()
        return 404, b"nothing here\n"
