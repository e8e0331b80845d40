"""The check of every frame that the suite sees: that it can fail, and that it sees them."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from referencing.exceptions import Unresolvable
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.e2e.wire import Wire
from tests.protocol.published import ROOT, check, documents, saw, saw_frame

IDS = {"conversationId": "c1", "turnId": "t1"}
DELTA = {"type": "text-delta", "delta": "x", **IDS}
FRAME = {"type": "chat.delta", "event": DELTA, "position": "g1:1"}
DONE = {
    "kind": "done",
    "groupId": "g",
    "scope": "group",
    "seq": None,
    "streaming": False,
    "replyTo": 1,
    "isError": False,
    "results": {"completed": 1, "error": 0, "cancelled": 0, "interrupted": 0, "removed": 0},
    "lastSeq": 2,
}
TYPING = {
    "event": "chat_typing",
    "sessionId": "c1",
    "timestamp": "2026-01-01T00:00:00.000Z",
    "id": 16,
    "data": {"chat_session_id": "c1", "by": "agent", "typing": True, "phase": "running"},
}

WRONG: list[tuple[str, str, dict[str, Any]]] = [
    ("an unknown type", "NativeServerFrame", {"type": "chat.later"}),
    ("no type", "NativeServerFrame", {}),
    ("an unknown field", "NativeServerFrame", {**FRAME, "later": 1}),
    ("an unknown field inside", "NativeServerFrame", {**FRAME, "event": {**DELTA, "later": 1}}),
    ("a field that is missing", "NativeServerFrame", {"type": "chat.delta", "event": DELTA}),
    ("a null", "NativeServerFrame", {**FRAME, "position": None}),
    ("a position that is none", "NativeServerFrame", {**FRAME, "position": "1"}),
    ("an event that is none", "NativeServerFrame", {**FRAME, "event": {**DELTA, "type": "later"}}),
    (
        "an event that crashes old clients",
        "Part1ServerFrame",
        {"type": "chat.delta", "event": {"type": "steering", "text": "x", **IDS}},
    ),
    ("what only dispatch.v1 has", "Part1ServerFrame", FRAME),
    ("a word that is none", "GroupStreamFrame", {**DONE, "scope": "member"}),
    ("a kind that is none", "GroupStreamFrame", {**DONE, "kind": "later"}),
    ("an event of chats that is none", "ChatStreamEvent", {**TYPING, "event": "chats.presence"}),
    ("data that is none", "ChatStreamEvent", {**TYPING, "data": {"typing": True}}),
    ("a line that is none", "Part1Event", {"type": "text-delta", "delta": "x"}),
    ("a line of an export that is none", "ExportLine", {"type": "end", "turns": 1}),
]


@pytest.mark.parametrize(
    ("name", "frame"), [wrong[1:] for wrong in WRONG], ids=[w[0] for w in WRONG]
)
def test_a_wrong_frame_is_found(name: str, frame: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="not as published"):
        check(name, frame)


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("NativeServerFrame", FRAME),
        ("Part1ServerFrame", {"type": "chat.delta", "event": DELTA}),
        ("GroupStreamFrame", DONE),
        ("ChatStreamEvent", TYPING),
    ],
)
def test_what_the_wrong_frames_are_made_of_is_right(name: str, frame: dict[str, Any]) -> None:
    check(name, frame)


def test_a_wrong_frame_is_found_each_time() -> None:
    for _ in range(3):
        with pytest.raises(AssertionError):
            saw_frame({"type": "pong", "seen": "each time"})


def test_the_first_of_each_shape_is_checked_however_many_there_were() -> None:
    for _ in range(5):
        saw_frame(FRAME)
    with pytest.raises(AssertionError):
        saw_frame({**FRAME, "event": {**DELTA, "delta": 1}})


def test_a_sample_of_one_shape_is_checked() -> None:
    frame = {**FRAME, "event": {"type": "turn-sealed", **IDS}}
    found = []
    # All are of the shape of the first one, which is right.
    for turn in range(16):
        try:
            saw("ChatDeltaFrame", frame if turn == 0 else {**frame, "position": "nowhere"})
        except AssertionError:
            found.append(turn)
    assert 0 not in found
    assert found


def test_a_chats_event_is_checked_as_what_it_carries() -> None:
    saw_frame({"type": "chats.event", "ref": 7, **TYPING})
    with pytest.raises(AssertionError):
        saw_frame({"type": "chats.event", **TYPING, "data": {}})
    with pytest.raises(AssertionError):
        saw_frame({"type": "chats.event", "ref": [7], **TYPING})


async def test_a_wire_fails_the_test_that_saw_a_wrong_frame() -> None:
    async def say(connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "pong"}))
        await connection.send(json.dumps({"type": "pong", "latency": 3}))
        await connection.wait_closed()

    async with (
        serve(say, "127.0.0.1", 0, subprotocols=["dispatch.v1"]) as server,  # type: ignore[list-item]
        connect(
            f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}",
            subprotocols=["dispatch.v1"],  # type: ignore[list-item]
        ) as socket,
    ):
        wire = Wire(socket)
        await wire.next()
        with pytest.raises(AssertionError, match="latency"):
            await wire.next()


@pytest.mark.parametrize("name", sorted(documents()))
def test_a_document_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(documents()[name])


def test_a_document_that_is_no_schema_would_be_found() -> None:
    (document, *_) = documents().values()
    with pytest.raises(SchemaError):
        Draft202012Validator.check_schema({**document, "$defs": {"Broken": {"type": "text"}}})


@pytest.mark.parametrize("name", sorted(documents()))
def test_every_reference_is_to_something(name: str) -> None:
    document = documents()[name]
    refs = [value for value in _refs(document) if value.startswith("#/$defs/")]
    assert refs
    assert {ref.removeprefix("#/$defs/") for ref in refs} <= document["$defs"].keys()
    assert all(ref.startswith("#/$defs/") for ref in _refs(document))


@pytest.mark.parametrize("name", sorted(documents()))
def test_everything_published_is_explained(name: str) -> None:
    assert [
        key for key, value in documents()[name]["$defs"].items() if not value["description"]
    ] == []


def test_an_id_names_no_host() -> None:
    assert all(one["$id"].startswith("urn:dispatch:") for one in documents().values())


@pytest.mark.slow
def test_the_validator_of_openapi_finds_nothing_wrong() -> None:
    validate(openapi(), cls=OpenAPIV31SpecValidator)


@pytest.mark.parametrize("wrong", ["a reference", "a parameter", "an operation", "a schema"])
def test_the_validator_of_openapi_finds_what_is_wrong(wrong: str) -> None:
    path = "/conversations/{id}/status"
    document = part_of(openapi(), path)
    validate(document, cls=OpenAPIV31SpecValidator)
    item = document["paths"][path]
    match wrong:
        case "a reference":
            item["get"]["responses"]["200"] = {"$ref": "#/components/responses/None"}
        case "a parameter":
            item["parameters"].clear()
        case "an operation":
            document["paths"]["/again"] = {"get": item["get"]}
        case _:
            document["components"]["schemas"]["Refusal"]["type"] = "text"
    with pytest.raises((OpenAPIValidationError, Unresolvable)):
        validate(document, cls=OpenAPIV31SpecValidator)


def openapi() -> Any:
    return json.loads((ROOT / "protocol" / "openapi.json").read_text("utf-8"))


def part_of(document: Any, path: str) -> Any:
    """One path, and of the components those that it leads to: all of them cost seconds."""
    paths = {path: document["paths"][path]}
    components: dict[str, Any] = {"securitySchemes": document["components"]["securitySchemes"]}
    waiting = _refs(paths)
    while waiting:
        _, _, kind, name = waiting.pop().split("/")
        if name not in components.setdefault(kind, {}):
            components[kind][name] = document["components"][kind][name]
            waiting += _refs(components[kind][name])
    return {**document, "paths": paths, "components": components}


def _refs(value: Any) -> list[str]:
    if isinstance(value, list):
        return [ref for inner in value for ref in _refs(inner)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [ref for inner in value.values() for ref in _refs(inner)]
