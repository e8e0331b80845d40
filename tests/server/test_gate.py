"""Host, Origin and where a credential may stand: by the head alone, then through the middleware."""

from base64 import urlsafe_b64encode
from typing import Any

import httpx
import pytest

from dispatch.core.identity import LOCAL
from dispatch.errors import (
    ConfigError,
    DispatchError,
    Forbidden,
    Misdirected,
    NotFound,
    PeerError,
    RateLimited,
    Unauthorized,
)
from dispatch.server.auth import ANYONE, SESSION_COOKIE, Authenticator
from dispatch.server.credential import digest
from dispatch.server.gate import Doorkeeper, Gate
from dispatch.server.head import QUERY_FIELDS_MAX, Head
from dispatch.server.offers import TOKEN_PREFIX, choose_dispatch, dialects_of, offers_of, token_of
from dispatch.settings import DEMO_AGENTS, AuthSettings, AuthToken, Limits, Settings

TOKEN = "0123456789abcdefghijklmnopqrstuv"
AUTH = AuthSettings(tokens=(AuthToken(sha256=digest(TOKEN), user="ann"),))
PORT = 8765
OURS = f"127.0.0.1:{PORT}"


def keeper(
    bound: str = "127.0.0.1", auth: AuthSettings | None = None, **settings: Any
) -> Doorkeeper:
    made = Settings(host=bound, agents=DEMO_AGENTS, auth=auth, **settings)
    authenticator = None
    if auth is not None:
        authenticator = Authenticator(auth, Limits(), bytes(32), environment={})
    doorkeeper = Doorkeeper(made, authenticator)
    doorkeeper.listening([bound], PORT)
    return doorkeeper


def head(*lines: tuple[str, str], **fields: Any) -> Head:
    names = {name for name, _ in lines}
    lines = lines if "host" in names else (("host", OURS), *lines)
    made: dict[str, Any] = {"method": "GET", "path": "/ws", "query": "", "client": "192.0.2.1"}
    headers = [(name.encode(), value.encode("utf-8")) for name, value in lines]
    return Head(**{**made, "server": "127.0.0.1", **fields}, headers=headers)


def bearer(token: str = TOKEN) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


# ---------------------------------------------------------------- Host


@pytest.mark.parametrize("host", [OURS, f"localhost:{PORT}", f"LocalHost:{PORT}", f"[::1]:{PORT}"])
def test_loopback_answers_to_its_own_names(host: str) -> None:
    assert keeper().admit(head(("host", host))) == ANYONE


# A tunnel or a container's mapped port: the client knows another port than ours.
MAPPED = ["127.0.0.1", "127.0.0.1:80", "127.0.0.1:8766", "localhost:9000", "[::1]:1", "[::1]"]


@pytest.mark.parametrize("host", MAPPED)
def test_loopback_answers_to_its_own_names_with_any_port(host: str) -> None:
    own = ("origin", f"http://{host}")
    assert keeper().admit(head(("host", host))) == ANYONE
    assert keeper().admit(head(("host", host), own, upgrade=True)) == ANYONE
    assert keeper().admit(head(("host", host), ("origin", "http://localhost:3000"))) == ANYONE
    with pytest.raises(Forbidden):
        keeper().admit(head(("host", host), ("origin", "https://evil.example")))


@pytest.mark.parametrize("host", MAPPED)
def test_a_daemon_that_others_can_reach_answers_to_loopback_names_with_its_port_alone(
    host: str,
) -> None:
    with pytest.raises(Misdirected):
        keeper("0.0.0.0", insecure=True).admit(head(("host", host), server="192.0.2.5"))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        f"evil.example:{PORT}",
        "127.0.0.1.evil.example",
        "localhost:9000.evil.example",
        "localhost:",
        "localhost:123456",
        f"127.0.0.1.evil.example:{PORT}",
        f"localhost.evil.example:{PORT}",
        f"localhost.:{PORT}",
        f"127.0.0.2:{PORT}",
        f"2130706433:{PORT}",
        f"0.0.0.0:{PORT}",
        f"::1:{PORT}",
        f"lоcalhost:{PORT}",  # noqa: RUF001 - the attack
        f"127.0.0.1:{PORT}@evil.example",
        f" 127.0.0.1:{PORT}",
        f"127.0.0.1:0{PORT}",
        "",
    ],
)
def test_a_host_that_is_not_ours_is_misdirected(host: str) -> None:
    with pytest.raises(Misdirected):
        keeper().admit(head(("host", host)))


