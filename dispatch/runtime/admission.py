"""One send on its way in, and the turn it becomes.

Neighbours: `broker` makes an `Admission` and waits for it, `live` places it, `turns` runs the
`CurrentTurn`. Both are data with events to wait for; neither decides anything.
Invariant: an admission is settled exactly once (`settling`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import anyio
import msgspec

from dispatch.agents.port import Agent, AgentFailure, Input
from dispatch.core.commands import Accepted, OnBusy, TurnBody
from dispatch.core.content import Fold
from dispatch.core.identity import ConversationId, Principal, TurnId, UserId
from dispatch.core.turn import Turn
from dispatch.runtime.settling import Settling, nothing
from dispatch.settings import Limits
from dispatch.storage.keys import TurnKey
from dispatch.storage.port import TurnRecord

_BODY_ENCODER: Final = msgspec.json.Encoder()
_BODY_DECODER: Final = msgspec.json.Decoder(TurnBody)
_ACCEPTED_ENCODER: Final = msgspec.json.Encoder()
_ACCEPTED_DECODER: Final = msgspec.json.Decoder(Accepted)


def encode_body(body: TurnBody) -> bytes:
    """As stored in the turn's row."""
    return _BODY_ENCODER.encode(body)


def decode_body(data: bytes) -> TurnBody:
    """As read from the turn's row."""
    return _BODY_DECODER.decode(data)


def body_digest(body: TurnBody) -> bytes:
    """What makes two sends the same: message and images, or the turn that they resume."""
    said = (body.message, body.images) if body.resumes is None else {"resume": body.resumes}
    return hashlib.sha256(_BODY_ENCODER.encode(said)).digest()


def client_key_of(
    principal: Principal, conversation: ConversationId | None, client_message_id: str
) -> str:
    """What a client's id is unique as: within (account, user, conversation)."""
    scope = conversation or ""
    return "\x1f".join((principal.account, principal.user, scope, client_message_id))


def client_message_id_of(record: TurnRecord) -> str | None:
    """The client's own id of a message, as in `client_key_of`."""
    return None if record.client_key is None else record.client_key.split("\x1f", 3)[-1]


def encode_accepted(accepted: Accepted) -> bytes:
    """As stored for a repeat."""
    return _ACCEPTED_ENCODER.encode(accepted)


def decode_accepted(data: bytes) -> Accepted:
    """As read for a repeat."""
    return _ACCEPTED_DECODER.decode(data)


@dataclass(slots=True, kw_only=True, eq=False)
class Admission(Settling[Accepted]):
    """A send and whom to tell. `waits` runs before it is made to wait and may raise `TooMany`,
    `check` whenever it is placed, and may raise what refuses it.
    """

    key: TurnKey
    turn_id: TurnId
    user: UserId
    body: TurnBody
    on_busy: OnBusy
    client_key: str | None = None
    digest: bytes = b""
    workspace: str | None = None
    waits: Callable[[], None] = nothing
    check: Callable[[], None] = nothing

    def _settle(self) -> None:
        # These have the admission themselves: see `outcome`.
        self.waits = self.check = nothing
        super(Admission, self)._settle()


class TurnInbox:
    """What comes in for a running agent, in order.

    Bounded by what fills it: steers by `queue_turns_max`, answers by the agent's own requests.
    """

    __slots__ = ("_arrived", "_inputs")

    def __init__(self) -> None:
        """Begin empty."""
        self._inputs: deque[Input] = deque()
        self._arrived = asyncio.Event()

    def put(self, given: Input) -> None:
        """Hand something in."""
        self._inputs.append(given)
        self._arrived.set()

    def receive_nowait(self) -> Input | None:
        """See `agents.port.Inbox`."""
        return self._inputs.popleft() if self._inputs else None

    async def receive(self) -> Input:
        """See `agents.port.Inbox`."""
        while not self._inputs:
            self._arrived.clear()
            await self._arrived.wait()
        return self._inputs.popleft()

    async def __aiter__(self) -> AsyncIterator[Input]:
        """See `agents.port.Inbox`."""
        while True:
            yield await self.receive()


class CurrentTurn:
    """The running turn's side of the runtime: what it has grown to and how to stop it.

    `begun` is set once its start is durable (or was refused), `sealed` once its end is; `gone` once
    nothing of its agent is left.
    """

    __slots__ = (
        "agent",
        "begun",
        "body",
        "bytes_total",
        "conversation",
        "first_offset",
        "fold",
        "gone",
        "has_text",
        "id",
        "inbox",
        "is_asked",
        "is_unwanted",
        "key",
        "scope",
        "sealed",
        "started_ms",
        "started_s",
        "user",
    )

    def __init__(
        self,
        record: TurnRecord,
        conversation: ConversationId,
        body: TurnBody,
        agent: Agent | None,
        *,
        now_ms: int,
        now_s: float,
    ) -> None:
        """`agent` is None where the turn's agent is not configured."""
        self.key = record.key
        self.id = record.id
        self.user = record.user
        self.conversation = conversation
        self.body = body
        self.agent = agent
        self.fold = Fold()
        self.inbox = TurnInbox()
        self.bytes_total = 0
        self.has_text = False
        # Its agent was handed the prompt.
        self.is_asked = False
        # Somebody stopped it before its start was durable.
        self.is_unwanted = False
        self.first_offset: int | None = None
        self.started_ms = now_ms
        self.started_s = now_s
        self.scope: anyio.CancelScope | None = None
        self.begun = asyncio.Event()
        self.sealed = asyncio.Event()
        self.gone = asyncio.Event()

    def check_bytes(self, bytes_max: int) -> None:
        """Raise `AgentFailure` where its events are more than a turn may write."""
        if self.bytes_total > bytes_max:
            raise AgentFailure(f"the turn is over its {bytes_max} bytes", "turn_too_large")


def check_parts(running: Turn | None, limits: Limits) -> None:
    """Raise `AgentFailure` where a turn has more to be closed, or remembered, than is allowed."""
    if running is not None and running.open_count > limits.turn_open_max:
        raise AgentFailure(
            f"more than {limits.turn_open_max} tool calls and requests are open", "too_many"
        )
    if running is not None and running.part_count > limits.turn_parts_max:
        raise AgentFailure(
            f"the turn has more than {limits.turn_parts_max} tool calls and steps", "too_many"
        )
