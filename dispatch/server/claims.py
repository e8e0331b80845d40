"""A JWT's claims, checked, as a credential.

Neighbours: `auth` tries this for tokens that are not static; PyJWT verifies signature, audience
and issuer. Times are checked here, by the clock the daemon was given. With `jwks_url` the keys are
fetched in a thread, kept, and refreshed when they are old or a token names an unknown one.
Invariant: the algorithm is the configured one, whatever the token says; and however many tokens
name unknown keys, the key server is asked once in `JWKS_RETRY_SECONDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Final, TypeAlias, cast

import anyio
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from dispatch.core.identity import RIGHTS_ALL, SEND, WATCH, AccountId, Principal, UserId
from dispatch.errors import ConfigError, Unauthorized, Unavailable
from dispatch.server.credential import Credential, KeyWanted, Stale, digest
from dispatch.settings import JwtSettings

Key: TypeAlias = RSAPublicKey | bytes
Fetch: TypeAlias = Callable[[], Mapping[str, Key]]

# RFC 7518, 3.2: a key of the size of the hash, or it is the weakest part.
SECRET_BYTES_MIN: Final = 32
RSA_BITS_MIN: Final = 2048
# Of an account or a user: longer than any identity provider's.
NAME_CHARACTERS_MAX: Final = 255

JWKS_SECONDS: Final = 600.0
# While the key server is out, keys that were good stay good for so long.
JWKS_STALE_SECONDS: Final = 3600.0
JWKS_RETRY_SECONDS: Final = 10.0
JWKS_FETCH_SECONDS: Final = 5.0

_DEFAULT_RIGHTS: Final = frozenset({WATCH, SEND})

_log = structlog.get_logger("dispatch.server.claims")


class Claims:
    """Reads tokens of one issuer."""

    def __init__(
        self,
        settings: JwtSettings,
        environment: Mapping[str, str],
        clock: Callable[[], float],
        fetch: Fetch | None = None,
    ) -> None:
        """Raises `ConfigError` for a key that is missing or too weak."""
        self._settings = settings
        self._clock = clock
        self._fixed = _fixed_key(settings, environment)
        self._keys: Mapping[str, Key] = {}
        self._fetch = fetch
        if fetch is None and settings.jwks_url is not None:
            self._fetch = _fetcher(settings.jwks_url)
        self._fetched_at = self._tried_at = -math.inf
        self._fetching = anyio.Lock()
        # Tokens taken under other settings, and sessions made of them, are void after a reload.
        self.prefix = f"jwt:{digest(repr(settings) + _mark(self._fixed))[:8]}:"

    def credential(self, token: str) -> Credential:
        """Raises `Unauthorized`, `Stale`, `KeyWanted`, or `Unavailable` without the keys."""
        settings = self._settings
        try:
            claims = jwt.decode(
                token,
                self._key(token),
                algorithms=[settings.algorithm],
                audience=settings.audience,
                issuer=settings.issuer,
                options={
                    "require": ["exp", "aud", "iss"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            # The kind of failure, never the token.
            raise Unauthorized(f"the token is not accepted: {type(error).__name__}") from error
        expires_at = _time(claims, "exp") + settings.leeway_seconds
        now = self._clock()
        if now >= expires_at:
            raise Stale("the token has expired")
        for name in ("nbf", "iat"):
            if name in claims and _time(claims, name) > now + settings.leeway_seconds:
                raise Unauthorized(f"the token is not valid yet ({name})")
        return Credential(self._principal(claims), self.prefix + digest(token)[:16], expires_at)

    async def fetch_keys(self) -> None:
        """Ask the key server, in a thread; failing is logged and shows in the next `credential`."""
        async with self._fetching:
            if self._fetch is None or self._tried_lately():
                return
            self._tried_at = self._clock()
            with anyio.move_on_after(JWKS_FETCH_SECONDS + 1) as scope:
                try:
                    self._keys = await anyio.to_thread.run_sync(self._fetch, abandon_on_cancel=True)
                    self._fetched_at = self._clock()
                except (jwt.PyJWTError, OSError, ValueError, HTTPException) as error:
                    _log.warning("auth.keys_not_fetched", error=type(error).__name__)
            if scope.cancelled_caught:
                _log.warning("auth.keys_not_fetched", error="timeout")

    def _tried_lately(self) -> bool:
        return 0 <= self._clock() - self._tried_at < JWKS_RETRY_SECONDS

    def _key(self, token: str) -> Key:
        if self._fixed is not None:
            return self._fixed
        kid = jwt.get_unverified_header(token).get("kid")
        if kid is None and len(self._keys) == 1:
            kid = next(iter(self._keys))
        key = self._keys.get(kid) if isinstance(kid, str) else None
        age = self._clock() - self._fetched_at
        if key is not None and 0 <= age < JWKS_SECONDS:
            return key
        if not self._tried_lately():
            raise KeyWanted
        if key is not None and 0 <= age < JWKS_STALE_SECONDS:
            return key
        if self._fetched_at < self._tried_at:
            raise Unavailable("the keys of the token's issuer cannot be fetched now")
        raise Unauthorized("the token is signed with an unknown key")

    def _principal(self, claims: Mapping[str, object]) -> Principal:
        settings = self._settings
        user = _name(claims.get(settings.user_claim), settings.user_claim)
        account = claims.get(settings.account_claim)
        if account is None:
            # One tenant, and the operator has said so; else a token without it lets nobody in.
            account = settings.account
        return Principal(
            AccountId(_name(account, settings.account_claim)),
            UserId(user),
            _rights(claims.get(settings.rights_claim), settings.rights_claim),
        )


def _time(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unauthorized(f"the token's {name} is not a time")
    return float(value)


def _name(value: object, claim: str) -> str:
    if isinstance(value, str) and 0 < len(value) <= NAME_CHARACTERS_MAX and value.isprintable():
        return value
    raise Unauthorized(f'the token\'s claim "{claim}" is missing or not a name')


def _rights(value: object, claim: str) -> frozenset[str]:
    """A list or a space-separated string; words that are no right of ours are other services'."""
    if value is None:
        return _DEFAULT_RIGHTS
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list):
        raise Unauthorized(f'the token\'s claim "{claim}" is neither a list nor a string')
    return RIGHTS_ALL.intersection(word for word in words if isinstance(word, str))


