"""What of a live conversation counts, and the truncations that are to change that.

Neighbours: `live` has one, `truncation` changes it, `history` reads by it.
Invariant: `superseded` is what is durable; the conversation's row may be ahead of it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from dispatch.core.truncation import Superseded, decode_superseded

if TYPE_CHECKING:
    from dispatch.runtime.admission import Admission
    from dispatch.runtime.truncation import Truncation


class Past:
    """`on_its_way` is a truncation that is being written, `waiting` are those behind it, or behind
    the running turn; `behind` are messages that came meanwhile, and are placed once it is settled.
    """

    __slots__ = ("behind", "on_its_way", "superseded", "waiting")

    def __init__(self, superseded: bytes) -> None:
        """As stored in the conversation's row."""
        self.superseded: Superseded = decode_superseded(superseded)
        self.on_its_way: Truncation | None = None
        self.waiting: deque[Truncation] = deque()
        self.behind: deque[Admission] = deque()
