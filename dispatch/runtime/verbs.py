"""Everything that may be done, in one record for those who put a daemon together.

Neighbours: `compose` makes one of a daemon's services, `server` calls what is in it.
Invariant: all of its parts share the same live conversations and timelines.
"""

from __future__ import annotations

from typing import NamedTuple

from dispatch.runtime.accounts import Accounts
from dispatch.runtime.broker import Broker
from dispatch.runtime.catalog import Catalog
from dispatch.runtime.chats.verbs import ChatVerbs, chat_verbs
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.groups.verbs import GroupVerbs, group_verbs
from dispatch.runtime.history import History
from dispatch.runtime.people.catalog import People
from dispatch.runtime.recovery import recover
from dispatch.runtime.services import Services


class Verbs(NamedTuple):
    """The verbs by what they are about, and what they work on."""

    accounts: Accounts
    conversations: Conversations
    history: History
    broker: Broker
    catalog: Catalog
    groups: GroupVerbs
    chats: ChatVerbs
    people: People

    async def recover(self, services: Services) -> None:
        """Take over what a dead incarnation left; before anybody may come in."""
        await recover(services, self.conversations)
        await self.groups.timelines.recover(self.conversations.has_turn)


def all_verbs(services: Services) -> Verbs:
    """All of them, on these services."""
    limits = services.limits
    accounts = Accounts(limits, services.clock)
    conversations = Conversations(services)
    history = History(
        services.store,
        bytes_max=limits.history_bytes_max,
        held_bytes_max=limits.history_held_bytes_max,
    )
    broker = Broker(services, conversations, accounts, history)
    catalog = Catalog(services, conversations, accounts, history)
    groups = group_verbs(services, conversations, catalog, accounts)
    chats = chat_verbs(services, conversations, groups.timelines, broker, catalog, accounts)
    people = People(services, conversations, broker, catalog, chats.chats, accounts)
    return Verbs(accounts, conversations, history, broker, catalog, groups, chats, people)