@pytest.mark.parametrize("hosts", [(), (OURS, OURS), (OURS, "evil.example")])
def test_a_request_has_exactly_one_host(hosts: tuple[str, ...]) -> None:
    made = Head("GET", "/", "", [(b"host", host.encode()) for host in hosts])
    with pytest.raises(PeerError):
        keeper().admit(made)


@pytest.mark.parametrize(
    ("configured", "host", "ours"),
    [
        ("chat.example", "chat.example", True),
        ("chat.example", "CHAT.example", True),
        ("chat.example", f"chat.example:{PORT}", True),
        ("chat.example", "chat.example:9000", False),
        ("chat.example", "a.chat.example", False),
        ("chat.example", "chat.example.evil", False),
        ("chat.example:9000", "chat.example:9000", True),
        ("chat.example:9000", "chat.example", False),
        ("2001:db8::1", f"[2001:db8::1]:{PORT}", True),
        ("[2001:db8::1]:9000", "[2001:db8::1]:9000", True),
    ],
)
def test_configured_hosts_are_compared_whole(configured: str, host: str, ours: bool) -> None:
    doorkeeper = keeper(hosts=(configured,))
    if ours:
        assert doorkeeper.admit(head(("host", host))) == ANYONE
    else:
        with pytest.raises(Misdirected):
            doorkeeper.admit(head(("host", host)))


def test_a_daemon_bound_to_one_address_answers_to_it() -> None:
    doorkeeper = keeper("192.0.2.5", insecure=True)
    assert doorkeeper.admit(head(("host", f"192.0.2.5:{PORT}"), server="192.0.2.5")) == ANYONE
    with pytest.raises(Misdirected):
        doorkeeper.admit(head(("host", f"192.0.2.6:{PORT}"), server="192.0.2.5"))


def test_a_daemon_bound_to_all_addresses_answers_to_the_one_that_was_connected_to() -> None:
    doorkeeper = keeper("0.0.0.0", insecure=True)
    assert doorkeeper.admit(head(("host", f"192.0.2.5:{PORT}"), server="192.0.2.5")) == ANYONE
    for host in (f"192.0.2.6:{PORT}", f"rebound.example:{PORT}", f"0.0.0.0:{PORT}"):
        with pytest.raises(Misdirected):
            doorkeeper.admit(head(("host", host), server="192.0.2.5"))


def test_the_default_port_may_be_left_out() -> None:
    doorkeeper = Doorkeeper(Settings(agents=DEMO_AGENTS), None)
    doorkeeper.listening(["127.0.0.1"], 80)
    assert doorkeeper.admit(head(("host", "localhost"))) == ANYONE
    assert doorkeeper.admit(head(("host", "localhost:80"))) == ANYONE


def test_before_anything_is_bound_no_host_is_ours() -> None:
    with pytest.raises(Misdirected):
        Doorkeeper(Settings(agents=DEMO_AGENTS), None).admit(head())


# ---------------------------------------------------------------- Origin


@pytest.mark.parametrize(
    "origin",
    [
        f"http://{OURS}",
        "http://localhost:3000",
        "https://localhost",
        "http://127.0.0.1:1",
        "http://[::1]:5173",
        "https://chat.example",
    ],
)
@pytest.mark.parametrize("upgrading", [False, True])
def test_our_own_pages_and_those_of_this_machine_may_ask(origin: str, upgrading: bool) -> None:
    doorkeeper = keeper(origins=("https://chat.example",))
    assert doorkeeper.admit(head(("origin", origin), upgrade=upgrading)) == ANYONE


