"""Typing a command in a test, and scripts for the daemon it talks to; `fixtures` starts one."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

from click.testing import CliRunner, Result

from dispatch import cli as command_line
from tests.client.scripted import (
    Frame,
    Peer,
    Script,
    ScriptedServer,
    accepted,
    subscribed,
    turn,
)

Start = Callable[..., ScriptedServer]


def dispatch(*words: str, url: str | None = None, stdin: str | None = None) -> Result:
    environment = {"DISPATCH_URL": url, "DISPATCH_TOKEN": None, "DISPATCH_CONFIG": None}
    return CliRunner(env=environment).invoke(command_line.cli, words, input=stdin)


def lines(result: Result) -> list[Frame]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def answering(*frames: Frame, heard: list[Frame] | None = None, **fields: object) -> Script:
    async def script(peer: Peer) -> None:
        asked = await peer.heard("chat.send")
        if heard is not None:
            heard.append(asked)
        await peer.say(accepted(asked, 0, **fields))  # type: ignore[arg-type]
        asked = await peer.heard("chat.subscribe")
        await peer.say(subscribed(asked, 0), *frames)

    return script


def refusing(**refusal: object) -> Script:
    async def script(peer: Peer) -> None:
        asked = await peer.heard("chat.send")
        await peer.say({"type": "chat.error", "ref": asked["ref"], **refusal})

    return script


HELLO = turn(1, "t1", "hello ", "world")


def conversation(**fields: object) -> Frame:
    now = datetime.now(UTC).timestamp() * 1000
    found = {"id": "c-1", "createdAt": 0, "lastActivityAt": int(now), "title": "A title"}
    return found | {"status": "idle", "workspaceId": "default"} | fields
