"""One HTTP request as the routes see it: who asks, about what, and with which fields.

Neighbours: `http` builds the routes, `routes_*` are written against a `Call`, `bodies` reads what
it brings along, `gate` has put the credential into the scope.
Invariant: an id, a number or a principal that a route holds came through here, and so was checked.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatch.core.identity import WATCH, ConversationId, Principal, parse_conversation_id, require
from dispatch.errors import PeerError, Unauthorized
from dispatch.protocol.codec import Object
from dispatch.runtime.groups.verbs import GroupVerbs
from dispatch.runtime.services import Services
from dispatch.server import bodies
from dispatch.server.auth import Authenticator, Credential
from dispatch.server.connections import Connections
from dispatch.server.gate import head_of
from dispatch.settings import Limits

# Larger than any seq or limit can be, and within every engine's integers.
_NUMBER: Final = re.compile(r"[0-9]{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Site:
    """What all routes share. `metrics` is the exposition, `is_ready` false while starting."""

    services: Services
    hub: Connections
    authenticator: Authenticator | None
    metrics: Callable[[], bytes]
    is_ready: Callable[[], bool]

    @property
    def limits(self) -> Limits:
        """The published bounds."""
        return self.services.limits

    @property
    def groups(self) -> GroupVerbs:
        """What may be done to groups."""
        return self.hub.groups


class Call:
    """See the module."""

    __slots__ = ("request", "site")

    def __init__(self, site: Site, request: Request) -> None:
        """One for each request."""
        self.site = site
        self.request = request

    @property
    def credential(self) -> Credential | None:
        """What the gate found; None where it lets anybody pass."""
        credential: Credential | None = self.request.scope.get("state", {}).get("credential")
        return credential

    def is_still_valid(self) -> bool:
        """Whether what the gate found is good still: a stream may outlast a token."""
        authenticator, credential = self.site.authenticator, self.credential
        return authenticator is None or credential is None or authenticator.is_valid(credential)

    @property
    def principal(self) -> Principal:
        """Who asks; raises `Unauthorized` where nobody said."""
        credential = self.credential
        if credential is None:
            raise Unauthorized("a credential is needed: a bearer token, a session or a ticket")
        return credential.principal

    def reader(self) -> Principal:
        """Who asks, with the right to read."""
        principal = self.principal
        require(principal, WATCH)
        return principal

    @property
    def conversation(self) -> ConversationId:
        """The conversation that the path names; raises `PeerError`."""
        return parse_conversation_id(self.part("id"))

    def part(self, name: str) -> str:
        """A part of the path, decoded."""
        part: str = self.request.path_params[name]
        return part

    @property
    def query(self) -> dict[str, str]:
        """The fields of the query."""
        return head_of(self.request.scope).parameters()

    def number(self, name: str, *, minimum: int) -> int | None:
        """A whole number of the query, or None where it is not given; raises `PeerError`."""
        text = self.query.get(name)
        if text is None:
            return None
        if not _NUMBER.fullmatch(text) or int(text) < minimum:
            kind = "non-negative" if minimum == 0 else "positive"
            raise PeerError(f"{name} must be a {kind} integer")
        return int(text)

    async def fields(self, *, may_be_empty: bool = False) -> Object:
        """The body's JSON object; with `may_be_empty`, no body is an empty one."""
        body = await bodies.read_body(self.request, self.site.limits)
        if may_be_empty and not body.strip():
            return {}
        return bodies.read_fields(body, self.site.limits)


Endpoint: TypeAlias = Callable[[Call], Awaitable[Response]]


def route(site: Site, path: str, **methods: Endpoint) -> Route:
    """Everything that may be done at one path, so that a refused method is told the others."""

    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await methods[method](Call(site, request))

    return Route(path, endpoint, methods=list(methods))
