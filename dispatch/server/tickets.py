"""Credentials the daemon makes itself: single-use tickets and sessions.

Neighbours: `auth` issues and redeems them; `compose` loads the key of the sessions.
A ticket is a random number that lives in memory for seconds: it may stand in a query string because
it is worthless once used. A session is signed, not stored, so that a restart keeps people signed
in; who signs out is on a list in memory until the session would have ended by itself. A restart
forgets that list: to end all sessions for good, delete the key file and restart.
Invariant: neither outlives the credential it was made from.
"""

from __future__ import annotations

import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from dispatch.core.identity import AccountId, Principal, UserId
from dispatch.errors import ConfigError, TooMany, Unauthorized
from dispatch.server.credential import Credential, Stale, digest

SECRET_BYTES: Final = 32
# A page needs one ticket a connection; a user with more than this open has a loop.
TICKETS_OF_USER_MAX: Final = 100
# Sessions that were signed out and have not expired: ten megabytes of them.
REVOKED_MAX: Final = 100_000

_PURPOSE: Final = b"dispatch session 1\0"


class Issued(msgspec.Struct, frozen=True):
    """A secret for its owner, and when it ends (wall clock)."""

    text: str
    expires_at: float


class Tickets:
    """Tickets that were issued and not yet redeemed, oldest first, by their digest."""

    def __init__(
        self, seconds_max: float, count_max: int, random_bytes: Callable[[int], bytes]
    ) -> None:
        """Both bounds are `Limits`."""
        self._seconds_max = seconds_max
        self._count_max = count_max
        self._random_bytes = random_bytes
        self._open: dict[str, tuple[float, Credential]] = {}
        self._held: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def issue(self, credential: Credential, now: float) -> Issued:
        """A ticket for whoever holds the credential; raises `TooMany`."""
        self._drop_expired(now)
        owner = _owner(credential)
        if len(self._open) >= self._count_max or self._held[owner] >= TICKETS_OF_USER_MAX:
            raise TooMany("too many tickets wait to be used", retry_after_ms=1000)
        text = _encode(self._random_bytes(SECRET_BYTES))
        expires_at = _earlier(now + self._seconds_max, credential.expires_at)
        self._open[digest(text)] = (expires_at, credential)
        self._held[owner] += 1
        return Issued(text, expires_at)

    def redeem(self, text: str, now: float) -> Credential:
        """What the ticket was issued for, once; raises `Unauthorized` or `Stale`."""
        expires_at, credential = self._take(digest(text))
        if now >= expires_at:
            raise Stale("the ticket has expired")
        return credential

    def _take(self, key: str) -> tuple[float, Credential]:
        found = self._open.pop(key, None)
        if found is None:
            raise Unauthorized("no such ticket; each is good for one use")
        owner = _owner(found[1])
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        return found

    def _drop_expired(self, now: float) -> None:
        # A ticket that ends before its elders (with its credential) waits for them: seconds.
        expired = []
        for key, (expires_at, _) in self._open.items():
            if now < expires_at <= now + self._seconds_max:
                break
            expired.append(key)
        for key in expired:
            self._take(key)


class _Signed(msgspec.Struct, frozen=True, array_like=True):
    """What a session says, in the order it is written."""

    id: str
    account: str
    user: str
    rights: tuple[str, ...]
    token_id: str
    expires_at: float


_decoder = msgspec.json.Decoder(_Signed)


class Sessions:
    """Signs sessions, reads them, and remembers which were signed out."""

    def __init__(
        self, key: bytes, seconds_max: float, random_bytes: Callable[[int], bytes]
    ) -> None:
        """`key` comes from `session_key`."""
        self._key = key
        self.seconds_max = seconds_max
        self._random_bytes = random_bytes
        self._revoked: dict[str, float] = {}

    def issue(self, credential: Credential, now: float) -> Issued:
        """A session for whoever holds the credential."""
        principal = credential.principal
        expires_at = _earlier(now + self.seconds_max, credential.expires_at)
        signed = _Signed(
            _encode(self._random_bytes(16)),
            principal.account,
            principal.user,
            tuple(sorted(principal.rights)),
            credential.token_id,
            expires_at,
        )
        payload = msgspec.json.encode(signed)
        return Issued(f"{_encode(payload)}.{_encode(self._mac(payload))}", expires_at)

    def read(self, text: str, now: float) -> Credential:
        """The credential a session stands for; raises `Unauthorized`, or `Stale` when it ended."""
        first, _, second = text.partition(".")
        try:
            payload, mac = _decode(first), _decode(second)
            if not hmac.compare_digest(mac, self._mac(payload)):
                raise Unauthorized("the session is not one of ours")
            signed = _decoder.decode(payload)
        except (ValueError, msgspec.DecodeError) as error:
            raise Unauthorized("the session is not one of ours") from error
        if now >= signed.expires_at or self.is_revoked(signed.id):
            raise Stale("the session is over")
        principal = Principal(
            AccountId(signed.account), UserId(signed.user), frozenset(signed.rights)
        )
        return Credential(principal, signed.token_id, signed.expires_at, signed.id)

    def revoke(self, session_id: str, expires_at: float, now: float) -> None:
        """Refuse the session from now on; raises `TooMany` rather than forget another."""
        if len(self._revoked) >= REVOKED_MAX:
            self._revoked = {key: end for key, end in self._revoked.items() if end > now}
        if len(self._revoked) >= REVOKED_MAX:
            raise TooMany("too many sessions were signed out", retry_after_ms=60_000)
        self._revoked[session_id] = expires_at

    def is_revoked(self, session_id: str) -> bool:
        """Whether it was signed out since the daemon started."""
        return session_id in self._revoked

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, _PURPOSE + payload, "sha256")


def session_key(path: Path, random_bytes: Callable[[int], bytes]) -> bytes:
    """Read the key that signs sessions, or make it; readable by its owner alone."""
    try:
        path.chmod(0o600)
        key = path.read_bytes()
    except FileNotFoundError:
        key = random_bytes(SECRET_BYTES)
        _write_new(path, key)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(key) != SECRET_BYTES:
        raise ConfigError(f"{path} is not a session key; delete it to sign everybody out")
    return key


def _write_new(path: Path, key: bytes) -> None:
    # Whole or not at all: a torn key would sign everybody out at the next start.
    unfinished = path.with_suffix(".new")
    try:
        unfinished.unlink(missing_ok=True)
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _owner(credential: Credential) -> tuple[str, str]:
    return credential.principal.account, credential.principal.user


def _earlier(one: float, other: float | None) -> float:
    return one if other is None else min(one, other)


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    # One text for one value: no second spelling of a session that was signed out.
    if _encode(data) != text:
        raise ValueError("not base64url")
    return data
