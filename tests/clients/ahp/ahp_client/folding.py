"""Which reducer folds an action, by the first word of its type.

Neighbours: `copies`, which folds what comes; `fold_*`, one for each kind of channel.
Invariant: an action of another kind of channel changes nothing.
"""

from __future__ import annotations

from tests.clients.ahp.ahp_client.fold_chat import chat_folded
from tests.clients.ahp.ahp_client.fold_session import root_folded, session_folded
from tests.clients.ahp.ahp_client.words import Json, Moment

_FOLDS = {"root": root_folded, "session": session_folded, "chat": chat_folded}


def kind_of(state: Json) -> str:
    """Whose state this is: `root`, `session` or `chat`."""
    if "agents" in state:
        return "root"
    return "session" if "lifecycle" in state else "chat"


def folded(kind: str, state: Json, action: Json, moment: Moment) -> Json:
    """The state after an action, the same object where it changes nothing."""
    if action["type"].partition("/")[0] != kind:
        return state
    return _FOLDS[kind](state, action, moment)
