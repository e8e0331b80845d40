"""One port for HTTP, SSE and WebSocket: who may come in, and how their bytes travel.

Neighbours: `runtime` does the work, `protocol` knows the wire shapes; `compose` puts it together.
Invariant: nothing in here decides about a turn; a connection is data, and losing one loses nothing.
"""
