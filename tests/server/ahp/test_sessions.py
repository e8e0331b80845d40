"""Sessions and chats: listed, made, named, forked, fetched, disposed, and told of."""

from pathlib import Path

import pytest

from dispatch.settings import Limits
from dispatch.testing.scripted import FOR_EVER, Gate, ScriptedAgent
from tests.protocol.replies import http_client
from tests.server.ahp.peer import (
    ROOT,
    Peer,
    Refused,
    daemon_of,
    message,
    native_of,
    native_until,
    peer_of,
    turn_started,
)


async def say(peer: Peer, chat: str, text: str, turn_id: str) -> None:
    await peer.dispatch(chat, turn_started(text, turn_id))
    await peer.until_type("chat/turnComplete")


async def test_a_session_is_made_once(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon, peer_of(daemon) as ann:
        await ann.call("createSession", channel="scripted:/s1")
        with pytest.raises(Refused) as refused:
            await ann.call("createSession", channel="scripted:/s1")
        assert refused.value.code == -32003


async def test_a_session_needs_an_agent_that_is_there(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon, peer_of(daemon) as ann:
        with pytest.raises(Refused) as refused:
            await ann.call("createSession", channel="x:/s1", provider="nobody")
        assert refused.value.code == -32002
        assert (await ann.call("listSessions", channel=ROOT))["items"] == []


async def test_who_follows_the_root_is_told_of_sessions_that_come_change_and_go(
    tmp_path: Path,
) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok")) as daemon,
        peer_of(daemon, "c1") as ann,
        peer_of(daemon, "c2") as bob,
    ):
        session, chat = await ann.make_session()
        added = await bob.until_told("root/sessionAdded")
        assert added["summary"]["resource"] == session
        await ann.dispatch(chat, turn_started("hello"))
        while True:
            changed = await bob.until_told("root/sessionSummaryChanged")
            assert changed["session"] == session
            assert changed["changes"].keys().isdisjoint({"resource", "provider", "createdAt"})
            if changed["changes"].get("title") == "hello":
                break
        await ann.until_type("chat/turnComplete")
        await ann.call("disposeSession", channel=session)
        assert (await bob.until_told("root/sessionRemoved"))["session"] == session


async def test_a_native_conversation_is_a_session_that_is_told_and_listed(tmp_path: Path) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok")) as daemon,
        peer_of(daemon) as ann,
        native_of(daemon) as native,
    ):
        await native.send('{"type":"chat.send","message":"from a browser"}')
        added = (await ann.until_told("root/sessionAdded"))["summary"]
        await native_until(native, '"turn-sealed"')
        (item,) = (await ann.call("listSessions", channel=ROOT))["items"]
        assert item["resource"] == added["resource"]
        assert item["title"] == "from a browser"
        state = await ann.subscribe(item["resource"])
        chat = await ann.subscribe(state["defaultChat"])
        assert chat["turns"][0]["responseParts"][0]["content"] == "ok"
        await ann.check()


async def test_the_list_goes_on_where_a_page_ended(tmp_path: Path) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon, peer_of(daemon) as ann:
        names = [f"scripted:/s{number}" for number in range(5)]
        for name in names:
            await ann.call("createSession", channel=name)
        found, cursor = [], None
        while True:
            more = {} if cursor is None else {"cursor": cursor}
            page = await ann.call("listSessions", channel=ROOT, limit=2, **more)
            found += [item["resource"] for item in page["items"]]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        assert sorted(found) == names
        with pytest.raises(Refused) as refused:
            await ann.call("listSessions", channel=ROOT, cursor="elsewhere")
        assert refused.value.code == -32602


async def test_a_fork_is_a_chat_with_the_turns_of_its_source_up_to_one(tmp_path: Path) -> None:
    agent = ScriptedAgent("ok")
    async with (
        daemon_of(tmp_path, agent) as daemon,
        peer_of(daemon, "c1") as ann,
        peer_of(daemon, "c2") as bob,
    ):
        session, chat = await ann.make_session()
        await bob.subscribe(session)
        await say(ann, chat, "one", "t1")
        await say(ann, chat, "two", "t2")
        fork = "ahp-chat:/mine"
        source = {"kind": "fork", "chat": chat, "turnId": "t1"}
        await ann.call("createChat", channel=session, chat=fork, source=source)
        added = await bob.until_type("session/chatAdded")
        assert added["action"]["summary"]["origin"] == source
        state = await ann.subscribe(fork)
        assert [turn["id"] for turn in state["turns"]] == ["t1"]
        await say(ann, fork, "three", "t3")
        history = await agent.requests[-1].history()
        texts = [line.chunk.text for line in history if line.role == "user"]  # type: ignore[union-attr]
        assert texts == ["one", "three"]
        await ann.check()
        await bob.check()


