"""Frames of groups and chat sessions as a daemon writes them, for tests that answer for it."""

import json

Frame = dict[str, object]

AT = "2026-01-02T03:04:05.006Z"


def sse(*events: tuple[int | None, object]) -> bytes:
    """An event stream; events without an id have None."""
    parts = []
    for number, frame in events:
        head = "" if number is None else f"id: {number}\n"
        parts.append(f"{head}data: {json.dumps(frame)}\n\n")
    return "".join(parts).encode()


def group(**fields: object) -> Frame:
    shown: Frame = {
        "id": "g-1",
        "title": "opus & codex",
        "memberFamiliarIds": ["opus", "codex"],
        "memberSessionIds": {"opus": "c-1", "codex": "c-2"},
        "createdAt": AT,
        "updatedAt": AT,
        "lastSeq": 0,
        "activeRuns": [],
        "activeRun": None,
        "archivedMembers": [],
    }
    return shown | fields


def page(*events: Frame, **fields: object) -> Frame:
    shown: Frame = {"group": group(), "events": events, "lastSeq": len(events)}
    return shown | {"settledSeq": 0, "hasMore": False, "cursor": 0} | fields


def row(seq: int, familiar: str, text: str, **fields: object) -> Frame:
    shown: Frame = {"seq": seq, "role": "familiar", "familiarId": familiar, "text": text}
    return shown | {"streaming": False, "ts": AT, "replyTo": 1, "outcome": "completed"} | fields


def user(seq: int, text: str) -> Frame:
    return {"seq": seq, "role": "user", "text": text, "streaming": False, "ts": AT}


def chunk(seq: int, familiar: str, text: str) -> Frame:
    shown: Frame = {"kind": "assistant_chunk", "groupId": "g-1", "seq": seq, "role": "familiar"}
    return shown | {"familiarId": familiar, "text": text, "streaming": True, "replyTo": 1, "ts": AT}


def done(seq: int, familiar: str, text: str, **fields: object) -> Frame:
    return {"kind": "done", "groupId": "g-1", **row(seq, familiar, text, **fields)}


def group_done(**results: int) -> Frame:
    names = ("completed", "error", "cancelled", "interrupted", "removed")
    shown: Frame = {"kind": "done", "groupId": "g-1", "scope": "group", "replyTo": 1, "lastSeq": 3}
    return shown | {"isError": False, "results": {name: results.get(name, 0) for name in names}}


def session(**fields: object) -> Frame:
    shown: Frame = {
        "id": "c-1",
        "workspace_id": "default",
        "agent_key": "echo",
        "creator_id": "local",
        "title": "My chat",
        "status": "active",
        "created_at": AT,
        "updated_at": AT,
        "next_seq": 1,
        "last_read_seq": 0,
        "archived_at": None,
    }
    return shown | fields


def message(seq: int, content: str, **fields: object) -> Frame:
    shown: Frame = {
        "id": f"m-{seq}",
        "chat_session_id": "c-1",
        "role": "user" if seq % 2 else "assistant",
        "content": content,
        "task_id": "t-1",
        "created_at": AT,
        "seq": seq,
        "status": "complete",
        "failure_reason": None,
        "elapsed_ms": None,
        "client_message_id": None,
    }
    return shown | fields


def detail(*messages: Frame, **fields: object) -> Frame:
    unread = {"unread_count": 0, "has_unread": False, "agent_typing": False}
    rest = {"messages": messages, "pending": None, "requests": [], "has_more": False, "cursor": 7}
    return session() | unread | rest | fields


def sent(**fields: object) -> Frame:
    shown: Frame = {"message_id": "m-1", "task_id": "t-1", "queued": False, "created_at": AT}
    return shown | {"message": message(1, "hi")} | fields


def told(event: str, data: Frame, number: int | None = None) -> tuple[int | None, Frame]:
    """A chat event with the id that it has."""
    frame: Frame = {"event": event, "sessionId": "c-1", "timestamp": AT, "data": data}
    return number, frame if number is None else {**frame, "id": number}
