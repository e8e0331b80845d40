"""A program as somebody writes it who has read the README: it is type-checked and run by a test.

Neighbours: `test_example`. It uses public names alone, and all of the client's verbs once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from dispatch.client import (
    Accepted,
    Client,
    Delta,
    ErrorEvent,
    GroupSnapshot,
    Reconnecting,
    RequestOpened,
    Response,
    Snapshot,
    TextDelta,
    ToolCall,
    Transcript,
    TurnSealed,
    answer,
    ask,
)
from dispatch.errors import Busy, DispatchError


async def converse(client: Client) -> list[str]:
    """Send, stream, queue, steer, interrupt, stop, fork, read."""
    said: list[str] = []
    first = await ask(client, "hello", conversation_id="diary")
    said.append(first.text)
    async with aclosing(answer(client, "go on", conversation_id="diary")) as items:
        async for item in items:
            match item:
                case Accepted(turn_id=turn, position=position):
                    said.append(f"turn {turn is not None} after {position.partition(':')[2]}")
                case Delta(event=TextDelta(delta=text)):
                    said.append(text)
                case Delta(event=ToolCall(tool_name=name)):
                    said.append(name)
                case Delta(event=ErrorEvent(message=message)):
                    said.append(message)
                case RequestOpened(request_id=request):
                    await client.http.respond("diary", Response(request, approved=True))
                case Reconnecting(reason=reason):
                    said.append(reason)
                case _:
                    pass
    running = await client.send("hold", conversation_id="diary")
    try:
        await client.send("me first", conversation_id="diary")
    except Busy as refusal:
        said.append(refusal.message)
    later = await client.send("later", conversation_id="diary", on_busy="queue")
    urgent = await client.send("now", conversation_id="diary", on_busy="interrupt")
    said.append(f"{running.turn != later.turn != urgent.turn}")
    async with client.follow("diary", after=running.position) as followed:
        transcript = Transcript()
        async for item in followed:
            if isinstance(item, Snapshot):
                said.append("some events are gone")
            transcript.apply(item)
            if isinstance(item, Delta) and isinstance(item.event, TurnSealed):
                said.append(transcript.text)
                if item.turn_id == later.turn:
                    break
    held = await client.send("hold", conversation_id="diary")
    stopped = await client.stop("diary", held.turn)
    said.append(f"stopped {stopped.aborted_turn}")
    fork = await client.fork("diary", first.turn_id)
    said += [str(chunk.seq) for chunk in (await client.http.history(fork.conversation_id)).chunks]
    state = await client.http.read("diary", 2)
    said.append(f"{state.unread} unread")
    await client.http.rename("diary", "My diary")
    said.append((await client.http.conversations(search="diary"))[0].title)
    await client.http.delete("diary")
    return said


async def meet(client: Client, members: list[str]) -> AsyncIterator[str]:
    """A group, watched by one device while another one asks."""
    group = await client.groups.create(members, "Round table")
    async with aclosing(client.groups.watch(group.id)) as items:
        async for item in items:
            match item:
                case GroupSnapshot():
                    yield item.group.title
                    async with aclosing(client.groups.send(group.id, "hello")) as sending:
                        await anext(sending)
                case Reconnecting():
                    pass
                case {"kind": "done", "familiarId": str(name), "text": str(text)}:
                    yield f"{name}: {text}"
                case {"kind": "done", "scope": "group"}:
                    return
                case _:
                    pass


async def chat(client: Client, agent: str) -> list[tuple[int, str]]:
    """A messenger: ask, wait for the answer, mark it as read."""
    session = await client.chats.create(agent)
    sent = await client.chats.send(session.id, "hello", wait_seconds=10)
    detail = await client.chats.get(session.id)
    await client.chats.read(session.id, detail.messages[-1].seq)
    assert sent.task_id
    return [(message.seq, message.content) for message in detail.messages]


async def main(url: str) -> None:
    """Against a daemon elsewhere; refusals are exceptions with a code."""
    try:
        async with Client(url, token=None) as client:
            print(await converse(client))
    except DispatchError as error:
        print(error.code, error.message, error.retryable)
