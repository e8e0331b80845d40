"""A client of dispatch, written from `protocol/` alone.

Neighbours: `client` is where to begin; `replay` beside it replays golden transcripts.
Invariant: nothing of the package is imported.
"""

from dispatch_client.client import Client
from dispatch_client.errors import DispatchError, Lost, Refused, Stopped

__all__ = ["Client", "DispatchError", "Lost", "Refused", "Stopped"]
