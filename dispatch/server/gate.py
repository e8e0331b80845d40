"""Who may come in: Host, Origin and credential, judged by one function for HTTP and upgrades.

Neighbours: `listener` asks the `Doorkeeper` before it answers an upgrade; the `Gate` asks it in
front of the ASGI app; `auth` knows the credentials. Host and Origin come first, because a page of
somebody else's must not even make us work. Both are compared whole, never by a prefix or a pattern
that a foreign name could fit (DNS rebinding; `http://localhost.evil`).
Invariant: whatever reaches the app or becomes a connection was admitted here, and carries its
credential in `scope["state"]` or in the `Handshake`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

from dispatch.errors import (
    ConfigError,
    DispatchError,
    Forbidden,
    Misdirected,
    PeerError,
    Unauthorized,
    Unavailable,
)
from dispatch.server.answer import Answer, refusal
from dispatch.server.auth import ANYONE, SESSION_COOKIE, Authenticator, Credential, KeyWanted
from dispatch.server.head import Head
from dispatch.server.offers import AHP_PATH, offers_of, token_of
from dispatch.settings import LOOPBACK_HOSTS, Settings

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

WILDCARD_HOSTS: Final = frozenset({"0.0.0.0", "::", ""})

# Query strings end up in logs, histories and Referer headers.
TOKEN_PARAMETERS: Final = ("token", "access_token")
TICKET_PARAMETER: Final = "ticket"
# The one place where clients of AHP put a token: nothing of ours logs it.
AHP_TOKEN_PARAMETER: Final = "tkn"

_LOOPBACK: Final = r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[1-9][0-9]{0,4})?"
_LOOPBACK_HOST: Final = re.compile(_LOOPBACK, re.ASCII)
_LOOPBACK_ORIGIN: Final = re.compile(f"https?://{_LOOPBACK}", re.ASCII)
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._\[\]:-]+", re.ASCII)
# A name or an address, with or without a port; or a bare address of IPv6.
_HOST: Final = re.compile(
    r"(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?P<port>:[1-9][0-9]{0,4})?|[0-9a-f.]*(?::[0-9a-f.]*){2,}",
    re.ASCII,
)

# How long a browser may remember a preflight's answer.
_PREFLIGHT_SECONDS: Final = b"600"


class Doorkeeper:
    """Judges request heads; without an `Authenticator` whoever reaches the daemon is `LOCAL`."""

    def __init__(self, settings: Settings, authenticator: Authenticator | None) -> None:
        """Raises `ConfigError` for an origin or a host that no browser would send."""
        for origin in settings.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f'origins: "{origin}" is not an origin, such as "https://chat.example"'
                )
        for host in settings.hosts:
            if not _HOST.fullmatch(host.lower()):
                raise ConfigError(f'hosts: "{host}" is not a host, such as "chat.example"')
        self.authenticator = authenticator
        self._settings = settings
        self._origins = frozenset(settings.origins)
        self._hosts: frozenset[str] = frozenset()
        self._loopback_only = False
        self._port = 0

    def listening(self, addresses: Iterable[str], port: int) -> None:
        """Learn what was bound; until then no Host is ours."""
        addresses = tuple(addresses)
        self._port = port
        self._loopback_only = all(address in LOOPBACK_HOSTS for address in addresses)
        named = {*addresses, self._settings.host, *LOOPBACK_HOSTS} - WILDCARD_HOSTS
        hosts = {form for name in named for form in _host_forms(name, port)}
        for name in self._settings.hosts:
            # Written with a port it means that port; without, a proxy's in front, or ours.
            host = _bracketed(name.lower())
            hosts |= {host} if _has_port(host) else {host, f"{host}:{port}"}
        self._hosts = frozenset(hosts)

    def is_valid(self, credential: Credential) -> bool:
        """Whether a credential that was admitted is good still."""
        return self.authenticator is None or self.authenticator.is_valid(credential)

    # The one function, and its waiting twin.

    def admit(self, head: Head, *, optional: bool = False) -> Credential | None:
        """Let a request in, or raise its refusal.

        None: nothing was offered, and an upgrade may still name itself in its first frame, or the
        request is one that needs no credential (`optional`).
        """
        self.check_host(head)
        self.check_origin(head)
        return self._identify(head, optional)

    async def admit_waiting(self, head: Head, *, optional: bool = False) -> Credential | None:
        """`admit`, after fetching the keys a token is signed with if they are unknown."""
        try:
            return self.admit(head, optional=optional)
        except KeyWanted:
            await self.fetch_keys()
        try:
            return self.admit(head, optional=optional)
        except KeyWanted as error:
            raise Unavailable("the keys of the token's issuer cannot be fetched now") from error

    async def fetch_keys(self) -> None:
        """What `KeyWanted` asks for."""
        if self.authenticator is not None:
            await self.authenticator.fetch_keys()

    def check_host(self, head: Head) -> None:
        """Raise `Misdirected` for a name that is not ours: a rebound one leads here, too."""
        values = head.values(b"host")
        if len(values) != 1:
            raise PeerError("a request needs exactly one Host header")
        host = values[0].lower()
        if host in self._hosts or self._is_loopback_host(host):
            return
        # Bound to all addresses: the one that was connected to, as a number, cannot be rebound.
        if head.server and not self._loopback_only and host in _host_forms(head.server, self._port):
            return
        raise Misdirected("this daemon does not answer to that Host; see the setting `hosts`")

    def check_origin(self, head: Head) -> None:
        """Raise `Forbidden` for a page that is not ours."""
        origins = head.values(b"origin")
        if not origins:
            site, mode = head.value(b"sec-fetch-site"), head.value(b"sec-fetch-mode")
            if site == "cross-site" and (head.upgrade or mode != "navigate"):
                raise Forbidden("a browser sent this for a foreign page, without an Origin")
            return
        if len(origins) != 1 or not (self._is_own(head) or self._is_loopback(head)):
            raise Forbidden("this Origin is not allowed; see the setting `origins`")

    def cors_headers(self, head: Head) -> Headers:
        """What lets the page that asked read the answer; nothing for a page that may not."""
        headers: Headers = [(b"vary", b"origin")]
        try:
            self.check_host(head)
            self.check_origin(head)
        except DispatchError:
            return headers
        origin = head.value(b"origin")
        if origin is None:
            return headers
        headers += [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"retry-after, x-conversation-id"),
        ]
        if self._is_own(head):
            headers.append((b"access-control-allow-credentials", b"true"))
        return headers

    def _is_own(self, head: Head) -> bool:
        """Same origin, or one that the operator named."""
        origin = head.value(b"origin")
        host = (head.value(b"host") or "").lower()
        return origin in self._origins or origin == f"{head.scheme}://{host}"

    def _is_loopback_host(self, host: str) -> bool:
        """A name of the loopback, while we are bound to nothing else: no foreign name resolves to
        it. Any port, for a tunnel or a container may map ours to another.
        """
        return self._loopback_only and _LOOPBACK_HOST.fullmatch(host) is not None

    def _is_loopback(self, head: Head) -> bool:
        """Another program's page on this machine, while only this machine can reach us."""
        if not self._is_loopback_host((head.value(b"host") or "").lower()):
            return False
        return _LOOPBACK_ORIGIN.fullmatch(head.value(b"origin") or "") is not None

    def _identify(self, head: Head, optional: bool) -> Credential | None:
        authenticator = self.authenticator
        if authenticator is None:
            return ANYONE
        parameters = head.parameters()
        for name in TOKEN_PARAMETERS:
            if name in parameters:
                raise Unauthorized(
                    f"a token does not belong into the query string (`{name}`), which is logged: "
                    "send it in a header, as a subprotocol or in the first frame, or use a ticket"
                )
        token = _bearer(head)
        if token is None and head.upgrade:
            token = token_of(offers_of(head))
        if token is None and head.upgrade and head.path == AHP_PATH:
            token = parameters.get(AHP_TOKEN_PARAMETER)
        if token is not None:
            return authenticator.check(token, head.client)
        ticket = parameters.get(TICKET_PARAMETER)
        if ticket is not None and head.method == "GET":
            return authenticator.redeem_ticket(ticket, head.client)
        credential = self._from_cookie(authenticator, head, optional)
        if credential is not None or optional or head.upgrade:
            return credential
        raise Unauthorized("a credential is needed: a bearer token, a session or a ticket")

    def _from_cookie(
        self, authenticator: Authenticator, head: Head, optional: bool
    ) -> Credential | None:
        """A cookie is sent whether the page wants or not: it speaks for our own pages alone."""
        cookie = _cookie(head, SESSION_COOKIE)
        site = head.value(b"sec-fetch-site")
        foreign = site not in (None, "same-origin", "none")
        if head.value(b"origin") is not None:
            foreign = not self._is_own(head)
        if cookie is None or foreign:
            return None
        try:
            return authenticator.check_session(cookie, head.client)
        except DispatchError:
            # The page that asks for a new session must load with the old one in the jar.
            if optional:
                return None
            raise