FOREIGN = [
    "null",
    "",
    "https://evil.example",
    "http://localhost.evil",
    "http://localhost.evil:3000",
    "http://127.0.0.1.evil",
    "http://evil-localhost",
    "http://notlocalhost:3000",
    "http://localhost:3000.evil.example",
    "http://localhost@evil.example",
    "http://localhost:3000@evil.example",
    "http://localhost:3000/",
    "http://localhost:3000 ",
    "http://localhost:03000",
    "http://localhost:",
    "HTTP://localhost:3000",
    "http://LOCALHOST:3000",
    "http://lоcalhost:3000",  # noqa: RUF001 - the attack
    "http://localhost:３０００",  # noqa: RUF001 - the attack
    "http://127.0.0.2:3000",
    "http://127.1:3000",
    "http://[::ffff:127.0.0.1]:3000",
    "http://0.0.0.0:3000",
    "file://",
    "ftp://localhost",
    "chrome-extension://abcdef",
    "https://chat.example.evil",
    "https://chat.example:8443",
    "http://chat.example",
    "https://CHAT.example",
    "https://sub.chat.example",
    "https://chat.example, https://evil.example",
]


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("upgrading", [False, True])
def test_every_other_page_may_not(origin: str, upgrading: bool) -> None:
    doorkeeper = keeper(origins=("https://chat.example",))
    with pytest.raises(Forbidden):
        doorkeeper.admit(head(("origin", origin), upgrade=upgrading))
    assert doorkeeper.cors_headers(head(("origin", origin))) == [(b"vary", b"origin")]


def test_two_origins_are_one_too_many() -> None:
    own = ("origin", f"http://{OURS}")
    with pytest.raises(Forbidden):
        keeper().admit(head(own, own))


def test_pages_of_this_machine_may_not_ask_a_daemon_that_others_can_reach() -> None:
    doorkeeper = keeper("0.0.0.0", insecure=True)
    host = ("host", f"localhost:{PORT}")
    assert doorkeeper.admit(head(host, ("origin", f"http://localhost:{PORT}"))) == ANYONE
    with pytest.raises(Forbidden):
        doorkeeper.admit(head(host, ("origin", "http://localhost:3000")))


def test_pages_of_this_machine_may_not_ask_through_a_public_name() -> None:
    doorkeeper = keeper(hosts=("chat.example",))
    host = ("host", "chat.example")
    with pytest.raises(Forbidden):
        doorkeeper.admit(head(host, ("origin", "http://localhost:3000")))
    assert doorkeeper.admit(head(host, ("origin", "https://chat.example"), scheme="https"))
    with pytest.raises(Forbidden):
        # The page came by TLS and we do not know it: the proxy is not a trusted one.
        doorkeeper.admit(head(host, ("origin", "https://chat.example"), scheme="http"))


@pytest.mark.parametrize(
    ("site", "mode", "upgrading", "allowed"),
    [
        ("cross-site", "no-cors", False, False),
        ("cross-site", "websocket", True, False),
        ("cross-site", "navigate", True, False),
        ("cross-site", "navigate", False, True),
        ("same-origin", "cors", False, True),
        ("none", "navigate", False, True),
    ],
)
def test_a_browser_that_hides_the_origin_is_judged_by_what_it_says_of_the_site(
    site: str, mode: str, upgrading: bool, allowed: bool
) -> None:
    made = head(("sec-fetch-site", site), ("sec-fetch-mode", mode), upgrade=upgrading)
    if allowed:
        assert keeper().admit(made) == ANYONE
    else:
        with pytest.raises(Forbidden):
            keeper().admit(made)


@pytest.mark.parametrize(
    "origin", ["chat.example", "https://chat.example/", "https://Chat.example", "*", "null"]
)
def test_an_origin_no_browser_would_send_is_a_mistake_of_the_configuration(origin: str) -> None:
    with pytest.raises(ConfigError, match="origins"):
        keeper(origins=(origin,))


