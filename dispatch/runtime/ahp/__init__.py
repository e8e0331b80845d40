"""The AHP host: sessions and their chats, for every client that speaks the Agent Host Protocol.

`verbs` has what may be done, `scope` is one session, `chronicle` what is written down of one
conversation, `reading` builds states from what is stored, `hub` fans actions out.
Invariant: conversations do not know of it; all of it follows from what they store.
"""
