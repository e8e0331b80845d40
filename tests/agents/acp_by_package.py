"""An agent of the Agent Client Protocol on the agent's side of the library.

Neighbours: `acp_by_hand` is the other one; `test_acp_package` and `tests/e2e/test_acp.py` run it.
It keeps what it was told in the directory it is given, so that it can load a session.
Invariant: it does nothing but what its messages say.
"""

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

from acp import (
    Agent,
    InitializeResponse,
    LoadSessionResponse,
    NewSessionResponse,
    PromptResponse,
    run_agent,
    start_tool_call,
    text_block,
    tool_content,
    update_agent_message_text,
    update_agent_thought_text,
    update_tool_call,
)
from acp.interfaces import Client
from acp.schema import AgentCapabilities, AllowedOutcome, PermissionOption, ToolCallUpdate


class Speaker(Agent):
    def __init__(self, store: Path) -> None:
        self._store = store
        self._said: dict[str, list[str]] = {}
        self._cancelled = asyncio.Event()
        self._client: Client

    def on_connect(self, conn: Client) -> None:
        self._client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        return InitializeResponse(
            protocol_version=protocol_version,
            agent_capabilities=AgentCapabilities(load_session=True),
        )

    async def new_session(self, cwd: str, **_: Any) -> NewSessionResponse:
        session_id = uuid.uuid4().hex
        self._said[session_id] = []
        return NewSessionResponse(session_id=session_id)

    async def load_session(self, cwd: str, session_id: str, **_: Any) -> LoadSessionResponse:
        self._said[session_id] = json.loads((self._store / session_id).read_text())
        for text in self._said[session_id]:
            await self._say(session_id, f"replayed {text}")
        return LoadSessionResponse()

    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> PromptResponse:
        self._cancelled.clear()
        text = [block.text for block in prompt if block.type == "text"][-1]
        stop_reason = await self._answer(session_id, text)
        self._said[session_id].append(text)
        (self._store / session_id).write_text(json.dumps(self._said[session_id]))
        return PromptResponse(stop_reason=stop_reason)

    async def cancel(self, session_id: str, **_: Any) -> None:
        self._cancelled.set()

    async def _answer(self, session_id: str, text: str) -> Any:
        match text:
            case "ask":
                await self._ask(session_id)
            case "crash":
                await self._say(session_id, "so far")
                sys.stderr.write("came apart\n")
                sys.stderr.flush()
                os._exit(7)
            case "wait":
                await self._say(session_id, f"waiting {os.getpid()}")
                await self._cancelled.wait()
                return "cancelled"
            case "pid":
                await self._say(session_id, str(os.getpid()))
            case "recall":
                await self._say(session_id, json.dumps(self._said[session_id]))
            case _:
                thought = update_agent_thought_text("hm")
                await self._client.session_update(session_id=session_id, update=thought)
                for word in text.split(" "):
                    await self._say(session_id, f"{word} ")
        return "end_turn"

    async def _ask(self, session_id: str) -> None:
        call = start_tool_call("call-1", "Remove a file", kind="delete", raw_input={"path": "x"})
        await self._client.session_update(session_id=session_id, update=call)
        found = await self._client.request_permission(
            session_id=session_id,
            tool_call=ToolCallUpdate(tool_call_id="call-1"),
            options=[
                PermissionOption(option_id="once", name="Yes", kind="allow_once"),
                PermissionOption(option_id="never", name="No", kind="reject_once"),
            ],
        )
        outcome = found.outcome
        chosen = outcome.option_id if isinstance(outcome, AllowedOutcome) else "cancelled"
        ended = update_tool_call(
            "call-1", status="completed", content=[tool_content(text_block("ok"))]
        )
        await self._client.session_update(session_id=session_id, update=ended)
        await self._say(session_id, f"answer: {chosen}")

    async def _say(self, session_id: str, text: str) -> None:
        update = update_agent_message_text(text)
        await self._client.session_update(session_id=session_id, update=update)


if __name__ == "__main__":
    asyncio.run(run_agent(Speaker(Path(sys.argv[1]))))
