"""VS Code's own clients against a real daemon: in 0.9, in 0.7, and the one of the time of 0.5.1.

The clients are VS Code's code, from published packages. The one of 0.9 also speaks to older hosts:
held to one offer it is a client of 0.7, by VS Code's own conversion. Of the one of 0.5.1 the
package lost what folds into the parts of a turn; what it was sent is folded here by our client.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.ahp.ahp_client.copies import Copy
from tests.clients.ahp.ahp_client.words import Json, version_number
from tests.clients.ahp.vscode.driver import Vscode, vscode
from tests.e2e.ahp import message, new_id, serving, turn_started
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import text, v1_wire

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    async with serving(tmp_path_factory.mktemp("daemon")) as one:
        yield one


# The client, and the version it is held to.
WINDOWS = [("0.9", "0.9.0"), ("0.9", "0.7.0"), ("0.5.1", "0.5.1")]
WINDOW = pytest.mark.parametrize(("made_for", "version"), WINDOWS, ids=["0.9", "0.7", "0.5.1"])


@asynccontextmanager
async def window(url: str, made_for: str, version: str) -> AsyncIterator[Vscode]:
    async with vscode(made_for) as one:
        await one.connect(url, version)
        yield one


class Desk:
    """A window of VS Code before one session."""

    def __init__(self, window: Vscode, version: str, session: str) -> None:
        self.window = window
        self.version = version
        self.session = session
        self.chat = ""
        self._began: Json = {}

    async def sit(self) -> None:
        state = await self.window.do("follow", kind="session", uri=self.session)
        self.chat = state["defaultChat"]
        self._began = await self.window.do("follow", kind="chat", uri=self.chat)

    async def act(self, kind: str, /, **members: Any) -> None:
        await self.window.dispatch(self.chat, {"type": f"chat/{kind}", **members})

    async def start(self, text: str) -> str:
        turn_id = f"request_{uuid.uuid4()}"
        await self.window.dispatch(self.chat, turn_started(turn_id, text, self.version))
        return turn_id

    async def ended(self, turn_id: str) -> Json:
        """The action that ended the turn."""
        ends = ("chat/turnComplete", "chat/turnCancelled", "chat/error")

        def found() -> list[Json]:
            actions = [one for kind in ends for one in self.window.actions(kind)]
            return [one for one in actions if one["turnId"] == turn_id]

        await self.window.until(lambda: bool(found()))
        return found()[-1]

    async def said(self, turn_id: str, pieces: int) -> None:
        await self.window.until(lambda: len(self.folded().text(turn_id).split()) >= pieces)

    def folded(self, count: int | None = None) -> Copy:
        """What it was sent of the chat, folded by our client, up to so many envelopes."""
        # The newer client brings what an older host says to its own shapes.
        shapes = "0.5.1" if self.window.version == "0.5.1" else "0.9.0"
        copy = Copy(self.chat, version_number(shapes), self.window.client_id)
        copy.begin({"resource": self.chat, "state": self._began, "fromSeq": 0})
        for envelope in self.window.envelopes[:count]:
            if envelope["channel"] == self.chat:
                copy.receive(envelope)
        return copy

    async def check(self) -> None:
        """Hold what it folded against the host at this moment."""
        # A client before 0.9 reads the time of a change from its own clock.
        untimed = () if self.version == "0.9.0" else ("modifiedAt",)
        await self.window.check(self.session)
        if self.version == "0.5.1":
            told = await self.window.do("check", uri=self.chat)
            self.folded(self.window.answered_behind).compare(told["snapshot"])
        else:
            await self.window.check(self.chat, without=untimed)


async def new_desk(one: Vscode, version: str, provider: str) -> Desk:
    """What VS Code does to begin a session."""
    await one.do("resolveSessionConfig", provider=provider)
    session = f"{provider}:/{uuid.uuid4()}"
    assert await one.do("createSession", provider=provider, session=session) == session
    active = {"clientId": one.client_id, "tools": []}
    await one.dispatch(session, {"type": "session/activeClientSet", "activeClient": active})
    desk = Desk(one, version, session)
    await desk.sit()
    return desk


@WINDOW
async def test_vscode_makes_lists_and_talks_in_a_session(
    daemon: DaemonProcess, made_for: str, version: str
) -> None:
    async with window(daemon.url, made_for, version) as one:
        desk = await new_desk(one, version, "alice")
        turn_id = await desk.start("hello there")
        assert (await desk.ended(turn_id))["type"] == "chat/turnComplete"
        await desk.check()
        assert desk.folded().text(turn_id) == "hello there "
        listed = await one.do("listSessions")
        assert desk.session in [row["session"] for row in listed]
        (root,) = [await one.do("root")]
        assert "alice" in [agent["provider"] for agent in root["agents"]]


@WINDOW
async def test_vscode_steers_queues_answers_and_stops(
    daemon: DaemonProcess, made_for: str, version: str
) -> None:
    async with window(daemon.url, made_for, version) as one:
        desk = await new_desk(one, version, "listener")
        turn_id = await desk.start("go")
        await desk.said(turn_id, 1)
        steering = {"kind": "steering", "id": new_id("s"), "message": message("left")}
        await desk.act("pendingMessageSet", **steering)
        await desk.ended(turn_id)
        assert desk.folded().text(turn_id) == "listening left"
        await desk.check()
        endless = await new_desk(one, version, "endless")
        turn_id = await endless.start("go")
        await endless.said(turn_id, 1)
        queued = {"kind": "queued", "id": new_id("q"), "message": message("next")}
        await endless.act("pendingMessageSet", **queued)
        await endless.act("turnCancelled", turnId=turn_id, duration=3)
        assert (await endless.ended(turn_id))["type"] == "chat/turnCancelled"
        await one.until(
            lambda: (
                endless.folded().confirmed.get("activeTurn", {}).get("message") == message("next")
            )
        )
        await endless.check()
        assert "queuedMessages" not in endless.folded().confirmed


@WINDOW
async def test_vscode_forks_a_chat(daemon: DaemonProcess, made_for: str, version: str) -> None:
    async with window(daemon.url, made_for, version) as one:
        desk = await new_desk(one, version, "alice")
        turn_id = await desk.start("one")
        await desk.ended(turn_id)
        # The form in which VS Code names the chats it makes.
        chat = desk.chat.replace("//default/", f"//{uuid.uuid4()}/")
        fork = {"chat": desk.chat, "turnId": turn_id}
        # 0.7 and later say what kind of source it is, and so does a client of 0.9 to any host.
        await one.do("createChat", session=desk.session, chat=chat, fork=fork)
        state = await one.do("follow", kind="chat", uri=chat)
        assert [turn["message"]["text"] for turn in state["turns"]] == ["one"]
        await one.check(desk.session)


@WINDOW
async def test_vscode_comes_back_after_a_kill(
    daemon: DaemonProcess, made_for: str, version: str
) -> None:
    async with window(daemon.url, made_for, version) as one:
        desk = await new_desk(one, version, "numbers")
        turn_id = await desk.start("go")
        await desk.said(turn_id, 20)
        shown = desk.folded().text(turn_id)
        await daemon.kill()
        await daemon.start()
        await one.until(lambda: one.states[-1:] == ["connected"] and "reconnecting" in one.states)
        assert (await desk.ended(turn_id))["type"] == "chat/error"
        await desk.check()
        folded = desk.folded()
        assert folded.text(turn_id).startswith(shown)
        # Nothing came twice: the numbers of the answer are each there once.
        words = folded.text(turn_id).split()
        assert words == [str(number) for number in range(len(words))]
        again = await desk.start("go on")
        await desk.said(again, 3)
        await desk.check()


@WINDOW
@pytest.mark.parametrize("is_lost_first", [True, False], ids=["lost-then-sent", "sent-then-lost"])
async def test_what_vscode_sends_over_a_cut_is_done_once(
    daemon: DaemonProcess, tmp_path: Path, made_for: str, version: str, is_lost_first: bool
) -> None:
    mark = tmp_path / "ran"
    async with window(daemon.url, made_for, version) as one:
        desk = await new_desk(one, version, "marking")
        if is_lost_first:
            await one.do("drop")
            turn_id = await desk.start(str(mark))
        else:
            turn_id = await desk.start(str(mark))
            await one.do("drop")
        await desk.ended(turn_id)
        await desk.check()
        assert mark.read_text() == "ran\n"
        assert [turn["id"] for turn in desk.folded().confirmed["turns"]] == [turn_id]


@pytest.mark.parametrize("conversation_id", ["plain", "A:b.C_d"])
async def test_vscode_opens_what_began_in_a_browser(
    daemon: DaemonProcess, conversation_id: str
) -> None:
    async with v1_wire(daemon.url) as wire, window(daemon.url, "0.9", "0.9.0") as one:
        await wire.send(type="chat.send", conversationId=conversation_id, message="from a browser")
        await wire.until_event("turn-sealed")
        row = (await one.do("listSessions"))[0]
        # VS Code writes a name anew before it asks for it.
        desk = Desk(one, "0.9.0", row["session"])
        await desk.sit()
        await desk.check()
        turn_id = await desk.start("from VS Code")
        assert await desk.ended(turn_id)
        frames = await wire.until_event("turn-sealed")
        await desk.check()
        assert text(frames) == desk.folded().text(turn_id) == "from VS Code "
        texts = [turn["message"]["text"] for turn in desk.folded().confirmed["turns"]]
        assert texts == ["from a browser", "from VS Code"]
