"""dispatch: a broker for turns of AI agents that belong to nobody's connection.

The map, inside to outside; each ring imports only what is further in (checked in CI):

    errors      what can go wrong, with its code; a leaf that carries plain data
    core        pure rules: identities, events, chunks, the turn table, decide and evolve
    protocol    bytes to commands and events to bytes, one module a dialect, no I/O
    storage     the store's port and its adapters: memory (reference), sqlite
    agents      the agent's port and its adapters: echo, python, command
    runtime     tasks, clocks, wake-ups: broker, conversations, turns, journal, feed
    server      one port for HTTP and WebSocket; who may come in
    client      the Python client: connect, follow, resume
    compose     the only place that names concrete adapters
    cli         what a person types

Invariant of the whole: nobody is shown an event that a crash can take back.
"""

from dispatch.version import VERSION

__version__ = VERSION
