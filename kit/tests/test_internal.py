"""The port for probes and Prometheus, served from the part's own event loop."""

import asyncio
import contextlib

import httpx

from vlinders_kit import internal
from vlinders_kit.embedded.programs import free_port


async def test_figures_and_health_are_served_and_nothing_else() -> None:
    port, ready = free_port(), asyncio.Event()
    async with (
        internal.serving("127.0.0.1", port, ready.is_set),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        found = await http.get("/metrics")
        assert found.headers["content-type"] == internal.CONTENT_TYPE
        assert "process_resident_memory_bytes" in found.text
        assert (await http.get("/secrets")).status_code == 404
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503
        ready.set()
        assert (await http.get("/readyz")).status_code == 200


async def test_nonsense_ends_its_connection_alone() -> None:
    port = free_port()
    async with internal.serving("127.0.0.1", port, lambda: True):
        for nonsense, answer in ((b"\r\n\r\n", b"HTTP/1.1 404"), (b"x" * 100_000, b"")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(nonsense)
            with contextlib.suppress(ConnectionError):
                assert (await reader.read()).startswith(answer)
            writer.close()
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{port}/metrics")).status_code == 200
