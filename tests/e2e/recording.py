"""Transcripts written anew from what a daemon says: `RECORD=1` and `test_transcripts`.

Neighbours: `conformance.replay` carries the steps out; `test_transcripts` asks. What is said by the
client, how many frames are waited for, of which types and with which text, is taken from the file;
every other field from the daemon.
Invariant: words of the format that somebody chose (`$any`, `$others`) stay.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from dispatch.client.dial import Address
from dispatch.conformance.matching import Names
from dispatch.conformance.replay import Replay, Went
from dispatch.conformance.streams import payload_of, piece_of
from dispatch.conformance.transcripts import AnyStep, Exchange, Expect, Told, read_transcript

_DISCRIMINATORS = ("type", "kind", "event", "familiarId", "conversationId")
_DURATIONS = {"elapsed_ms", "durationMs", "ttftMs", "decodeMs", "genTotalMs"}
_INSTANTS = {"createdAt", "lastActivityAt", "queuedAt", "sealedAt", "startedAt"}
_OF_THE_SERVER = {"server", "limits", "agents", "account", "heartbeatSeconds"}
_PEOPLE = {"user", "by", "creator_id"}
_KINDS = {"g": "group", "c": "session", "t": "task", "m": "message"}
_ID = re.compile(r"(?<![\w-])(?:(?P<kind>[gct])-[0-9a-f]{12,}|(?P<row>m)-[0-9]+)\b")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def record(url: str, path: Path) -> None:
    """Replay one file, and write what came in the place of what was expected."""
    transcript = read_transcript(path)
    written = msgspec.json.decode(path.read_bytes())
    async with Replay(Address.parse(url)) as replay:
        naming = Naming(replay.names, is_native=path.parent.name == "chat")
        for step, fields in zip(transcript.steps, written["steps"], strict=True):
            naming.into(fields, await replay.step(thinned(step)))
    text = msgspec.json.format(msgspec.json.encode(written), indent=1).decode()
    path.write_text(text + "\n", "utf-8")


def thinned(step: AnyStep) -> AnyStep:
    """The step with only as much of what is expected as tells where it ends."""
    match step:
        case Exchange():
            parts: dict[str, Any] = {
                name: [_thin(frame) for frame in frames]
                for name in ("frames", "lines")
                if (frames := getattr(step, name)) is not msgspec.UNSET
            }
            reply = msgspec.UNSET if step.reply is msgspec.UNSET else "$any"
            return msgspec.structs.replace(step, reply=reply, **parts)
        case Expect() | Told():
            return msgspec.structs.replace(step, frames=[_thin(frame) for frame in step.frames])
    return step


def _thin(frame: Any) -> Any:
    key, payload = payload_of(frame)
    kept = {name: payload[name] for name in _DISCRIMINATORS if isinstance(payload.get(name), str)}
    if (piece := piece_of(frame)) is not None:
        kept[piece.field] = piece.text
    outer = {name: frame[name] for name in _DISCRIMINATORS if isinstance(frame.get(name), str)}
    return {**outer, key: kept} if key else kept


class Naming:
    """Names for what differs from run to run, in the order in which it appears."""

    def __init__(self, names: Names, *, is_native: bool) -> None:
        self._names = names
        self._kinds = _KINDS | ({"c": "conversation", "t": "turn"} if is_native else {})

    def into(self, fields: dict[str, Any], went: Went) -> None:
        """Write what came into the step of a file."""
        for name, came in (("reply", went.reply), ("frames", went.frames), ("lines", went.frames)):
            if name in fields:
                fields[name] = kept(fields[name], self._plain(came))

    def _plain(self, value: Any, field: str = "") -> Any:
        match value:
            case _ if field in _OF_THE_SERVER:
                return "$any"
            case dict():
                return {key: self._plain(inner, key) for key, inner in value.items()}
            case list():
                return [self._plain(inner) for inner in value]
            case bool():
                return value
            case int() | float() if field in _DURATIONS:
                return "$duration"
            case int() if field in _INSTANTS:
                return "$ms"
            case int() if field == "cursor":
                self._names.values["cursor"] = str(value)
                return "$cursor"
            case int() if field in {"id", "frameId"}:
                return "$id"
            case str():
                return self._text(value, field)
        return value

    def _text(self, text: str, field: str) -> str:
        if _TIME.fullmatch(text):
            return "$time"
        if field in _PEOPLE and text != "agent":
            return self._name(text, "user")
        if field in {"position", "connectionId"}:
            return self._name(text, field.removesuffix("Id"))
        for name, value in sorted(self._names.values.items(), key=lambda item: -len(item[1])):
            if len(value) >= 12:
                text = re.sub(rf"(?<![\w$]){re.escape(value)}(?![\w])", f"${name}", text)
        return _ID.sub(
            lambda found: self._name(found[0], self._kinds[found["kind"] or found["row"]]), text
        )

    def _name(self, value: str, kind: str) -> str:
        values = self._names.values
        for name, known in values.items():
            if known == value and name.rstrip("0123456789") == kind:
                return f"${name}"
        count = sum(name.rstrip("0123456789") == kind for name in values)
        values[f"{kind}{count + 1}"] = value
        return f"${kind}{count + 1}"


def kept(old: Any, new: Any) -> Any:
    """What came, with the words that somebody chose."""
    match old, new:
        case (str(), _) if old in {"$any", "$count"}:
            return old
        case dict(), dict():
            absent = {key: "$absent" for key, value in old.items() if value == "$absent"}
            return {key: kept(old.get(key), value) for key, value in new.items()} | absent
        case list(), list():
            if old[-1:] == ["$others"]:
                new = [*new[: len(old) - 1], "$others"]
            pairs = zip(old, new, strict=False)
            return [kept(one, other) for one, other in pairs] + new[len(old) :]
    return new
