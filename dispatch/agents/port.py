"""The agent's port: a turn's request goes in, events come out through `emit`.

Neighbours: `runtime.turns` runs an agent under a deadline and is its only caller; `core.events` is
what it emits. `run` is a coroutine and not an async iterator, so that an adapter may keep its tasks
in a task group for the whole turn. `agents.python` puts generators that people write on top of it.
Invariant: when `run` has returned, raised or been cancelled, nothing of the turn survives: no
process, no task, no open file. What is the conversation's, and not the turn's, may be kept by an
agent that is `Resident`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final, Literal, Protocol, runtime_checkable

import msgspec
from anyio.abc import TaskStatus

from dispatch.core.content import StoredLine
from dispatch.core.events import AgentEvent, Image, Response
from dispatch.core.identity import LOCAL, AccountId, ConversationId, TurnId

ReasoningEffort = Literal["low", "medium", "high", "xhigh", "max"]


class Steer(msgspec.Struct, frozen=True, tag="steer", omit_defaults=True, rename="camel"):
    """Text for the running turn; acknowledged by emitting `Steering(text)`.

    Where several wait, the id of the one that was taken may be repeated in it.
    """

    text: str
    client_message_id: str | None = None


class Respond(msgspec.Struct, frozen=True, tag="respond"):
    """The answer to a request the agent emitted."""

    response: Response


Input = Steer | Respond


async def _no_turn() -> TurnId | None:
    """Nothing was said before."""
    return None


async def nothing_said() -> list[StoredLine]:
    """It is no turn that goes on with another."""
    return []


GO_ON: Final = (
    "Your answer broke off. Go on where it did, without saying again what you have said already."
)
"""What an agent that has to be told something is told where a turn is resumed."""

Emit = Callable[[AgentEvent], Awaitable[None]]
"""Hands one event to the broker, in order.

Returns once the broker can take more: this wait is the only backpressure an agent meets. One caller
at a time, from any task that ends before `run` does; a cancelled `emit` may or may not have been
taken, and nothing may be emitted after it.
"""


class Inbox(Protocol):
    """What comes in while a turn runs: steering text and answers, in order."""

    def __aiter__(self) -> AsyncIterator[Input]:
        """Wait for and yield each input; never ends by itself (the turn's end cancels it)."""
        ...

    async def receive(self) -> Input:
        """Wait for the next input."""
        ...

    def receive_nowait(self) -> Input | None:
        """The next input if one is waiting."""
        ...


class TurnRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an agent is told about the turn it is to run.

    `message` is the user's text, untrimmed; `model` what follows the agent's name in the client's
    `model`. `history()` loads the conversation's sealed chunks, oldest first, bounded by
    `history_bytes_max` and never splitting a turn; the turn's own message is not in it.
    `conversation_id` is unique in its `account` alone. `previous_turn()` is the newest turn of that
    history, whichever agent ran it: who remembers another one has missed something. Turns that only
    failed are in neither.

    With `resumes` the turn goes on with one that failed: `message` and `images` are those of that
    turn, and nobody said them again. `said()` is what the agent said in it, in words and with
    tools. Where that is nothing, it is as if the message had just come; else `history()` ends with
    the message and what was said, and whoever prompts a model prompts it to go on (`GO_ON`).
    """

    conversation_id: ConversationId
    turn_id: TurnId
    message: str
    inbox: Inbox
    history: Callable[[], Awaitable[list[StoredLine]]]
    account: AccountId = LOCAL.account
    previous_turn: Callable[[], Awaitable[TurnId | None]] = _no_turn
    images: tuple[Image, ...] = ()
    model: str | None = None
    cwd: str | None = None
    reasoning_effort: ReasoningEffort | None = None
    system_prompt: str | None = None
    resumes: TurnId | None = None
    said: Callable[[], Awaitable[list[StoredLine]]] = nothing_said


class AgentInfo(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What clients are told about an agent: its models (the part after `NAME/`), whether it takes
    steering and how many of its turns run at a time (None: as many as there are). `problem` says
    why it cannot run now, if it cannot.
    """

    name: str
    kind: str
    models: tuple[str, ...] = ()
    steer: bool = False
    turns_max: int | None = None
    problem: str | None = None


class Agent(Protocol):
    """One configured backend. Its instance serves many turns at once."""

    @property
    def info(self) -> AgentInfo:
        """What it is; cheap, no I/O."""
        ...

    @property
    def cwd_roots(self) -> tuple[Path, ...]:
        """Directories a client's `cwd` must resolve into (`options.resolve_cwd`); none: refused."""
        ...

    async def run(self, request: TurnRequest, emit: Emit) -> None:
        """Run one turn to its end, emitting what happens.

        Returns: the turn completed (a `Done` emitted last names another reason). Raises: the turn
        ends with an `error` event; `AgentFailure` gives its text and code, and any other exception
        is a defect whose words are not shown. Must react to cancellation at every await, and be
        gone within the adapter's grace.
        """
        ...

    async def probe(self) -> None:
        """Look again whether it can run and which models it has, for `info` to say.

        Never raises; whoever asks bounds the wait, and `info` then says what it said before.
        """
        ...

    async def aclose(self) -> None:
        """Let go of what outlives a turn; idempotent."""
        ...


@runtime_checkable
class Resident(Protocol):
    """What an agent may be besides: one that keeps something between turns."""

    async def reside(self, *, task_status: TaskStatus[None]) -> None:
        """Hold what is kept, from `started` (turns come after it) until `aclose` or cancelled."""
        ...


class AgentFailure(Exception):
    """An agent's own failure with the text and code that its `error` event carries."""

    def __init__(self, message: str, code: str = "agent_failed") -> None:
        """`message` is shown to people."""
        super().__init__(message)
        self.message = message
        self.code = code
