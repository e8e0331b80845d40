"""New conversations for members of a group: made in memory, written with the group's own change.

Neighbours: `groups` provisions the members of a new group and those that are added, `groups.sends`
those whose conversation somebody deleted.
Invariant: either every one of them and the change of the group is durable, or none is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from dispatch.core.group import Group, Member
from dispatch.core.identity import ConversationId, Principal
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft
from dispatch.storage.timeline import TimelineRecord


class Provision:
    """Conversations on their way, by agent. `members` are what they make of the agents."""

    def __init__(
        self,
        conversations: Conversations,
        principal: Principal,
        record: TimelineRecord,
        group: Group,
        agents: Sequence[str],
    ) -> None:
        """Make one for each agent; `keep` or `drop` follows."""
        self._conversations = conversations
        self._lives: dict[str, Live] = {}
        self._written: frozenset[str] = frozenset()
        self.members: dict[str, Member] = {}
        for agent in agents:
            conversation = ConversationId(conversations.services.ids.new("c"))
            live = conversations.make(principal, conversation)
            live.record.session = group.session
            live.record.title = f"{agent} in {record.title}"
            live.details = msgspec.structs.replace(
                live.details, model=agent, title_is_given=True, timeline=("group", record.id)
            )
            self._lives[agent] = live
            self.members[agent] = Member(agent, conversation)

    def write(self, draft: Draft, agents: Collection[str] | None = None) -> None:
        """Add their rows; of the others, if only some are wanted after all, nothing is kept."""
        self._written = frozenset(self._lives if agents is None else agents)
        for agent, live in self._lives.items():
            if agent in self._written:
                self._conversations.keeper.placed(live)
                live.write_row(draft, 0)

    def keep(self, timeline: GroupTimeline) -> None:
        """They are durable: from now on their turns may be the group's."""
        for agent, live in self._lives.items():
            if agent in self._written:
                live.is_stored = True
                timeline.users += 1
                live.attach(timeline)
            self._conversations.release(live)

    def drop(self) -> None:
        """They never were."""
        for live in self._lives.values():
            self._conversations.release(live)
