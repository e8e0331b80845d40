"""What a dialect may ask of a conversation: one class a wish, already validated.

Neighbours: dialects make these from bytes, `runtime.broker` carries them out, `conversation`
decides. Source: `protocol/native.md`, sections 1.2, 1.6 and Part 2.
Invariant: nothing behind a dialect validates a field of these again.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dispatch.core.events import Image
from dispatch.core.identity import ConversationId, Position, TurnId

OnBusy = Literal["reject", "queue", "steer", "interrupt"]
ReasoningEffort = Literal["low", "medium", "high", "xhigh", "max"]


class Dispatched(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Whose wish something is in a dialect where clients number theirs, and what they call it.

    `client` and `client_seq` say which wish of which client. Of a message `turn` names its turn,
    `pending` it while it waits, `kind` what it was to wait for, and `message` is it as it was
    written, in JSON, where that says more than its text.
    """

    client: str
    client_seq: int
    turn: str | None = None
    pending: str | None = None
    kind: Literal["steering", "queued"] | None = None
    message: str | None = None


class TurnBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What a turn is asked to do; stored with it. `model` is `AGENT` or `AGENT/MODEL`.

    One that `resumes` a turn has the message of that turn, which is not said again;
    `first_started_at_ms` is when the first of the turns began that it goes on with (epoch ms).
    """

    message: str
    images: tuple[Image, ...] = ()
    model: str | None = None
    cwd: str | None = None
    reasoning_effort: ReasoningEffort | None = None
    resumes: TurnId | None = None
    first_started_at_ms: int | None = None
    dispatched: Dispatched | None = None


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """Start a turn, or do what `on_busy` says if one runs. No id: a new conversation."""

    body: TurnBody
    conversation: ConversationId | None = None
    workspace: str | None = None
    client_message_id: str | None = None
    on_busy: OnBusy = "reject"


class Truncate(msgspec.Struct, frozen=True, kw_only=True):
    """Keep what is said up to and including `after_turn` (None: nothing), ending what runs; `by` is
    whose wish it is, where clients number theirs.
    """

    conversation: ConversationId
    after_turn: TurnId | None
    client_message_id: str | None = None
    by: Dispatched | None = None


class Cut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a `Truncate`, durable before it is told; stored for repeats.

    `offset` is that of its event.
    """

    conversation: ConversationId
    after_turn: TurnId | None = None
    offset: int
    duplicate: bool = False


class Subscribe(msgspec.Struct, frozen=True, kw_only=True):
    """Watch: from `after`, or with history after `since_seq`, or from the turn in flight."""

    conversation: ConversationId
    after: Position | None = None
    since_seq: int | None = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a `Send`, durable before it is told; stored for repeats.

    `offset` is the conversation's last one before the turn (or before now, if it waits).
    """

    conversation: ConversationId
    turn: TurnId
    place: Literal["started", "queued", "steered"]
    offset: int
    duplicate: bool = False
