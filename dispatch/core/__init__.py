"""The pure rules: msgspec and typing only; no clock, no I/O, no asyncio.

`identity` names things, `events` is what happened, `content` what is kept of it, `turn` the table
of phases, `conversation` decides and evolves, `replay` the bounded ring.
Invariant: the same arguments give the same result, always.
"""
