"""What the daemon's HTTP routes answer, as types; the source is `protocol/native.md`, 1.6 and 2.2.

Neighbours: `http` asks and reads these; groups and chat sessions have types of their own in their
dialects (`protocol.groups.schema`, `protocol.sessions.schema`).
Invariant: a daemon that says more than this is understood all the same.
"""

from __future__ import annotations

import msgspec

from dispatch.core.content import StoredChunk
from dispatch.core.events import TokenUsage


class Reply(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The body of a reply."""


class TurnPlace(Reply, frozen=True):
    """A sealed turn: the seqs of its chunks, how it ended, when (epoch ms), and who answered."""

    turn_id: str
    first_seq: int
    last_seq: int
    outcome: str
    sealed_at: int
    agent: str | None = None


class HistoryPage(Reply, frozen=True):
    """Sealed chunks, in order, and, where a `limit` was given, the turns that they are of."""

    chunks: tuple[StoredChunk, ...]
    latest_seq: int
    turns: tuple[TurnPlace, ...] = ()


class ConversationSummary(Reply, frozen=True):
    """A line of the list. Times in epoch milliseconds."""

    id: str
    created_at: int
    last_activity_at: int
    title: str
    status: str
    workspace_id: str
    compacted_from: str | None = None


class ConversationList(Reply, frozen=True):
    """Newest activity first."""

    conversations: tuple[ConversationSummary, ...]


class Models(Reply, frozen=True):
    """What `model` accepts: `AGENT` or `AGENT/MODEL`."""

    models: tuple[str, ...]


class AgentStanding(Reply, frozen=True):
    """How an agent is: `problem` says why it cannot run now; of its turns `running` and `waiting`
    count those of this moment, and `turns_max` may run at a time (None: as many as there are).
    """

    name: str
    kind: str
    running: int
    waiting: int
    models: tuple[str, ...] = ()
    steer: bool = False
    is_default: bool = False
    turns_max: int | None = None
    problem: str | None = None


class Agents(Reply, frozen=True):
    """The configured agents, the default one first."""

    agents: tuple[AgentStanding, ...]


class TurnMetrics(Reply, frozen=True):
    """What one sealed turn cost; one that is `superseded` was left behind by a truncation."""

    turn_id: str
    usage: TokenUsage | None = None
    duration_ms: float | None = None
    superseded: bool = False


class Metrics(Reply, frozen=True):
    """Of the sealed turns of a conversation."""

    turns: tuple[TurnMetrics, ...]


class StopReply(Reply, frozen=True):
    """Whether a turn was running and has been told to stop."""

    conversation_id: str
    aborted_turn: bool


class QueuedMessage(Reply, frozen=True):
    """A message that waits for its turn. `queued_at` in epoch milliseconds."""

    id: str
    text: str
    queued_at: int


class QueueReply(Reply, frozen=True):
    """The queue after a message was added; `started_turn` if nothing was running."""

    conversation_id: str
    started_turn: bool
    queue: tuple[QueuedMessage, ...] = ()


class ReadState(Reply, frozen=True):
    """How far the user has read, and how many chunks are behind that."""

    conversation_id: str
    last_read_seq: int
    unread: int
