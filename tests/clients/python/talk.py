"""What the client does, against a server that serves the agents of the transcripts.

`talk.py URL` runs every part and says which passed; `talk.py URL begin` waits for a restart.
Neighbours: `dispatch_client` is what is shown; `tests/e2e/test_strangers.py` reads what is printed.
Invariant: a part that fails ends the program with its traceback.
"""

import asyncio
import json
import sys
import uuid

from dispatch_client import Client, Refused

PART_SECONDS = 30


def fresh():
    return uuid.uuid4().hex


async def until(follower, wanted):
    """The changes up to and including the first wanted one."""
    seen = []
    async for change in follower.changes():
        seen.append(change)
        if wanted(change):
            return seen
    raise AssertionError("it ended before")


async def code_of_the_refusal(waiting):
    try:
        await waiting
    except Refused as refused:
        return refused.code
    raise AssertionError("nothing was refused")


async def answers(client):
    conversation = await client.conversation(fresh())
    turn = await conversation.ask("hello there", model="alice")
    assert (turn.text, turn.reason) == ("hello there ", "stop")


async def history(client):
    conversation = await client.conversation(fresh())
    await conversation.ask("one", model="alice")
    async with Client(client.url) as other:
        late = await other.conversation(conversation.id)
        assert (await late.ask("two")).text == "two "
        assert [line["chunk"]["text"] for line in late.history] == ["one", "one "]


async def sends_once(client):
    """The connection breaks under a send, and the same is sent again."""
    conversation = await client.conversation(fresh())
    await conversation.ask("first", model="alice")
    sending = asyncio.create_task(conversation.send("second", client_message_id="m"))
    await asyncio.sleep(0)
    client.link.drop()
    first = await sending
    again = await conversation.send("second", client_message_id="m")
    assert again["duplicate"]
    assert again["turnId"] == first["turnId"]
    ending = {"type": "turn-sealed", "turnId": first["turnId"]}
    await until(conversation, lambda event: event.items() >= ending.items())
    assert conversation.text == "second "
    assert (await client.http("GET", f"/conversations/{conversation.id}"))["latestSeq"] == 4
    other = conversation.send("other", client_message_id="m")
    assert await code_of_the_refusal(other) == "conflict"


async def resumes_and_stops(client):
    conversation = await client.conversation(fresh())
    accepted = await conversation.send("go", model="endless")
    await until(conversation, lambda event: event["type"] == "text-delta")
    client.link.drop()
    assert (await conversation.stop(accepted["turnId"]))["abortedTurn"]
    await until(conversation, lambda event: event["type"] == "turn-sealed")
    turn = conversation.turns[accepted["turnId"]]
    assert (turn.text, turn.reason) == ("on ", "aborted")


async def answers_requests(client):
    conversation = await client.conversation(fresh())
    await conversation.send("ask", model="asker")
    (*_, request) = await until(conversation, lambda event: event["type"] == "chat.request")
    assert request["kind"] == "approval"
    client.link.drop()
    await conversation.respond(request["requestId"], optionId="yes", approved=True)
    (*_, request) = await until(conversation, lambda event: event["type"] == "chat.request")
    answer = {"action": "accept", "answers": {"word": "please"}}
    await conversation.respond(request["requestId"], **answer)
    late = conversation.respond(request["requestId"], action="cancel")
    assert await code_of_the_refusal(late) == "closed"
    await until(conversation, lambda event: event["type"] == "turn-sealed")
    assert conversation.text == "yes, please"


async def groups(client):
    group = await client.create_group(["alice", "bob"])
    rows = await group.ask("hello all")
    assert sorted(row["text"] for row in rows) == ["HELLO ALL ", "hello all "]
    client.link.drop()
    assert len(await group.ask("again")) == 2
    assert sorted(group.rows) == [1, 2, 3, 4, 5, 6]
    assert (await group.read(6))["unread"] == 0
    stopped = await client.create_group(["endless"])
    await stopped.send("go")
    await until(stopped, lambda event: event["kind"] == "assistant_chunk")
    client.link.drop()
    await stopped.stop(replyTo=1)
    await until(stopped, lambda event: event.get("scope") == "group")
    assert (stopped.rows[2]["text"], stopped.rows[2]["outcome"]) == ("on ", "cancelled")


