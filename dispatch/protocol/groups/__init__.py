"""The dialect of group chats: `/api/groups` and its mirror on WebSocket.

`requests` reads bodies, queries and frames into commands, `frames` shows a group's log, its rows
and the group itself; `schema` (routes), `kinds` (a stream) and `socket` (a WebSocket) are what is
published, as types. The contract is `protocol/groups.md`.
Invariant: a frame is a function of a stored event and of the lasting part of its row, so a replay
is what was shown live, byte for byte.
"""
