"""Routes about the daemon itself: health, metrics, agents, and who one is to it.

Neighbours: `auth` issues what the `/auth` routes hand out, `observability` counts what `/metrics`
shows.
Invariant: nothing here touches a conversation.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response
from starlette.routing import Route

from dispatch.errors import NotFound, Unauthorized, Unavailable
from dispatch.runtime.services import Services
from dispatch.server.auth import Authenticator, Credential
from dispatch.server.call import Call, Site, route
from dispatch.server.responses import Json

# A proxy on this machine makes strangers look like neighbours; it says so in one of these.
_FORWARDING_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


def routes(site: Site) -> list[Route]:
    """See the module."""
    return [
        route(site, "/health", GET=_health),
        route(site, "/ready", GET=_ready),
        route(site, "/metrics", GET=_metrics),
        route(site, "/models", GET=_models),
        route(site, "/agents", GET=_agents),
        route(site, "/auth/ticket", POST=_issue_ticket),
        route(site, "/auth/session", POST=_sign_in, DELETE=_sign_out),
    ]


async def _health(call: Call) -> Response:
    return Json({"ok": True})


async def _ready(call: Call) -> Response:
    if call.site.services.is_draining or not call.site.is_ready():
        raise Unavailable("the daemon is starting or shutting down", retry_after_ms=1_000)
    return Json({"ok": True})


async def _metrics(call: Call) -> Response:
    if call.credential is None and not _is_neighbour(call):
        raise Unauthorized("metrics are for this machine, or for a credential")
    return Response(call.site.metrics(), media_type=CONTENT_TYPE_LATEST)


def _is_neighbour(call: Call) -> bool:
    """Whether the request was made on this machine, as far as that can be known."""
    client, headers = call.request.client, call.request.headers
    if client is None or any(name in headers for name in _FORWARDING_HEADERS):
        return False
    try:
        address = ip_address(client.host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


async def _models(call: Call) -> Response:
    call.reader()
    return Json({"models": _model_names(call.site.services)})


async def _agents(call: Call) -> Response:
    call.reader()
    return Json({"agents": await call.site.services.roster.standings()})


def _model_names(services: Services) -> list[str]:
    """What `model` takes; the default agent's first, as it is what absence means."""
    names = sorted(services.agents, key=lambda name: name != services.default_agent)
    models = []
    for name in names:
        own = services.agents[name].info.models
        models += [f"{name}/{model}" for model in own] or [name]
    return models


async def _issue_ticket(call: Call) -> Response:
    authenticator, credential = _signed(call)
    ticket = authenticator.issue_ticket(credential)
    return Json({"ticket": ticket.text, "expiresAt": _ms(ticket.expires_at)})


async def _sign_in(call: Call) -> Response:
    authenticator, credential = _signed(call)
    session = authenticator.issue_session(credential)
    principal = credential.principal
    response = Json(
        {
            "account": principal.account,
            "user": principal.user,
            "rights": sorted(principal.rights),
            "expiresAt": _ms(session.expires_at),
        }
    )
    response.headers["set-cookie"] = authenticator.set_cookie(session)
    return response


async def _sign_out(call: Call) -> Response:
    response = Json({"ok": True})
    authenticator, credential = call.site.authenticator, call.credential
    if authenticator is not None:
        if credential is not None:
            authenticator.end_session(credential)
        response.headers["set-cookie"] = authenticator.clear_cookie()
    return response


def _signed(call: Call) -> tuple[Authenticator, Credential]:
    authenticator, credential = call.site.authenticator, call.credential
    if authenticator is None:
        raise NotFound("this daemon has no [auth]: nobody needs a credential")
    if credential is None:
        raise Unauthorized("a credential is needed")
    return authenticator, credential


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
