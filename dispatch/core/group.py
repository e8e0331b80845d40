"""One group: its members in order, its title, and what a change of either makes of it.

Neighbours: `runtime.groups` carries changes out and keeps `Group` in its timeline's row;
`protocol.groups` shows it. Source: `protocol/groups.md`.
Invariant: an agent is a member once, and a group has at least one; a former member that comes back
gets a new conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from dispatch.core.identity import ConversationId

# How many names a title spells out.
_TITLE_NAMES: Final = 2


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """An agent in a group and its conversation; an adopted one was there before the group."""

    agent: str
    conversation: ConversationId
    is_adopted: bool = False


class FormerMember(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who was removed, and when (epoch ms)."""

    agent: str
    conversation: ConversationId
    archived_at_ms: int
    is_adopted: bool = False


class Group(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a group is beside its rows; stored with its timeline.

    `title` is None where it follows from the members. `session` is what its members share.
    """

    members: tuple[Member, ...]
    former: tuple[FormerMember, ...] = ()
    title: str | None = None
    session: str = ""

    @property
    def shown_title(self) -> str:
        """The title given, or the one that follows from the members."""
        if self.title is not None:
            return self.title
        names = [member.agent for member in self.members]
        if len(names) <= _TITLE_NAMES:
            return " & ".join(names)
        return f"{', '.join(names[:_TITLE_NAMES])} +{len(names) - _TITLE_NAMES}"

    def member(self, agent: str) -> Member | None:
        """The member of this name."""
        return next((member for member in self.members if member.agent == agent), None)

    def conversations(self) -> list[ConversationId]:
        """Those of all members, past ones too."""
        present = [member.conversation for member in self.members]
        return [*present, *(former.conversation for former in self.former)]


class GroupRun(msgspec.Struct, frozen=True, kw_only=True):
    """What is still to be answered of one message: `pending` agents in member order."""

    user_seq: int
    pending: tuple[str, ...]
    started_at_ms: int


class GroupView(msgspec.Struct, frozen=True, kw_only=True):
    """A group as its clients see it."""

    id: str
    group: Group
    created_at_ms: int
    updated_at_ms: int
    last_seq: int
    runs: tuple[GroupRun, ...] = ()


def deduplicated(names: Iterable[str]) -> tuple[str, ...]:
    """In the order given, each once."""
    return tuple(dict.fromkeys(names))


def unprovisioned(agents: Iterable[str]) -> tuple[Member, ...]:
    """Members that have no conversation yet."""
    return tuple(Member(agent, ConversationId("")) for agent in agents)


def with_members(
    group: Group, wanted: Sequence[str], conversations: dict[str, ConversationId], now_ms: int
) -> Group:
    """The group with exactly these members in this order.

    `conversations` has those of the agents that are new to it. Who is left out becomes a former
    member.
    """
    members = tuple(
        group.member(agent) or Member(agent, conversations[agent]) for agent in deduplicated(wanted)
    )
    gone = tuple(
        FormerMember(member.agent, member.conversation, now_ms, member.is_adopted)
        for member in group.members
        if member.agent not in wanted
    )
    return msgspec.structs.replace(group, members=members, former=(*group.former, *gone))


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Group)


def encode_group(group: Group) -> bytes:
    """As stored with its timeline."""
    return _ENCODER.encode(group)


def decode_group(data: bytes) -> Group:
    """As read with its timeline."""
    return _DECODER.decode(data)