async def sessions(client):
    def is_message(seq):
        return lambda frame: frame["event"] == "chat_message" and frame["data"]["seq"] == seq

    chats = await client.chats()
    await until(chats, lambda frame: frame["event"] == "connected")
    session = (await chats.create("alice"))["id"]
    assert (await chats.send(session, "one two", wait=10))["response"]["content"] == "one two "
    await until(chats, is_message(2))
    client.link.drop()
    await chats.send(session, "three \U0001f600 four")
    await until(chats, is_message(4))
    assert chats.messages[session][4]["content"] == "three \U0001f600 four "
    assert (await chats.read(session))["unread_count"] == 0
    endless = (await chats.create("endless"))["id"]
    await chats.send(endless, "go")
    (*_, delta) = await until(chats, lambda frame: frame["event"] == "chat_message_delta")
    assert chats.live[delta["data"]["message_id"]] == "on "
    await chats.cancel(endless)


async def steers(client):
    conversation = await client.conversation(fresh())
    await conversation.send("go", model="listener")
    turn = await conversation.ask("left", onBusy="steer")
    assert (turn.message, turn.text) == ("go", "listening left")


async def deleted(client):
    conversation = await client.conversation(fresh())
    await conversation.ask("one", model="alice")
    await client.http("DELETE", f"/conversations/{conversation.id}")
    assert await code_of_the_refusal(until(conversation, lambda event: False)) == "gone"
    async with Client(client.url) as other:
        late = await other.conversation(conversation.id)
        assert await code_of_the_refusal(until(late, lambda event: False)) == "gone"


async def begin(client):
    """Three turns that never end by themselves; then what is told of them after a restart."""
    conversation = await client.conversation(fresh())
    group, chats = await client.create_group(["endless"]), await client.chats()
    session = (await chats.create("endless"))["id"]
    await conversation.send("go", model="endless")
    await group.send("go")
    await chats.send(session, "go")
    seen = await until(conversation, lambda event: event["type"] == "text-delta")
    await until(group, lambda event: event["kind"] == "assistant_chunk")
    await until(chats, lambda frame: frame["event"] == "chat_message_delta")
    print(json.dumps({"type": "begun"}), flush=True)

    over = ("turn-sealed", "chat.snapshot")
    seen += await until(conversation, lambda event: event["type"] in over)
    told = {"events": [event["type"] for event in seen], "text": conversation.text}
    try:
        await until(group, lambda event: event.get("scope") == "group")
        told["group"] = [group.rows[2]["text"], group.rows[2]["outcome"]]
    except Refused as refused:
        told["group"] = refused.code
    over = ("chat_task_failed", "resync_required")
    told["chats"] = (await until(chats, lambda frame: frame["event"] in over))[-1]["event"]

    mine = {"client_message_id": fresh(), "model": "alice"}
    sent = [await conversation.send("hello there", **mine) for _ in range(2)]
    await until(conversation, lambda event: event["type"] == "turn-sealed")
    told["isOneTurn"] = sent[0]["turnId"] == sent[1]["turnId"] and sent[1]["duplicate"]
    told["next"] = conversation.text
    print(json.dumps({"type": "over", **told}), flush=True)


PARTS = (
    *(answers, history, sends_once, resumes_and_stops, answers_requests),
    *(groups, sessions, steers, deleted),
)


async def main(url, *words):
    if words == ("begin",):
        async with Client(url) as client:
            await begin(client)
        return
    for part in PARTS:
        async with Client(url) as client, asyncio.timeout(PART_SECONDS):
            await part(client)
        print("pass", part.__name__, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
