"""The Python client: connect, send, follow, and be where you were after a lost connection.

    async with Client("http://127.0.0.1:8765") as client:
        print((await ask(client, "hello")).text)

`session` is the connection that survives connections, `follow` iterates a conversation, `answer`
joins the two; `cursor` is what a follower knows, `http` what is asked once, `frames` the wire.
`groups` and `chats` are the other two dialects, over HTTP and either the client's own WebSocket
(`mirror`) or event streams (`events`); `people` is for who administers an account. Refusals are the
exceptions of `dispatch.errors`; without a network, for the tests of a program, see
`dispatch.testing.in_memory_client`.
Invariant: a send is carried out once or raises, and an iterator yields every event once, in order,
or a `Snapshot` in place of those that are gone.
"""

from dispatch.client.answer import Answer, Transcript, answer, ask
from dispatch.client.chats import ChatApi
from dispatch.client.dial import Options
from dispatch.client.events import Frame
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
from dispatch.client.http import HttpApi
from dispatch.client.people import PeopleApi
from dispatch.client.replies import ConversationSummary, HistoryPage, ReadState
from dispatch.client.session import Client, SendFields
from dispatch.client.transport import Transport
from dispatch.core.events import (
    Done,
    ErrorEvent,
    ReasoningDelta,
    Response,
    Steering,
    TextDelta,
    ToolCall,
    ToolResult,
    TurnSealed,
    TurnStart,
    UserMessage,
)
from dispatch.protocol.groups.schema import GroupConversation, GroupEvent, GroupSnapshot
from dispatch.protocol.people import UserForgotten
from dispatch.protocol.sessions.schema import ChatDetail, ChatMessage, ChatSession

__all__ = [
    "Accepted",
    "Answer",
    "CannotConnect",
    "ChatApi",
    "ChatDetail",
    "ChatMessage",
    "ChatSession",
    "Client",
    "ConnectionLost",
    "ConversationSummary",
    "Delta",
    "Done",
    "ErrorEvent",
    "Follow",
    "Forked",
    "Frame",
    "GroupApi",
    "GroupConversation",
    "GroupEvent",
    "GroupSnapshot",
    "Hello",
    "History",
    "HistoryPage",
    "HttpApi",
    "Item",
    "Options",
    "PeopleApi",
    "ReadMoved",
    "ReadState",
    "ReasoningDelta",
    "Reconnecting",
    "RequestDone",
    "RequestOpened",
    "Response",
    "SendFields",
    "ServerError",
    "Snapshot",
    "Steering",
    "Stopped",
    "Subscribed",
    "TextDelta",
    "ToolCall",
    "ToolResult",
    "Transcript",
    "Transport",
    "Truncated",
    "TurnSealed",
    "TurnStart",
    "UnknownEvent",
    "UserForgotten",
    "UserMessage",
    "answer",
    "ask",
]
