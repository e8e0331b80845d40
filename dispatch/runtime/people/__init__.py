"""A person in an account: everything of theirs in one go, to be handed out or to be forgotten.

Neighbours: `belongings` reads what is theirs, `catalog` has the verbs; `server.routes_users` calls
them. Source: `protocol/native.md`, 2.5.
Invariant: nothing here sees another account than that of who asks.
"""
