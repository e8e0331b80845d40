"""Credentials: which are taken, for how long, and what guessing costs."""

import contextlib
import hmac
import http.server
import json
import math
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from dispatch.core.identity import ADMIN, SEND, WATCH, AccountId, Principal, UserId
from dispatch.errors import ConfigError, RateLimited, TooMany, Unauthorized, Unavailable
from dispatch.server import auth, claims
from dispatch.server.attempts import ADDRESSES_MAX, FORGET_SECONDS, WAIT_SECONDS_MAX, Attempts
from dispatch.server.auth import ANYONE, Authenticator, Credential, session_key
from dispatch.server.claims import JWKS_RETRY_SECONDS, JWKS_SECONDS, JWKS_STALE_SECONDS, Claims
from dispatch.server.credential import KeyWanted, digest
from dispatch.server.tickets import SECRET_BYTES, TICKETS_OF_USER_MAX
from dispatch.settings import AuthSettings, AuthToken, JwtSettings, Limits

NOW = 1_700_000_000.0
TOKEN = "one-token-of-256-bits-as-made-by-dispatch"
OTHER = "other-token-of-256-bits-as-made-by-dispatch"
SECRET = "s" * 64
PRIVATE = rsa.generate_private_key(65537, 2048)
PUBLIC_PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Numbers:
    """Random bytes that a test can foresee, each different."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(size)


def static(token: str = TOKEN, **fields: Any) -> AuthToken:
    return AuthToken(**{"sha256": digest(token), "user": "ann", **fields})


@pytest.fixture
def clock() -> Clock:
    return Clock()


def authenticator(
    clock: Clock, *tokens: AuthToken, limits: Limits | None = None, **settings: Any
) -> Authenticator:
    return Authenticator(
        AuthSettings(tokens=tokens or (static(),), **settings),
        limits or Limits(),
        b"k" * 32,
        clock=clock,
        random_bytes=Numbers(),
        environment={"SECRET": SECRET},
    )


# ---------------------------------------------------------------- rights


# ---------------------------------------------------------------- static tokens


def test_a_static_token_is_its_principal(clock: Clock) -> None:
    known = static(account="acme", user="bob", rights=("watch", "admin"))
    credential = authenticator(clock, static(OTHER), known).check(TOKEN)
    assert credential.principal == Principal(
        AccountId("acme"), UserId("bob"), frozenset({WATCH, ADMIN})
    )
    assert credential.expires_at is None
    assert TOKEN not in credential.token_id


@pytest.mark.parametrize(
    "token",
    ["", "wrong", TOKEN + " ", TOKEN[:-1], TOKEN.upper(), digest(TOKEN), "€", "x" * 9000, "a.b.c"],
)
def test_any_other_text_is_refused_without_being_repeated(clock: Clock, token: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        authenticator(clock).check(token)
    assert len(token) < 4 or token not in refused.value.message


@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_token_is_compared_in_constant_time_whichever_fits(
    clock: Clock, position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return one == other

    tokens = [f"token {number}" for number in range(3)]
    made = authenticator(clock, *map(static, tokens))
    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    made.check(tokens[position])
    assert compared == [(digest(token), digest(tokens[position])) for token in tokens]


def test_a_removed_token_and_all_that_was_made_of_it_is_void_after_a_reload(clock: Clock) -> None:
    made = authenticator(clock, static(), static(OTHER, user="bob"))
    kept, removed = made.check(OTHER), made.check(TOKEN)
    session, ticket = made.issue_session(removed).text, made.issue_ticket(removed).text
    from_session = made.check_session(session)
    assert all(made.is_valid(one) for one in (kept, removed, from_session))
    made.reload(AuthSettings(tokens=(static(OTHER, user="bob"),)))
    assert made.is_valid(kept)
    assert not made.is_valid(removed)
    assert not made.is_valid(from_session)
    for attempt in (
        lambda: made.check(TOKEN),
        lambda: made.check_session(session),
        lambda: made.redeem_ticket(ticket),
    ):
        with pytest.raises(Unauthorized):
            attempt()


def test_a_token_with_other_rights_is_another_credential(clock: Clock) -> None:
    made = authenticator(clock)
    before = made.check(TOKEN)
    made.reload(AuthSettings(tokens=(static(rights=("watch",)),)))
    assert not made.is_valid(before)
    assert made.check(TOKEN).principal.rights == {WATCH}


def test_who_came_in_without_auth_does_not_stay_once_there_is_some(clock: Clock) -> None:
    assert not authenticator(clock).is_valid(ANYONE)


# ---------------------------------------------------------------- tickets


def test_a_ticket_is_good_once(clock: Clock) -> None:
    made = authenticator(clock)
    credential = made.check(TOKEN)
    ticket = made.issue_ticket(credential)
    assert ticket.expires_at == NOW + Limits().ticket_seconds_max
    assert made.redeem_ticket(ticket.text) == credential
    with pytest.raises(Unauthorized):
        made.redeem_ticket(ticket.text)


def test_a_ticket_expires(clock: Clock) -> None:
    made = authenticator(clock)
    ticket = made.issue_ticket(made.check(TOKEN)).text
    clock.now += Limits().ticket_seconds_max
    with pytest.raises(Unauthorized, match="expired"):
        made.redeem_ticket(ticket)


def test_tickets_are_bounded_for_a_user_and_for_all_and_room_comes_back(clock: Clock) -> None:
    made = authenticator(
        clock,
        static(),
        static(OTHER, user="bob"),
        limits=Limits(tickets_max=TICKETS_OF_USER_MAX + 1),
    )
    ann, bob = made.check(TOKEN), made.check(OTHER)
    tickets = [made.issue_ticket(ann).text for _ in range(TICKETS_OF_USER_MAX)]
    with pytest.raises(TooMany):
        made.issue_ticket(ann)
    made.issue_ticket(bob)
    with pytest.raises(TooMany):
        made.issue_ticket(bob)
    made.redeem_ticket(tickets[0])
    made.issue_ticket(bob)
    clock.now += Limits().ticket_seconds_max
    made.issue_ticket(ann)
    assert len(made._tickets) == 1


def test_tickets_do_not_stay_when_the_clock_is_set_back(clock: Clock) -> None:
    made = authenticator(clock, limits=Limits(tickets_max=1))
    made.issue_ticket(made.check(TOKEN))
    clock.now -= 86_400
    made.issue_ticket(made.check(TOKEN))


# ---------------------------------------------------------------- sessions


def test_a_session_is_its_owner_until_it_ends_and_survives_a_restart(clock: Clock) -> None:
    first = authenticator(clock, session_seconds_max=100)
    session = first.issue_session(first.check(TOKEN))
    assert session.expires_at == NOW + 100
    second = authenticator(clock, session_seconds_max=100)
    credential = second.check_session(session.text)
    assert credential.principal == first.check(TOKEN).principal
    assert credential.expires_at == NOW + 100
    assert second.is_valid(credential)
    clock.now += 100
    assert not second.is_valid(credential)
    with pytest.raises(Unauthorized, match="over"):
        second.check_session(session.text)


def test_a_session_signed_with_another_key_is_not_ours(clock: Clock) -> None:
    made = authenticator(clock)
    other = Authenticator(AuthSettings(tokens=(static(),)), Limits(), b"o" * 32, clock=clock)
    session = other.issue_session(other.check(TOKEN)).text
    with pytest.raises(Unauthorized):
        made.check_session(session)


def test_no_letter_of_a_session_may_be_changed(clock: Clock) -> None:
    made = authenticator(clock, limits=Limits(auth_failures_max=100_000))
    session = made.issue_session(made.check(TOKEN)).text
    for place in range(len(session)):
        for letter in "A_":
            if session[place] != letter:
                changed = session[:place] + letter + session[place + 1 :]
                with pytest.raises(Unauthorized):
                    made.check_session(changed)
    for changed in (session + "=", session + "A", session[:-1], "." + session, session + "."):
        with pytest.raises(Unauthorized):
            made.check_session(changed)
    assert made.check_session(session)


def test_signing_out_ends_that_session_and_its_connections_at_once(clock: Clock) -> None:
    made = authenticator(clock)
    one, other = (made.issue_session(made.check(TOKEN)).text for _ in range(2))
    credential = made.check_session(one)
    made.end_session(credential)
    made.end_session(made.check(TOKEN))
    assert not made.is_valid(credential)
    with pytest.raises(Unauthorized, match="over"):
        made.check_session(one)
    assert made.is_valid(made.check_session(other))
    assert made.is_valid(made.check(TOKEN))


def test_the_list_of_signed_out_sessions_is_bounded_and_forgets_what_has_ended(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatch.server.tickets.REVOKED_MAX", 2)
    made = authenticator(clock, session_seconds_max=100)

    def sign_in_and_out() -> None:
        made.end_session(made.check_session(made.issue_session(made.check(TOKEN)).text))

    sign_in_and_out()
    sign_in_and_out()
    with pytest.raises(TooMany):
        sign_in_and_out()
    clock.now += 101
    sign_in_and_out()


def test_nothing_made_of_a_credential_outlives_it(clock: Clock) -> None:
    made = authenticator(clock, jwt=hs256())
    short = made.check(signed(exp=NOW + 5))
    assert made.issue_session(short).expires_at == short.expires_at
    assert made.issue_ticket(short).expires_at == short.expires_at
    assert made.redeem_ticket(made.issue_ticket(short).text).expires_at == short.expires_at
    derived = made.check_session(made.issue_session(short).text)
    assert made.issue_session(derived).expires_at == short.expires_at


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(clock: Clock) -> None:
    made = authenticator(clock, session_seconds_max=100)
    session = made.issue_session(made.check(TOKEN))
    assert made.set_cookie(session) == (
        f"dispatch_session={session.text}; Path=/; Max-Age=100; HttpOnly; SameSite=Strict"
    )
    assert made.clear_cookie().startswith("dispatch_session=; Path=/; Max-Age=0;")
    made.reload(AuthSettings(tokens=(static(),), secure_cookies=True))
    assert made.set_cookie(session).endswith("; Secure")


def test_the_key_of_the_sessions_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "session.key"
    key = session_key(path, Numbers())
    assert len(key) == SECRET_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert session_key(path, Numbers()) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_that_is_none_or_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "session.key"
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match=r"session\.key"):
        session_key(path, Numbers())
    with pytest.raises(ConfigError, match="missing"):
        session_key(tmp_path / "missing" / "session.key", Numbers())


# ---------------------------------------------------------------- guessing


def test_twenty_wrong_credentials_make_an_address_wait_and_waiting_helps(clock: Clock) -> None:
    made = authenticator(clock)
    for _ in range(20):
        with pytest.raises(Unauthorized):
            made.check("wrong", "192.0.2.1")
    with pytest.raises(RateLimited) as refused:
        made.check(TOKEN, "192.0.2.1")
    assert 0 < refused.value.retry_after_ms <= 1001
    assert made.check(TOKEN, "192.0.2.2")
    clock.now += 1
    assert made.check(TOKEN, "192.0.2.1")


def test_tickets_and_sessions_count_as_guesses_too(clock: Clock) -> None:
    made = authenticator(clock)
    for _ in range(10):
        with pytest.raises(Unauthorized):
            made.redeem_ticket("wrong", "192.0.2.1")
        with pytest.raises(Unauthorized):
            made.check_session("wrong.wrong", "192.0.2.1")
    for attempt in (made.check, made.redeem_ticket, made.check_session):
        with pytest.raises(RateLimited):
            attempt("wrong", "192.0.2.1")


def test_a_good_credential_of_the_same_address_is_not_locked_out(clock: Clock) -> None:
    made = authenticator(clock, static(), static(OTHER, user="bob"))
    made.check(TOKEN, "192.0.2.1")
    for _ in range(20):
        with pytest.raises(Unauthorized):
            made.check("wrong", "192.0.2.1")
    assert made.check(TOKEN, "192.0.2.1")
    with pytest.raises(RateLimited):
        made.check(OTHER, "192.0.2.1")


def test_a_credential_that_has_ended_is_no_guess(clock: Clock) -> None:
    made = authenticator(clock, jwt=hs256(), session_seconds_max=10)
    token = signed(exp=NOW + 10)
    session = made.issue_session(made.check(TOKEN)).text
    ticket = made.issue_ticket(made.check(TOKEN)).text
    clock.now += 1000
    for _ in range(30):
        for attempt, text in ((made.check, token), (made.check_session, session)):
            with pytest.raises(Unauthorized):
                attempt(text, "192.0.2.1")
    with pytest.raises(Unauthorized):
        made.redeem_ticket(ticket, "192.0.2.1")
    assert made.check(TOKEN, "192.0.2.1")


def test_each_further_guess_doubles_the_wait_up_to_a_bound() -> None:
    attempts, now, waits = Attempts(3), NOW, []
    for _ in range(12):
        attempts.failed("192.0.2.1", now)
        try:
            attempts.admit("192.0.2.1", "t", now)
        except RateLimited as refused:
            waits.append(refused.retry_after_ms // 1000)
            now += refused.retry_after_ms / 1000
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_guesses_are_forgotten_in_time_and_a_clock_set_back_locks_nobody_out() -> None:
    attempts = Attempts(1)
    attempts.failed("192.0.2.1", NOW)
    attempts.admit("192.0.2.1", "t", NOW - WAIT_SECONDS_MAX * 2)
    attempts.failed("192.0.2.1", NOW + FORGET_SECONDS + 1)
    with pytest.raises(RateLimited) as refused:
        attempts.admit("192.0.2.1", "t", NOW + FORGET_SECONDS + 1)
    assert refused.value.retry_after_ms <= 1001


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("not:an:address", "not:an:address", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_one_guesser_owns_a_whole_network_of_ipv6(one: str, other: str, same: bool) -> None:
    attempts = Attempts(1)
    attempts.failed(one, NOW)
    if same:
        with pytest.raises(RateLimited):
            attempts.admit(other, "t", NOW)
    else:
        attempts.admit(other, "t", NOW)


def test_no_more_addresses_are_remembered_than_the_bound() -> None:
    attempts = Attempts(1)
    for number in range(ADDRESSES_MAX + 100):
        attempts.failed(f"address {number}", NOW)
        attempts.succeeded(f"address {number}", "t")
    assert len(attempts._records) == len(attempts._good) == ADDRESSES_MAX


# ---------------------------------------------------------------- JWT


def hs256(**fields: Any) -> JwtSettings:
    return JwtSettings(
        **{
            "algorithm": "HS256",
            "audience": "dispatch",
            "issuer": "https://id.example",
            "secret_env": "SECRET",
            "account": "local",
            **fields,
        }
    )


def payload(**fields: Any) -> dict[str, Any]:
    made = {
        "iss": "https://id.example",
        "aud": "dispatch",
        "sub": "ann",
        "exp": NOW + 60,
        **fields,
    }
    return {name: value for name, value in made.items() if value is not ...}


def signed(**fields: Any) -> str:
    return jwt.encode(payload(**fields), SECRET, "HS256")


@pytest.mark.parametrize(
    ("fields", "account", "rights"),
    [
        ({}, "local", {WATCH, SEND}),
        ({"account": None}, "local", {WATCH, SEND}),
        ({"account": "acme"}, "acme", {WATCH, SEND}),
        ({"rights": ["watch"]}, "local", {WATCH}),
        ({"rights": "watch admin other:thing"}, "local", {WATCH, ADMIN}),
        ({"rights": []}, "local", set()),
        ({"rights": ""}, "local", set()),
        ({"aud": ["other", "dispatch"]}, "local", {WATCH, SEND}),
        ({"nbf": NOW, "iat": NOW}, "local", {WATCH, SEND}),
        ({"nbf": NOW + 9}, "local", {WATCH, SEND}),
        ({"exp": NOW - 9}, "local", {WATCH, SEND}),
    ],
)
def test_a_good_jwt_is_its_claims(
    clock: Clock, fields: dict[str, Any], account: str, rights: set[str]
) -> None:
    credential = authenticator(clock, jwt=hs256()).check(signed(**fields))
    assert credential.principal == Principal(AccountId(account), UserId("ann"), frozenset(rights))
    assert credential.expires_at == fields.get("exp", NOW + 60) + 10


@pytest.mark.parametrize(
    "fields",
    [
        {"exp": ...},
        {"aud": ...},
        {"iss": ...},
        {"sub": ...},
        {"exp": NOW - 11},
        {"exp": True},
        {"exp": "tomorrow"},
        {"exp": math.inf},
        {"exp": math.nan},
        {"exp": None},
        {"nbf": NOW + 11},
        {"nbf": "x"},
        {"iat": NOW + 11},
        {"aud": "other"},
        {"aud": []},
        {"iss": "https://evil.example"},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\nb"},
        {"sub": "a" * 256},
        {"account": ""},
        {"account": ["acme"]},
        {"rights": 7},
        {"rights": {"watch": True}},
    ],
)
def test_a_jwt_that_lacks_or_twists_a_claim_is_refused(
    clock: Clock, fields: dict[str, Any]
) -> None:
    with pytest.raises(Unauthorized):
        authenticator(clock, jwt=hs256()).check(signed(**fields))


@pytest.mark.parametrize("fields", [{}, {"account": None}])
def test_a_jwt_without_an_account_is_refused_unless_the_settings_name_one(
    clock: Clock, fields: dict[str, Any]
) -> None:
    with pytest.raises(Unauthorized, match="account"):
        authenticator(clock, jwt=hs256(account=None)).check(signed(**fields))
    made = authenticator(clock, jwt=hs256(account="home"))
    assert made.check(signed(**fields)).principal.account == "home"
    assert made.check(signed(account="acme")).principal.account == "acme"


def test_who_is_refused_is_told_in_the_log_without_the_credential_and_counted(
    clock: Clock,
) -> None:
    made = authenticator(clock, jwt=hs256(), limits=Limits(auth_failures_max=2))
    expired = signed(exp=NOW - 60)
    with structlog.testing.capture_logs() as logs:
        for token in (expired, "wrong-secret", "h\u00e4lf", "wrong-again", "wrong-more"):
            with pytest.raises((Unauthorized, RateLimited)):
                made.check(token, "192.0.2.1")
    assert [(entry["event"], entry["reason"], entry["address"]) for entry in logs] == [
        ("auth.refused", "stale", "192.0.2.1"),
        ("auth.refused", "unknown", "192.0.2.1"),
        ("auth.refused", "malformed", "192.0.2.1"),
    ]
    assert "wrong" not in str(logs)
    # Those that had to wait are counted all the same.
    assert made.refused_total == 5


def test_a_named_account_claim_must_be_there(clock: Clock) -> None:
    made = authenticator(clock, jwt=hs256(account_claim="tenant", account=None))
    assert made.check(signed(tenant="acme")).principal.account == "acme"
    with pytest.raises(Unauthorized, match="tenant"):
        made.check(signed(account="acme"))


def test_the_algorithm_is_ours_to_choose_never_the_tokens(clock: Clock, tmp_path: Path) -> None:
    pem = tmp_path / "public.pem"
    pem.write_bytes(PUBLIC_PEM)
    rs256 = hs256(algorithm="RS256", secret_env=None, public_key_file=pem)
    made = authenticator(clock, jwt=rs256)
    good = jwt.encode(payload(), PRIVATE, "RS256")
    assert made.check(good).principal.user == "ann"
    # The classic: the public key, known to all, as the secret of an HMAC.
    confused = hmac_with_public_key()
    unsigned = jwt.encode(payload(), None, "none")
    other = jwt.encode(payload(), rsa.generate_private_key(65537, 2048), "RS256")
    stripped = good.rpartition(".")[0] + "."
    longer = jwt.encode(payload(), PRIVATE, "RS512")
    for token in (confused, unsigned, other, stripped, longer, signed()):
        with pytest.raises(Unauthorized):
            made.check(token)
    symmetric = authenticator(clock, jwt=hs256())
    for token in (good, unsigned, jwt.encode(payload(), SECRET, "HS512")):
        with pytest.raises(Unauthorized):
            symmetric.check(token)


def hmac_with_public_key() -> str:
    def part(data: bytes) -> bytes:
        return urlsafe_b64encode(data).rstrip(b"=")

    body = part(b'{"alg":"HS256"}') + b"." + part(json.dumps(payload()).encode())
    return (body + b"." + part(hmac.digest(PUBLIC_PEM, body, "sha256"))).decode()


@pytest.mark.parametrize(
    "token", ["a.b.c", "..", "e30.e30.", signed() + "x", "é.é.é", ".".join(["A" * 2000] * 3)]
)
def test_what_merely_looks_like_a_jwt_is_refused(clock: Clock, token: str) -> None:
    with pytest.raises(Unauthorized):
        authenticator(clock, jwt=hs256()).check(token)


def test_a_jwt_ends_when_it_says_and_with_other_settings(clock: Clock) -> None:
    made = authenticator(clock, jwt=hs256())
    credential = made.check(signed())
    session = made.check_session(made.issue_session(credential).text)
    made.reload(AuthSettings(tokens=(static(),), jwt=hs256()))
    assert made.is_valid(credential)
    clock.now += 70
    assert not made.is_valid(credential)
    clock.now -= 70
    made.reload(AuthSettings(jwt=hs256(audience="other")))
    assert not made.is_valid(credential)
    assert not made.is_valid(session)


def test_weak_or_missing_keys_are_a_mistake_of_the_configuration(
    clock: Clock, tmp_path: Path
) -> None:
    small = rsa.generate_private_key(65537, 1024).public_key()
    weak = tmp_path / "weak.pem"
    weak.write_bytes(small.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private = tmp_path / "private.pem"
    private.write_bytes(PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    rs256 = {"algorithm": "RS256", "secret_env": None}
    for settings in (
        hs256(secret_env="MISSING"),
        hs256(**rs256, public_key_file=tmp_path / "missing.pem"),
        hs256(**rs256, public_key_file=weak),
        hs256(**rs256, public_key_file=private),
        hs256(**rs256, jwks_url="file:///etc/passwd"),
    ):
        with pytest.raises(ConfigError, match=r"auth\.jwt"):
            authenticator(clock, jwt=settings)


# ---------------------------------------------------------------- fetched keys


class KeyServer:
    """Hands out keys, or fails."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"k1": PRIVATE.public_key()}
        self.asked = 0
        self.out = False

    def __call__(self) -> dict[str, Any]:
        self.asked += 1
        if self.out:
            raise OSError("no route")
        return dict(self.keys)


