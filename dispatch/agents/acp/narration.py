"""What an agent says while it works on a prompt, as events of the turn.

Neighbours: `exchange` brings the updates, `agent` emits what comes out; `core.events` has the
shapes. Text and thoughts are deltas, tools are calls with live output and a result. A plan is shown
each time it changes as the call of a tool named `plan` with its entries, for that is how agents
without plans of their own show theirs. Changes of mode, commands and titles are not shown.
Invariant: a tool's call comes before its output, its output before its result, and each once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from acp.schema import (
    AgentMessageChunk,
    AgentPlanUpdate,
    AgentThoughtChunk,
    AudioContentBlock,
    ContentToolCallContent,
    EmbeddedResourceContentBlock,
    FileEditToolCallContent,
    ImageContentBlock,
    PlanEntry,
    PromptResponse,
    RequestPermissionRequest,
    ResourceContentBlock,
    TerminalToolCallContent,
    TextContentBlock,
    TextResourceContents,
    ToolCallProgress,
    ToolCallStart,
    ToolCallUpdate,
    UsageUpdate,
)

from dispatch.agents.acp.permission import request_of
from dispatch.core.events import (
    AgentEvent,
    Done,
    ReasoningDelta,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolOutput,
    ToolResult,
)
from dispatch.core.identity import TurnId

_NAME_CHARACTERS_MAX: Final = 200
# Calls that wait for their input to be told; an agent has a handful at once.
_HELD_MAX: Final = 64
_CONTEXT_LINES: Final = 3

# Reasons that have a name of ours; the others are passed on as they are.
_REASONS: Final = {"end_turn": "stop", "max_turn_requests": "max-steps", "cancelled": "aborted"}

_Content = Sequence[ContentToolCallContent | FileEditToolCallContent | TerminalToolCallContent]
_Block = (
    TextContentBlock
    | ImageContentBlock
    | AudioContentBlock
    | ResourceContentBlock
    | EmbeddedResourceContentBlock
)


class _Tool(msgspec.Struct):
    """What is known of a call. It is `held` until its input is told, or cannot be any more."""

    id: str
    name: str = ""
    kind: str = ""
    input: Any = None
    locations: list[str] = []
    text: str = ""
    is_held: bool = True
    is_over: bool = False

    def learn(self, update: ToolCallStart | ToolCallUpdate) -> None:
        self.name = update.title or self.name
        self.kind = update.kind or self.kind
        self.input = update.raw_input if update.raw_input is not None else self.input
        if update.locations is not None:
            self.locations = [location.path for location in update.locations]

    def call(self) -> ToolCall:
        self.is_held = False
        given = self.input
        if given in (None, {}) and self.locations:
            given = {"locations": self.locations}
        encoded = msgspec.Raw(msgspec.json.encode({} if given is None else given))
        return ToolCall(self.id, self.title, encoded)

    @property
    def title(self) -> str:
        return " ".join((self.name or self.kind or "tool").split())[:_NAME_CHARACTERS_MAX]


class Narration:
    """Of one turn; `has_told` once there was anything to show of it."""

    def __init__(self, turn: TurnId) -> None:
        """Begin with nothing told."""
        self._turn = turn
        self._tools: dict[str, _Tool] = {}
        self._held: dict[str, _Tool] = {}
        self._plan: list[PlanEntry] = []
        self._plans = 0
        self._requests = 0
        self._context_size: int | None = None
        self.has_told = False

    def tell(self, update: object) -> Iterator[AgentEvent]:
        """The events of one update."""
        for event in self._tell(update):
            self.has_told = True
            yield event

    def _tell(self, update: object) -> Iterator[AgentEvent]:
        match update:
            case AgentMessageChunk(content=block):
                yield from self.rest()
                if text := _shown(block):
                    yield TextDelta(text)
            case AgentThoughtChunk(content=block):
                yield from self.rest()
                if text := _shown(block):
                    yield ReasoningDelta(text)
            case ToolCallStart() | ToolCallProgress():
                yield from self._tool(update)
            case AgentPlanUpdate(entries=entries) if entries != self._plan:
                self._plan = entries
                yield from self._planned(entries)
            case UsageUpdate(used=used):
                self._context_size = used
            case _:
                pass

    def ask(self, asked: RequestPermissionRequest) -> Iterator[AgentEvent]:
        """The events of a permission that is asked for; the last is the request."""
        self.has_told = True
        tool = self._tools.get(asked.tool_call.tool_call_id)
        if tool is None or not tool.is_over:
            yield from self._tool(asked.tool_call)
            tool = self._tools[asked.tool_call.tool_call_id]
            if tool.is_held:
                yield self._show(tool)
        self._requests += 1
        # Not to be taken for one of an earlier turn, to which an answer may still be on its way.
        yield request_of(asked, f"{self._turn}:{self._requests}", tool.title)

    def rest(self) -> Iterator[AgentEvent]:
        """The calls whose input was not told, now that something else is."""
        for tool in list(self._held.values()):
            yield self._show(tool)

    def done(self, response: PromptResponse, spent: TokenUsage | None) -> Done:
        """The turn's end; `spent` is what the session had told of tokens before, None if unknown.

        The protocol counts tokens of the whole session.
        """
        reason = _REASONS.get(response.stop_reason, response.stop_reason)
        usage = usage_of(response)
        if usage is not None:
            usage = None if spent is None else _difference(usage, spent)
        return Done(reason, usage=usage, context_size=self._context_size)

    def _tool(self, update: ToolCallStart | ToolCallUpdate) -> Iterator[AgentEvent]:
        tool = self._tools.setdefault(update.tool_call_id, _Tool(update.tool_call_id))
        if tool.is_over:
            return
        tool.learn(update)
        ended = update.status in ("completed", "failed")
        if tool.is_held:
            if tool.input or ended or update.status == "in_progress" or update.content:
                yield self._show(tool)
            else:
                self._held[tool.id] = tool
                if len(self._held) > _HELD_MAX:
                    yield from self.rest()
        text = _rendered(update.content) if update.content is not None else tool.text
        if ended:
            tool.is_over = True
            content = text or _plain(update.raw_output)
            yield ToolResult(tool.id, tool.title, content, is_error=update.status == "failed")
            # Only that it is over is needed from here on.
            tool.text, tool.input = "", None
        elif text != tool.text:
            # An update brings the whole content again.
            new = text.removeprefix(tool.text) if text.startswith(tool.text) else text
            tool.text = text
            if new:
                yield ToolOutput(tool.id, new, "stdout")

    def _show(self, tool: _Tool) -> ToolCall:
        self._held.pop(tool.id, None)
        return tool.call()

    def _planned(self, entries: list[PlanEntry]) -> Iterator[AgentEvent]:
        self._plans += 1
        call_id = f"{self._turn}:plan:{self._plans}"
        plain = [
            {"content": entry.content, "priority": entry.priority, "status": entry.status}
            for entry in entries
        ]
        over = sum(entry.status == "completed" for entry in entries)
        yield ToolCall(call_id, "plan", msgspec.Raw(msgspec.json.encode({"entries": plain})))
        yield ToolResult(call_id, "plan", f"{over} of {len(entries)} completed", is_error=False)


def usage_of(response: PromptResponse) -> TokenUsage | None:
    """The tokens that an answer tells, if it does."""
    usage = response.usage
    if usage is None:
        return None
    return TokenUsage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_read_tokens,
        usage.cached_write_tokens,
    )


def _difference(now: TokenUsage, before: TokenUsage) -> TokenUsage:
    if now.input_tokens < before.input_tokens or now.output_tokens < before.output_tokens:
        # An agent that counts each turn anew.
        return now
    return TokenUsage(
        now.input_tokens - before.input_tokens,
        now.output_tokens - before.output_tokens,
        _less(now.cache_read_tokens, before.cache_read_tokens),
        _less(now.cache_write_tokens, before.cache_write_tokens),
    )


def _less(now: int | None, before: int | None) -> int | None:
    return None if now is None else max(0, now - (before or 0))


def _rendered(content: _Content) -> str:
    return "\n".join(text for item in content if (text := _item(item)))


def _item(item: ContentToolCallContent | FileEditToolCallContent | TerminalToolCallContent) -> str:
    match item:
        case ContentToolCallContent(content=block):
            return _shown(block)
        case FileEditToolCallContent():
            return _diff(item)
        case TerminalToolCallContent():
            # A terminal of the client's, which this one has none of.
            return ""


def _diff(edit: FileEditToolCallContent) -> str:
    """One hunk, from the first line that differs to the last: what a library would find between
    them takes it up to seconds, and the loop is everybody's.
    """
    old, new = (edit.old_text or "").splitlines(), edit.new_text.splitlines()
    same = min(len(old), len(new))
    head = next((n for n in range(same) if old[n] != new[n]), same)
    tail = next((n for n in range(same - head) if old[-1 - n] != new[-1 - n]), same - head)
    first, last = max(0, head - _CONTEXT_LINES), max(0, tail - _CONTEXT_LINES)
    old_range = _range(first, len(old) - first - last)
    new_range = _range(first, len(new) - first - last)
    before = edit.path if edit.old_text is not None else "/dev/null"
    lines = [f"--- {before}", f"+++ {edit.path}", f"@@ -{old_range} +{new_range} @@"]
    lines += (f" {line}" for line in old[first:head])
    lines += (f"-{line}" for line in old[head : len(old) - tail])
    lines += (f"+{line}" for line in new[head : len(new) - tail])
    lines += (f" {line}" for line in old[len(old) - tail : len(old) - last])
    return "\n".join(lines)


def _range(first: int, count: int) -> str:
    # A range without lines is named by the line before it.
    start = first + 1 if count else first
    return str(start) if count == 1 else f"{start},{count}"


def _shown(block: _Block) -> str:
    match block:
        case TextContentBlock(text=text):
            return text
        case ResourceContentBlock(name=name, uri=uri):
            return f"[{name}]({uri})"
        case EmbeddedResourceContentBlock(resource=resource):
            is_text = isinstance(resource, TextResourceContents)
            return resource.text if is_text else f"[{resource.uri}]"
        case ImageContentBlock(mime_type=kind) | AudioContentBlock(mime_type=kind):
            return f"[{kind}]"


def _plain(output: Any) -> str:
    if output is None:
        return ""
    return output if isinstance(output, str) else msgspec.json.encode(output).decode()
