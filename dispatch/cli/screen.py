"""What a person sees, and what a program reads instead.

Neighbours: `cli` decides what is said, this module how. On a terminal it is text (rich), else one
JSON object a line. Whatever a model, a tool or another person wrote is data: escape codes in it are
made visible before they reach a terminal.
Invariant: no control character passes `visible` but newline and tab, none at all a JSON line.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text as RichText

from dispatch.cli.usage import HIDDEN, visible
from dispatch.client import (
    Accepted,
    ConversationSummary,
    Delta,
    History,
    Item,
    Reconnecting,
    RequestDone,
    RequestOpened,
    Snapshot,
    Subscribed,
    Truncated,
)
from dispatch.client.frames import AgentRequest, encode_item
from dispatch.client.replies import AgentStanding
from dispatch.core.content import (
    AnyChunk,
    ErrorChunk,
    ImageChunk,
    Role,
    StoredChunk,
    StoredLine,
    System,
    Text,
    Thinking,
    ToolCallChunk,
    ToolResultChunk,
)
from dispatch.core.events import (
    Done,
    ErrorEvent,
    ProviderRetry,
    ReasoningDelta,
    Steering,
    TextDelta,
    ToolCall,
    ToolOutput,
    ToolResult,
    TurnSealed,
    UserMessage,
)

# A tool's input and result are shown for orientation; all of it is in history and in --json.
INPUT_CHARACTERS_MAX: Final = 160
RESULT_LINES_MAX: Final = 12
# An endpoint may offer hundreds of models; JSON has them all.
_MODELS_CHARACTERS_MAX: Final = 60


def json_line(record: object) -> bytes:
    """One record as one line that every reader of lines takes for one."""
    encoded = record if isinstance(record, bytes) else msgspec.json.encode(record, enc_hook=str)
    return HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded.decode()).encode() + b"\n"


def write_json(*records: object) -> None:
    """Records to standard output, at once: somebody may be reading along."""
    for record in records:
        sys.stdout.buffer.write(json_line(record))
    sys.stdout.buffer.flush()


def is_text(as_json: bool) -> bool:
    """Whether a person reads along: never by force, only where the output is a terminal."""
    return not as_json and sys.stdout.isatty()


def note(text: str) -> None:
    """A word beside the output, on standard error."""
    console = Console(stderr=True, highlight=False)
    console.print(RichText(visible(text), style="dim"), soft_wrap=True)


class Output(Protocol):
    """Where the items of a conversation go."""

    def item(self, item: Accepted | Item) -> None:
        """Something happened."""
        ...


class JsonLines:
    """Frames, as they came."""

    def item(self, item: Accepted | Item) -> None:
        """Something happened."""
        write_json(encode_item(item))


class Talk:
    """A conversation on a terminal. `is_sender`: the person typed the message just now."""

    def __init__(self, *, is_sender: bool = False) -> None:
        """Nothing is shown yet."""
        self._out = Console(highlight=False)
        self._is_sender = is_sender
        self._run = ""
        self._is_lost = False
        self._has_failed = False
        self._at_line_start = True
        self._is_empty = True
        # Tools whose output was shown as it came.
        self._told: set[str] = set()

    def item(self, item: Accepted | Item) -> None:
        """Show what happened."""
        match item:
            case Accepted():
                if item.steered:
                    note("handed to the running turn")
                elif item.queue_id is not None:
                    note("queued behind the running turn")
            case Delta():
                self._event(item)
            case Subscribed(status=status, conversation_id=conversation_id):
                if self._is_lost:
                    note("connected again")
                elif not self._is_sender:
                    note(f"watching {conversation_id} ({status}); Ctrl-C ends")
                self._is_lost = False
            case Reconnecting(reason=reason):
                self.end_line()
                self._is_lost = True
                # What the daemon adds for programs is ours to do.
                note(f"{reason.partition(';')[0]}; connecting again")
            case History(chunks=chunks):
                self.chunks(chunks)
            case Snapshot():
                self._snapshot(item)
            case RequestOpened():
                self._request(item, item.conversation_id)
            case RequestDone(outcome=outcome, by=by):
                self._line(f"  {outcome}{f' by {by}' if by else ''}", "yellow")
            case Truncated():
                self._line("everything after an earlier turn was taken back", "yellow")
            case _:
                pass

    def chunks(self, lines: Iterable[StoredChunk | StoredLine]) -> None:
        """Show kept history."""
        for line in lines:
            self._chunk(line.role, line.chunk)

    def history(self, chunks: Iterable[StoredChunk], unfinished: Mapping[int, str]) -> None:
        """Show kept history, without what was truncated; `unfinished`: how turns ended that did
        not, by their last seq.
        """
        for chunk in chunks:
            if chunk.superseded:
                continue
            self._chunk(chunk.role, chunk.chunk)
            end = unfinished.get(chunk.seq)
            # An error is its own mark.
            if end == "aborted" or (end and not isinstance(chunk.chunk, ErrorChunk)):
                self._line(f"({end})", "yellow")
                self.end_line()

    def end_line(self) -> None:
        """Leave the cursor at the start of a line."""
        if not self._at_line_start:
            self._out.out("", highlight=False)
        self._at_line_start, self._run = True, ""

    def _event(self, delta: Delta) -> None:
        match delta.event:
            case UserMessage(text=text) | Steering(text=text):
                if not self._is_sender:
                    self._person(text)
            case TextDelta(delta=text):
                self._say("text", text, None)
            case ReasoningDelta(delta=text):
                self._say("thinking", text, "dim italic")
            case ToolOutput(data=text, tool_call_id=call):
                self._told.add(call)
                self._say("output", text, "dim")
            case ToolCall(tool_name=name, input=value):
                self._tool(name, value)
            case ToolResult(content=content, is_error=is_error, tool_call_id=call):
                if is_error or call not in self._told:
                    self._result(content, is_error=is_error)
                self._told.discard(call)
            case ErrorEvent(message=message):
                self._line(f"error: {message}", "bold red")
                self._has_failed = True
            case ProviderRetry(message=message, delay_ms=delay):
                self._line(f"the provider failed; again {_soon(delay)}: {message}", "dim")
            case Done(reason=reason):
                # What an error said of the end is not told twice.
                if reason not in {"stop", "error"} and not (
                    self._has_failed and reason == "interrupted"
                ):
                    self._line(f"({reason})", "yellow")
                self._has_failed = False
            case TurnSealed():
                self.end_line()
            case _:
                pass

    def _chunk(self, role: Role, chunk: AnyChunk) -> None:
        match chunk:
            case Text(text=text):
                if role == "user":
                    self._person(text)
                else:
                    self._say("text", text, None)
            case Thinking(text=text):
                self._say("thinking", text, "dim italic")
            case ToolCallChunk(tool_name=name, input=value):
                self._tool(name, value)
            case ToolResultChunk(content=content, is_error=is_error):
                self._result(content, is_error=is_error)
            case ErrorChunk(message=message):
                self._line(f"error: {message}", "bold red")
            case System(text=text):
                self._line(text, "dim")
            case ImageChunk(url=url):
                self._line(f"[image {_clipped(url, 60)}]", "dim")
        self.end_line()

    def _snapshot(self, snapshot: Snapshot) -> None:
        self.end_line()
        if snapshot.missed_after is None:
            note("this place in the log is gone; see dispatch history for what came before")
        else:
            note("some events are gone; from what is kept:")
        self.chunks(snapshot.missed)
        if snapshot.turn is not None:
            self.chunks(snapshot.turn.chunks)
            for request in snapshot.turn.requests:
                self._request(request, snapshot.conversation_id)

    def _request(self, request: RequestOpened | AgentRequest, conversation_id: str) -> None:
        self._line(f"? {request.title}", "bold yellow")
        if request.message:
            self._line(f"  {request.message}", "yellow")
        for option in request.options:
            self._line(f"  - {option.label} ({option.id})", "yellow")
        for question in request.questions:
            choices = f" [{' / '.join(question.options)}]" if question.options else ""
            self._line(f"  - {question.label} ({question.id}){choices}", "yellow")
        # To be copied into a shell, and an agent chose the id.
        answer = shlex.join(["dispatch", "respond", conversation_id, request.request_id])
        choices = "--approve or --deny" if request.kind == "approval" else "--answer KEY=VALUE"
        self._line(f"  {answer} ({choices})", "dim")

    def _person(self, text: str) -> None:
        if not self._is_empty:
            self._line("", "")
        self._line("> " + text.replace("\n", "\n  "), "bold")

    def _tool(self, name: str, value: msgspec.Raw) -> None:
        self._line(f"* {name} {_clipped(bytes(value).decode(), INPUT_CHARACTERS_MAX)}", "cyan")

    def _result(self, content: str, *, is_error: bool) -> None:
        lines = visible(content).rstrip("\n").split("\n")
        more = len(lines) - RESULT_LINES_MAX
        shown = lines[:RESULT_LINES_MAX] + ([f"({more} more lines)"] if more > 0 else [])
        self._line("\n".join(f"  {line}" for line in shown), "red" if is_error else "dim")

    def _say(self, run: str, text: str, style: str | None) -> None:
        """More of a run; another run begins on a line of its own."""
        if not text:
            return
        if run != self._run:
            self.end_line()
            self._run = run
        self._out.out(visible(text), style=style, end="", highlight=False)
        self._at_line_start = text.endswith("\n")
        self._is_empty = False

    def _line(self, text: str, style: str) -> None:
        self.end_line()
        self._out.out(visible(text), style=style or None, highlight=False)
        self._is_empty = False


def show_conversations(
    conversations: Sequence[ConversationSummary], now: datetime, search: str | None = None
) -> None:
    """The list, newest activity first."""
    if not conversations:
        nothing = 'no conversations yet; dispatch send "hello" starts one'
        note(nothing if search is None else f'nothing matches "{search}"')
        return
    styles = {"active": "green", "closed": "dim"}
    show_rows(
        ("conversation", "status", "active", "title"),
        [
            (c.id, c.status, ago(c.last_activity_at, now), " ".join(c.title.split()) or "-")
            for c in conversations
        ],
        [styles.get(c.status, "") for c in conversations],
    )


def show_agents(agents: Sequence[AgentStanding]) -> None:
    """Each with how it is and its models, as `--model` takes them."""
    show_rows(
        ("agent", "kind", "turns", "models", "state"),
        [
            (
                f"{agent.name} (default)" if agent.is_default else agent.name,
                agent.kind,
                _turns(agent),
                _clipped(", ".join(agent.models), _MODELS_CHARACTERS_MAX) or "-",
                agent.problem or "ready",
            )
            for agent in agents
        ],
        ["red" if agent.problem else "" for agent in agents],
    )


def _turns(agent: AgentStanding) -> str:
    turns = str(agent.running) if agent.turns_max is None else f"{agent.running}/{agent.turns_max}"
    return f"{turns}, {agent.waiting} waiting" if agent.waiting else turns


def show_settings(lines: Iterable[str], defaults: set[str]) -> None:
    """What is in force; what differs from the defaults stands out."""
    console = Console(highlight=False)
    for line in lines:
        style = "dim" if line in defaults else "bold"
        console.print(RichText(visible(line), style), soft_wrap=True)


def ago(epoch_ms: float, now: datetime) -> str:
    """A moment of the past in one short word."""
    then = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    seconds = max(0.0, (now - then).total_seconds())
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return "just now"


def _soon(delay_ms: float) -> str:
    """When somebody tries again; nobody waits for 0 s."""
    seconds = round(delay_ms / 1000)
    return f"in {seconds} s" if seconds else "at once"


def show_rows(heading: Sequence[str], rows: Iterable[Sequence[str]], styles: Iterable[str]) -> None:
    """A table whose last column takes what is left; the first ones are copied, so never cut."""
    console = Console(highlight=False)
    shown = [[visible(cell) for cell in row] for row in (heading, *rows)]
    widths = [max(cell_len(row[column]) for row in shown) for column in range(len(heading) - 1)]
    rest = max(console.width - sum(widths) - 2 * len(widths), 12)
    for row, style in zip(shown, ("dim", *styles), strict=True):
        cells = [set_cell_size(cell, width) for cell, width in zip(row, widths, strict=False)]
        last = row[-1] if cell_len(row[-1]) <= rest else set_cell_size(row[-1], rest - 3) + "..."
        console.out("  ".join([*cells, last]), style=style or None, highlight=False)


def _clipped(text: str, characters: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else f"{line[: characters - 3]}..."