class Gate:
    """ASGI middleware around everything: nothing reaches the app that was not admitted.

    The app finds `scope["state"]["credential"]` and `["principal"]`, both None on a path for which
    `public(method, path)` is true and nothing was offered. Refusals, of its own and `DispatchError`
    that the app lets out, become `{"error", "code"}`.
    """

    def __init__(
        self,
        app: ASGIApp,
        keeper: Doorkeeper,
        *,
        public: Callable[[str, str], bool] = lambda method, path: path == "/health",
    ) -> None:
        """`public` names what may be read without a credential: the page, health checks."""
        self._app = app
        self._keeper = keeper
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge, then pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = head_of(scope)
        cors = self._keeper.cors_headers(head)
        started = False

        async def send_with_cors(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *cors]
            await send(message)

        preflight = (
            head.method == "OPTIONS" and head.value(b"access-control-request-method") is not None
        )
        try:
            optional = preflight or self._public(head.method, head.path)
            credential = await self._keeper.admit_waiting(head, optional=optional)
            if preflight:
                await _answer_preflight(head, send_with_cors)
                return
            state = scope.setdefault("state", {})
            state["credential"] = credential
            state["principal"] = None if credential is None else credential.principal
            await self._app(scope, receive, send_with_cors)
        except DispatchError as error:
            if started:
                raise
            await _send_answer(refusal(error, head.path), send_with_cors)