@pytest.mark.parametrize("host", ["https://chat.example", "chat example", "a:b", "a:0", "", "*"])
def test_a_host_that_is_none_is_a_mistake_of_the_configuration(host: str) -> None:
    with pytest.raises(ConfigError, match="hosts"):
        keeper(hosts=(host,))


# ---------------------------------------------------------------- where a credential stands


def test_with_auth_loopback_needs_a_credential_too() -> None:
    with pytest.raises(Unauthorized):
        keeper(auth=AUTH).admit(head())


def test_an_upgrade_may_name_itself_later_and_a_public_path_need_not() -> None:
    doorkeeper = keeper(auth=AUTH)
    assert doorkeeper.admit(head(upgrade=True)) is None
    assert doorkeeper.admit(head(), optional=True) is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_bearer_token_is_a_credential(scheme: str) -> None:
    credential = keeper(auth=AUTH).admit(head(("authorization", f"{scheme} {TOKEN}")))
    assert credential is not None
    assert (credential.principal.account, credential.principal.user) == ("local", "ann")


@pytest.mark.parametrize("upgrading", [False, True])
@pytest.mark.parametrize("optional", [False, True])
def test_a_wrong_token_is_refused_at_once(upgrading: bool, optional: bool) -> None:
    with pytest.raises(Unauthorized) as refused:
        keeper(auth=AUTH).admit(head(bearer("wrong"), upgrade=upgrading), optional=optional)
    assert "wrong" not in refused.value.message


def test_a_proxys_own_authorization_says_nothing_to_us() -> None:
    assert keeper(auth=AUTH).admit(head(("authorization", "Basic eDp5"), upgrade=True)) is None


@pytest.mark.parametrize("name", ["token", "access_token"])
@pytest.mark.parametrize("upgrading", [False, True])
@pytest.mark.parametrize("optional", [False, True])
def test_a_token_in_the_query_is_refused_by_name_even_if_it_is_good(
    name: str, upgrading: bool, optional: bool
) -> None:
    made = head(bearer(), query=f"a=1&{name}={TOKEN}", upgrade=upgrading)
    with pytest.raises(Unauthorized, match=f"`{name}`") as refused:
        keeper(auth=AUTH).admit(made, optional=optional)
    assert TOKEN not in refused.value.message


def test_a_query_of_too_many_fields_is_refused_rather_than_half_read() -> None:
    query = "&".join(f"a{number}=1" for number in range(QUERY_FIELDS_MAX)) + f"&token={TOKEN}"
    with pytest.raises(PeerError):
        keeper(auth=AUTH).admit(head(bearer(), query=query))


def test_a_ticket_opens_one_upgrade_or_one_stream_and_no_more() -> None:
    doorkeeper = keeper(auth=AUTH)
    credential = doorkeeper.admit(head(bearer()))
    for upgrading in (True, False):
        ticket = doorkeeper.authenticator.issue_ticket(credential).text
        made = head(query=f"heal=0&ticket={ticket}", upgrade=upgrading)
        assert doorkeeper.admit(made) == credential
        with pytest.raises(Unauthorized):
            doorkeeper.admit(made)


def test_a_ticket_does_not_send() -> None:
    doorkeeper = keeper(auth=AUTH)
    ticket = doorkeeper.authenticator.issue_ticket(doorkeeper.admit(head(bearer()))).text
    with pytest.raises(Unauthorized):
        doorkeeper.admit(head(method="POST", query=f"ticket={ticket}"))
    assert doorkeeper.admit(head(query=f"ticket={ticket}")) is not None


def test_a_subprotocol_may_carry_the_token_of_an_upgrade_and_of_nothing_else() -> None:
    line = ("sec-websocket-protocol", f"dispatch.v1, {TOKEN_PREFIX}{encoded(TOKEN)}")
    doorkeeper = keeper(auth=AUTH)
    assert doorkeeper.admit(head(line, upgrade=True)) is not None
    with pytest.raises(Unauthorized):
        doorkeeper.admit(head(line))


def encoded(token: str) -> str:
    return urlsafe_b64encode(token.encode()).rstrip(b"=").decode()


