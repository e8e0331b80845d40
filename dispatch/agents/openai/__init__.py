"""Any OpenAI-compatible endpoint as an agent: Chat Completions, streamed.

`agent` runs a turn; `options` is what an operator writes, `messages` a conversation as it is sent,
`endpoint` sends it, `stream` makes events of what comes, `failures` says what went wrong.
Invariant: the library, which is an extra and takes long to load, is imported when such an agent is
built, and not before.
"""
