"""What a person sees of a group, and what a program reads instead.

Neighbours: `groups` feeds it, `screen` has what all talks share. Answers come at the same time, and
text of several people in one another is not to be read: one member speaks at a time, the others
wait for their line. A member keeps its colour.
Invariant: of every answer the text on the screen is a beginning of the answer, all of it once the
member is done.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
from rich.console import Console

from dispatch.cli.screen import note, show_rows, write_json
from dispatch.cli.usage import visible
from dispatch.client import Reconnecting
from dispatch.client.events import Frame
from dispatch.protocol.groups.schema import GroupConversation, GroupEvent, GroupSnapshot

Item = GroupSnapshot | Frame | Reconnecting

COLOURS: Final = ("cyan", "magenta", "green", "blue", "yellow", "bright_red")
INPUT_CHARACTERS_MAX: Final = 160
UNFINISHED: Final = frozenset({"cancelled", "interrupted", "removed"})


class GroupOutput(Protocol):
    """Where what happens in a group goes."""

    def item(self, item: Item) -> None:
        """Something happened."""
        ...


class GroupLines:
    """Frames, as they came; a snapshot is of kind `snapshot`."""

    def item(self, item: Item) -> None:
        """Something happened."""
        if isinstance(item, GroupSnapshot):
            write_json({"kind": "snapshot", **msgspec.to_builtins(item)})
        else:
            write_json(item)


class _Voice:
    """One member's answer to one message: what waits to be shown, and how far it was."""

    def __init__(self, familiar: str) -> None:
        self.familiar = familiar
        self.waiting: list[_Piece] = []
        self.characters = 0
        self.is_over = False


class _Piece(NamedTuple):
    text: str
    style: str | None
    is_line: bool


