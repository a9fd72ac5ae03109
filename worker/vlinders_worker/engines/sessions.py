"""Connections to engines: one for each request, with little room for what its reader does not take.

A reader that stalls leaves an agent with what has come of its answer, and every copy of that on the
way. How much comes at once is bounded where it begins: in the kernel, whose buffer the event loop
would otherwise empty in reads of a quarter of a megabyte.
"""

import socket

import aiohttp

RECEIVE_BYTES = 16 * 1024
"""Of an answer that the kernel keeps for the agent (Linux takes twice as many). An engine is near,
so that this is plenty; from afar it would bound its speed."""

WAITING_BYTES = 8 * 1024
"""Of an answer that may wait to be taken before no more is read; half of what aiohttp makes it."""


def session() -> aiohttp.ClientSession:
    """What requests to engines are made with."""
    # A connection for each request: engines of one thread a connection must not lend their
    # threads to idle ones, and only a connection of its own can be half closed.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_socket),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"accept-encoding": "identity"},
        read_bufsize=WAITING_BYTES,
    )


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    return made
