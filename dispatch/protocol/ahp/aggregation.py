"""What a session's summary derives from its chats, and a chat's from its state.

Neighbours: `session` folds a session's own state, `chat` each chat's; the host keeps the catalogue
equal to the chats by `session/chatUpdated`. Source: `protocol/ahp.md`, section Sessions.
Invariant: a chat that waits for somebody shows on its session, whichever chat it is; where one
waits and another failed, waiting shows.
"""

from __future__ import annotations

from typing import Final

from dispatch.protocol.ahp.objects import present
from dispatch.protocol.ahp.status import ERROR, IDLE, INPUT_NEEDED, activity_of, with_activity
from dispatch.protocol.ahp.turn import is_open_question
from dispatch.protocol.codec import Object

SUMMARY_MEMBERS: Final = (
    "resource",
    "title",
    "status",
    "activity",
    "modifiedAt",
    "origin",
    "interactivity",
    "workingDirectories",
)
"""What a chat's entry in the catalogue repeats of its state."""

_CONFIRMED: Final = frozenset({"pending-confirmation", "pending-result-confirmation"})
"""In which states a tool call waits for a person's word."""
_OWN: Final = ("provider", "title", "project", "workingDirectories", "annotations", "_meta")


def chat_summary(chat: Object) -> Object:
    """A chat's entry in its session's catalogue."""
    return {name: chat[name] for name in SUMMARY_MEMBERS if name in chat}


def catalogue_change(session: Object, chat: Object) -> Object | None:
    """The action that makes the catalogue say what the chat says; None if it does."""
    summary = chat_summary(chat)
    for entry in session["chats"]:
        if entry["resource"] == chat["resource"]:
            changes = {
                name: summary.get(name, "")
                for name in SUMMARY_MEMBERS
                if (entry.get(name) or None) != (summary.get(name) or None)
            }
            return _updated(chat["resource"], changes) if changes else None
    return {"type": "session/chatAdded", "summary": summary}


def _updated(resource: str, changes: Object) -> Object:
    """A member that is left out stays as it was, so an empty text takes one away."""
    return {"type": "session/chatUpdated", "chat": resource, "changes": changes}


def inputs_of(chat: Object) -> list[Object]:
    """What waits for somebody in a chat, as its session names it; ids are of the session."""
    turn = chat.get("activeTurn", {})
    found = []
    for part in turn.get("responseParts", ()):
        if is_open_question(part):
            name, what = part["request"]["id"], {"kind": "chatInput", "request": part["request"]}
        elif part.get("kind") == "toolCall" and part["toolCall"]["status"] in _CONFIRMED:
            call = part["toolCall"]
            name = call["toolCallId"]
            what = {"kind": "toolConfirmation", "turnId": turn["id"], "toolCall": call}
        else:
            continue
        found.append({"id": f"{chat['resource']}#{name}", "chat": chat["resource"], **what})
    return found


def session_summary(session: Object, *, resource: str, created_at: str) -> Object:
    """What lists show of a session: its own words, and what its chats are doing."""
    chats = session["chats"]
    status, activity = _activity(session)
    return present(
        **{name: session.get(name) for name in _OWN},
        resource=resource,
        status=with_activity(session["status"], status),
        activity=activity or session.get("activity"),
        createdAt=created_at,
        modifiedAt=max((chat["modifiedAt"] for chat in chats), default=created_at),
    )


def _activity(session: Object) -> tuple[int, str | None]:
    """The status of the default chat, else of the newest, unless another needs somebody."""
    chats = session["chats"]
    if not chats:
        return IDLE, None
    newest = max(chats, key=lambda chat: chat["modifiedAt"])
    default = session.get("defaultChat")
    shown = next((chat for chat in chats if chat["resource"] == default), newest)
    for urgent in (INPUT_NEEDED, ERROR):
        waiting = [chat for chat in chats if activity_of(chat["status"]) == urgent]
        if waiting:
            shown = waiting[0]
            break
    return activity_of(shown["status"]), shown.get("activity")
