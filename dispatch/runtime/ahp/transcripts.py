"""Chats that a message refers to, as text for its agent: what was said there, up to a turn.

Neighbours: `dispatching` asks before it sends; `protocol.ahp.intents` names them.
Invariant: a transcript is of the moment of its acceptance, of a chat that the sender may see, and
is not expanded again: what its own messages refer to stays a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dispatch.core.identity import Principal
from dispatch.errors import Gone, NotFound, PeerError
from dispatch.protocol.ahp.intents import Transcript
from dispatch.protocol.codec import Object
from dispatch.runtime.ahp.host import Host

_CHARACTERS_MAX: Final = 100_000
"""Of one message's, all together; what an agent reads of its own history is bounded likewise."""


async def with_transcripts(
    host: Host, principal: Principal, text: str, wanted: Sequence[Transcript]
) -> str:
    """The text behind what was said elsewhere; raises `PeerError` for what is not there."""
    parts = []
    for one in wanted:
        try:
            async with host.following(principal, one.chat) as scope:
                state = scope.state_of(one.chat)
        except (NotFound, Gone):
            state = None
        if state is None or "turns" not in state:
            raise PeerError("the message refers to a chat that is not there")
        turns = _up_to(state["turns"], one.end_turn)
        parts.append(f"[{state['title'] or 'Chat'}]\n{_told(turns)}")
    whole = "\n\n".join(parts)
    return text if not whole else f"{whole[-_CHARACTERS_MAX:]}\n\n{text}"


def _up_to(turns: list[Object], end_turn: str | None) -> list[Object]:
    if end_turn is None:
        return turns
    for place, turn in enumerate(turns):
        if turn["id"] == end_turn:
            return turns[: place + 1]
    raise PeerError("the message refers to a turn that is not finished")


def _told(turns: list[Object]) -> str:
    lines = []
    for turn in turns:
        lines.append(f"User: {turn['message']['text']}")
        said = [part["content"] for part in turn["responseParts"] if part.get("kind") == "markdown"]
        if said:
            lines.append(f"Assistant: {''.join(said)}")
    return "\n\n".join(lines)
