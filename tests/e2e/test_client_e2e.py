"""The Python client against a real daemon."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import anyio
import anyio.abc
import pytest

from dispatch.client import (
    Client,
    Delta,
    Options,
    Reconnecting,
    RequestDone,
    RequestOpened,
    Transcript,
    answer,
    ask,
)
from dispatch.core.events import Response, TextDelta, TurnSealed
from dispatch.errors import Busy, Conflict, NotFound, RequestClosed
from tests.e2e.commands import (
    ENDLESS,
    GUARD_SECONDS,
    SLOW_ECHO,
    start_asking,
)
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess

pytestmark = pytest.mark.timeout(90)


HASTY = Options(backoff_seconds=0.05, backoff_seconds_max=0.2)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


async def test_a_client_goes_on_after_the_daemon_was_killed_and_started_again(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(SLOW_ECHO, "--port", str(free_port()))
    transcript, events = Transcript(), []
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(daemon.url, options=HASTY) as client:
            async for item in answer(client, ENDLESS, conversation_id="c"):
                if isinstance(item, Delta):
                    events.append(item.event)
                    if sum(isinstance(event, TextDelta) for event in events) == 3:
                        await daemon.kill()
                        await daemon.start()
                if isinstance(item, Delta | Reconnecting):
                    transcript.apply(item)
            page = await client.http.history("c")
            # The daemon that was started again takes the next message.
            assert "again" in (await ask(client, "again", conversation_id="c")).text
    assert isinstance(events[-1], TurnSealed)
    kept = [line.chunk for line in page.chunks if line.role == "assistant"]
    assert kept[0].text == transcript.text  # type: ignore[union-attr]


async def test_a_client_sends_once_under_its_id(daemon: DaemonProcess) -> None:
    async with Client(daemon.url) as client:
        first = await client.send("hi", conversation_id="c", client_message_id="m1")
        again = await client.send("hi", conversation_id="c", client_message_id="m1")
        with pytest.raises(Conflict):
            await client.send("ho", conversation_id="c", client_message_id="m1")
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again.turn == first.turn


async def test_a_client_stops_forks_reads_queues_and_exports(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(SLOW_ECHO)
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(daemon.url) as client:
            done = await ask(client, "short", conversation_id="c")
            sent = await client.send(ENDLESS, conversation_id="c")
            with pytest.raises(Busy):
                await client.send("now", conversation_id="c")
            queue = await client.http.queue("c", "later")
            assert [message.text for message in queue.queue] == ["later"]
            stopped = await client.stop("c", sent.turn)
            assert stopped.aborted_turn
            forked = await client.fork("c", done.turn_id)
            page = await client.http.history(forked.conversation_id)
            assert [chunk.seq for chunk in page.chunks] == [1, 2]
            await client.http.read("c", 2)
            exported = b"".join([part async for part in client.http.export("c")])
            assert all(json.loads(line) for line in exported.splitlines())
            with pytest.raises(NotFound):
                await client.fork("c", "no-such-turn")


async def test_a_question_of_the_agent_is_answered_through_the_client(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    asking = await start_asking(start_daemon, tmp_path)
    items = []
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(asking.url) as client:
            async for item in answer(client, "go", conversation_id="c"):
                items.append(item)
                if isinstance(item, RequestOpened):
                    reply = Response(item.request_id, approved=True, option_id="y")
                    await client.http.respond("c", reply)
                    with pytest.raises(RequestClosed):
                        await client.http.respond("c", reply)
    [closed] = [item for item in items if isinstance(item, RequestDone)]
    assert (closed.outcome, closed.by) == ("answered", "local")
    texts = [i.event.delta for i in items if isinstance(i, Delta) and is_text(i)]
    assert "".join(texts) == "before y"


def is_text(item: Delta) -> bool:
    return isinstance(item.event, TextDelta)
