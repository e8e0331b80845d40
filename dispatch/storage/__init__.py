"""Where what happened is kept: the port and its adapters.

`port` says what a store does, `memory` is the reference, `sqlite` the durable one; one contract
suite (`tests/contract/store.py`) holds all of them to the port.
Invariant: `commit` is all or nothing, and what it returned from survives a crash.
"""
