"""A conversation as the messages of the Chat Completions API.

Neighbours: `agent` sends them; `core.content` has the chunks; `runtime.history` chooses the turns,
leaves out those that only failed, and gives an open tool call a result.
Invariant: after an assistant's message with tool calls come their results, one each and in order,
and nothing else before them; two messages of the user never follow one another. Endpoints refuse
the first, and the chat templates of many open models the second.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from dispatch.agents.port import GO_ON, TurnRequest
from dispatch.core.content import (
    ImageChunk,
    StoredLine,
    System,
    Text,
    ToolCallChunk,
    ToolResultChunk,
)

Message: TypeAlias = dict[str, object]

# What was said in several pieces is read as paragraphs.
_BETWEEN: Final = "\n\n"
_NO_RESULT: Final = "no result was kept"


def messages_of(
    lines: list[StoredLine],
    request: TurnRequest,
    system_prompt: str | None,
    *,
    goes_on: bool = False,
) -> list[Message]:
    """Everything that is sent: the system prompt, what was said before, and the turn's message. Of
    a turn that `goes_on` that is among what was said.

    Thinking and errors are left out: a model is told what was said, by whom, and what tools gave.
    """
    writer = _Writer(_results(lines))
    if system_prompt:
        writer.system(system_prompt)
    for line in lines:
        match line.role, line.chunk:
            case "user", Text(text):
                writer.user_text(text)
            case "user", ImageChunk(url):
                writer.user_image(url)
            case "assistant", Text(text):
                writer.assistant_text(text)
            case _, ToolCallChunk() as call:
                writer.call(call)
            case _, System(text):
                writer.system(text)
            case _:
                pass
    writer.user_text(GO_ON if goes_on else request.message)
    for image in () if goes_on else request.images:
        writer.user_image(image.url)
    return writer.finished()


def _results(lines: list[StoredLine]) -> dict[int, str]:
    """What each tool call gave, by the call's identity.

    An id is unique in its turn alone, so a result belongs to the last open call of its id.
    """
    opened: dict[str, ToolCallChunk] = {}
    results: dict[int, str] = {}
    for line in lines:
        match line.chunk:
            case ToolCallChunk(tool_call_id=call_id) as call:
                opened[call_id] = call
            case ToolResultChunk(tool_call_id=call_id, content=content):
                if (answered := opened.pop(call_id, None)) is not None:
                    results[id(answered)] = content
            case _:
                pass
    return results


class _Writer:
    """Gathers what one side says until the other does."""

    def __init__(self, results: dict[int, str]) -> None:
        self._results = results
        self._messages: list[Message] = []
        self._user: list[str | Message] = []
        self._said: list[str] = []
        self._calls: list[ToolCallChunk] = []

    def system(self, text: str) -> None:
        self._end_user()
        self._end_assistant()
        self._messages.append({"role": "system", "content": text})

    def user_text(self, text: str) -> None:
        self._end_assistant()
        if text:
            self._user.append(text)

    def user_image(self, url: str) -> None:
        self._end_assistant()
        self._user.append({"type": "image_url", "image_url": {"url": url}})

    def assistant_text(self, text: str) -> None:
        self._end_user()
        if self._calls:
            # It was said knowing their results.
            self._end_assistant()
        self._said.append(text)

    def call(self, call: ToolCallChunk) -> None:
        self._end_user()
        self._calls.append(call)

    def finished(self) -> list[Message]:
        self._end_assistant()
        self._end_user()
        return self._messages

    def _end_user(self) -> None:
        parts, self._user = self._user, []
        if not parts:
            return
        texts = [part for part in parts if isinstance(part, str)]
        content: object = _BETWEEN.join(texts)
        if len(texts) < len(parts):
            # Servers without eyes take a plain string alone, so parts are sent where they must be.
            content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
        self._messages.append({"role": "user", "content": content})

    def _end_assistant(self) -> None:
        said, self._said = self._said, []
        calls, self._calls = self._calls, []
        if not said and not calls:
            return
        message: Message = {"role": "assistant", "content": _BETWEEN.join(said) or None}
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        self._messages.append(message)
        self._messages.extend(
            {
                "role": "tool",
                "tool_call_id": call.tool_call_id,
                "content": self._results.get(id(call), _NO_RESULT),
            }
            for call in calls
        )


def _call(call: ToolCallChunk) -> Message:
    function = {"name": call.tool_name, "arguments": bytes(call.input).decode()}
    return {"id": call.tool_call_id, "type": "function", "function": function}
