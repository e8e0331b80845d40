"""The head of a request, alike for HTTP and for upgrades, so that one function can judge both.

Neighbours: `listener` makes one from what httptools parsed, `gate` from an ASGI scope and judges
it; a `WebSocket` keeps its path and query.
Invariant: `client` and `scheme` are the ones to believe: forwarded by a trusted proxy, or of the
connection itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from dispatch.errors import PeerError

# A query has a handful of fields; a thousand of them are an attack on whoever splits them.
QUERY_FIELDS_MAX: Final = 64


class Head(msgspec.Struct, frozen=True):
    """What is known of a request before its body. Names in `headers` are lower case."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[bytes, bytes]]
    scheme: str = "http"
    client: str = ""
    # The address of ours that was connected to.
    server: str = ""
    upgrade: bool = False

    def values(self, name: bytes) -> list[str]:
        """Every value of a header, in order."""
        return [value.decode("latin-1") for key, value in self.headers if key == name]

    def value(self, name: bytes) -> str | None:
        """The first value of a header."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    def parameters(self) -> dict[str, str]:
        """The query's fields; of a name that is there twice, the first."""
        if not self.query:
            return {}
        try:
            pairs = parse_qsl(self.query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
        except ValueError as error:
            raise PeerError(f"more than {QUERY_FIELDS_MAX} fields in the query") from error
        return dict(reversed(pairs))
