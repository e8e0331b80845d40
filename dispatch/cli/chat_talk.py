"""What a person sees of chat sessions.

Neighbours: `chats` feeds it, `screen` has what all talks share. Messages are shown whole, once they
are there, as a messenger does; who types is said beside.
Invariant: a message is shown once, whatever is caught up with after a lost connection.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import UNSET, convert
from rich.console import Console

from dispatch.cli.screen import ago, note, show_rows
from dispatch.cli.usage import visible
from dispatch.client.events import Frame
from dispatch.protocol.sessions.schema import (
    ChatDetail,
    ChatList,
    ChatListItem,
    ChatMessage,
    ChatRead,
    ChatSent,
)


class ChatTalk:
    """One session, or all of them, on a terminal."""

    def __init__(self) -> None:
        """Nothing is shown yet."""
        self._out = Console(highlight=False)
        # Per session: its agent, its title, and how far it was shown.
        self._agents: dict[str, str] = {}
        self._titles: dict[str, str] = {}
        self._seqs: dict[str, set[int]] = {}
        self._is_of_one = False
        self._has_begun = False
        self._is_lost = False

    def detail(self, detail: ChatDetail) -> None:
        """The session that is watched, with its newest messages."""
        self._is_of_one = True
        self._names(detail)
        if not self._has_begun:
            unread = f", {detail.unread_count} unread" if detail.unread_count else ""
            note(f"watching {detail.title or detail.id} ({detail.agent_key}{unread}); Ctrl-C ends")
        self._has_begun = True
        for message in detail.messages:
            if message.status != "streaming":
                self._message(message)

    def sessions(self, listed: ChatList) -> None:
        """All sessions are watched."""
        for session in listed.sessions:
            self._names(session)
        if self._has_begun:
            note("some messages may be missing here; dispatch chats list has what is unread")
        else:
            note(f"watching all sessions ({listed.unread_total} unread); Ctrl-C ends")
        self._has_begun = True

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        self._is_lost = True
        note(f"{reason.partition(';')[0]}; connecting again")

    def frame(self, frame: Frame) -> None:
        """Something happened."""
        if self._is_lost:
            self._is_lost = False
            note("connected again")
        data = frame.get("data") or {}
        match frame.get("event"):
            case "chat_message":
                self._message(convert(data, ChatMessage))
            case "chat_session_created" | "chat_session_updated":
                self._agents[data["id"]] = data["agent_key"]
                self._titles[data["id"]] = data["title"]
            case "chat_typing" if data["typing"] and data["by"] == "agent":
                waits = " (waits for its turn)" if data["phase"] == "queued" else ""
                note(f"{self._agent(data['chat_session_id'])} is typing ...{waits}")
            case "chat_session_read":
                note(f"read up to {data['last_read_seq']}, {data['unread_count']} unread")
            case "chat_session_archived" | "chat_session_restored" | "chat_session_deleted" as kind:
                note(f"{self._title(frame['sessionId'])} was {kind.rpartition('_')[2]}")
            case "chat_request":
                task, request = data["chat_session_id"], data["request"]
                self._out.out(f"? {visible(request['title'])}", style="bold yellow")
                # To be copied into a shell, and an agent chose the id.
                note("  " + shlex.join(["dispatch", "respond", task, request["requestId"]]))
            case _:
                pass

    def _names(self, session: ChatListItem | ChatDetail) -> None:
        self._agents[session.id] = session.agent_key
        self._titles[session.id] = session.title

    def _message(self, message: ChatMessage) -> None:
        seen = self._seqs.setdefault(message.chat_session_id, set())
        if message.seq in seen:
            return
        seen.add(message.seq)
        where = "" if self._is_of_one else f"[{self._title(message.chat_session_id)}] "
        show_message(self._out, message, self._agent(message.chat_session_id), where)

    def _agent(self, session: str) -> str:
        return self._agents.get(session, "the agent")

    def _title(self, session: str) -> str:
        return " ".join(self._titles.get(session, "").split()) or session


def show_message(out: Console, message: ChatMessage, agent: str, where: str = "") -> None:
    """One message, whole; what went wrong with it on a line of its own."""
    is_own = message.role == "user"
    who, style = ("you", "bold") if is_own else (visible(agent), "bold cyan")
    if where:
        out.out(visible(where), style="dim", end="", highlight=False)
    out.out(f"{who}: ", style=style, end="", highlight=False)
    out.out(visible(message.content), highlight=False)
    match message.status:
        case "failed":
            out.out(visible(f"error: {message.failure_reason}"), style="bold red", highlight=False)
        case "cancelled" | "no_response" as status:
            out.out(f"({status.replace('_', ' ')})", style="yellow", highlight=False)
        case _:
            pass


def show_answer(sent: ChatSent) -> None:
    """What came of a message that was typed just now."""
    answer = sent.response
    if isinstance(answer, ChatMessage):
        out = Console(highlight=False)
        if answer.content:
            out.out(visible(answer.content), highlight=False)
        if answer.status == "failed":
            reason = f"error: {answer.failure_reason}"
            out.out(visible(reason), style="bold red", highlight=False)
        elif answer.status != "complete":
            out.out(f"({answer.status.replace('_', ' ')})", style="yellow", highlight=False)
    elif answer is UNSET:
        note("queued" if sent.queued else "sent")
    else:
        note("no answer yet; dispatch chats watch shows it when it comes")


def show_unread(detail: ChatDetail, unread: Sequence[ChatMessage], moved: ChatRead) -> None:
    """What was unread, and what still is."""
    out = Console(highlight=False)
    for message in unread:
        show_message(out, message, detail.agent_key)
    if not unread:
        note("nothing new")
    if moved.unread_count:
        note(f"{moved.unread_count} unread: came meanwhile, or is still being said")


def show_sessions(found: ChatList, now: datetime) -> None:
    """The list, newest activity first; what is unread stands out."""
    if not found.sessions:
        note("no chat sessions yet; dispatch chats create AGENT begins one")
        return
    rows = []
    for session in found.sessions:
        then = datetime.fromisoformat(session.updated_at).astimezone(UTC).timestamp() * 1000
        last = session.last_message
        text = "" if last is None else f": {' '.join(last.content.split())}"
        title = " ".join(session.title.split()) or "-"
        unread = str(session.unread_count or "-")
        state = "typing" if session.agent_typing else session.status
        rows.append((session.id, unread, session.agent_key, state, ago(then, now), title + text))
    styles = ["bold" if s.has_unread else "" for s in found.sessions]
    show_rows(("session", "unread", "agent", "status", "active", "title"), rows, styles)
    note(f"{found.unread_total} unread")
