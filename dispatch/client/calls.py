"""Requests over the WebSocket that wait for their reply, over as many connections as it takes.

Neighbours: `session` sends them and hands their replies over; `failures` says what a close code
means for them.
Invariant: a request that may be repeated is repeated word for word until it is answered; one that
may not fails with `ConnectionLost` when its reply is lost.
"""

from __future__ import annotations

import anyio

from dispatch.client.failures import OUR_FAULT, ConnectionLost
from dispatch.client.frames import Accepted, Forked, Stopped
from dispatch.errors import DispatchError, PeerError

Reply = Accepted | Stopped | Forked


class Call:
    """One request."""

    def __init__(self, ref: str, frame: bytes, *, is_repeatable: bool) -> None:
        """Not sent yet."""
        self.ref = ref
        self.frame = frame
        self.is_repeatable = is_repeatable
        self.is_sent = False
        self._outcome: Reply | DispatchError | None = None
        self._done = anyio.Event()

    def settle(self, outcome: Reply | DispatchError) -> None:
        """It was answered, or never will be; the first word counts."""
        if self._outcome is None:
            self._outcome = outcome
            self._done.set()

    async def reply(self) -> Reply:
        """Wait for the answer; raises the refusal."""
        await self._done.wait()
        assert self._outcome is not None, "what is done was settled"
        if isinstance(self._outcome, DispatchError):
            raise self._outcome
        return self._outcome


class Calls:
    """Those that have no answer yet, in the order they were made."""

    def __init__(self) -> None:
        """None."""
        self._waiting: dict[str, Call] = {}
        self._count = 0

    def new_ref(self) -> str:
        """A name that no other request of this client has."""
        self._count += 1
        return f"call-{self._count}"

    def add(self, call: Call) -> None:
        """It waits from now on."""
        self._waiting[call.ref] = call

    def drop(self, call: Call) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(call.ref, None)

    def unsent(self) -> list[Call]:
        """What the present connection has not heard."""
        return [call for call in self._waiting.values() if not call.is_sent]

    def settle(self, ref: str | None, outcome: Reply | DispatchError) -> None:
        """A reply came; one that nobody waits for is nobody's."""
        call = self._waiting.get(ref or "")
        if call is not None:
            call.settle(outcome)

    def lost(self, reason: str, code: int | None) -> None:
        """The connection is gone, with this close code if there was one."""
        for call in self._waiting.values():
            if call.is_sent and code in OUR_FAULT:
                call.settle(PeerError(f"the server could not read the request: {reason}"))
            elif call.is_sent and not call.is_repeatable:
                call.settle(ConnectionLost(f"{reason}: whether it was done is unknown"))
            call.is_sent = False

    def end(self, failure: DispatchError) -> None:
        """No connection will come any more."""
        for call in self._waiting.values():
            call.settle(failure)
