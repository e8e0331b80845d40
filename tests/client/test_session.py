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