def test_offers_are_split_into_dialects_and_one_token() -> None:
    made = head(
        ("sec-websocket-protocol", f"a,  b ,,{TOKEN_PREFIX}{encoded('t' * 31)}"),
        ("sec-websocket-protocol", "c"),
    )
    offers = offers_of(made)
    assert dialects_of(offers) == ["a", "b", "c"]
    assert token_of(offers) == "t" * 31
    assert token_of(["a"]) is None


@pytest.mark.parametrize(
    "offers",
    [
        [TOKEN_PREFIX],
        [TOKEN_PREFIX + "*"],
        [TOKEN_PREFIX + "a"],
        [TOKEN_PREFIX + encoded("€")],
        [TOKEN_PREFIX + encoded("a")] * 2,
    ],
)
def test_an_offer_that_carries_no_one_token_is_refused(offers: list[str]) -> None:
    with pytest.raises(Unauthorized):
        token_of(offers)


def test_the_choice_of_a_subprotocol() -> None:
    assert choose_dispatch("/ws", []) is None
    assert choose_dispatch("/ws", ["x", "dispatch.v1"]) == "dispatch.v1"
    with pytest.raises(PeerError, match=r"dispatch\.v1"):
        choose_dispatch("/ws", ["x"])


# ---------------------------------------------------------------- the session's cookie


def signed_in(doorkeeper: Doorkeeper) -> tuple[str, str]:
    session = doorkeeper.authenticator.issue_session(doorkeeper.admit(head(bearer())))
    return ("cookie", f"theme=dark; {SESSION_COOKIE}={session.text}; a=b")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [("origin", f"http://{OURS}")],
        [("origin", "https://chat.example")],
        [("sec-fetch-site", "same-origin")],
        [("sec-fetch-site", "none")],
    ],
)
def test_a_session_speaks_for_our_own_pages(lines: list[tuple[str, str]]) -> None:
    doorkeeper = keeper(auth=AUTH, origins=("https://chat.example",))
    cookie = signed_in(doorkeeper)
    assert doorkeeper.admit(head(cookie, *lines)) is not None
    assert doorkeeper.admit(head(cookie, *lines, upgrade=True)) is not None


@pytest.mark.parametrize(
    "lines", [[("origin", "http://localhost:3000")], [("sec-fetch-site", "same-site")]]
)
def test_a_session_does_not_speak_for_other_programs_of_this_machine(
    lines: list[tuple[str, str]],
) -> None:
    doorkeeper = keeper(auth=AUTH)
    cookie = signed_in(doorkeeper)
    with pytest.raises(Unauthorized):
        doorkeeper.admit(head(cookie, *lines))
    assert doorkeeper.admit(head(cookie, *lines, upgrade=True)) is None
    assert doorkeeper.admit(head(cookie, bearer(), *lines)) is not None


def test_an_explicit_credential_beats_a_cookie_even_if_it_is_wrong() -> None:
    doorkeeper = keeper(auth=AUTH)
    cookie = signed_in(doorkeeper)
    with pytest.raises(Unauthorized):
        doorkeeper.admit(head(cookie, bearer("wrong")))


def test_a_page_loads_with_a_bad_cookie_and_its_requests_are_refused() -> None:
    doorkeeper = keeper(auth=AUTH)
    bad = ("cookie", f"{SESSION_COOKIE}=forged.forged")
    assert doorkeeper.admit(head(bad), optional=True) is None
    for upgrading in (False, True):
        with pytest.raises(Unauthorized):
            doorkeeper.admit(head(bad, upgrade=upgrading))


# ---------------------------------------------------------------- the middleware


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/missing":
        raise NotFound("no such thing")
    if scope["path"] == "/slow-down":
        raise RateLimited("slow down", retry_after_ms=1500)
    principal = scope["state"]["principal"]
    credential = scope["state"]["credential"]
    assert (credential.principal if credential else None) == principal
    body = str(principal.user if principal else None).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
    await send({"type": "http.response.body", "body": body})


