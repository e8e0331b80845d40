"""The HTTP side as one ASGI app: which routes there are, and how each way to fail is answered.

Neighbours: `routes_*` hold what the routes do, `call` what they are given; `gate` stands in front
and has judged Host, Origin and credential; `compose` puts the two together.
Invariant: every answer that is not a stream, a metric or a file of the page is JSON, errors
`{"error", "code"}`; a defect of ours is logged once, with its traceback and without what the client
sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dispatch.errors import DispatchError, Fault, NotFound, PeerError
from dispatch.runtime.services import Services
from dispatch.server import (
    assets,
    routes_chat,
    routes_conversations,
    routes_history,
    routes_service,
    routes_users,
)
from dispatch.server.answer import answer, refusal
from dispatch.server.auth import Authenticator
from dispatch.server.call import Site
from dispatch.server.chats import routes as routes_sessions
from dispatch.server.connections import Connections
from dispatch.server.groups import routes as routes_groups
from dispatch.server.responses import refused

__all__ = ["build_app", "is_public"]

log = structlog.get_logger()

# Who watches over a daemon has no account in it; the route of the metrics judges for itself.
_PUBLIC_PATHS: Final = frozenset({"/health", "/ready", "/metrics"})

_REPLACEMENT: Final = "\ufffd"


def is_public(method: str, path: str) -> bool:
    """What the gate lets pass without a credential.

    Signing out is among it: the cookie of a session that is over has to go as well.
    """
    if method == "DELETE":
        return path == "/auth/session"
    return method in ("GET", "HEAD") and (path in _PUBLIC_PATHS or assets.is_asset(path))


def build_app(
    services: Services,
    hub: Connections,
    authenticator: Authenticator | None,
    *,
    metrics: Callable[[], bytes],
    is_ready: Callable[[], bool],
) -> Starlette:
    """All routes; to be served behind a `Gate` with `public=is_public`."""
    site = Site(services, hub, authenticator, metrics, is_ready)
    app = Starlette(
        routes=[
            *routes_service.routes(site),
            *routes_chat.routes(site),
            *routes_history.routes(site),
            *routes_conversations.routes(site),
            *routes_users.routes(site),
            *routes_sessions.routes(site),
            *routes_groups.routes(site),
            *assets.routes(),
        ],
        middleware=[Middleware(_PlainPaths)],
        exception_handlers={
            DispatchError: _refused,
            HTTPException: _no_route,
            ClientDisconnect: _left,
            # Starlette answers with this and raises again: uvicorn logs it, and cuts a response
            # whose head was sent.
            Exception: _failed,
        },
    )
    app.router.redirect_slashes = False
    return app


class _PlainPaths:
    """Refuses paths that are read differently before and after they are decoded.

    `/conversations/a%2Fstatus` is a strange id, not the status of `a`; and `$` of a pattern matches
    in front of a line's end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and not _is_plain(scope["raw_path"], scope["path"]):
            error = PeerError("malformed path: a slash or a control character is encoded in it")
            app = refused(refusal(error, scope["path"]))
        await app(scope, receive, send)


def _is_plain(raw_path: bytes, path: str) -> bool:
    if b"%" not in raw_path:
        return True
    return b"%2f" not in raw_path.lower() and path.isprintable() and _REPLACEMENT not in path


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, DispatchError)
    if isinstance(error, Fault):
        # The route's pattern and not the path: a path holds what the client wrote.
        route = getattr(request.scope.get("route"), "path", "")
        log.error("http.fault", code=error.code, route=route, exc_info=error)
    return refused(refusal(error, request.scope["path"]))


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == NotFound.http_status:
        return refused(answer(error.status_code, NotFound.code, "Not found", path=path))
    text = "Method not allowed" if error.status_code == 405 else error.detail
    return refused(answer(error.status_code, PeerError.code, text, path=path), error.headers)


async def _left(request: Request, error: Exception) -> Response:
    """The client is gone in the middle of its body: nobody reads this."""
    return refused(answer(400, PeerError.code, "the body ended early"))


async def _failed(request: Request, error: Exception) -> Response:
    return refused(answer(500, Fault.code, Fault.code, path=request.scope["path"]))