def _fixed_key(settings: JwtSettings, environment: Mapping[str, str]) -> Key | None:
    if settings.secret_env is not None:
        secret = environment.get(settings.secret_env, "").encode()
        if len(secret) < SECRET_BYTES_MIN:
            raise ConfigError(
                f"auth.jwt.secret_env: {settings.secret_env} must hold at least "
                f"{SECRET_BYTES_MIN} bytes"
            )
        return secret
    if settings.public_key_file is None:
        return None
    try:
        key = load_pem_public_key(settings.public_key_file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"auth.jwt.public_key_file: {error}") from error
    if not isinstance(key, RSAPublicKey) or key.key_size < RSA_BITS_MIN:
        raise ConfigError(
            f"auth.jwt.public_key_file: not an RSA key of at least {RSA_BITS_MIN} bits"
        )
    return key


def _mark(key: Key | None) -> str:
    """What tells one public key from another; of a secret nothing, not even a hash."""
    if isinstance(key, RSAPublicKey):
        return str(key.public_numbers().n)
    return ""


def _fetcher(url: str) -> Fetch:
    try:
        client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=JWKS_FETCH_SECONDS)
    except jwt.PyJWTError as error:
        raise ConfigError(f"auth.jwt.jwks_url: {error}") from error

    def fetch() -> Mapping[str, Key]:
        keys = {cast("str", key.key_id): key.key for key in client.get_signing_keys()}
        return {
            kid: key
            for kid, key in keys.items()
            if isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS_MIN
        }

    return fetch
