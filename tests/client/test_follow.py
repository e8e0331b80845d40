"""Following through a scripted daemon: cut, repeated, pruned, too fast for the reader."""

import pytest
from anyio import wait_all_tasks_blocked

from dispatch.client import (
    Client,
    Delta,
    Item,
    Options,
    Reconnecting,
    RequestDone,
    RequestOpened,
    Snapshot,
    Subscribed,
    Transcript,
    Truncated,
    UnknownEvent,
)
from dispatch.core.events import TextDelta, TurnSealed
from dispatch.errors import Gone, NotFound, Refused
from tests.client.scripted import (
    EAGER,
    Frame,
    Peer,
    Script,
    ScriptedServer,
    connected,
    delta,
    subscribed,
    text,
    turn,
)

WORDS = ("one ", "two ", "three")
TURN = turn(1, "t1", *WORDS)


async def read(items: object, count: int | None = None) -> list[Item]:
    """So many items, or all up to a seal."""
    found: list[Item] = []
    async for item in items:  # type: ignore[attr-defined]
        found.append(item)
        if len(found) == count:
            break
        if count is None and isinstance(item, Delta) and isinstance(item.event, TurnSealed):
            break
    return found


def words(items: list[Item]) -> list[str]:
    return [i.event.delta for i in items if isinstance(i, Delta) and isinstance(i.event, TextDelta)]


def showing(heard: list[Frame], *frames: Frame, head: int = 0) -> Script:
    """Answers a subscription and shows these frames."""

    async def script(peer: Peer) -> None:
        heard.append(asked := await peer.heard("chat.subscribe"))
        await peer.say(subscribed(asked, head), *frames)

    return script


def cut_after(script: Script) -> Script:
    async def cut(peer: Peer) -> None:
        await script(peer)
        await peer.cut()

    return cut


@pytest.mark.parametrize("cut", range(len(TURN) + 1))
async def test_a_turn_cut_anywhere_is_resumed_behind_the_last_event_that_came(cut: int) -> None:
    heard: list[Frame] = []
    first = cut_after(showing(heard, *TURN[:cut]))
    async with connected(first, showing(heard, *TURN[cut:], head=len(TURN))) as client:
        items = client.follow("c", after="g:0")
        found = await read(items)
        # Cut behind the seal, there is nothing left to show but the new subscription.
        if cut == len(TURN):
            found += await read(items, 2)
    assert words(found) == list(WORDS)
    assert [frame["after"] for frame in heard] == ["g:0", f"g:{cut}"]
    assert sum(isinstance(item, Reconnecting) for item in found) == 1


async def test_repeated_frames_are_dropped_by_their_position() -> None:
    heard: list[Frame] = []
    async with connected(showing(heard, *TURN[:4], *TURN[1:4], TURN[3], *TURN[3:])) as client:
        found = await read(client.follow("c"))
    assert words(found) == list(WORDS)
    assert [i.position for i in found if isinstance(i, Delta)] == [f"g:{n}" for n in range(1, 8)]


async def test_a_frame_of_merged_deltas_carries_the_reader_past_all_of_them() -> None:
    heard: list[Frame] = []
    merged = text(5, "t1", "".join(WORDS))
    script = cut_after(showing(heard, *TURN[:2], merged))
    async with connected(script, showing(heard, *TURN[4:])) as client:
        found = await read(client.follow("c", after="g:0"))
    assert "".join(words(found)) == "".join(WORDS)
    assert heard[1]["after"] == "g:5"


async def test_following_without_a_place_starts_with_the_turn_in_flight() -> None:
    heard: list[Frame] = []
    async with connected(showing(heard, *TURN, head=4)) as client:
        found = await read(client.follow("c"))
    assert "after" not in heard[0]
    assert "sinceSeq" not in heard[0]
    assert isinstance(found[0], Subscribed)
    assert words(found) == list(WORDS)


