"""One message and its answer, whatever stands before it, interrupts it, or takes it in."""

import pytest

from dispatch.client import Accepted, Client, Subscribed, answer, ask
from dispatch.errors import NotFound
from tests.client.scripted import (
    EAGER,
    Frame,
    Peer,
    Script,
    ScriptedServer,
    accepted,
    connected,
    delta,
    subscribed,
    turn,
)

AHEAD = turn(1, "t0", "somebody else's")
OWN = turn(7, "t1", "for ", "me")


def answering(*frames: Frame, head: int = 0, **fields: object) -> Script:
    async def script(peer: Peer) -> None:
        asked = await peer.heard("chat.send")
        await peer.say(accepted(asked, head, **fields))  # type: ignore[arg-type]
        asked = await peer.heard("chat.subscribe")
        assert asked["after"] == f"g:{head}"
        await peer.say(subscribed(asked, head), *frames)

    return script


async def test_an_answer_is_the_text_of_its_turn() -> None:
    async with connected(answering(*turn(1, "t1", "for ", "me"))) as client:
        reply = await ask(client, "hi")
    assert (reply.text, reply.reason, reply.error) == ("for me", "stop", None)
    assert (reply.conversation_id, reply.turn_id) == ("c", "t1")


async def test_an_answer_tells_the_error_of_its_turn() -> None:
    events: list[Frame] = [
        {"type": "error", "message": "the provider is down", "code": "provider"},
        {"type": "done", "reason": "error"},
        {"type": "turn-sealed"},
    ]
    frames = [delta(n, "t1", event) for n, event in enumerate(events, 1)]
    async with connected(answering(*frames)) as client:
        reply = await ask(client, "hi")
    assert (reply.text, reply.reason, reply.error) == ("", "error", "the provider is down")


async def test_a_queued_message_is_answered_by_its_own_turn_and_not_the_one_before() -> None:
    script = answering(*AHEAD, *OWN, turnId=None, queueId="t1")
    async with connected(script) as client:
        assert (await ask(client, "hi", on_busy="queue")).text == "for me"


def steering(offset: int, name: str) -> Frame:
    return delta(offset, name, {"type": "steering", "text": "also this"})


async def test_steering_is_answered_by_the_turn_that_took_it() -> None:
    frames = [*AHEAD[:3], steering(4, "t0"), *turn(5, "t0", "and this")[2:]]
    script = answering(*frames, steered=True, turnId=None)
    async with connected(script) as client:
        assert (await ask(client, "also this", on_busy="steer")).text == "somebody else'sand this"


async def test_steering_that_came_too_late_is_answered_by_a_turn_of_its_own() -> None:
    async with connected(answering(*AHEAD[2:], *OWN, head=2, steered=True, turnId=None)) as client:
        reply = await ask(client, "hi", on_busy="steer")
    assert reply.text == "somebody else'sfor me"


def cut_in_the_middle(*snapshot: Frame) -> tuple[Script, Script]:
    """Shows a part, vanishes, and cannot recover."""

    async def first(peer: Peer) -> None:
        await answering(*turn(1, "t1", "for ", "me")[:3])(peer)
        await peer.cut()

    async def second(peer: Peer) -> None:
        asked = await peer.heard("chat.subscribe")
        await peer.say(subscribed(asked, 9, recovered=False), *snapshot)

    return first, second


IDLE: Frame = {"type": "chat.snapshot", "conversationId": "c", "position": "g:9", "lastSeq": 2}


async def test_an_answer_that_ended_in_a_gap_is_read_from_history() -> None:
    async with ScriptedServer(*cut_in_the_middle(IDLE)) as server:
        chunk = {"seq": 2, "role": "assistant", "chunk": {"type": "text", "text": "for me"}}
        server.pages["/conversations/c"] = {"chunks": [chunk], "latestSeq": 2}
        server.pages["/conversations/c/metrics"] = {"turns": [{"turnId": "t1"}]}
        async with Client(server.url, options=EAGER) as client:
            assert (await ask(client, "hi")).text == "for me"


async def test_an_answer_that_goes_on_behind_a_gap_is_read_on() -> None:
    chunk = {"role": "assistant", "chunk": {"type": "text", "text": "for m"}}
    running = {"turnId": "t1", "startedAt": 1, "chunks": [chunk], "requests": []}
    rest = turn(8, "t1", "x", "e")[3:]
    async with ScriptedServer(*cut_in_the_middle(IDLE | {"turn": running}, *rest)) as server:
        server.pages["/conversations/c"] = {"chunks": [], "latestSeq": 0}
        async with Client(server.url, options=EAGER) as client:
            assert (await ask(client, "hi")).text == "for me"


async def test_a_turn_that_the_daemon_no_longer_knows_is_not_waited_for() -> None:
    async with ScriptedServer(*cut_in_the_middle(IDLE)) as server:
        server.pages["/conversations/c"] = {"chunks": [], "latestSeq": 0}
        server.pages["/conversations/c/metrics"] = {"turns": []}
        async with Client(server.url, options=EAGER) as client:
            with pytest.raises(NotFound, match="replaced"):
                await ask(client, "hi")


async def test_the_items_of_an_answer_end_with_its_seal() -> None:
    async with connected(answering(*turn(1, "t1", "for ", "me"), *turn(7, "t2"))) as client:
        items = [item async for item in answer(client, "hi")]
    assert isinstance(items[0], Accepted)
    assert isinstance(items[1], Subscribed)
    assert len(items) == 2 + len(turn(1, "t1", "for ", "me"))