class GroupTalk:
    """A group on a terminal. `is_sender`: the person typed the message just now."""

    def __init__(self, *, is_sender: bool = False) -> None:
        """Nothing is shown yet."""
        self._out = Console(highlight=False)
        self._is_sender = is_sender
        self._colours: dict[str, str] = {}
        # In the order in which they began to speak; the first one has the floor.
        self._voices: dict[tuple[int, str], _Voice] = {}
        # The seqs of what was shown as a whole.
        self._told: set[int] = set()
        self._is_named = False
        self._needs_break = False
        self._is_lost = False
        self._has_begun = False

    def item(self, item: Item) -> None:
        """Show what happened."""
        if isinstance(item, Reconnecting):
            self._break()
            self._is_lost = True
            note(f"{item.reason.partition(';')[0]}; connecting again")
            return
        if self._is_lost:
            self._is_lost = False
            note("connected again")
        if isinstance(item, GroupSnapshot):
            self._snapshot(item)
        else:
            self._frame(item)

    def _snapshot(self, snapshot: GroupSnapshot) -> None:
        members = snapshot.group.member_familiar_ids
        for member in members:
            self._colour(member)
        if self._has_begun:
            note("some frames are gone; from what is kept:")
        else:
            note(f"watching {snapshot.group.title} ({', '.join(members)}); Ctrl-C ends")
        self._has_begun = True
        for event in snapshot.events:
            self._event(event)

    def _event(self, event: GroupEvent) -> None:
        if event.seq in self._told:
            return
        if event.role == "user":
            self._told.add(event.seq)
            self._person(event.text)
            return
        shown = msgspec.to_builtins(event)
        self._more(shown, event.text)
        if not event.streaming:
            self._done(shown)

    def _frame(self, frame: Frame) -> None:
        match frame.get("kind"):
            case "user":
                self._told.add(frame["seq"])
                if not self._is_sender:
                    self._person(str(frame["text"]))
            case "assistant_chunk":
                voice = self._voice(frame)
                voice.characters += len(frame["text"])
                self._say(voice, _Piece(frame["text"], None, is_line=False))
            case "tool_use" if frame.get("phase") == "call":
                shown = " ".join(msgspec.json.encode(frame["input"]).decode().split())
                text = f"* {frame['toolName']} {shown[:INPUT_CHARACTERS_MAX]}"
                self._say(self._voice(frame), _Piece(text, "dim", is_line=True))
            case "request":
                self._request(frame)
            case "done" if "familiarId" in frame:
                self._more(frame, frame["text"])
                self._done(frame)
            case "group_updated":
                self._break()
                group = frame["group"]
                note(f"now {group['title']} ({', '.join(group['memberFamiliarIds'])})")
            case _:
                pass

    def _request(self, frame: Frame) -> None:
        voice, asked = self._voice(frame), frame["request"]
        self._say(voice, _Piece(f"? {asked['title']}", "bold yellow", is_line=True))
        # To be copied into a shell, and an agent chose the id.
        answer = shlex.join(["dispatch", "respond", frame["sessionId"], frame["requestId"]])
        self._say(voice, _Piece(f"  {answer}", "dim", is_line=True))

    def _more(self, frame: Frame, text: str) -> None:
        """What was not shown yet of a text that is known as a whole."""
        voice = self._voice(frame)
        rest, voice.characters = text[voice.characters :], max(len(text), voice.characters)
        self._say(voice, _Piece(rest, None, is_line=False))

    def _done(self, frame: Frame) -> None:
        voice, outcome = self._voice(frame), frame.get("outcome")
        if outcome == "error":
            failure = f"error: {frame['error']['message']}"
            self._say(voice, _Piece(failure, "bold red", is_line=True))
        elif outcome in UNFINISHED:
            self._say(voice, _Piece(f"({outcome})", "yellow", is_line=True))
        elif not frame["text"]:
            self._say(voice, _Piece("(no answer)", "dim", is_line=True))
        voice.is_over = True
        self._told.add(frame["seq"])
        self._hand_over()

    def _voice(self, frame: Frame) -> _Voice:
        key = int(frame.get("replyTo") or 0), str(frame["familiarId"])
        return self._voices.setdefault(key, _Voice(key[1]))

    def _say(self, voice: _Voice, piece: _Piece) -> None:
        if not piece.text:
            return
        if voice is next(iter(self._voices.values())):
            self._show(voice, piece)
        else:
            voice.waiting.append(piece)

    def _hand_over(self) -> None:
        """Who is over makes room; who has waited says it all at once."""
        while self._voices:
            key, voice = next(iter(self._voices.items()))
            for piece in voice.waiting:
                self._show(voice, piece)
            voice.waiting = []
            if not voice.is_over:
                return
            self._break()
            del self._voices[key]

    def _show(self, voice: _Voice, piece: _Piece) -> None:
        if piece.is_line:
            self._break()
        if not self._is_named:
            name = f"{visible(voice.familiar)}: "
            self._out.out(name, style=self._colour(voice.familiar), end="", highlight=False)
        end = "\n" if piece.is_line else ""
        self._out.out(visible(piece.text), style=piece.style, end=end, highlight=False)
        self._is_named = not piece.is_line
        self._needs_break = not (piece.is_line or piece.text.endswith("\n"))

    def _person(self, text: str) -> None:
        self._break()
        shown = visible(text).replace("\n", "\n  ")
        self._out.out(f"> {shown}", style="bold", highlight=False)

    def _break(self) -> None:
        """Leave the cursor at the start of a line that is nobody's yet."""
        if self._needs_break:
            self._out.out("", highlight=False)
        self._is_named = self._needs_break = False

    def _colour(self, familiar: str) -> str:
        colour = COLOURS[len(self._colours) % len(COLOURS)]
        return f"bold {self._colours.setdefault(familiar, colour)}"


def show_groups(groups: Sequence[GroupConversation]) -> None:
    """The list, newest activity first."""
    if not groups:
        note("no groups yet; dispatch groups create AGENT AGENT makes one")
        return
    rows = [
        (
            group.id,
            "answering" if group.active_runs else "idle",
            str(group.last_seq),
            f"{' '.join(group.title.split())} ({', '.join(group.member_familiar_ids)})",
        )
        for group in groups
    ]
    styles = ["green" if group.active_runs else "" for group in groups]
    show_rows(("group", "status", "turns", "title"), rows, styles)
