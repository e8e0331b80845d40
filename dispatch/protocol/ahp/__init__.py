"""AHP, the Agent Host Protocol, without I/O: shapes, reducers, versions, projections.

Inside, everything has the shapes of 0.9 (1.0 is the same). `reduce` folds actions, `validation`
says which a client may dispatch, `projection` makes them of core events and `intents` makes core
wishes of a client's; `conversion` brings all of it to the version that a client negotiated, by
`to_0_7` and `to_0_5_1`. What is served is in `protocol/ahp.md`.
Invariant: a state is only ever made by folding actions, so that host and clients cannot differ.
"""
