"""The client against a scripted daemon: what it sends, and what it makes of what it hears."""

from http import HTTPStatus

import anyio
import pytest

from dispatch.client import (
    CannotConnect,
    Client,
    ConnectionLost,
    Options,
    Reconnecting,
    ServerError,
)
from dispatch.client.dial import Address, jittered
from dispatch.errors import (
    Busy,
    Conflict,
    DispatchError,
    Forbidden,
    NotFound,
    PeerError,
    RateLimited,
    Refused,
    TooLarge,
    Unauthorized,
)
from tests.client.scripted import (
    EAGER,
    Frame,
    Peer,
    Script,
    ScriptedServer,
    accepted,
    connected,
    subscribed,
)


async def idle(peer: Peer) -> None:
    await peer.stay()


def accepting(heard: list[Frame], **fields: object) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            asked = await peer.heard("chat.send")
            heard.append(asked)
            await peer.say(accepted(asked, 0, **fields))  # type: ignore[arg-type]

    return script


def refusing(**refusal: object) -> Script:
    async def script(peer: Peer) -> None:
        asked = await peer.heard("chat.send")
        await peer.say(
            {"type": "chat.error", "conversationId": "c", "ref": asked["ref"], **refusal}
        )

    return script


async def test_a_send_carries_its_text_untouched_under_an_id_of_its_own() -> None:
    heard: list[Frame] = []
    async with connected(accepting(heard)) as client:
        first = await client.send("  hällo\n", conversation_id="c", on_busy="queue", model="echo/x")
        await client.send("again", conversation_id="c")
    assert first.conversation_id == "c"
    assert first.turn == "t1"
    assert heard[0]["message"] == "  hällo\n"
    assert heard[0]["onBusy"] == "queue"
    assert heard[0]["model"] == "echo/x"
    assert heard[0]["clientMessageId"] != heard[1]["clientMessageId"]


async def test_a_client_message_id_of_the_caller_is_kept() -> None:
    heard: list[Frame] = []
    script = accepting(heard, duplicate=True)
    async with connected(script) as client:
        again = await client.send("hi", client_message_id="mine")
    assert heard[0]["clientMessageId"] == "mine"
    assert "conversationId" not in heard[0]
    assert again.duplicate


async def test_a_send_without_an_answer_is_repeated_word_for_word_on_the_next_connection() -> None:
    heard: list[Frame] = []

    async def dies(peer: Peer) -> None:
        heard.append(await peer.heard("chat.send"))
        await peer.cut()

    script = accepting(heard, duplicate=True)
    async with connected(dies, dies, script) as client:
        reply = await client.send("hi")
    assert reply.duplicate
    assert heard[0] == heard[1] == heard[2]


async def test_an_answered_send_is_not_repeated() -> None:
    heard: list[Frame] = []

    async def dies(peer: Peer) -> None:
        asked = await peer.heard("chat.send")
        await peer.say(accepted(asked, 0))
        await peer.cut()

    async with connected(dies, accepting(heard)) as client:
        await client.send("one")
        await client.send("two")
    assert [frame["message"] for frame in heard] == ["two"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [("busy", Busy), ("conflict", Conflict), ("not_found", NotFound), ("internal", DispatchError)],
)
async def test_a_refusal_is_the_exception_that_the_daemon_raised(
    code: str, kind: type[DispatchError]
) -> None:
    script = refusing(message="no", code=code, retryable=False)
    async with connected(script) as client:
        with pytest.raises(kind, match=r"^no$") as caught:
            await client.send("hi")
    assert caught.value.code == code


async def test_a_refusal_says_when_to_try_again() -> None:
    script = refusing(message="slow down", code="rate_limited", retryable=True, retryAfterMs=1500)
    async with connected(script) as client:
        with pytest.raises(RateLimited) as caught:
            await client.send("hi")
    assert caught.value.retryable
    assert caught.value.retry_after_ms == 1500


async def test_a_refusal_with_an_unknown_code_keeps_it() -> None:
    script = refusing(message="no", code="full_moon", retryable=True)
    async with connected(script) as client:
        with pytest.raises(ServerError) as caught:
            await client.send("hi")
    assert (caught.value.code, caught.value.retryable) == ("full_moon", True)


async def test_a_message_over_the_published_frame_limit_is_not_sent() -> None:
    heard: list[Frame] = []
    async with ScriptedServer(accepting(heard)) as server:
        server.hello = {"limits": {"frameBytesMax": 1000}}
        async with Client(server.url) as client:
            with pytest.raises(TooLarge, match="1000"):
                await client.send("x" * 1000)
            await client.send("short")
    assert [frame["message"] for frame in heard] == ["short"]


@pytest.mark.parametrize("code", [1002, 1007, 1009])
async def test_a_request_that_the_peer_could_not_read_is_not_repeated(code: int) -> None:
    heard: list[Frame] = []

    async def cannot_read(peer: Peer) -> None:
        await peer.heard("chat.send")
        await peer.close(code, "frame over frame_bytes_max")

    async with connected(cannot_read, accepting(heard)) as client:
        with pytest.raises(PeerError, match="frame over frame_bytes_max"):
            await client.send("one")
        await client.send("two")
    assert [frame["message"] for frame in heard] == ["two"]