async def test_a_chat_is_made_and_disposed_and_the_session_says_so(tmp_path: Path) -> None:
    agent = ScriptedAgent("ok")
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        session, chat = await ann.make_session()
        first = message("begin with this")
        await ann.call("createChat", channel=session, chat="ahp-chat:/b", initialMessage=first)
        await ann.subscribe("ahp-chat:/b")
        while not ann.states["ahp-chat:/b"]["turns"]:
            await ann.receive()
        assert agent.messages == ["begin with this"]
        assert [one["resource"] for one in ann.states[session]["chats"]] == [chat, "ahp-chat:/b"]
        del ann.states["ahp-chat:/b"]
        await ann.call("disposeChat", channel="ahp-chat:/b")
        with pytest.raises(Refused) as refused:
            await ann.call("subscribe", channel="ahp-chat:/b")
        assert refused.value.code == -32001
        assert [one["resource"] for one in ann.states[session]["chats"]] == [chat]
        await ann.check()


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "fork", "chat": "ahp-chat:/nowhere", "turnId": "t1"},
        {"kind": "fork", "turnId": "t9"},
        {"kind": "else", "turnId": "t1"},
    ],
    ids=["no such chat", "no such turn", "no such kind"],
)
async def test_a_chat_of_nothing_is_refused(tmp_path: Path, source: dict[str, str]) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon, peer_of(daemon) as ann:
        session, chat = await ann.make_session()
        await say(ann, chat, "one", "t1")
        with pytest.raises(Refused) as refused:
            await ann.call(
                "createChat", channel=session, chat="ahp-chat:/b", source={"chat": chat, **source}
            )
        assert refused.value.code == -32602
        await ann.check()


async def test_a_long_chat_is_shown_from_its_end_and_the_rest_is_fetched(tmp_path: Path) -> None:
    limits = Limits(ahp_turns_max=3)
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok"), limits=limits) as daemon,
        peer_of(daemon, "c1") as ann,
    ):
        _, chat = await ann.make_session()
        for number in range(7):
            await say(ann, chat, f"message {number}", f"t{number}")
        async with peer_of(daemon, "c2") as bob:
            # The first follower has seen all of it; who comes when nobody did, the end.
            await ann.notify("unsubscribe", channel="scripted:/s1")
            await ann.notify("unsubscribe", channel=chat)
            await ann.call("ping")
            state = await bob.subscribe(chat, view={"turns": 2})
            assert [turn["id"] for turn in state["turns"]] == ["t5", "t6"]
            while (cursor := bob.states[chat].get("turnsNextCursor")) is not None:
                await bob.call("fetchTurns", channel=chat, cursor=cursor)
            assert [turn["id"] for turn in bob.states[chat]["turns"]] == [
                f"t{number}" for number in range(7)
            ]


async def test_what_a_client_says_of_a_session_is_kept(tmp_path: Path) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok")) as daemon,
        peer_of(daemon, "c1") as ann,
        peer_of(daemon, "c2") as bob,
    ):
        session, chat = await ann.make_session()
        client = {"clientId": "c1", "tools": []}
        draft = message("half a sent")
        for channel, action in (
            (session, {"type": "session/titleChanged", "title": "Ours"}),
            (session, {"type": "session/isReadChanged", "isRead": True}),
            (session, {"type": "session/isArchivedChanged", "isArchived": True}),
            (session, {"type": "session/activeClientSet", "activeClient": client}),
            (chat, {"type": "chat/draftChanged", "draft": draft}),
            (chat, {"type": "chat/isReadChanged", "isRead": True}),
        ):
            await ann.accepted(channel, action)
        state = await bob.subscribe(session)
        assert state["title"] == "Ours"
        assert state["status"] == 1 | 32 | 64
        assert state["activeClients"] == [client]
        assert (await bob.subscribe(chat))["draft"] == draft
        await ann.check()
        assert "itself alone" in await bob.refused(
            session, {"type": "session/activeClientSet", "activeClient": client}
        )


