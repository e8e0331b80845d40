"""Between the canonical shapes and the version a client negotiated: states, actions, notifications.

Neighbours: `to_0_7` and `to_0_5_1` are the steps, taken in this order; 1.0 and 0.9 need none.
The host keeps and folds canonical shapes alone and calls this at the rim, once a version.
Invariant: nothing leaves here that the version does not know, and what a version's client folds of
it is what a snapshot would have given it.
"""

from __future__ import annotations

from typing import Final, Protocol

from dispatch.protocol.ahp import to_0_5_1, to_0_7
from dispatch.protocol.ahp.objects import changed
from dispatch.protocol.ahp.reduce import channel_kind, reduce
from dispatch.protocol.ahp.rules import CANONICAL, RULES_0_7, Rules
from dispatch.protocol.ahp.versions import V0_5_1, V0_7, Version, knows
from dispatch.protocol.codec import Object


class _Step(Protocol):
    """What the module of a step has: both directions of it.

    `READS_STATE` names the actions for which the states around them are looked at.
    """

    @property
    def READS_STATE(self) -> frozenset[str]: ...

    def down_state(self, kind: str, state: Object) -> Object: ...

    def down_summary(self, summary: Object) -> Object: ...

    def down_action(self, action: Object, before: Object, after: Object) -> list[Object]: ...

    def up_action(self, action: Object, at: str) -> Object: ...

    def up_params(self, method: str, params: Object) -> Object: ...


_STEPS: Final[dict[Version, tuple[tuple[Rules, _Step], ...]]] = {
    V0_7: ((CANONICAL, to_0_7),),
    V0_5_1: ((CANONICAL, to_0_7), (RULES_0_7, to_0_5_1)),
}
"""The way down to a version: each step with the rules of the version that it starts from."""


def down_state(version: Version, kind: str, state: Object) -> Object:
    """A snapshot's state; `kind` is `root`, `session` or `chat`."""
    for _, step in _STEPS.get(version, ()):
        state = step.down_state(kind, state)
    return state


def down_summary(version: Version, summary: Object) -> Object:
    """A session's summary, or what changed of one."""
    for _, step in _STEPS.get(version, ()):
        summary = step.down_summary(summary)
    return summary


def down_actions(version: Version, action: Object, before: Object, after: Object) -> list[Object]:
    """What a client of the version is told of an action, in order; nothing if it may not know.

    `before` and `after` are the channel's canonical states around the action; where it changed
    nothing they are one object. Several actions are one change: see `envelopes`.
    """
    way, said = _STEPS.get(version, ()), [action]
    for place, (rules, step) in enumerate(way):
        # Pieces of text are most of what is said, and need no state to be brought down.
        if not any(each["type"] in step.READS_STATE for each in said):
            said = [lower for each in said for lower in step.down_action(each, {}, {})]
            continue
        state = _recent(before)
        following = state if after is before else _recent(after)
        # A reader's clock is set by what the host made of the change.
        now = after.get("modifiedAt", "")
        for _, above in way[:place]:
            state = above.down_state(channel_kind(action), state)
        lowered: list[Object] = []
        for each in said:
            if place > 0:
                following = reduce(state, each, rules, now=now)
            lowered += step.down_action(each, state, following)
            state = following
        said = lowered
    return [each for each in said if knows(version, each["type"])]


def _recent(state: Object) -> Object:
    """What steps look at: of a chat the last two turns, whatever its history."""
    turns = state.get("turns", ())
    return changed(state, turns=turns[-2:]) if len(turns) > 2 else state


def down_notification(version: Version, method: str, params: Object) -> Object | None:
    """A notification's params, actions apart; None if the version does not know it."""
    if not knows(version, method):
        return None
    for name in ("summary", "changes"):
        if name in params:
            params = changed(params, **{name: down_summary(version, params[name])})
    return params


def up_action(version: Version, action: Object, at: str) -> Object:
    """What a client of the version dispatched, in canonical shapes; `at` is now (ISO-8601)."""
    for _, step in reversed(_STEPS.get(version, ())):
        action = step.up_action(action, at)
    return action


def up_params(version: Version, method: str, params: Object) -> Object:
    """What a client of the version asks with, in canonical shapes."""
    for _, step in reversed(_STEPS.get(version, ())):
        params = step.up_params(method, params)
    return params
