"""Addresses without a field in them, found by one lookup however many there are."""

from collections import defaultdict

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send


class Exact(BaseRoute):
    """One route for all of them. Among hundreds of routes, to try each takes longer than a call."""

    def __init__(self) -> None:
        self._apps: defaultdict[str, dict[str, ASGIApp]] = defaultdict(dict)

    def add(self, verb: str, path: str, app: ASGIApp) -> None:
        """Has `app` answer `verb` at `path`; a GET is a HEAD as well."""
        self._apps[path] |= {verb: app, "HEAD": app} if verb == "GET" else {verb: app}

    def verbs(self, path: str) -> set[str]:
        """What would do at `path`."""
        return set(self._apps[path]) if path in self._apps else set()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        apps = self._apps.get(scope["path"])
        if apps is None:
            return Match.NONE, {}
        app = apps.get(scope["method"])
        found: Scope = {"endpoint": app, "path_params": {}}
        return (Match.FULL, found) if app is not None else (Match.PARTIAL, {"endpoint": None})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp | None = scope["endpoint"]
        if app is None:
            raise HTTPException(status_code=405)
        await app(scope, receive, send)
