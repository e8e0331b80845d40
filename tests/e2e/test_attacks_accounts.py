"""Attacks 13 to 15: accounts are walls.

Account `a` has something to hide; `b` knows every id of it and tries each route and each frame.
What is compared is the answer for a foreign thing with the answer for one that never was: they must
differ in nothing but the id that was asked for.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest

from dispatch.server import routes_chat, routes_conversations, routes_history
from tests.e2e.agents import config
from tests.e2e.attackers import auth, http_of, old_wire_of, pong, wire_of
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import Wire, text

ECHO = '[agents.echo]\nkind = "echo"\ndelay_ms = 0\n'
PEOPLE = auth(
    ("a", "ann", "watch send"),
    ("a", "wes", "watch"),
    ("a", "sid", "send"),
    ("b", "bob", "watch send"),
)
WALLS = config("endless", "asking", more=PEOPLE) + ECHO
CANARY = "canary-of-account-a"

# Every route about one conversation: method, what follows its id, body; `{turn}`, `{queued}` and
# `{request}` are those of the conversation that is attacked.
ROUTES: tuple[tuple[str, str, dict[str, Any] | None], ...] = (
    ("GET", "", None),
    ("GET", "?sinceSeq=0&limit=5", None),
    ("GET", "/metrics", None),
    ("GET", "/status", None),
    ("GET", "/last", None),
    ("GET", "/export", None),
    ("GET", "/title", None),
    ("GET", "/model", None),
    ("GET", "/reasoning-effort", None),
    ("GET", "/cwd", None),
    ("GET", "/lsp", None),
    ("GET", "/mcp", None),
    ("POST", "/read", {"upToSeq": 1}),
    ("POST", "/fork", {"turnId": "{turn}"}),
    ("POST", "/resume", {"turnId": "{turn}"}),
    ("PUT", "/queue", {"messageIds": ["{queued}"]}),
    ("POST", "/truncate", {"afterTurn": "{turn}"}),
    ("POST", "/stop", {}),
    ("POST", "/stop", {"turnId": "{turn}"}),
    ("POST", "/requests/{request}", {"approved": True}),
    ("DELETE", "/queue/{queued}", None),
    ("DELETE", "/cwd", None),
    ("PUT", "/cwd", {"cwd": "/"}),
    ("POST", "/close", None),
    ("DELETE", "", None),
    # These make a conversation of the same name in the attacker's own account.
    ("PUT", "/title", {"title": "stolen"}),
    ("PUT", "/model", {"model": "echo"}),
    ("PUT", "/reasoning-effort", {"reasoningEffort": "low"}),
    ("POST", "/open", None),
    ("POST", "/queue", {"text": "mine", "model": "echo"}),
)

# Every frame about one conversation, the same way.
FRAMES: tuple[dict[str, Any], ...] = (
    {"type": "chat.subscribe"},
    {"type": "chat.subscribe", "sinceSeq": 0},
    {"type": "chat.subscribe", "after": "{position}"},
    {"type": "chat.unsubscribe"},
    {"type": "chat.stop"},
    {"type": "chat.stop", "turnId": "{turn}"},
    {"type": "chat.fork", "turnId": "{turn}"},
    {"type": "chat.resume", "turnId": "{turn}"},
    {"type": "chat.truncate", "afterTurn": "{turn}"},
    {"type": "chat.truncate", "afterTurn": None},
    {"type": "chat.respond", "requestId": "{request}", "approved": True},
    {"type": "chat.read", "upToSeq": 1},
    {"type": "chat.queue.cancel", "messageId": "{queued}"},
    {"type": "chat.queue.reorder", "messageIds": ["{queued}"]},
    {"type": "subscribe", "surfaceId": "message-queue"},
    {"type": "unsubscribe", "surfaceId": "message-queue"},
    {"type": "invoke", "surfaceId": "message-queue", "actionId": "x"},
)
STARTING: tuple[dict[str, Any], ...] = (
    {"type": "chat.send", "message": "mine", "model": "echo"},
    {"type": "chat.send", "message": "mine", "model": "echo", "onBusy": "steer"},
    {"type": "chat.send", "message": "mine", "model": "echo", "onBusy": "interrupt"},
    {"type": "chat.queue", "text": "mine"},
)


class Target(NamedTuple):
    """A conversation of account `a` at work, and every id of it."""

    conversation: str
    turn: str
    queued: str
    request: str
    position: str

    def fill(self, value: Any) -> Any:
        """Put the ids into a template."""
        if isinstance(value, dict):
            return {key: self.fill(item) for key, item in value.items()}
        if isinstance(value, str) and value.startswith("{"):
            return getattr(self, value[1:-1])
        return value


async def ask_and_queue(owner: Wire, conversation: str) -> Target:
    """A conversation with a sealed turn, a running one that asks, and a queue."""
    send = {"type": "chat.send", "conversationId": conversation}
    await owner.send(**send, message=f"{CANARY} sealed", model="echo")
    sealed = (await owner.until_event("turn-sealed"))[-1]
    await owner.send(**send, message=f"{CANARY} runs", model="asking")
    asked = await owner.until_type("chat.request")
    await owner.send(**send, message=f"{CANARY} waits", model="echo", onBusy="queue")
    queued = await owner.until_type("chat.accepted")
    turn, position = sealed["event"]["turnId"], asked["position"]
    return Target(conversation, turn, queued["queueId"], asked["requestId"], position)


async def state_of(owner: httpx.AsyncClient, conversation: str) -> list[Any]:
    """Everything that its owner can read of it over HTTP."""
    one = f"/conversations/{conversation}"
    parts = ("", "/metrics", "/status", "/title", "/model", "/reasoning-effort", "/cwd")
    answers = [(await owner.get(one + part)).json() for part in parts]
    probe = await owner.delete(f"{one}/queue/nobody")
    return [*answers, probe.json()["queue"]]


def blind(target: Target, value: object) -> str:
    """An answer without the id that was asked for, and without what is new in every answer."""
    shown = str(value).replace(target.conversation, "ID")
    for name in ("turnId", "queueId", "startedAt", "createdAt", "lastActivityAt"):
        shown = re.sub(rf"(['\"]{name}['\"]: ?)['\"]?[\w-]+['\"]?", r"\1NEW", shown)
    return shown


def answer_of(target: Target, response: httpx.Response) -> tuple[int, str, list[str]]:
    headers = sorted(name for name in response.headers if name != "content-length")
    return response.status_code, blind(target, response.text), headers


@pytest.fixture
async def walls(start_daemon: StartDaemon) -> DaemonProcess:
    return await start_daemon(WALLS)


def test_every_route_of_a_conversation_is_attacked() -> None:
    """13: a route that is added later is attacked too, or this fails."""
    known = {
        (method, re.sub(r"\{\w+\}", "{}", route.path.removeprefix("/conversations/{id}")))
        for module in (routes_chat, routes_conversations, routes_history)
        for route in module.routes(None)  # type: ignore[arg-type]
        if route.path.startswith("/conversations/{id}")
        for method in (route.methods or set()) - {"HEAD"}
    }
    attacked = {
        (method, re.sub(r"\{\w+\}", "{}", path.partition("?")[0])) for method, path, _ in ROUTES
    }
    assert known == attacked


async def test_a_foreign_conversation_is_on_every_route_like_one_that_never_was(
    walls: DaemonProcess,
) -> None:
    """13 and 14 over HTTP: no answer tells them apart, and nothing of the owner's changes."""
    async with (
        wire_of(walls.url, "a", "ann") as owner,
        http_of(walls.url, "a", "ann") as ann,
        http_of(walls.url, "b", "bob") as bob,
    ):
        for number, (method, path, body) in enumerate(ROUTES):
            target = await ask_and_queue(owner, f"there-{number}")
            never = target._replace(conversation=f"never-{number}")
            before = await state_of(ann, target.conversation)
            answers = []
            for one in (target, never):
                filled = re.sub(r"\{(\w+)\}", lambda m, one=one: getattr(one, m[1]), path)
                response = await bob.request(
                    method, f"/conversations/{one.conversation}{filled}", json=one.fill(body)
                )
                answers.append(answer_of(one, response))
                assert CANARY not in response.text
                assert response.status_code < 500
            assert answers[0] == answers[1], (method, path)
            assert await state_of(ann, target.conversation) == before, (method, path)
        assert CANARY not in (await bob.get("/conversations")).text
        assert CANARY not in (await bob.get("/conversations", params={"search": CANARY})).text
        # Nothing that was attempted reached the owner's connection.
        assert not [f for f in await pong(owner) if f["type"] == "chat.request.closed"]


