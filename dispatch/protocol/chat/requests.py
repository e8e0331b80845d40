"""Frames that a client sends, read once: after this nothing is validated again.

Neighbours: `codec` reads the JSON, `core.commands` is what comes out, `server.connection` carries
it out; `server.http` reads the body of `POST /chat` with `read_send`. The error texts of Part 1
are part of the contract (`protocol/native.md`, 1.3).
Invariant: every frame becomes a command or a `PeerError`; unknown fields pass, unknown types are
refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, cast, get_args

import msgspec

from dispatch.core.commands import (
    OnBusy,
    ReasoningEffort,
    Send,
    Subscribe,
    Truncate,
    TurnBody,
)
from dispatch.core.events import Image, Response
from dispatch.core.identity import (
    ID_PATTERN,
    ConversationId,
    TurnId,
    parse_position,
)
from dispatch.errors import PeerError, UnknownType
from dispatch.protocol.chat.commands import (
    ChatFork,
    ChatQueueCancel,
    ChatQueueReorder,
    ChatRead,
    ChatRespond,
    ChatSend,
    ChatStop,
    ChatSubscribe,
    ChatTruncate,
    ChatUnsubscribe,
    ConversationsWatch,
    Frame,
    Ping,
    SurfaceFrame,
)
from dispatch.protocol.codec import ECHO_CHARACTERS_MAX, Object, echoed_ref

EFFORTS: Final = get_args(ReasoningEffort)
BUSY_CHOICES: Final = get_args(OnBusy)
LABEL_CHARACTERS_MAX: Final = 200
_REASON_CHARACTERS_MAX: Final = 200
_RESPONSES: Final = msgspec.json.Decoder(Response)
_ENCODER: Final = msgspec.json.Encoder()


class BadFrame(PeerError):
    """A frame of a known type with a field that cannot be; `chat.error` goes back."""

    def __init__(self, message: str, conversation: object = None, ref: object = None) -> None:
        """`conversation` and `ref` are echoed if they are what they should be."""
        super().__init__(message)
        self.conversation: str | None = None
        if isinstance(conversation, str) and len(conversation) <= ECHO_CHARACTERS_MAX:
            self.conversation = conversation
        self.ref = echoed_ref(ref)


class UnknownFrame(UnknownType):
    """A frame of no known type; `error` goes back."""

    def __init__(self, message: str, ref: object = None) -> None:
        """`ref` is echoed if it is what it should be."""
        super().__init__(message)
        self.ref = echoed_ref(ref)


def read_frame(frame: Object) -> Frame:
    """The command of one frame; raises `BadFrame` or `UnknownFrame`."""
    kind = frame.get("type")
    if not isinstance(kind, str):
        raise UnknownFrame("Unknown message type: expected a string `type`", frame.get("ref"))
    reader = _READERS.get(kind)
    if reader is None:
        raise UnknownFrame(f"Unknown message type: {kind[:80]}", frame.get("ref"))
    try:
        command = reader(frame)
    except PeerError as error:
        raise BadFrame(error.message, frame.get("conversationId"), frame.get("ref")) from None
    ref = echoed_ref(frame.get("ref"))
    return command if ref is None else msgspec.structs.replace(command, ref=ref)


def conversation_of(command: Frame) -> ConversationId | None:
    """The conversation that a frame is about, if it names one."""
    match command:
        case ChatSend(send=send):
            return send.conversation
        case ChatSubscribe(subscribe=subscribe):
            return subscribe.conversation
        case ChatTruncate(truncate=truncate):
            return truncate.conversation
        case _:
            conversation: ConversationId | None = getattr(command, "conversation", None)
            return conversation


def read_send(frame: Object, *, where: str = "chat.send") -> Send:
    """The fields of `chat.send`, as a frame or (without `message`) as a body."""
    message = frame.get("message")
    if not isinstance(message, str) or not message:
        raise PeerError(f"{where} requires a non-empty string `message`")
    return send_of(frame, message, where=where)


def send_of(frame: Object, message: str, *, where: str) -> Send:
    """Everything of a send but its text, which the caller has checked."""
    effort = frame.get("reasoningEffort")
    if effort is not None and effort not in EFFORTS:
        raise PeerError(
            f'{where}: invalid reasoningEffort "{_shown(effort)}" — must be one of: '
            + ", ".join(EFFORTS)
        )
    on_busy = frame.get("onBusy", "reject")
    if on_busy not in BUSY_CHOICES:
        raise PeerError(
            f'{where}: invalid onBusy "{_shown(on_busy)}" — must be one of: '
            + ", ".join(BUSY_CHOICES)
        )
    conversation = frame.get("conversationId")
    return Send(
        body=TurnBody(
            message=message,
            images=_images(frame.get("images"), where),
            model=_text(frame, "model", where),
            cwd=_text(frame, "cwd", where, characters_max=4096),
            reasoning_effort=cast("ReasoningEffort | None", effort),
        ),
        conversation=None if conversation is None else _conversation(frame, where),
        workspace=_text(frame, "workspaceId", where),
        client_message_id=_text(frame, "clientMessageId", where, characters_max=128),
        on_busy=cast("OnBusy", on_busy),
    )


def read_truncate(frame: Object, conversation: ConversationId, where: str) -> Truncate:
    """The fields of `chat.truncate`, as a frame or as a body.

    That everything is to go must be said: a name that is misspelt would do it by accident.
    """
    after = frame.get("afterTurn", "")
    if after is not None and (not isinstance(after, str) or not after):
        raise PeerError(f"{where} requires `afterTurn`: a turn's id, or null for nothing to stay")
    return Truncate(
        conversation=conversation,
        after_turn=None if after is None else TurnId(after),
        client_message_id=_text(frame, "clientMessageId", where, characters_max=128),
    )


def read_response(frame: Object, where: str = "chat.respond") -> Response:
    """An answer to a request, in the shape of `model.md`."""
    try:
        return _RESPONSES.decode(_ENCODER.encode(frame))
    except msgspec.ValidationError as error:
        # The reason may quote what was sent, however long that is.
        raise PeerError(f"{where}: {str(error)[:_REASON_CHARACTERS_MAX]}") from None


def _images(images: object, where: str) -> tuple[Image, ...]:
    if images is None:
        return ()
    if not isinstance(images, list):
        raise PeerError(f"{where}: 'images' must be an array")
    read = []
    for image in images:
        url = image.get("url") if isinstance(image, dict) else None
        if not isinstance(url, str) or not url:
            raise PeerError(f"{where}: each image must have a non-empty string 'url'")
        if not url.startswith(("data:", "http://", "https://")):
            raise PeerError(f"{where}: an image's 'url' must be a data, http or https URL")
        mime_type = image.get("mimeType")
        if mime_type is not None and not isinstance(mime_type, str):
            raise PeerError(f"{where}: an image's 'mimeType' must be a string")
        read.append(Image(url, mime_type))
    return tuple(read)


def _text(
    frame: Object, name: str, where: str, *, characters_max: int = LABEL_CHARACTERS_MAX
) -> str | None:
    value = frame.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise PeerError(f"{where}: `{name}` must be a non-empty string")
    if len(value) > characters_max:
        raise PeerError(f"{where}: `{name}` must be at most {characters_max} characters")
    return value


def _conversation(frame: Object, where: str) -> ConversationId:
    value = frame.get("conversationId")
    if not isinstance(value, str) or not value:
        raise PeerError(f"{where} requires a non-empty string `conversationId`")
    if not ID_PATTERN.fullmatch(value):
        raise PeerError(
            f"{where}: malformed `conversationId`: expected 1 to 128 of A-Z a-z 0-9 . _ : -"
        )
    return ConversationId(value)


def _required(frame: Object, name: str, where: str) -> str:
    value = frame.get(name)
    if not isinstance(value, str) or not value:
        raise PeerError(f"{where} requires a non-empty string `{name}`")
    return value


def _number(frame: Object, name: str, where: str) -> int:
    value = frame.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise PeerError(f"{where}: `{name}` must be a non-negative integer")
    return value


def _shown(value: object) -> str:
    return value[:80] if isinstance(value, str) else _ENCODER.encode(value).decode()[:80]


def _send(frame: Object) -> Frame:
    return ChatSend(send=read_send(frame))


def _queue(frame: Object) -> Frame:
    conversation = _conversation(frame, "chat.queue")
    text = frame.get("text")
    if not isinstance(text, str) or not text.strip():
        raise PeerError("chat.queue requires a non-empty string `text`")
    send = Send(
        body=TurnBody(message=text),
        conversation=conversation,
        workspace=_text(frame, "workspaceId", "chat.queue"),
        client_message_id=_text(frame, "clientMessageId", "chat.queue", characters_max=128),
        on_busy="queue",
    )
    return ChatSend(send=send, is_queue=True)


def _queue_cancel(frame: Object) -> Frame:
    conversation = _conversation(frame, "chat.queue.cancel")
    message = _required(frame, "messageId", "chat.queue.cancel")
    return ChatQueueCancel(conversation=conversation, message=TurnId(message))


def read_order(frame: Object, where: str) -> tuple[TurnId, ...]:
    """The ids of queued messages, those to run first."""
    ids = frame.get("messageIds")
    if not isinstance(ids, list) or not all(isinstance(one, str) and one for one in ids):
        raise PeerError(f"{where}: 'messageIds' must be an array of non-empty strings")
    return tuple(map(TurnId, ids))


def _queue_reorder(frame: Object) -> Frame:
    where = "chat.queue.reorder"
    return ChatQueueReorder(
        conversation=_conversation(frame, where), messages=read_order(frame, where)
    )


def _subscribe(frame: Object) -> Frame:
    where = "chat.subscribe"
    conversation = _conversation(frame, where)
    after, since = frame.get("after"), frame.get("sinceSeq")
    if after is not None and since is not None:
        raise PeerError(f"{where} takes `after` or `sinceSeq`, not both")
    return ChatSubscribe(
        subscribe=Subscribe(
            conversation=conversation,
            after=None if after is None else parse_position(after),
            since_seq=None if since is None else _number(frame, "sinceSeq", where),
        )
    )


def _unsubscribe(frame: Object) -> Frame:
    return ChatUnsubscribe(conversation=_conversation(frame, "chat.unsubscribe"))


def _stop(frame: Object) -> Frame:
    turn = frame.get("turnId")
    return ChatStop(
        conversation=_conversation(frame, "chat.stop"),
        turn=None if turn is None else TurnId(_required(frame, "turnId", "chat.stop")),
    )


def _truncate(frame: Object) -> Frame:
    where = "chat.truncate"
    return ChatTruncate(truncate=read_truncate(frame, _conversation(frame, where), where))


def read_side_chat(frame: Object, where: str) -> bool:
    """Whether a fork is to begin empty, its agent knowing what it would have had."""
    wanted = frame.get("sideChat")
    if wanted is not None and not isinstance(wanted, bool):
        raise PeerError(f"{where}: `sideChat` must be true or false")
    return bool(wanted)


def read_resume(frame: Object, conversation: ConversationId, where: str) -> Send:
    """The fields of `chat.resume`, as a frame or as a body."""
    return Send(
        body=TurnBody(message="", resumes=TurnId(_required(frame, "turnId", where))),
        conversation=conversation,
        client_message_id=_text(frame, "clientMessageId", where, characters_max=128),
    )


def _resume(frame: Object) -> Frame:
    where = "chat.resume"
    return ChatSend(send=read_resume(frame, _conversation(frame, where), where))


def _fork(frame: Object) -> Frame:
    return ChatFork(
        conversation=_conversation(frame, "chat.fork"),
        turn=TurnId(_required(frame, "turnId", "chat.fork")),
        is_side_chat=read_side_chat(frame, "chat.fork"),
    )


def _respond(frame: Object) -> Frame:
    conversation = _conversation(frame, "chat.respond")
    _required(frame, "requestId", "chat.respond")
    return ChatRespond(conversation=conversation, response=read_response(frame))


def _read(frame: Object) -> Frame:
    return ChatRead(
        conversation=_conversation(frame, "chat.read"),
        up_to_seq=_number(frame, "upToSeq", "chat.read"),
    )


def _surface(verb: Literal["subscribe", "unsubscribe", "invoke"]) -> Callable[[Object], Frame]:
    def read(frame: Object) -> Frame:
        conversation = frame.get("conversationId")
        return SurfaceFrame(
            verb=verb,
            surface=_required(frame, "surfaceId", verb),
            conversation=None if conversation is None else _conversation(frame, verb),
        )

    return read


_READERS: Final[dict[str, Callable[[Object], Frame]]] = {
    "chat.send": _send,
    "chat.queue": _queue,
    "chat.queue.cancel": _queue_cancel,
    "chat.queue.reorder": _queue_reorder,
    "chat.subscribe": _subscribe,
    "chat.unsubscribe": _unsubscribe,
    "chat.stop": _stop,
    "chat.truncate": _truncate,
    "chat.resume": _resume,
    "chat.fork": _fork,
    "chat.respond": _respond,
    "chat.read": _read,
    "conversations.watch": lambda _: ConversationsWatch(),
    "ping": lambda _: Ping(),
    "subscribe": _surface("subscribe"),
    "unsubscribe": _surface("unsubscribe"),
    "invoke": _surface("invoke"),
}
