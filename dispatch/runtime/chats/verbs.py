"""Everything that may be done with chat sessions, put together.

Neighbours: `compose` and `testing.harness` build one; the routes and the WebSocket call its parts.
Invariant: there is one `ChatStreams` in a daemon, or nobody would see all that is published.
"""

from __future__ import annotations

from dataclasses import dataclass

from dispatch.runtime.accounts import Accounts
from dispatch.runtime.broker import Broker
from dispatch.runtime.catalog import Catalog
from dispatch.runtime.chats.catalog import Chats
from dispatch.runtime.chats.reading import ChatReading
from dispatch.runtime.chats.sends import ChatSends
from dispatch.runtime.chats.streams import ChatStreams
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.services import Services
from dispatch.runtime.timelines import Timelines


@dataclass(frozen=True, slots=True)
class ChatVerbs:
    """What changes sessions, what says something in them, what looks, and who follows."""

    chats: Chats
    sends: ChatSends
    reading: ChatReading
    streams: ChatStreams


def chat_verbs(
    services: Services,
    conversations: Conversations,
    timelines: Timelines,
    broker: Broker,
    catalog: Catalog,
    accounts: Accounts,
) -> ChatVerbs:
    """The verbs over one daemon's parts; before anything is recovered."""
    chats = Chats(services, conversations, timelines, broker, catalog, accounts)
    return ChatVerbs(chats, ChatSends(chats), ChatReading(chats), chats.streams)