def client(doorkeeper: Doorkeeper, **gate: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=Gate(app, doorkeeper, **gate))
    return httpx.AsyncClient(transport=transport, base_url=f"http://{OURS}")


async def test_the_app_finds_the_principal_in_the_state() -> None:
    async with client(keeper()) as http:
        assert (await http.get("/x")).text == LOCAL.user
    async with client(keeper(auth=AUTH)) as http:
        assert (await http.get("/x", headers=[bearer()])).text == "ann"


async def test_a_refusal_is_json_with_its_code_and_says_what_is_wanted() -> None:
    async with client(keeper(auth=AUTH)) as http:
        reply = await http.get("/x")
    assert reply.status_code == 401
    assert reply.json() == {
        "error": "a credential is needed: a bearer token, a session or a ticket",
        "code": "unauthorized",
    }
    assert reply.headers["www-authenticate"] == 'Bearer realm="dispatch"'
    assert reply.headers["cache-control"] == "no-store"


async def test_a_public_path_is_open_and_still_knows_who_asks() -> None:
    public = lambda method, path: (method, path) == ("GET", "/")  # noqa: E731
    async with client(keeper(auth=AUTH), public=public) as http:
        assert (await http.get("/")).text == "None"
        assert (await http.get("/", headers=[bearer()])).text == "ann"
        assert (await http.get("/", headers=[bearer("wrong")])).status_code == 401
        assert (await http.post("/")).status_code == 401
        assert (await http.get("/health")).status_code == 401


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/missing", 404, "not_found"), ("/slow-down", 429, "rate_limited")],
)
async def test_an_error_the_app_lets_out_is_answered_alike(
    path: str, status: int, code: str
) -> None:
    async with client(keeper()) as http:
        reply = await http.get(path, headers={"origin": "http://localhost:3000"})
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert reply.headers.get("retry-after") == ("2" if status == 429 else None)


async def test_an_error_after_the_response_began_is_the_servers_to_handle() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise NotFound("too late")

    gate = Gate(broken, keeper())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=gate), base_url=f"http://{OURS}"
    ) as http:
        with pytest.raises(DispatchError, match="too late"):
            await http.get("/")


async def test_allowed_pages_may_read_every_answer_and_foreign_ones_none() -> None:
    doorkeeper = keeper(auth=AUTH, origins=("https://chat.example",))
    async with client(doorkeeper) as http:
        for origin, credentials in (("https://chat.example", "true"), ("http://localhost:1", None)):
            for headers in ([bearer()], []):
                reply = await http.get("/x", headers=[("origin", origin), *headers])
                assert reply.headers["access-control-allow-origin"] == origin
                assert reply.headers.get("access-control-allow-credentials") == credentials
                assert "x-conversation-id" in reply.headers["access-control-expose-headers"]
                assert reply.headers["vary"] == "origin"
        reply = await http.get("/x", headers=[("origin", "https://evil.example"), bearer()])
        assert reply.status_code == 403
        assert not [name for name in reply.headers if name.startswith("access-control")]
        reply = await http.get("/x", headers=[("host", "evil.example"), bearer()])
        assert reply.status_code == 421


async def test_a_preflight_is_answered_without_a_credential_and_only_to_allowed_pages() -> None:
    asks = {
        "access-control-request-method": "DELETE",
        "access-control-request-headers": "authorization, content-type",
        "access-control-request-private-network": "true",
    }
    async with client(keeper(auth=AUTH)) as http:
        reply = await http.options("/x", headers={**asks, "origin": "http://localhost:3000"})
        assert reply.status_code == 204
        assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "DELETE" in reply.headers["access-control-allow-methods"]
        assert reply.headers["access-control-allow-headers"] == "authorization, content-type"
        assert reply.headers["access-control-allow-private-network"] == "true"
        reply = await http.options("/x", headers={**asks, "origin": "http://evil.example"})
        assert reply.status_code == 403
        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert (await http.options("/x")).status_code == 401


async def test_what_is_not_http_passes_through() -> None:
    seen = []

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await Gate(lifespan, keeper())({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]
