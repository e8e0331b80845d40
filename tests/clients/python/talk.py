"""What the client does, against a server that serves the agents of the transcripts.

`talk.py URL` runs every part; `talk.py URL CONVERSATION` follows one until a turn's end.
Neighbours: `client` is what is shown; `tests/e2e/test_strangers.py` reads what is printed.
Invariant: every part ends with its turn, or fails.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from contextlib import aclosing

from client import Client, Frame, Reading, Refused


async def twice(client: Client) -> Frame:
    """The same send twice is one turn, read by two followers; one of them begins in its middle."""
    mine, conversation = uuid.uuid4().hex, uuid.uuid4().hex
    sending = {"message_id": mine, "conversationId": conversation, "model": "listener"}
    first = await client.send_once("begin", **sending)
    again = await client.send_once("begin", **sending)
    seen, reading = [], Reading()
    async with aclosing(client.follow(conversation, first["position"])) as frames:
        async for frame in frames:
            seen.append(frame["position"])
            reading.add(frame)
            if reading.text:
                break
    await client.send_once("to the end", conversationId=conversation, onBusy="steer")
    async with aclosing(client.follow(conversation, seen[-1])) as frames:
        async for frame in frames:
            seen.append(frame["position"])
            reading.add(frame)
            if reading.is_sealed:
                break
    whole = await read_to_the_end(client, conversation, first["position"])
    return {
        "isOneTurn": first["turnId"] == again["turnId"] and again["duplicate"],
        "text": reading.text,
        "isTheSame": whole.text == reading.text,
        "isOnce": len(set(seen)) == len(seen),
    }


async def answered(client: Client) -> Frame:
    """Both questions are answered; who is late is told so."""
    accepted = await client.send_once("ask", model="asker")
    conversation, reading, late = accepted["conversationId"], Reading(), ""
    async with aclosing(client.follow(conversation, accepted["position"])) as frames:
        async for frame in frames:
            reading.add(frame)
            match frame:
                case {"type": "chat.request", "kind": "approval", "requestId": request}:
                    await client.answer(conversation, request, approved=True, optionId="yes")
                case {"type": "chat.request", "requestId": request}:
                    answers = {"word": "please"}
                    await client.answer(conversation, request, action="accept", answers=answers)
                    try:
                        await client.answer(conversation, request, action="cancel")
                    except Refused as refused:
                        late = refused.code
            if reading.is_sealed:
                return {"text": reading.text, "late": late}
    raise AssertionError("a follower never ends by itself")


async def stopped(client: Client) -> Frame:
    """A stop ends the turn and keeps what was said."""
    accepted = await client.send_once("begin", model="endless")
    conversation, reading, reply = accepted["conversationId"], Reading(), {}
    async with aclosing(client.follow(conversation, accepted["position"])) as frames:
        async for frame in frames:
            reading.add(frame)
            if reading.text and not reply:
                reply = await client.stop(conversation, accepted["turnId"])
            if reading.is_sealed:
                break
    aborted = reply["abortedTurn"]
    return {"text": reading.text, "reason": reading.reason, "abortedTurn": aborted}


async def read_to_the_end(client: Client, conversation: str, after: str) -> Reading:
    """A turn from a position to its seal."""
    reading = Reading()
    async with aclosing(client.follow(conversation, after)) as frames:
        async for frame in frames:
            reading.add(frame)
            if reading.is_sealed:
                return reading
    raise AssertionError("a follower never ends by itself")


async def follow(client: Client, conversation: str) -> None:
    """Every frame of a conversation until a turn is sealed, a line each."""
    reading = Reading()
    async with aclosing(client.follow(conversation)) as frames:
        async for frame in frames:
            print(json.dumps(frame), flush=True)
            reading.add(frame)
            if reading.is_sealed:
                return


async def main(url: str, *conversations: str) -> None:
    """Every part, and what came of it."""
    client = Client(url)
    if conversations:
        await follow(client, conversations[0])
        return
    parts = {part.__name__: await part(client) for part in (twice, answered, stopped)}
    print(json.dumps(parts))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
