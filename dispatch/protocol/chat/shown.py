"""What watchers are shown, as types: the events of a turn with their ids, and what is kept of one.

Neighbours: `core.events` has the events, whose stored bytes `frames` splices the same ids into;
`kinds` has the frames around them, `schema` the lines. Source: `protocol/native.md`, 1.4.
Invariant: a type here has the fields and the tag of its core event, and the two ids of the row that
the event is stored in.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dispatch.core import events
from dispatch.core.events import RequestKind, RequestOption, RequestQuestion

__all__ = ["PART1_EVENTS", "SHOWN_EVENTS", "AgentRequest", "StatusEvent"]

# Beside chunks and frames a name must say that it is an event.
_SUFFIX: Final = "Event"


class StatusEvent(msgspec.Struct, frozen=True, kw_only=True, tag="status", tag_field="type"):
    """Reserved: no daemon says this yet."""

    status: str
    conversation_id: str = msgspec.field(name="conversationId")


class AgentRequest(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An agent's question to its watchers, open until the first answer, a stop or the seal."""

    request_id: str
    kind: RequestKind
    title: str
    message: str | None = None
    tool_call_id: str | None = None
    options: tuple[RequestOption, ...] = ()
    questions: tuple[RequestQuestion, ...] = ()


def _shown(kind: type[events.Event], *more: tuple[str, Any, object]) -> type[msgspec.Struct]:
    """An event as watchers get it."""
    return msgspec.defstruct(
        kind.__name__.removesuffix(_SUFFIX) + _SUFFIX,
        [("conversation_id", str), ("turn_id", str), *more],
        bases=(kind,),
        namespace={"__doc__": kind.__doc__},
        module=__name__,
        frozen=True,
        kw_only=True,
    )


# The healing of old connections repeats a seal (`protocol/native.md`, 1.7).
_REPEAT: Final = ("repeat", bool, False)

# Part 1 is told so of a steer that was taken.
_CLIENT_ID: Final = ("client_message_id", str | None, None)

_OF_ALL: Final = (
    _shown(events.UserMessage, _CLIENT_ID),
    _shown(events.TurnStart),
    _shown(events.TextDelta),
    _shown(events.ReasoningDelta),
    _shown(events.ToolCall),
    _shown(events.ToolOutput),
    _shown(events.ToolResult),
    _shown(events.Usage),
    _shown(events.StepComplete),
    _shown(events.ErrorEvent),
    _shown(events.Done),
    _shown(events.TurnSealed, _REPEAT),
    StatusEvent,
)

PART1_EVENTS: Final[tuple[type[msgspec.Struct], ...]] = _OF_ALL
"""What connections of Part 1 get, and the lines of `POST /chat`: they get no more kinds, ever."""

SHOWN_EVENTS: Final[tuple[type[msgspec.Struct], ...]] = (
    *_OF_ALL,
    _shown(events.Steering),
    _shown(events.ProviderRetry),
)
"""What connections of `dispatch.v1` get; a request is a frame of its own there."""