async def test_history_and_live_are_one_stream() -> None:
    def page(seq: int, said: str, *, more: bool) -> Frame:
        chunk = {"seq": seq, "role": "assistant", "chunk": {"type": "text", "text": said}}
        frame = {"type": "chat.history", "conversationId": "c", "chunks": [chunk]}
        return frame | {"latestSeq": seq, "more": more}

    heard: list[Frame] = []

    async def first(peer: Peer) -> None:
        heard.append(asked := await peer.heard("chat.subscribe"))
        reply = subscribed(asked, 8, lastSeq=2, turnId="t1")
        await peer.say(reply, page(1, "first ", more=True))
        await peer.cut()

    async def second(peer: Peer) -> None:
        heard.append(asked := await peer.heard("chat.subscribe"))
        reply = subscribed(asked, 8, lastSeq=2, turnId="t1")
        await peer.say(reply, page(2, "second ", more=False), *TURN)

    transcript = Transcript()
    async with connected(first, second) as client:
        for item in await read(client.follow("c", since_seq=0)):
            transcript.apply(item)
    assert transcript.text == "first second one two three"
    assert [frame["sinceSeq"] for frame in heard] == [0, 1]


def snapshot(head: int, last_seq: int, **fields: object) -> Frame:
    frame = {"type": "chat.snapshot", "conversationId": "c", "position": f"g:{head}"}
    return frame | {"lastSeq": last_seq} | fields


def gap(*frames: Frame, head: int) -> Script:
    """Cannot recover: a snapshot takes the place of what is gone."""

    async def script(peer: Peer) -> None:
        asked = await peer.heard("chat.subscribe")
        await peer.say(subscribed(asked, head, recovered=False, lastSeq=4), *frames)

    return script


def kept(seq: int, role: str, said: str) -> Frame:
    return {"seq": seq, "role": role, "chunk": {"type": "text", "text": said}}


async def test_a_gap_is_filled_with_what_was_sealed_in_it_and_what_runs_now() -> None:
    """The first turn was shown in part and sealed meanwhile, a second is running."""
    heard: list[Frame] = []
    running = {
        "turnId": "t2",
        "startedAt": 1,
        "chunks": [{"role": "assistant", "chunk": {"type": "text", "text": "four "}}],
        "requests": [],
    }
    lost = cut_after(showing(heard, *TURN[:4]))
    found_again = gap(snapshot(12, 2, turn=running), text(13, "t2", "five"), head=12)
    async with ScriptedServer(lost, found_again) as server:
        # More than the snapshot speaks of: sealed since; it will be shown live.
        chunks = [kept(1, "user", "hi"), kept(2, "assistant", "one two three ")]
        later = kept(3, "user", "later")
        server.pages["/conversations/c"] = {"chunks": [*chunks, later], "latestSeq": 3}
        transcript = Transcript()
        async with Client(server.url, options=EAGER) as client:
            items = await read(client.follow("c", after="g:0"), 9)
    for item in items:
        transcript.apply(item)
    [item] = [item for item in items if isinstance(item, Snapshot)]
    assert [chunk.seq for chunk in item.missed] == [1, 2]
    assert transcript.text == "one two three four five"
    assert "sinceSeq=0" in server.heads[-1][0]


async def test_a_position_that_nobody_knows_is_answered_by_a_snapshot_alone() -> None:
    async with connected(gap(snapshot(9, 4), head=9)) as client:
        items = await read(client.follow("c", after="old:3"), 2)
    assert isinstance(items[1], Snapshot)
    assert items[1].missed_after is None
    assert items[1].last_seq == 4


async def test_an_answer_to_an_older_subscription_is_not_taken_for_the_present_one() -> None:
    async def script(peer: Peer) -> None:
        asked = await peer.heard("chat.subscribe")
        # What an earlier send's own subscription was still showing.
        await peer.say(subscribed(asked | {"ref": "older"}, 9), text(9, "t0", "stale"))
        await peer.say(subscribed(asked, 0), *TURN)

    async with connected(script) as client:
        found = await read(client.follow("c"))
    assert words(found) == list(WORDS)


async def test_a_reader_that_is_too_slow_loses_its_subscription_and_not_its_place() -> None:
    long = [text(n, "t1", "x" * 1000) for n in range(1, 101)]
    shown: list[int] = []

    async def script(peer: Peer) -> None:
        while True:
            asked = await peer.heard("chat.subscribe")
            after = int(asked["after"].partition(":")[2])
            shown.append(after)
            await peer.say(subscribed(asked, 100), *long[after:])

    options = Options(buffer_bytes_max=10_000)
    async with connected(script, options=options) as client:
        items = client.follow("c", after="g:0")
        found: list[Item] = []
        waiting: list[int] = []
        while len(words(found)) < 100:
            found.append(await anext(items))
            # Let the reader of the socket take in what is there.
            await wait_all_tasks_blocked()
            waiting.append(items.bytes_waiting)
    assert words(found) == ["x" * 1000] * 100
    assert len(shown) > 1
    assert 5_000 < max(waiting) < 12_000