def fetching(clock: Clock, server: KeyServer) -> Authenticator:
    settings = hs256(algorithm="RS256", secret_env=None, jwks_url="https://id.example/jwks")
    made = authenticator(clock, jwt=settings)
    made._claims = Claims(settings, {}, clock, server)
    return made


def kid(name: str | None, key: Any = PRIVATE, **fields: Any) -> str:
    return jwt.encode(payload(**fields), key, "RS256", {"kid": name} if name else None)


async def test_an_unknown_key_is_fetched_once_and_kept(clock: Clock) -> None:
    server = KeyServer()
    made = fetching(clock, server)
    with pytest.raises(KeyWanted):
        made.check(kid("k1"))
    assert (await made.authenticate(kid("k1"))).principal.user == "ann"
    assert made.check(kid("k1")).principal.user == "ann"
    assert made.check(kid(None)).principal.user == "ann"
    assert server.asked == 1


async def test_many_unknown_keys_ask_the_server_once_in_a_while(clock: Clock) -> None:
    server = KeyServer()
    made = fetching(clock, server)

    async def guess(number: int) -> None:
        with pytest.raises(Unauthorized):
            await made.authenticate(kid(f"unknown {number}"), f"192.0.2.{number}")

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(guess, number)
    assert server.asked == 1
    clock.now += JWKS_RETRY_SECONDS
    await guess(20)
    assert server.asked == 2


