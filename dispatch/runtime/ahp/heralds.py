"""Sessions that come, change and go, told to who follows the root: all of one, or what changed.

Neighbours: `runtime.feed` has the notices of native conversations, `hub` what AHP itself stirs,
`directory` makes summaries; `server.ahp.connections` has one herald for each person who is told.
Invariant: what is told is how it is when it is told; several changes may be one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from dispatch.core.identity import AccountId, ConversationId, Principal, UserId
from dispatch.core.notices import AnyNotice, OfConversation, ReadNotice
from dispatch.core.replay import Entry
from dispatch.protocol.ahp.objects import iso_time
from dispatch.protocol.ahp.uris import ROOT
from dispatch.protocol.codec import Object
from dispatch.runtime.ahp.directory import Directory
from dispatch.runtime.ahp.hub import Hub
from dispatch.runtime.services import Services

_FIXED: Final = frozenset({"resource", "provider", "createdAt"})
# Of those that were told of last; of another one all that may have changed is told.
_KNOWN_MAX: Final = 1_000

Tell = Callable[[str, Object], None]


class Herald:
    """Of one person; a `runtime.feed.Follower` that is only ever told notices."""

    def __init__(
        self,
        services: Services,
        directory: Directory,
        hub: Hub,
        principal: Principal,
        tell: Tell,
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
    ) -> None:
        """`tell(method, params)` tells everybody, `start` runs what waits."""
        self.account: AccountId = principal.account
        self.user: UserId = principal.user
        self.outgoing = b""
        self._services = services
        self._directory = directory
        self._hub = hub
        self._principal = principal
        self._tell = tell
        self._start = start
        self._since = iso_time(services.clock.now_ms())
        self._known: OrderedDict[str, Object] = OrderedDict()
        self._conversations: dict[ConversationId, None] = {}
        self._sessions: dict[str, None] = {}
        self._is_working = False
        services.feeds.listen(self, account=True)
        hub.listeners.setdefault(self.account, {})[self.stirred] = None

    def close(self) -> None:
        """Nobody is told any more."""
        self._services.feeds.unlisten(self)
        listeners = self._hub.listeners[self.account]
        del listeners[self.stirred]
        if not listeners:
            del self._hub.listeners[self.account]

    # -- runtime.feed.Follower -----------------------------------------------------------------

    @property
    def encoding(self) -> Herald:
        """It hears of a notice by being asked to encode it."""
        return self

    def entries(self, conversation: ConversationId, entries: Sequence[Entry]) -> bytes:
        """It follows no conversation."""
        return b""

    def notice(self, notice: AnyNotice) -> bytes:
        """A conversation came, changed or went."""
        if isinstance(notice, OfConversation) and not isinstance(notice, ReadNotice):
            self._conversations[notice.conversation] = None
            self._wake()
        return b""

    def write(self, data: bytes) -> None:
        """It is given nothing."""

    def stirred(self, session: str) -> None:
        """Something in a session changed that its summary may show."""
        self._sessions[session] = None
        self._wake()

    def seen(self, summaries: dict[str, Object]) -> None:
        """Somebody was shown these in a list."""
        for session, summary in summaries.items():
            self._keep(session, self._known.get(session, summary))

    def _keep(self, session: str, summary: Object) -> None:
        self._known[session] = summary
        self._known.move_to_end(session)
        if len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)

    # -- telling -------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._is_working:
            self._is_working = True
            self._start(self._work)

    async def _work(self) -> None:
        try:
            while self._conversations or self._sessions:
                if self._conversations:
                    conversation, _ = self._conversations.popitem()
                    row = await self._services.store.conversation(self.account, conversation)
                    if row is not None:
                        self._sessions[row.session] = None
                else:
                    session, _ = self._sessions.popitem()
                    await self._look(session)
        finally:
            self._is_working = False

    async def _look(self, session: str) -> None:
        now = await self._directory.summary(self._principal, session)
        before = self._known.pop(session, None)
        if now is None:
            if before is not None:
                gone = {"channel": ROOT, "session": before["resource"]}
                self._tell("root/sessionRemoved", gone)
            return
        self._keep(session, now)
        if before is None and now["createdAt"] >= self._since:
            self._tell("root/sessionAdded", {"channel": ROOT, "summary": now})
            return
        changes = {
            name: value
            for name, value in now.items()
            if name not in _FIXED and (before is None or before.get(name) != value)
        }
        if changes:
            params = {"channel": ROOT, "session": now["resource"], "changes": changes}
            self._tell("root/sessionSummaryChanged", params)
