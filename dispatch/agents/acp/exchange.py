"""One prompt and all that the agent says about it, in order, until it is answered.

Neighbours: `session` puts in what arrives, `agent` takes it out; `permission` says what is asked
and answered.
Invariant: what was said before the answer is taken out before the end; what comes after it, or
after `stop`, is nobody's. No more than a few items wait.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import anyio
from acp.schema import PromptResponse, RequestPermissionRequest, SessionNotification

from dispatch.agents.port import AgentFailure

# Each may be as long as a line.
_ITEMS_MAX: Final = 8


class Asked:
    """A permission that the agent waits for; `option` is None where nobody gave one."""

    def __init__(self, request: RequestPermissionRequest) -> None:
        """Ask."""
        self.request = request
        self.option: str | None = None
        self.settled = anyio.Event()

    def settle(self, option: str | None) -> None:
        """Answer it; only the first answer counts."""
        if not self.settled.is_set():
            self.option = option
            self.settled.set()


Said = SessionNotification | Asked


class Exchange:
    """See the module. `over` is set when the agent has answered, or never will."""

    def __init__(self) -> None:
        """Begin with nothing said."""
        self._said: deque[Said] = deque()
        self._asked: list[Asked] = []
        self._changed = anyio.Event()
        self._taken = anyio.Event()
        self._is_stopped = False
        self.response: PromptResponse | None = None
        self.failure: AgentFailure | None = None
        self.is_lost = False
        self.over = anyio.Event()

    async def next(self) -> Said | None:
        """What is said next; None at the end."""
        while not self._said:
            if self.over.is_set():
                return None
            self._changed = anyio.Event()
            await self._changed.wait()
        item = self._said.popleft()
        self._tell_taken()
        return item

    def put(self, item: Said) -> None:
        """Something arrived."""
        if self._is_stopped or self.over.is_set():
            if isinstance(item, Asked):
                item.settle(None)
            return
        if isinstance(item, Asked):
            self._asked = [asked for asked in self._asked if not asked.settled.is_set()]
            self._asked.append(item)
        self._said.append(item)
        self._changed.set()

    async def room(self) -> None:
        """Wait until more may arrive."""
        while len(self._said) >= _ITEMS_MAX and not self._is_stopped:
            await self._taken.wait()

    def end(
        self,
        response: PromptResponse | None = None,
        *,
        failure: AgentFailure | None = None,
    ) -> None:
        """The agent answered, refused, or (with neither) is gone."""
        if self.over.is_set():
            return
        self.response, self.failure = response, failure
        self.is_lost = response is None and failure is None
        self._settle_all()
        self.over.set()
        self._changed.set()

    def stop(self) -> None:
        """Nobody listens any more."""
        self._is_stopped = True
        self._said.clear()
        self._settle_all()
        self._tell_taken()

    def _settle_all(self) -> None:
        for asked in self._asked:
            asked.settle(None)

    def _tell_taken(self) -> None:
        self._taken.set()
        self._taken = anyio.Event()
