"""Opening a connection: where, as whom, and how often."""

from http import HTTPStatus

import pytest

from dispatch.client import (
    CannotConnect,
    Client,
    Options,
)
from dispatch.client.dial import Address, jittered
from dispatch.errors import (
    DispatchError,
    Forbidden,
    Unauthorized,
)
from tests.client.scripted import (
    Peer,
    ScriptedServer,
)


async def idle(peer: Peer) -> None:
    await peer.stay()


async def test_the_token_travels_in_the_header_of_the_upgrade_and_of_http() -> None:
    async with ScriptedServer(idle) as server:
        server.pages["/models"] = {"models": ["echo"]}
        async with Client(server.url, token="s3cret") as client:
            await client.http.models()
    assert [path for path, _ in server.heads] == ["/ws", "/models"]
    assert {head["Authorization"] for _, head in server.heads} == {"Bearer s3cret"}


async def test_a_client_without_a_token_learns_at_once_that_one_is_wanted() -> None:
    """The daemon waits for a first frame that names the token; any other ends the connection."""

    async def wants_a_token(peer: Peer) -> None:
        await peer.heard("ping")
        await peer.close(4500, "a token is needed")

    async with ScriptedServer(wants_a_token) as server:
        server.says_hello = False
        with pytest.raises(Unauthorized, match="a token is needed"):
            async with Client(server.url):
                pass


async def test_address_and_token_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer(idle) as server:
        monkeypatch.setenv("DISPATCH_URL", server.url)
        monkeypatch.setenv("DISPATCH_TOKEN", "from-environment")
        async with Client():
            pass
    assert server.heads[0][1]["Authorization"] == "Bearer from-environment"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(HTTPStatus.UNAUTHORIZED, Unauthorized), (HTTPStatus.FORBIDDEN, Forbidden)],
)
async def test_a_refused_upgrade_is_told_in_the_daemons_words(
    status: HTTPStatus, kind: type[DispatchError]
) -> None:
    async with ScriptedServer() as server:
        server.refusal = (status, {"error": "who are you", "code": "x"})
        with pytest.raises(kind, match="who are you"):
            async with Client(server.url):
                pass


async def test_a_daemon_that_is_not_ready_can_be_waited_for() -> None:
    async with ScriptedServer(idle) as server:
        server.refusal = (HTTPStatus.SERVICE_UNAVAILABLE, {"error": "starting"})
        tries = []

        def random() -> float:
            # Called once for each pause, so this is the moment between two attempts.
            tries.append(1)
            server.refusal = None
            return 0.0

        with pytest.raises(CannotConnect, match="starting"):
            async with Client(server.url):
                pass
        patient = Options(first_patience_seconds=10, random=random)
        async with Client(server.url, options=patient):
            pass
    assert len(tries) == 1


async def test_an_address_where_nothing_listens_is_named() -> None:
    async with ScriptedServer() as server:
        url = server.url
    with pytest.raises(CannotConnect, match=f"cannot connect to {url}"):
        async with Client(url):
            pass


async def test_a_server_that_speaks_something_else_is_not_taken_for_a_daemon() -> None:
    async with ScriptedServer(idle) as server:
        server.subprotocol = "chat"
        with pytest.raises(CannotConnect):
            async with Client(server.url):
                pass


@pytest.mark.parametrize(
    ("url", "http", "websocket", "is_loopback"),
    [
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765", "ws://127.0.0.1:8765/ws", True),
        ("wss://chat.example/x/", "https://chat.example/x", "wss://chat.example/x/ws", False),
        ("ws://localhost:1/ws", "http://localhost:1", "ws://localhost:1/ws", True),
        ("http://[::1]:80", "http://[::1]:80", "ws://[::1]:80/ws", True),
    ],
)
def test_an_address_is_read_in_every_usual_form(
    url: str, http: str, websocket: str, is_loopback: bool
) -> None:
    assert Address.parse(url) == Address(http, websocket, is_loopback)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8765", "file:///etc/passwd", "http://", "http://u:p@host", "http://h:x"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(DispatchError):
        Address.parse(url)


def test_a_token_that_would_break_out_of_its_header_is_refused() -> None:
    with pytest.raises(DispatchError, match="token"):
        Address.parse("http://127.0.0.1", "x\r\nHost: evil")


def test_the_wait_before_another_attempt_is_jittered_and_bounded() -> None:
    most = Options(backoff_seconds=0.5, backoff_seconds_max=15, random=lambda: 1.0)
    assert [jittered(most, attempt) for attempt in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]
    assert jittered(most, 10_000) == 15
    assert jittered(Options(random=lambda: 0.0), 5) == 0
