"""Credentials to principals: static tokens, JWTs, tickets and sessions behind one door.

Neighbours: `gate` takes the credential out of a request and asks here; `connection` asks with the
token of a first frame, and whether its credential still stands; `http` issues tickets and sessions.
Everything but `authenticate` and `fetch_keys` is synchronous, so an upgrade needs no task.
Invariant: a static token is compared with every configured one, in constant time; no token is kept,
logged or put into a message.
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from dispatch.core.identity import AccountId, Principal, UserId
from dispatch.errors import RateLimited, Unauthorized, Unavailable
from dispatch.server.attempts import Attempts
from dispatch.server.claims import Claims
from dispatch.server.credential import (
    ANYONE,
    Credential,
    KeyWanted,
    Stale,
    digest,
)
from dispatch.server.tickets import Issued, Sessions, Tickets, session_key
from dispatch.settings import AuthSettings, Limits

__all__ = [
    "ANYONE",
    "SESSION_COOKIE",
    "Authenticator",
    "Credential",
    "Issued",
    "KeyWanted",
    "session_key",
]

SESSION_COOKIE: Final = "dispatch_session"
# Longer than any honest token, and what a header line may hold.
TOKEN_CHARACTERS_MAX: Final = 8192

_log = structlog.get_logger("dispatch.server.auth")


class Authenticator:
    """Everything `[auth]` promises; `reload` replaces the settings under open connections."""

    def __init__(
        self,
        settings: AuthSettings,
        limits: Limits,
        key: bytes,
        *,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`key` signs the sessions; raises `ConfigError` for a JWT key that cannot be used."""
        self._clock = clock
        self._environment = os.environ if environment is None else environment
        self._attempts = Attempts(limits.auth_failures_max)
        self._tickets = Tickets(limits.ticket_seconds_max, limits.tickets_max, random_bytes)
        self._sessions = Sessions(key, settings.session_seconds_max, random_bytes)
        self._static: dict[str, Credential] = {}
        self._claims: Claims | None = None
        self.secure_cookies = False
        self.refused_total = 0
        self.reload(settings)

    def reload(self, settings: AuthSettings) -> None:
        """Take over new settings; what stood on a removed token stands no longer."""
        claims = None
        if settings.jwt is not None:
            claims = Claims(settings.jwt, self._environment, self._clock)
        if claims is None or self._claims is None or claims.prefix != self._claims.prefix:
            # Equal settings keep the reader, and with it the keys it has fetched.
            self._claims = claims
        self._static = {
            token.sha256: Credential(
                Principal(AccountId(token.account), UserId(token.user), frozenset(token.rights)),
                f"static:{token.sha256[:16]}",
            )
            for token in settings.tokens
        }
        self._sources = {known.token_id: known.principal for known in self._static.values()}
        self._sessions.seconds_max = settings.session_seconds_max
        self.secure_cookies = settings.secure_cookies

    # Tokens.

    async def authenticate(self, token: str, address: str = "") -> Credential:
        """`check`, and fetch the keys it needs; raises `Unauthorized` or `RateLimited`."""
        try:
            return self.check(token, address)
        except KeyWanted:
            await self.fetch_keys()
        try:
            return self.check(token, address)
        except KeyWanted as error:
            raise Unavailable("the keys of the token's issuer cannot be fetched now") from error

    def check(self, token: str, address: str = "") -> Credential:
        """Judge a bearer token; raises `KeyWanted` if that needs a key to be fetched."""
        return self._judge(token, address, self._read_token)

    async def fetch_keys(self) -> None:
        """Fetch the keys of the JWT's issuer, unless that was tried just now."""
        if self._claims is not None:
            await self._claims.fetch_keys()

    # Tickets and sessions.

    def issue_ticket(self, credential: Credential) -> Issued:
        """A single-use ticket for a credential; raises `TooMany`."""
        return self._tickets.issue(credential, self._clock())

    def redeem_ticket(self, text: str, address: str = "") -> Credential:
        """Use a ticket up; raises `Unauthorized` for one that was used, expired or never was."""
        return self._judge(text, address, self._read_ticket)

    def issue_session(self, credential: Credential) -> Issued:
        """A signed session for a credential; its text goes into the cookie."""
        return self._sessions.issue(credential, self._clock())

    def check_session(self, text: str, address: str = "") -> Credential:
        """Judge a session's text; raises `Unauthorized`."""
        return self._judge(text, address, self._read_session)

    def end_session(self, credential: Credential) -> None:
        """Sign out the session this credential was made by; others are left alone."""
        if credential.session_id is not None and credential.expires_at is not None:
            self._sessions.revoke(credential.session_id, credential.expires_at, self._clock())

    def set_cookie(self, session: Issued) -> str:
        """The Set-Cookie value that signs a page in."""
        seconds = max(0, int(session.expires_at - self._clock()))
        return self._cookie(session.text, seconds)

    def clear_cookie(self) -> str:
        """The Set-Cookie value that signs a page out."""
        return self._cookie("", 0)

    # What lasts.

    def is_valid(self, credential: Credential, now: float | None = None) -> bool:
        """Whether a credential that was good is so still; asked by the sweep of the connections."""
        if credential is ANYONE:
            # Let in before `[auth]` was configured.
            return False
        now = self._clock() if now is None else now
        if credential.expires_at is not None and now >= credential.expires_at:
            return False
        if credential.session_id is not None and self._sessions.is_revoked(credential.session_id):
            return False
        return self._stands(credential)

    def _judge(
        self, text: str, address: str, read: Callable[[str, float], Credential]
    ) -> Credential:
        """Read a credential under the back-off of its address."""
        now = self._clock()
        proper = text.isascii() and len(text) <= TOKEN_CHARACTERS_MAX
        mark = digest(text) if proper else ""
        try:
            self._attempts.admit(address, mark, now)
        except RateLimited:
            # Counted and not told: who floods us must not flood the log.
            self.refused_total += 1
            raise
        try:
            if not proper:
                raise Unauthorized("not a credential")
            credential = read(text, now)
        except Stale as stale:
            # Authentic once: a client that has not noticed, not a guess.
            self._refused("stale", address)
            raise Unauthorized(str(stale)) from stale
        except Unauthorized:
            self._attempts.failed(address, now)
            self._refused("unknown" if proper else "malformed", address)
            raise
        self._attempts.succeeded(address, mark)
        return credential

    def _refused(self, reason: str, address: str) -> None:
        self.refused_total += 1
        _log.warning("auth.refused", reason=reason, address=address)

    def _read_token(self, token: str, now: float) -> Credential:
        offered = digest(token)
        found = None
        for known, credential in self._static.items():
            # No early end: which token comes how close is nobody's business.
            if hmac.compare_digest(known, offered):
                found = credential
        if found is not None:
            return found
        if self._claims is not None and token.count(".") == 2:
            return self._claims.credential(token)
        raise Unauthorized("the token is not accepted")

    def _read_ticket(self, text: str, now: float) -> Credential:
        credential = self._tickets.redeem(text, now)
        if not self.is_valid(credential, now):
            raise Stale("the ticket's credential is over")
        return credential

    def _read_session(self, text: str, now: float) -> Credential:
        credential = self._sessions.read(text, now)
        if not self._stands(credential):
            raise Stale("the session's token was withdrawn")
        return credential

    def _stands(self, credential: Credential) -> bool:
        """Whether what the credential was made of is configured still, with the same rights."""
        token_id = credential.token_id
        if token_id in self._sources:
            return self._sources[token_id] == credential.principal
        return self._claims is not None and token_id.startswith(self._claims.prefix)

    def _cookie(self, value: str, seconds: int) -> str:
        cookie = f"{SESSION_COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict"
        return cookie + "; Secure" if self.secure_cookies else cookie