async def test_a_foreign_conversation_is_in_every_frame_like_one_that_never_was(
    walls: DaemonProcess,
) -> None:
    """13 and 14 over WebSocket."""
    async with (
        wire_of(walls.url, "a", "ann") as owner,
        http_of(walls.url, "a", "ann") as ann,
    ):
        target = await ask_and_queue(owner, "there")
        pairs = [(template, target, "never") for template in FRAMES]
        for number, template in enumerate(STARTING):
            busy = await ask_and_queue(owner, f"there-{number}")
            pairs.append((template, busy, f"never-{number}"))
        before = [await state_of(ann, one.conversation) for _, one, _ in pairs]
        for template, there, name in pairs:
            told = []
            for one in (there, there._replace(conversation=name)):
                # A connection each: a subscription of before would change the answer.
                async with wire_of(walls.url, "b", "bob") as bob:
                    await bob.send(**one.fill(template), conversationId=one.conversation)
                    seen = [f for f in await pong(bob) if f["type"] != "chat.delta"]
                    told.append([blind(one, frame) for frame in seen])
                    assert CANARY not in str(bob.seen)
            assert told[0] == told[1], template
        assert [await state_of(ann, one.conversation) for _, one, _ in pairs] == before
        assert await pong(owner) == []


async def test_a_variant_of_a_foreign_id_finds_nothing(walls: DaemonProcess) -> None:
    """13: other case, another alphabet's letter, an account in front; for the owner as well."""
    variants = (
        "THERE",
        "there.",
        "there ",
        "th\u0435re",
        "there\0",
        "a/there",
        "a:there",
        "../there",
    )
    async with (
        wire_of(walls.url, "a", "ann") as owner,
        wire_of(walls.url, "b", "bob") as bob,
        http_of(walls.url, "b", "bob") as http,
    ):
        await owner.send(type="chat.send", conversationId="there", message=CANARY, model="echo")
        await owner.until_event("turn-sealed")
        for variant in variants:
            for wire in (bob, owner):
                await wire.send(type="chat.subscribe", conversationId=variant, sinceSeq=0)
                assert CANARY not in str(await pong(wire)), variant
            for path in (quote(variant), quote(variant, safe="")):
                assert CANARY not in (await http.get(f"/conversations/{path}")).text, variant


