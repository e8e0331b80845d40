"""What is answered to who forks a conversation or opens a side chat, over either transport.

Neighbours: `wishes` and `routes_conversations` ask, `runtime.catalog` does it.
Invariant: the reply names what it came out of as what it is.
"""

from __future__ import annotations

from typing import Any

from dispatch.core.identity import ConversationId, Principal, TurnId
from dispatch.runtime.catalog import Catalog


async def branched(
    catalog: Catalog,
    principal: Principal,
    conversation: ConversationId,
    turn: TurnId,
    *,
    is_side_chat: bool,
) -> dict[str, Any]:
    """Make it; the fields of the reply."""
    origin = {"conversationId": conversation, "turnId": turn}
    if is_side_chat:
        made = await catalog.side_chat(principal, conversation, turn)
        return {"conversationId": made, "sideChatOf": origin}
    made = await catalog.fork(principal, conversation, turn)
    return {"conversationId": made, "forkedFrom": origin}
