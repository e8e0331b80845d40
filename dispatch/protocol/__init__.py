"""Bytes to commands and events to bytes, without I/O: one module a dialect.

`dialect` is the port, `codec` reads JSON within bounds, `chat` is the native dialect, `sse` the
line forms of HTTP streams. Dialects never import each other.
Invariant: after a dialect has read a frame nothing is validated again; before, nothing is believed.
"""
