"""What the core is to do for an accepted action: wishes as data, which the host carries out.

Neighbours: `validation` accepted it; `core.commands` has the shapes of sends, `core.events` that of
answers. Ids of chats and turns are the host's to translate: they are aliases.
Invariant: an intent says all that is needed; nobody reads the action again.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dispatch.core.events import Image, Response
from dispatch.protocol.ahp.client_actions import (
    ActiveClientRemoved,
    ActiveClientSet,
    Answer,
    AnyClientAction,
    Attachment,
    CallConfirmed,
    InputCompleted,
    Message,
    PendingRemoved,
    PendingSet,
    TitleChanged,
    Truncated,
    TurnCancelled,
    TurnResumed,
    TurnStarted,
)
from dispatch.protocol.ahp.words import APPROVAL_QUESTION
from dispatch.protocol.codec import Object


class Transcript(msgspec.Struct, frozen=True):
    """A chat that a message refers to, up to a turn (None: its newest finished one)."""

    chat: str
    end_turn: str | None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is asked: the text with what was attached as text, pictures, transcripts."""

    text: str
    images: tuple[Image, ...] = ()
    transcripts: tuple[Transcript, ...] = ()
    model: str | None = None


class StartTurn(msgspec.Struct, frozen=True, kw_only=True):
    """Run a turn now; `turn_id` is what the client calls it, and its id for repeats."""

    turn_id: str
    prompt: Prompt
    pending_id: str | None = None


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Keep a message, to steer or for later; while nothing runs, either is a turn."""

    pending_id: str
    how: Literal["steering", "queued"]
    prompt: Prompt


class Forget(msgspec.Struct, frozen=True):
    """Take a waiting message back."""

    pending_id: str


class StopTurn(msgspec.Struct, frozen=True):
    """End the running turn."""

    turn_id: str


class ResumeTurn(msgspec.Struct, frozen=True):
    """Go on with the failed turn."""

    turn_id: str


class Answered(msgspec.Struct, frozen=True):
    """Answer an agent's request."""

    response: Response


class TruncateChat(msgspec.Struct, frozen=True):
    """Leave out what came after a turn; None: everything."""

    after_turn: str | None


class Rename(msgspec.Struct, frozen=True):
    """Give a session a title."""

    title: str


class TakePart(msgspec.Struct, frozen=True):
    """A client takes part in a session, or does no more."""

    client_id: str
    is_there: bool


class Keep(msgspec.Struct, frozen=True):
    """AHP's own state alone: store the action with its channel."""


Intent = (
    StartTurn
    | Wait
    | Forget
    | StopTurn
    | ResumeTurn
    | Answered
    | TruncateChat
    | Rename
    | TakePart
    | Keep
)


def intent_of(action: AnyClientAction, state: Object) -> Intent:
    """What is to be done; `state` is the channel's, in which the action was accepted."""
    match action:
        case TurnStarted():
            return StartTurn(
                turn_id=action.turn_id,
                prompt=prompt_of(action.message),
                pending_id=action.queued_message_id,
            )
        case PendingSet():
            prompt = prompt_of(action.message)
            return Wait(pending_id=action.id, how=action.kind, prompt=prompt)
        case PendingRemoved():
            return Forget(action.id)
        case TurnCancelled():
            return StopTurn(action.turn_id)
        case TurnResumed():
            return ResumeTurn(action.turn_id)
        case CallConfirmed():
            return Answered(_confirmation(action, state))
        case InputCompleted():
            return Answered(_answers(action, state))
        case Truncated():
            return TruncateChat(action.turn_id)
        case TitleChanged():
            return Rename(action.title)
        case ActiveClientSet():
            return TakePart(action.active_client.client_id, is_there=True)
        case ActiveClientRemoved():
            return TakePart(action.client_id, is_there=False)
        case _:
            return Keep()


def prompt_of(message: Message) -> Prompt:
    """A message as an agent gets it; what it cannot be given is named in the text."""
    texts, images, transcripts = [message.text], [], []
    for attachment in message.attachments:
        image = _image(attachment)
        if image is not None:
            images.append(image)
        elif attachment.type == "chat" and attachment.resource is not None:
            transcripts.append(Transcript(attachment.resource, attachment.end_turn))
        else:
            where = attachment.uri or attachment.resource
            named = attachment.label if where is None else f"{attachment.label}: {where}"
            texts.append(attachment.model_representation or f"[{named}]")
    return Prompt(
        text="\n\n".join(text for text in texts if text),
        images=tuple(images),
        transcripts=tuple(transcripts),
        model=None if message.model is None else message.model.id,
    )


def _image(attachment: Attachment) -> Image | None:
    kind = attachment.content_type or ""
    if not kind.startswith("image/"):
        return None
    if attachment.type == "embeddedResource" and attachment.data is not None:
        return Image(f"data:{kind};base64,{attachment.data}", kind)
    if attachment.uri is not None and attachment.uri.startswith(("http://", "https://")):
        return Image(attachment.uri, kind)
    return None


def _confirmation(action: CallConfirmed, state: Object) -> Response:
    """The request is named in the call's `_meta`, where `questions_asked` put it."""
    meta: Object = {}
    for part in state["activeTurn"]["responseParts"]:
        call = part.get("toolCall", {})
        if call.get("toolCallId") == action.tool_call_id:
            meta = call.get("_meta", {})
    edited = action.edited_tool_input
    reason = action.reason_message
    return Response(
        request_id=str(meta.get("requestId", "")),
        approved=action.approved,
        option_id=action.selected_option_id,
        edited_input=None if edited is None else msgspec.Raw(_json_of(edited)),
        reason=reason.get("markdown") if isinstance(reason, dict) else reason,
    )


def _json_of(text: str) -> bytes:
    """Edited input: JSON if it is, else the text as a JSON string."""
    data = text.encode()
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.json.encode(text)
    return data


def _answers(action: InputCompleted, state: Object) -> Response:
    """Drafts that were not answered anew count, as the reducers say."""
    request: Object = {}
    for part in state["activeTurn"]["responseParts"]:
        if part.get("kind") == "inputRequest" and part["request"]["id"] == action.request_id:
            request = part["request"]
    drafts = msgspec.convert(request.get("answers", {}), dict[str, Answer])
    given = {
        name: answer.value.value
        for name, answer in (drafts | action.answers).items()
        if answer.value is not None
    }
    asked = [question["id"] for question in request.get("questions", ())]
    if asked == [APPROVAL_QUESTION]:
        value = given.get(APPROVAL_QUESTION)
        accepted = action.response == "accept"
        if accepted and isinstance(value, str):
            return Response(request_id=action.request_id, option_id=value)
        return Response(request_id=action.request_id, approved=accepted and value is True)
    return Response(
        request_id=action.request_id,
        action=action.response,
        answers={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in given.items()}
        or None,
    )
