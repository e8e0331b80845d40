"""The native dialect `chat.*`: what clients may say, and how they are told.

`requests` reads frames into commands, `frames` writes events, notices and replies. What is
published of them is in types: `wishes` (clients' frames), `kinds` and `surfaces` (the server's),
`shown` (events), `schema` and `service` (routes). The contract is `protocol/native.md`; Part 1 is
spoken to everybody, Part 2 to who asked for `dispatch.v1`.
Invariant: an old connection never gets a word it does not know.
"""
