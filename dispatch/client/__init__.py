"""The Python client: connect, send, follow, and be where you were after a lost connection.

    async with Client("http://127.0.0.1:8765") as client:
        print((await ask(client, "hello")).text)

`session` is the connection that survives connections, `follow` iterates a conversation, `answer`
joins the two; `cursor` is what a follower knows, `http` what is asked once, `frames` the wire.
`groups` and `chats` are the other two dialects, over HTTP and the event streams of `events`.
Invariant: a send is carried out once or raises, and an iterator yields every event once, in order,
or a `Snapshot` in place of those that are gone.
"""

from dispatch.client.answer import Answer, Transcript, answer, ask
from dispatch.client.chats import ChatApi
from dispatch.client.dial import Options
from dispatch.client.failures import CannotConnect, ConnectionLost, ServerError
from dispatch.client.follow import Follow
from dispatch.client.frames import (
    Accepted,
    Delta,
    Forked,
    Hello,
    History,
    Item,
    ReadMoved,
    Reconnecting,
    RequestDone,
    RequestOpened,
    Snapshot,
    Stopped,
    Subscribed,
    Truncated,
    UnknownEvent,
)
from dispatch.client.groups import GroupApi
from dispatch.client.http import ConversationSummary, HistoryPage, HttpApi
from dispatch.client.session import Client, SendFields

__all__ = [
    "Accepted",
    "Answer",
    "CannotConnect",
    "ChatApi",
    "Client",
    "ConnectionLost",
    "ConversationSummary",
    "Delta",
    "Follow",
    "Forked",
    "GroupApi",
    "Hello",
    "History",
    "HistoryPage",
    "HttpApi",
    "Item",
    "Options",
    "ReadMoved",
    "Reconnecting",
    "RequestDone",
    "RequestOpened",
    "SendFields",
    "ServerError",
    "Snapshot",
    "Stopped",
    "Subscribed",
    "Transcript",
    "Truncated",
    "UnknownEvent",
    "answer",
    "ask",
]