async def test_requests_of_the_agent_are_shown_and_closed() -> None:
    opened = {
        "type": "chat.request",
        "conversationId": "c",
        "turnId": "t1",
        "position": "g:3",
        "requestId": "r1",
        "kind": "approval",
        "title": "Run it?",
        "options": [{"id": "y", "label": "Yes", "effect": "allow"}],
    }
    closed = {"type": "chat.request.closed", "conversationId": "c", "requestId": "r1"}
    heard: list[Frame] = []
    script = showing(
        heard, *TURN[:2], opened, opened, closed | {"outcome": "answered", "by": "ann"}
    )
    async with connected(script) as client:
        found = await read(client.follow("c"), 5)
    assert isinstance(found[3], RequestOpened)
    assert found[3].options[0].effect == "allow"
    assert found[4] == RequestDone("c", "r1", "answered", "ann")


async def test_an_event_of_an_unknown_kind_is_shown_as_unknown() -> None:
    heard: list[Frame] = []
    script = showing(heard, delta(1, "t1", {"type": "hologram", "depth": 3}), *TURN[1:])
    async with connected(script) as client:
        found = await read(client.follow("c"))
    assert isinstance(found[1], Delta)
    assert found[1].event == UnknownEvent("hologram")
    assert words(found) == list(WORDS)


async def test_a_truncation_is_passed_on() -> None:
    heard: list[Frame] = []
    cut = {"type": "conversation.truncated", "conversationId": "c", "position": "g:7"}
    cut |= {"afterTurn": "t1", "afterSeq": 2, "lastSeq": 4}
    async with connected(showing(heard, cut, cut, *TURN[:1])) as client:
        found = await read(client.follow("c"), 2)
    assert found[1] == Truncated("c", "g:7", 2, 4, "t1")


async def test_a_deleted_conversation_ends_its_follower_behind_what_was_said() -> None:
    heard: list[Frame] = []
    deleted = {"type": "conversation.deleted", "conversationId": "c"}
    async with connected(showing(heard, *TURN[:3], deleted)) as client:
        items = client.follow("c")
        assert words(await read(items, 4)) == ["one "]
        with pytest.raises(Gone, match="c was deleted"):
            await anext(items)


async def test_a_refused_subscription_raises_and_leaves_the_client_usable() -> None:
    async def script(peer: Peer) -> None:
        asked = await peer.heard("chat.subscribe")
        refusal = {"type": "chat.error", "message": "no such conversation", "code": "not_found"}
        await peer.say(refusal | {"conversationId": "c", "ref": asked["ref"]})
        await showing([], *TURN)(peer)

    async with connected(script) as client:
        with pytest.raises(NotFound, match="no such conversation"):
            await anext(client.follow("c"))
        assert words(await read(client.follow("c"))) == list(WORDS)


async def test_a_conversation_has_one_follower_a_client_and_can_be_followed_again() -> None:
    heard: list[Frame] = []

    async def script(peer: Peer) -> None:
        while True:
            await showing(heard, *TURN)(peer)

    async with connected(script) as client:
        async with client.follow("c") as items:
            await anext(items)
            with pytest.raises(Refused, match="already follows"):
                await anext(client.follow("c"))
        # What had come before is still there to be taken; then it is over.
        assert len([item async for item in items]) <= len(TURN)
        assert words(await read(client.follow("c"))) == list(WORDS)
    assert len(heard) == 2


async def test_several_conversations_share_a_connection() -> None:
    async def script(peer: Peer) -> None:
        for _ in range(2):
            asked = await peer.heard("chat.subscribe")
            name = asked["conversationId"]
            said = {"type": "text-delta", "delta": name}
            sealed = {"type": "turn-sealed"}
            await peer.say(subscribed(asked, 0), delta(1, "t", said, name))
            await peer.say(delta(2, "t", sealed, name))

    async with connected(script) as client:
        for name in ("a", "b"):
            assert words(await read(client.follow(name))) == [name]
