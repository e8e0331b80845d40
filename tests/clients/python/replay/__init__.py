"""A replayer of golden transcripts, written from `protocol/fixtures/README.md` alone.

Neighbours: `__main__` is the command; `dispatch_client` beside it is a client for people.
Invariant: nothing of the package is imported.
"""
