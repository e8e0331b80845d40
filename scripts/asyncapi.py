"""Generates protocol/asyncapi.json: the WebSocket and its frames, and the streams over HTTP.

Neighbours: `protocol` writes it, `schemas` has the types. AsyncAPI 3.0, self-contained: its own
parser reads it without looking elsewhere (`tests/protocol/test_tools.py`).
Invariant: every frame of a union in `schemas` is a message here, of the channel where it travels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from dispatch.server.auth import SESSION_COOKIE
from dispatch.version import VERSION
from scripts.schemas import DIALECTS, GENERATED, GROUPS, NATIVE, SESSIONS, Dialect, components, page

Object = dict[str, Any]


class Channel(NamedTuple):
    """One place to connect to; `sends` and `receives` are what the server does, as unions."""

    name: str
    address: str
    title: str
    meaning: str
    sends: tuple[tuple[Dialect, str], ...]
    receives: tuple[tuple[Dialect, str], ...] = ()
    parameters: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    subprotocol: str | None = None


CHANNELS = (
    Channel(
        "v1",
        "/ws",
        "dispatch.v1",
        "Everything over one connection: the subprotocol `dispatch.v1` is asked for.",
        (
            (NATIVE, "NativeServerFrame"),
            (GROUPS, "GroupServerFrame"),
            (SESSIONS, "ChatsServerFrame"),
        ),
        (
            (NATIVE, "NativeClientFrame"),
            (GROUPS, "GroupClientFrame"),
            (SESSIONS, "ChatsClientFrame"),
        ),
        query={"ticket": "A ticket of `POST /auth/ticket`, where there is `[auth]`."},
        subprotocol="dispatch.v1",
    ),
    Channel(
        "part1",
        "/ws",
        "Part 1",
        "No subprotocol is asked for: the compatible contract.",
        ((NATIVE, "Part1ServerFrame"),),
        ((NATIVE, "NativeClientFrame"),),
        query={"heal": "`0`: seals are not repeated.", "ticket": "As above."},
    ),
    Channel(
        "chat",
        "/chat",
        "The lines of a turn",
        "`POST`: the events of the turn that answers, one a line (NDJSON).",
        ((NATIVE, "Part1Event"),),
    ),
    Channel(
        "group",
        "/api/groups/{id}/stream",
        "A group's stream",
        "`GET`: server-sent events, `id` and `data`.",
        ((GROUPS, "GroupStreamFrame"),),
        parameters={"id": "The group."},
        query={"cursor": "Go on behind this frame; the header Last-Event-ID beats it."},
    ),
    Channel(
        "chats",
        "/v1/chat/events",
        "A person's chat sessions",
        "`GET`: server-sent events, `id` and `data`.",
        ((SESSIONS, "ChatStreamEvent"),),
        query={
            "last_event_id": "Go on behind this id; the header Last-Event-ID beats it.",
            "deltas": "`1`: answers as they are said, too.",
        },
    ),
)


def asyncapi_page() -> str:
    """The whole document."""
    channels = {one.name: _channel(one) for one in CHANNELS}
    return page(
        {
            "asyncapi": "3.0.0",
            "id": "urn:dispatch:asyncapi",
            "info": {
                "title": "dispatch",
                "version": VERSION,
                "description": f"{GENERATED} The contract is in "
                + ", ".join(f"`{one.page}`" for one in DIALECTS)
                + "; a client sends what the server receives.",
            },
            "defaultContentType": "application/json",
            "servers": {
                "socket": _server("ws", "The WebSocket."),
                "http": _server("http", "Streams over HTTP, on the same port."),
            },
            "channels": channels,
            "operations": _operations(),
            "components": {
                "schemas": components(DIALECTS, "#/components/schemas/{}"),
                "messages": _messages(),
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "A token. A browser, which cannot set the header, names it "
                        "as a subprotocol, `dispatch.token.<base64url>`, sends it as the first "
                        "frame, `auth`, or takes a ticket.",
                    },
                    "session": {
                        "type": "httpApiKey",
                        "in": "cookie",
                        "name": SESSION_COOKIE,
                        "description": "What `POST /auth/session` gives for a token.",
                    },
                    "ticket": {
                        "type": "httpApiKey",
                        "in": "query",
                        "name": "ticket",
                        "description": "What `POST /auth/ticket` gives for a token; good once.",
                    },
                },
            },
        }
    )


def _server(protocol: str, meaning: str) -> Object:
    schemes = ("bearer", "session", "ticket")
    return {
        "host": "127.0.0.1:8765",
        "protocol": protocol,
        "description": f"{meaning} A daemon without `[auth]` wants no credential.",
        "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in schemes],
    }


def _channel(one: Channel) -> Object:
    frames = dict.fromkeys((*_names(one.sends), *_names(one.receives)))
    shown: Object = {
        "address": one.address,
        "title": one.title,
        "description": one.meaning,
        "servers": [{"$ref": f"#/servers/{'socket' if one.receives else 'http'}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in frames},
    }
    if one.parameters:
        shown["parameters"] = {
            name: {"description": meaning} for name, meaning in one.parameters.items()
        }
    if one.receives:
        shown["bindings"] = {"ws": {"method": "GET", **_handshake(one), "bindingVersion": "0.1.0"}}
    return shown


def _handshake(one: Channel) -> Object:
    """What the upgrade may and must say."""
    shown: Object = {}
    if one.query:
        fields = {name: {"type": "string", "description": text} for name, text in one.query.items()}
        shown["query"] = {"type": "object", "properties": fields}
    if one.subprotocol is not None:
        name = "Sec-WebSocket-Protocol"
        wanted = {"type": "string", "const": one.subprotocol}
        shown["headers"] = {"type": "object", "properties": {name: wanted}, "required": [name]}
    return shown


def _operations() -> Object:
    shown: Object = {}
    for one in CHANNELS:
        for action, word, unions in (
            ("send", "tells", one.sends),
            ("receive", "takes", one.receives),
        ):
            if unions:
                refs = [
                    {"$ref": f"#/channels/{one.name}/messages/{name}"} for name in _names(unions)
                ]
                shown[f"{one.name}_{word}"] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{one.name}"},
                    "summary": f"What the server {word}: {one.title}.",
                    "messages": refs,
                }
    return shown


def _messages() -> Object:
    """One for each frame, event and line that travels by itself."""
    shown: Object = {}
    for one in CHANNELS:
        for kind in _frames((*one.sends, *one.receives)):
            shown[kind.__name__] = {
                "name": _wire_name(kind),
                "title": kind.__name__,
                "summary": " ".join((kind.__doc__ or "").split("\n\n")[0].split()),
                "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
            }
    return {name: shown[name] for name in sorted(shown)}


def _wire_name(kind: type[msgspec.Struct]) -> str:
    """What a reader knows it by."""
    return str(kind.__struct_config__.tag)


def _names(unions: Iterable[tuple[Dialect, str]]) -> list[str]:
    return [kind.__name__ for kind in _frames(unions)]


def _frames(unions: Iterable[tuple[Dialect, str]]) -> list[type[msgspec.Struct]]:
    return [kind for dialect, name in unions for kind in dialect.unions[name].types]