async def test_a_foreign_position_gives_nothing_of_the_foreign_account(
    walls: DaemonProcess,
) -> None:
    """15: neither behind nor ahead of the attacker's own head, in a conversation of that name."""
    async with wire_of(walls.url, "a", "ann") as owner, wire_of(walls.url, "b", "bob") as bob:
        for number in range(6):
            message = f"{CANARY} {number}"
            await owner.send(type="chat.send", conversationId="same", message=message, model="echo")
            await owner.until_event("turn-sealed")
        positions = [f["position"] for f in owner.seen if f["type"] == "chat.delta"]
        await bob.send(type="chat.send", conversationId="same", message="mine", model="echo")
        mine = await bob.until_event("turn-sealed")
        head = mine[-1]["position"]
        for position in (positions[0], positions[1], positions[-1]):
            async with wire_of(walls.url, "b", "bob") as wire:
                await wire.send(type="chat.subscribe", conversationId="same", after=position)
                reply = await wire.until_type("chat.subscribed")
                seen = await pong(wire)
            assert reply["position"] == head
            assert CANARY not in str(wire.seen)
            if reply["recovered"]:
                assert text(seen) in text(mine)
            else:
                assert [frame["type"] for frame in seen] == ["chat.snapshot"]
        async with wire_of(walls.url, "b", "bob") as wire:
            await wire.send(type="chat.subscribe", conversationId="other", after=positions[3])
            assert (await wire.until_type("chat.subscribed"))["recovered"] is False
            assert CANARY not in str(await pong(wire))


async def test_broadcasts_and_list_stay_in_the_account(walls: DaemonProcess) -> None:
    """13: of what happens in an account, another is told nothing, old dialect or new."""
    async with (
        wire_of(walls.url, "b", "bob") as asked,
        old_wire_of(walls.url, "b", "bob") as old,
        wire_of(walls.url, "a", "ann") as owner,
        http_of(walls.url, "a", "ann") as http,
    ):
        await asked.send(type="conversations.watch")
        await owner.send(type="chat.send", conversationId="c", message=CANARY, model="echo")
        await owner.until_event("turn-sealed")
        await http.put("/conversations/c/title", json={"title": CANARY})
        await http.post("/conversations/c/open")
        await http.post("/conversations/c/read", json={"upToSeq": 1})
        await http.delete("/conversations/c")
        group = await http.post(
            "/api/groups", json={"memberFamiliarIds": ["echo"], "title": CANARY}
        )
        await http.patch(f"/api/groups/{group.json()['id']}", json={"title": f"{CANARY} again"})
        await http.delete(f"/api/groups/{group.json()['id']}")
        assert await pong(asked) == []
        assert await pong(old) == []
