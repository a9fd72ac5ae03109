"""Fields that travel as cookies: set by one answer, read by a later request, then taken away."""

from http.cookies import CookieError, SimpleCookie

from vlinders_gateway.exchange import Exchange, Header

SECONDS = 600
"""How long a browser keeps one: what is begun is finished in minutes."""


def read(exchange: Exchange, name: str) -> str:
    """The value that the client sends back; empty where it sends none."""
    try:
        for header, value in exchange.scope["headers"]:
            if header == b"cookie" and (found := SimpleCookie(value.decode("latin-1")).get(name)):
                return found.value
    except CookieError:
        return ""
    return ""


def put(exchange: Exchange, name: str, value: str) -> Header:
    """The header that has the client keep `value`; an empty one is taken away."""
    rules = f"Path={exchange.mount or '/'}; HttpOnly; SameSite=Lax"
    secure = "; Secure" if exchange.secure else ""
    age = SECONDS if value else 0
    return b"set-cookie", f"{name}={value}; Max-Age={age}; {rules}{secure}".encode()
