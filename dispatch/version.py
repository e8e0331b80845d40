"""The version of this package, for whoever tells it: a leaf, so that no ring imports the root.

Neighbours: `server.connections` says it in `hello`, `compose` logs it, `cli` prints it.
Invariant: the same as the version in `pyproject.toml`; a test compares them.
"""

VERSION = "0.1.0"
