"""Everything that may be done to groups, in one record for those who put a daemon together.

Neighbours: `compose` makes one, `server` calls what is in it.
Invariant: all of its parts share the same live timelines.
"""

from __future__ import annotations

from typing import NamedTuple

from dispatch.runtime.accounts import Accounts
from dispatch.runtime.catalog import Catalog
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.groups.adopting import GroupAdopting
from dispatch.runtime.groups.catalog import Groups
from dispatch.runtime.groups.reading import GroupReading
from dispatch.runtime.groups.sends import GroupSends
from dispatch.runtime.groups.stops import GroupStops
from dispatch.runtime.services import Services
from dispatch.runtime.timelines import Timelines


class GroupVerbs(NamedTuple):
    """The verbs of groups, by what they are about, and the live timelines."""

    timelines: Timelines
    groups: Groups
    adopting: GroupAdopting
    sends: GroupSends
    stops: GroupStops
    reading: GroupReading


def group_verbs(
    services: Services, conversations: Conversations, catalog: Catalog, accounts: Accounts
) -> GroupVerbs:
    """All of them, with timelines kept for these conversations from now on."""
    timelines = Timelines(services)
    conversations.keeper = timelines
    stops = GroupStops(services, conversations, timelines)
    return GroupVerbs(
        timelines,
        Groups(services, conversations, catalog, timelines, stops),
        GroupAdopting(services, conversations, timelines),
        GroupSends(services, conversations, accounts, timelines, stops),
        stops,
        GroupReading(services),
    )