async def test_a_stop_of_a_named_turn_is_repeated_and_another_is_not() -> None:
    heard: list[Frame] = []

    async def dies(peer: Peer) -> None:
        await peer.heard("chat.stop")
        await peer.cut()

    async def stops(peer: Peer) -> None:
        heard.append(asked := await peer.heard("chat.stop"))
        reply = {"type": "chat.stopped", "conversationId": "c", "abortedTurn": True}
        await peer.say(reply | {"ref": asked["ref"]})

    async with connected(dies, dies, stops) as client:
        with pytest.raises(ConnectionLost, match="unknown"):
            await client.stop("c")
        assert (await client.stop("c", "t1")).aborted_turn
    assert [frame.get("turnId") for frame in heard] == ["t1"]


async def test_a_fork_tells_the_new_conversation() -> None:
    async def forks(peer: Peer) -> None:
        asked = await peer.heard("chat.fork")
        origin = {"conversationId": asked["conversationId"], "turnId": asked["turnId"]}
        reply = {"type": "chat.forked", "conversationId": "d", "forkedFrom": origin}
        await peer.say(reply | {"ref": asked["ref"]})

    async with connected(forks) as client:
        forked = await client.fork("c", "t1")
    assert forked.conversation_id == "d"
    assert forked.forked_from.turn_id == "t1"


async def test_frames_that_a_newer_daemon_may_send_are_skipped() -> None:
    heard: list[Frame] = []

    async def talkative(peer: Peer) -> None:
        await peer.say({"type": "weather", "sunny": True}, {"type": "pong"})
        await accepting(heard, mood="fine")(peer)

    async with connected(talkative) as client:
        assert (await client.send("hi")).conversation_id == "c"


async def test_a_frame_that_makes_no_sense_ends_the_client_with_its_name() -> None:
    async def confused(peer: Peer) -> None:
        await peer.heard("chat.send")
        await peer.say({"type": "chat.accepted", "position": 3})

    async with connected(confused) as client:
        with pytest.raises(PeerError, match=r"chat\.accepted"):
            await client.send("hi")
        with pytest.raises(PeerError, match=r"chat\.accepted"):
            await client.send("hi")


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


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4000, 4001, 4002, 4003, 4004, 4499])
async def test_a_resumable_close_code_is_resumed(code: int) -> None:
    heard: list[Frame] = []

    async def leaves(peer: Peer) -> None:
        await peer.heard("chat.send")
        await peer.close(code, "later")

    async with connected(leaves, accepting(heard)) as client:
        await client.send("hi")
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("code", "kind"), [(4500, Unauthorized), (4501, Forbidden), (4502, Refused), (4999, Refused)]
)
async def test_a_final_close_code_is_raised_everywhere_and_nothing_is_tried_again(
    code: int, kind: type[DispatchError]
) -> None:
    async def ends(peer: Peer) -> None:
        asked = await peer.heard("chat.subscribe")
        await peer.say(subscribed(asked, 0))
        await peer.heard("chat.send")
        await peer.close(code, "no more of this")

    async with ScriptedServer(ends) as server, Client(server.url, options=EAGER) as client:
        items = client.follow("c")
        await anext(items)
        for _ in range(2):
            with pytest.raises(kind, match="no more of this"):
                await client.send("hi")
        with pytest.raises(kind, match="no more of this"):
            await anext(items)
        with pytest.raises(kind, match="no more of this"):
            await anext(client.follow("d"))
    assert len(server.heads) == 1


async def test_a_client_that_loses_patience_says_so() -> None:
    async def gone(peer: Peer) -> None:
        asked = await peer.heard("chat.subscribe")
        await peer.say(subscribed(asked, 0))
        server.refusal = (HTTPStatus.SERVICE_UNAVAILABLE, {"error": "restarting"})
        await peer.cut()

    hasty = Options(backoff_seconds=0, patience_seconds=0)
    async with ScriptedServer(gone) as server, Client(server.url, options=hasty) as client:
        items = client.follow("c")
        await anext(items)
        assert isinstance(await anext(items), Reconnecting)
        with pytest.raises(CannotConnect, match="restarting"):
            await anext(items)


async def fails_inside(client: Client) -> None:
    async with client:
        assert client.hello.connection_id == "c1"
        raise ZeroDivisionError


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    async with ScriptedServer(idle) as server:
        with pytest.raises(ZeroDivisionError):
            await fails_inside(Client(server.url))


async def test_a_cancelled_send_leaves_nothing_behind() -> None:
    heard: list[Frame] = []
    is_heard = anyio.Event()

    async def silent(peer: Peer) -> None:
        await peer.heard("chat.send")
        is_heard.set()
        await accepting(heard)(peer)

    async with connected(silent) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.send, "never mind")
            await is_heard.wait()
            group.cancel_scope.cancel()
        await client.send("hi")
    assert [frame["message"] for frame in heard] == ["hi"]


async def test_a_closed_client_refuses_politely() -> None:
    async with ScriptedServer(idle) as server:
        async with Client(server.url) as client:
            items = client.follow("c")
        with pytest.raises(Refused, match="closed"):
            await client.send("hi")
        with pytest.raises(Refused, match="closed"):
            await anext(items)


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
