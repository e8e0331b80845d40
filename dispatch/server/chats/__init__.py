"""Chat sessions over the network: `routes` over HTTP, `events` over SSE and WebSocket.

What may be done is in `runtime.chats`; the wire forms are in `protocol.sessions`.
"""
