"""Groups over the network: `routes` over HTTP, `stream` as events, `watch` on WebSocket.

`follow` brings a reader of either kind to the head and keeps its place.
"""
