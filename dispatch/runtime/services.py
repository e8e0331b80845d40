"""What every live conversation is given: the ports and the bounds, in one record.

Neighbours: `compose` makes one, `broker` passes it on.
Invariant: nothing here belongs to one conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from dispatch.agents.port import Agent
from dispatch.runtime.clock import Clock, Ids, PassedTime
from dispatch.runtime.feed import Feeds
from dispatch.runtime.journal import Journal
from dispatch.runtime.roster import Roster
from dispatch.runtime.slots import Slots
from dispatch.settings import GroupsSettings, Limits
from dispatch.storage.port import Opened, Store

if TYPE_CHECKING:
    from dispatch.runtime.admission import CurrentTurn
    from dispatch.runtime.live import Live


def _unobserved(_seconds: float) -> None:
    """Nobody measures."""


def _unwired(*_: object) -> None:
    raise AssertionError("the broker wires these before anything runs")


@dataclass(slots=True)
class Services:
    """The ports and bounds of one daemon.

    `slots` bounds the turns of groups and chat sessions, `roster` those of each agent. `launch`
    starts a turn's agent in the broker's task group, `start` an errand; `began` and `ended` count
    turns, `ended` also when one never was; `is_draining` refuses and holds back new turns. `keys`
    numbers rows; `first_delta` observes the seconds from a turn's start to its first durable text.
    """

    store: Store
    opened: Opened
    feeds: Feeds
    journal: Journal
    clock: Clock
    ids: Ids
    limits: Limits
    agents: Mapping[str, Agent]
    default_agent: str
    keys: count[int]
    slots: Slots = field(default_factory=lambda: Slots(GroupsSettings().runs_max))
    first_delta: Callable[[float], None] = _unobserved
    launch: Callable[[Live, CurrentTurn], None] = _unwired
    start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None] = _unwired
    began: Callable[[Live], None] = _unwired
    ended: Callable[[Live], None] = _unwired
    is_draining: bool = False
    passed: PassedTime = field(init=False)
    roster: Roster = field(init=False)

    def __post_init__(self) -> None:
        """Time passes from here on."""
        self.passed = PassedTime(self.clock)
        self.roster = Roster(self.agents, self.default_agent, self.clock)

    def observe_first_delta(self, started_s: float, _offset: int) -> None:
        """The first text of a turn that started then is durable."""
        self.first_delta(self.clock.monotonic() - started_s)

    def agent_of(self, model: str | None) -> tuple[str, Agent | None, str | None]:
        """The agent's name, the agent if configured, and what of `model` goes to it."""
        name, _, rest = (model or self.default_agent).partition("/")
        return name, self.agents.get(name), rest or None
