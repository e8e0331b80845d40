"""The fold: a channel's state and an action give its next state.

Neighbours: `root`, `session` and `chat` have the rules of their channels, `rules` what versions
differ in. The host folds with the canonical rules before it shows an action to anybody.
Invariant: total and pure: an action of another channel, of an unknown type or without an object to
act on gives the very same state back.
"""

from __future__ import annotations

from collections.abc import Iterable

from dispatch.protocol.ahp.chat import reduce_chat
from dispatch.protocol.ahp.root import reduce_root
from dispatch.protocol.ahp.rules import CANONICAL, Rules
from dispatch.protocol.ahp.session import reduce_session
from dispatch.protocol.codec import Object

_REDUCERS = {"root": reduce_root, "session": reduce_session, "chat": reduce_chat}


def channel_kind(action: Object) -> str:
    """Which reducer an action is for: what is before the slash of its type."""
    kind, _, _ = str(action.get("type", "")).partition("/")
    return kind


def reduce(state: Object, action: Object, rules: Rules = CANONICAL, *, now: str = "") -> Object:
    """The state after an action; the same object where the action changes nothing.

    `now` (ISO-8601) is read by versions before 0.9 alone.
    """
    reducer = _REDUCERS.get(channel_kind(action))
    return state if reducer is None else reducer(state, action, rules, now)


def fold(state: Object, actions: Iterable[Object], rules: Rules = CANONICAL) -> Object:
    """The state after all of them."""
    for action in actions:
        state = reduce(state, action, rules)
    return state
