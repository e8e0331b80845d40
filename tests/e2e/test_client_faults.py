"""The Python client behind a network that fails, in front of a real daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import anyio
import pytest

from dispatch.client import (
    CannotConnect,
    Client,
    Delta,
    Options,
    Reconnecting,
    TextDelta,
    Transcript,
    TurnSealed,
    answer,
)
from tests.e2e.commands import GUARD_SECONDS
from tests.e2e.conftest import StartDaemon
from tests.e2e.faults import FaultProxy

pytestmark = pytest.mark.timeout(90)

AGENTS = "".join(f'[agents.{name}]\nkind = "echo"\ndelay_ms = 20\n' for name in ("echo", "parrot"))
WORDS = " ".join(f"word-{number}" for number in range(40))

# A dead line is noticed within half a second instead of forty.
WATCHFUL = Options(
    backoff_seconds=0.02,
    backoff_seconds_max=0.1,
    heartbeat_seconds=0.25,
    heartbeat_answer_seconds=0.25,
)


@pytest.fixture
async def proxy(start_daemon: StartDaemon) -> AsyncIterator[FaultProxy]:
    daemon = await start_daemon(AGENTS)
    async with FaultProxy(daemon.url) as proxy:
        yield proxy


Fault = Callable[[FaultProxy], None]


@pytest.mark.parametrize("fault", [FaultProxy.cut, FaultProxy.blackhole, FaultProxy.half_open])
async def test_a_line_that_fails_in_the_middle_of_a_turn_costs_nothing(
    proxy: FaultProxy, fault: Fault
) -> None:
    transcript, positions, losses = Transcript(), [], 0
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(proxy.url, options=WATCHFUL) as client:
            async with aclosing(answer(client, WORDS, conversation_id="c")) as items:
                async for item in items:
                    losses += isinstance(item, Reconnecting)
                    if not isinstance(item, Delta):
                        continue
                    transcript.apply(item)
                    positions.append(item.position)
                    if isinstance(item.event, TextDelta) and not losses:
                        fault(proxy)
            page = await client.http.history("c")
    assert losses
    assert isinstance(item, Delta)
    assert isinstance(item.event, TurnSealed)
    assert len(positions) == len(set(positions))
    assert [chunk.chunk.text for chunk in page.chunks] == [WORDS, transcript.text]  # type: ignore[union-attr]


async def test_a_send_whose_reply_was_swallowed_is_carried_out_once(proxy: FaultProxy) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(proxy.url, options=WATCHFUL) as client:
            proxy.deafen()
            accepted = await client.send("once", conversation_id="c")
            async with client.follow("c", since_seq=0) as items:
                async for item in items:
                    if isinstance(item, Delta) and isinstance(item.event, TurnSealed):
                        break
                    if getattr(item, "latest_seq", 0) == 2:
                        break
            page = await client.http.history("c")
    assert accepted.duplicate
    assert proxy.accepted > 2
    assert [chunk.role for chunk in page.chunks] == ["user", "assistant"]


async def test_a_line_that_trickles_loses_nothing(proxy: FaultProxy) -> None:
    proxy.piece_bytes = 7
    patient = Options(open_seconds=GUARD_SECONDS)
    transcript = Transcript()
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            Client(proxy.url, options=patient) as client,
            aclosing(answer(client, WORDS, conversation_id="c")) as items,
        ):
            async for item in items:
                assert not isinstance(item, Reconnecting)
                if isinstance(item, Delta):
                    transcript.apply(item)
    assert transcript.text == WORDS


class Crowd:
    """Followers of everything over one client; each cuts the line once, in the middle."""

    def __init__(self, proxy: FaultProxy, client: Client) -> None:
        self._proxy, self._client = proxy, client
        self.texts: dict[str, str] = {}
        self.messages: list[int] = []
        self.cuts: list[str] = []
        self._has_sent = False

    def _heard(self, name: str, text: str) -> None:
        self.texts[name] = self.texts.get(name, "") + text
        if name not in self.cuts:
            self.cuts.append(name)
            self._proxy.cut()

    async def converse(self, name: str) -> None:
        async with self._client.follow(name) as items:
            async for item in items:
                if isinstance(item, Delta) and item.text:
                    self._heard(name, item.text)
                if isinstance(item, Delta) and isinstance(item.event, TurnSealed):
                    return

    async def meet(self, group: str) -> None:
        async with aclosing(self._client.groups.watch(group)) as items:
            async for item in items:
                match item:
                    case {"kind": "assistant_chunk"}:
                        self._heard(item["familiarId"], item["text"])
                    case {"scope": "group"}:
                        return

    async def chat(self, session: str) -> None:
        async with aclosing(self._client.chats.watch(session, deltas=True)) as items:
            async for item in items:
                match item:
                    case {"event": "connected"} if not self._has_sent:
                        self._has_sent = True
                        await self._client.chats.send(session, WORDS)
                    case {"event": "chat_message_delta"}:
                        # What was lost of a text that is still said is not said again.
                        self._heard("chat", "")
                    case {"event": "chat_message", "data": message}:
                        self.messages.append(message["seq"])
                        if message["role"] == "assistant":
                            self.texts["chat"] = message["content"]
                            return


async def test_everything_that_is_followed_comes_back_over_one_line(proxy: FaultProxy) -> None:
    names = ("a", "b", "c")
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(proxy.url, options=WATCHFUL) as client:
            crowd = Crowd(proxy, client)
            group = await client.groups.create(["echo", "parrot"])
            session = await client.chats.create("echo")
            async with anyio.create_task_group() as tasks:
                for name in names:
                    tasks.start_soon(crowd.converse, name)
                tasks.start_soon(crowd.meet, group.id)
                tasks.start_soon(crowd.chat, session.id)
                for name in names:
                    await client.send(WORDS, conversation_id=name)
                async with aclosing(client.groups.send(group.id, WORDS)) as sending:
                    await anext(sending)
    followed = {*names, "echo", "parrot", "chat"}
    assert crowd.texts == dict.fromkeys(followed, WORDS)
    assert set(crowd.cuts) == followed
    assert crowd.messages == [1, 2]


async def test_a_daemon_that_stays_away_is_told_to_who_waits(proxy: FaultProxy) -> None:
    impatient = Options(backoff_seconds=0.02, backoff_seconds_max=0.05, patience_seconds=0.2)
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(proxy.url, options=impatient) as client, client.follow("c") as items:
            await anext(items)
            proxy.refuse()
            assert isinstance(await anext(items), Reconnecting)
            with pytest.raises(CannotConnect):
                await anext(items)
            with pytest.raises(CannotConnect):
                await client.send("hi")