async def test_a_name_that_is_nobodys_is_not_found_and_actions_of_it_are_ignored(
    tmp_path: Path,
) -> None:
    async with daemon_of(tmp_path, ScriptedAgent("ok")) as daemon, peer_of(daemon) as ann:
        for channel in ("scripted:/nobody", "ahp-chat:/nobody", "x", "ahp-chat://default/%%"):
            with pytest.raises(Refused):
                await ann.call("subscribe", channel=channel)
            await ann.dispatch(channel, turn_started("hello"))
        await ann.call("ping")
        assert ann.actions == []


async def test_a_conversation_that_is_deleted_elsewhere_leaves_its_session(tmp_path: Path) -> None:
    agent = ScriptedAgent("ok", FOR_EVER)
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        session, chat = await ann.make_session()
        await ann.call("createChat", channel=session, chat="ahp-chat:/b")
        await ann.accepted(chat, turn_started("hello"))
        conversation = (await agent.asked()).conversation_id
        del ann.states[chat]
        async with http_client(daemon.url) as http:
            reply = await http.delete(f"/conversations/{conversation}")
        assert reply.status_code == 200, reply.text
        removed = await ann.until_type("session/chatRemoved")
        assert removed["action"]["chat"] == chat
        await ann.check()


async def test_a_client_that_is_gone_takes_part_no_more(tmp_path: Path) -> None:
    limits = Limits(ahp_client_grace_seconds=0.01)
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok"), limits=limits) as daemon,
        peer_of(daemon, "stays") as ann,
    ):
        session, _ = await ann.make_session(
            "scripted:/s1", activeClient={"clientId": "stays", "tools": []}
        )
        async with peer_of(daemon, "leaves") as bob:
            client = {"clientId": "leaves", "tools": []}
            await bob.subscribe(session)
            await bob.accepted(session, {"type": "session/activeClientSet", "activeClient": client})
        removed = await ann.until_type("session/activeClientRemoved")
        assert removed["action"]["clientId"] == "leaves"
        assert [one["clientId"] for one in ann.states[session]["activeClients"]] == ["stays"]
        await ann.check()


async def test_a_client_that_follows_a_session_no_more_takes_no_part_in_it(tmp_path: Path) -> None:
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok")) as daemon,
        peer_of(daemon, "c1") as ann,
        peer_of(daemon, "c2") as bob,
    ):
        session, _ = await ann.make_session()
        await bob.subscribe(session)
        client = {"clientId": "c2", "tools": []}
        await bob.accepted(session, {"type": "session/activeClientSet", "activeClient": client})
        await ann.until_type("session/activeClientSet")
        await bob.notify("unsubscribe", channel=session)
        await ann.until_type("session/activeClientRemoved")
        await ann.check()


async def test_a_side_chat_begins_empty_and_its_agent_knows_what_was_said(tmp_path: Path) -> None:
    gate = Gate()
    agent = ScriptedAgent(
        script=lambda request: ["half", gate] if request.message == "long" else ["ok"]
    )
    async with (
        daemon_of(tmp_path, agent) as daemon,
        peer_of(daemon, "c1") as ann,
        peer_of(daemon, "c2", version="0.5.1") as bob,
    ):
        session, chat = await ann.make_session()
        await bob.subscribe(session)
        await say(ann, chat, "one", "t1")
        await ann.dispatch(chat, turn_started("long", "t2"))
        await ann.until_type("chat/responsePart")
        source = {
            "kind": "sideChat",
            "chat": chat,
            "turnId": "t2",
            "selection": {"text": "half"},
        }
        await ann.call("createChat", channel=session, chat="ahp-chat:/side", source=source)
        state = await ann.subscribe("ahp-chat:/side")
        assert state["turns"] == []
        assert state["origin"] == source
        added = await bob.until_type("session/chatAdded")
        assert added["action"]["summary"]["origin"] == {"kind": "user"}
        await say(ann, "ahp-chat:/side", "what is this?", "s1")
        history = await agent.requests[-1].history()
        said = "".join(str(line.chunk) for line in history)
        assert "one" in said
        assert "half" in said
        gate.open()
        await ann.until_turns(chat, 2)
        await ann.check()
        await bob.check()