def head_of(scope: Scope) -> Head:
    """The head of an ASGI request, after uvicorn believed its trusted proxies."""
    client, server = scope.get("client"), scope.get("server")
    return Head(
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        headers=scope["headers"],
        scheme=http_scheme(scope.get("scheme", "http")),
        client=client[0] if client else "",
        server=server[0] if server else "",
    )


def http_scheme(scheme: str) -> str:
    """The scheme of an origin: a proxy may say `wss` where the page says `https`."""
    return {"ws": "http", "wss": "https"}.get(scheme, scheme)


async def _answer_preflight(head: Head, send: Send) -> None:
    wanted = head.value(b"access-control-request-headers") or ""
    reply = Answer(204, [], b"")
    reply.headers += [
        (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
        (b"access-control-allow-headers", wanted.encode("latin-1")),
        (b"access-control-max-age", _PREFLIGHT_SECONDS),
    ]
    if head.value(b"access-control-request-private-network") == "true":
        reply.headers.append((b"access-control-allow-private-network", b"true"))
    await _send_answer(reply, send)


async def _send_answer(reply: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})


def _bearer(head: Head) -> str | None:
    value = head.value(b"authorization")
    scheme, _, token = (value or "").partition(" ")
    # Another scheme is a proxy's: it says nothing to us.
    return token.strip() if scheme.lower() == "bearer" else None


def _cookie(head: Head, name: str) -> str | None:
    for line in head.values(b"cookie"):
        for pair in line.split(";"):
            key, _, value = pair.strip().partition("=")
            if key == name:
                return value
    return None


def _bracketed(name: str) -> str:
    """An address of IPv6 as it stands before a port."""
    return f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name


def _has_port(host: str) -> bool:
    match = _HOST.fullmatch(host)
    return match is not None and match["port"] is not None


def _host_forms(name: str, port: int) -> Sequence[str]:
    """How a Host header writes a name of ours: a browser leaves the default port out."""
    host = _bracketed(name.lower())
    return (f"{host}:{port}", host) if port == 80 else (f"{host}:{port}",)