async def test_a_new_key_is_found_and_a_withdrawn_one_is_forgotten(clock: Clock) -> None:
    server = KeyServer()
    made = fetching(clock, server)
    await made.authenticate(kid("k1", exp=NOW + 10_000))
    fresh = rsa.generate_private_key(65537, 2048)
    server.keys = {"k2": fresh.public_key()}
    clock.now += JWKS_RETRY_SECONDS
    assert await made.authenticate(kid("k2", fresh))
    with pytest.raises(Unauthorized):
        await made.authenticate(kid("k1"))


async def test_keys_outlive_an_outage_of_their_server_for_a_while(clock: Clock) -> None:
    server = KeyServer()
    made = fetching(clock, server)
    token = kid("k1", exp=NOW + 100_000)
    await made.authenticate(token)
    server.out = True
    clock.now += JWKS_SECONDS
    assert await made.authenticate(token)
    with pytest.raises(Unavailable):
        await made.authenticate(kid("k2"))
    clock.now += JWKS_STALE_SECONDS
    with pytest.raises(Unavailable):
        await made.authenticate(token)
    server.out = False
    clock.now += JWKS_RETRY_SECONDS
    assert await made.authenticate(token)


async def test_a_server_that_hangs_is_given_up(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(claims, "JWKS_FETCH_SECONDS", -0.9)
    made = fetching(clock, lambda: release.wait() or {})
    try:
        with pytest.raises(Unavailable):
            await made.authenticate(kid("k1"))
    finally:
        release.set()


@contextlib.contextmanager
def key_page(body: bytes) -> Iterator[str]:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/jwks"
        server.shutdown()
        thread.join()


async def test_keys_come_from_a_real_server(clock: Clock) -> None:
    key = jwt.algorithms.RSAAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True)
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"}
    body = json.dumps({"keys": [{**key, "kid": "k1", "use": "sig"}, secret]}).encode()
    with key_page(body) as url:
        settings = hs256(algorithm="RS256", secret_env=None, jwks_url=url)
        made = authenticator(clock, jwt=settings)
        assert (await made.authenticate(kid("k1"))).principal.user == "ann"
        with pytest.raises(Unauthorized):
            await made.authenticate(
                jwt.encode(payload(), b"secret" * 6, "HS256", {"kid": "secret"})
            )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"keys":7}',
        b'{"keys":[7]}',
        b'{"keys":[{}]}',
        b'{"keys":[{"kty":"RSA","kid":7,"n":7,"e":[]}]}',
    ],
)
async def test_a_server_that_talks_nonsense_is_an_outage_not_a_crash(
    clock: Clock, body: bytes
) -> None:
    with key_page(body) as url:
        made = authenticator(clock, jwt=hs256(algorithm="RS256", secret_env=None, jwks_url=url))
        with pytest.raises(Unavailable):
            await made.authenticate(kid("k1"))


def test_a_credential_says_nothing_secret_about_itself(clock: Clock) -> None:
    made = authenticator(clock, jwt=hs256())
    token = signed()
    session = made.issue_session(made.check(TOKEN)).text
    for text, credential in (
        (TOKEN, made.check(TOKEN)),
        (token, made.check(token)),
        (session, made.check_session(session)),
    ):
        assert isinstance(credential, Credential)
        assert text not in repr(credential)
