"""The connection: versions, who a client is, what is no message, and peers that do not read."""

import hashlib
from pathlib import Path

import anyio
import pytest
import websockets

from dispatch.settings import AuthSettings, AuthToken, Limits
from dispatch.testing.scripted import Gate, ScriptedAgent
from tests.server.ahp.peer import ROOT, Refused, daemon_of, peer_of, turn_started

VERSIONS = ["0.5.1", "0.7.0", "0.9.0", "1.0.0"]


def token(secret: str, user: str, *rights: str) -> AuthToken:
    return AuthToken(
        sha256=hashlib.sha256(secret.encode()).hexdigest(),
        user=user,
        rights=rights or ("watch", "send"),  # type: ignore[arg-type]
    )


AUTH = AuthSettings(tokens=(token("a", "ann"), token("b", "bob"), token("w", "will", "watch")))


async def test_four_versions_side_by_side_fold_one_turn(tmp_path: Path) -> None:
    agent = ScriptedAgent("one ", "two")
    async with daemon_of(tmp_path, agent) as daemon, anyio.create_task_group() as tasks:
        async with (
            peer_of(daemon, "c1", version=VERSIONS[0]) as one,
            peer_of(daemon, "c2", version=VERSIONS[1]) as two,
            peer_of(daemon, "c3", version=VERSIONS[2]) as three,
            peer_of(daemon, "c4", version=VERSIONS[3]) as four,
        ):
            session, chat = await one.make_session()
            peers = [one, two, three, four]
            for peer in peers[1:]:
                await peer.subscribe(session)
                await peer.subscribe(chat)
            for number, peer in enumerate(peers):
                await peer.dispatch(chat, turn_started(f"from {peer.version_text}", f"t{number}"))
                for other in peers:
                    await other.until_type("chat/turnComplete")
            for peer in peers:
                texts = [turn["message"]["text"] for turn in peer.states[chat]["turns"]]
                assert texts == [f"from {version}" for version in VERSIONS]
                await peer.check()
        tasks.cancel_scope.cancel()


async def test_a_version_that_is_not_served_is_refused_with_those_that_are(tmp_path: Path) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok")) as daemon,
        peer_of(daemon, hello=False) as ann,
    ):
        with pytest.raises(Refused) as refused:
            await ann.call("initialize", clientId="c1", protocolVersions=["0.4.0"])
        assert refused.value.code == -32005
        assert "0.7.0" in refused.value.data["supportedVersions"]
        with pytest.raises(websockets.ConnectionClosed):
            await ann.receive()


async def test_nothing_but_ping_is_answered_before_hello_nor_hello_twice(tmp_path: Path) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok")) as daemon,
        peer_of(daemon, hello=False) as ann,
    ):
        assert await ann.call("ping") is None
        with pytest.raises(Refused) as refused:
            await ann.call("listSessions", channel=ROOT)
        assert refused.value.code == -32601
        await ann.initialize(ROOT)
        with pytest.raises(Refused) as refused:
            await ann.initialize(ROOT)
        assert refused.value.code == -32601


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", -32700),
        ("[]", -32600),
        ("[" * 100_000, -32700),
        ('{"jsonrpc":"2.0","id":7,"method":"nothing"}', -32601),
        ('{"jsonrpc":"2.0","id":7,"method":"subscribe","params":[]}', -32602),
        ('{"jsonrpc":"2.0","id":7,"method":"subscribe","params":{"channel":7}}', -32602),
        ('{"jsonrpc":"2.0","id":7,"method":"createSession","params":{}}', -32602),
        ('{"jsonrpc":"2.0","id":7,"method":"createTerminal","params":{}}', -32601),
    ],
)
async def test_what_is_no_message_or_method_gets_its_number(
    tmp_path: Path, text: str, code: int
) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon, peer_of(daemon) as ann:
        await ann.send_text(text)
        assert (await ann.receive())["error"]["code"] == code
        assert await ann.call("ping") is None


async def test_a_token_comes_with_the_address_and_none_is_refused(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok"), auth=AUTH) as daemon:
        for query in ("", "?tkn=wrong", "?token=a"):
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with peer_of(daemon, query=query):
                    pass
            assert refused.value.response.status_code == 401
        async with peer_of(daemon, query="?tkn=a") as ann:
            await ann.make_session()


async def test_a_client_id_is_one_persons(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok"), auth=AUTH) as daemon:
        async with peer_of(daemon, "c1", query="?tkn=a") as ann:
            await ann.make_session()
        async with peer_of(daemon, "c1", query="?tkn=b", hello=False) as bob:
            with pytest.raises(Refused) as refused:
                await bob.reconnect(ann.seq, ROOT)
            assert refused.value.code == -32008
            with pytest.raises(Refused) as refused:
                await bob.initialize(ROOT)
            assert refused.value.code == -32009


async def test_who_may_only_watch_changes_nothing(tmp_path: Path) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok"), auth=AUTH) as daemon,
        peer_of(daemon, "c1", query="?tkn=a") as ann,
        peer_of(daemon, "c2", query="?tkn=w") as will,
    ):
        session, chat = await ann.make_session()
        await will.subscribe(chat)
        assert "right to send" in await will.refused(chat, turn_started("hello"))
        title = {"type": "session/titleChanged", "title": "His"}
        assert "right to send" in await will.refused(session, title)
        with pytest.raises(Refused) as refused:
            await will.call("createSession", channel="scripted:/his")
        assert refused.value.code == -32009
        await will.check()


async def test_who_does_not_read_is_closed_and_gets_all_of_it_when_it_comes_back(
    tmp_path: Path,
) -> None:
    gate = Gate()
    agent = ScriptedAgent("begin", gate, *(("x" * 4_000,) * 400))
    limits = Limits(ring_bytes_max=4 * 1024 * 1024, rings_bytes_max=8 * 1024 * 1024)
    async with (
        daemon_of(tmp_path, agent, limits=limits) as daemon,
        peer_of(daemon, "reads") as ann,
        peer_of(daemon, "sleeps") as bob,
    ):
        _, chat = await ann.make_session()
        await bob.subscribe(chat)
        await ann.dispatch(chat, turn_started("hello"))
        await bob.until_type("chat/responsePart")
        gate.open()
        await ann.until_type("chat/turnComplete")
        # It reads now what it did not read then, in order, or is told to come back.
        while not bob.states[chat]["turns"]:
            await bob.receive()
        assert bob.states[chat] == ann.states[chat]
