"""Chat sessions: one user, one agent, messages with seqs, unread counts and a stream of events.

`verbs` gathers what may be done: `catalog` has the verbs about sessions as a whole, `sends` that of
messages, `reading` the snapshots, `presence` who types. `timeline` is one live session, `standing`
what is known beside its row, `rows` how its rows begin, `streams` who follows a user's events.
"""
