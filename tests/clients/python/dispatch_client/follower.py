"""What conversations, groups and chat sessions have in common: frames wait until somebody reads.

Neighbours: `conversation`, `group` and `chats` are followers; `link` hands them frames.
Invariant: what was received is read once, in its order.
"""

import asyncio

from dispatch_client.errors import Refused


class Follower:
    def __init__(self):
        # Without a bound: a frame that was received moves the position, so it must be kept.
        self._frames = asyncio.Queue()

    def opening(self):
        """The frame that begins, or goes on, on a new connection."""
        raise NotImplementedError

    def receive(self, frame):
        """Called in the order of the frames; remembers from where to go on."""
        raise NotImplementedError

    def refused(self, frame):
        """Whether this is the end: the frame that begins was refused. Calls have a `ref`."""
        if not frame["type"].endswith(".error") or "ref" in frame:
            return False
        self.stopped(Refused.of_frame(frame))
        return True

    def stopped(self, why):
        self._frames.put_nowait(why)

    async def _next(self):
        frame = await self._frames.get()
        if isinstance(frame, Exception):
            self._frames.put_nowait(frame)  # for whoever reads on
            raise frame
        return frame
