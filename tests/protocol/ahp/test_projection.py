"""Core events as AHP actions: whatever happened, the folded turn is the one that is kept."""

from typing import Any

import msgspec
from hypothesis import given

from dispatch.core.content import Fold, StoredLine, decode_line
from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    Image,
    ProviderRetry,
    Request,
    RequestClosed,
    RequestOption,
    RequestQuestion,
    Steering,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolOutput,
    ToolResult,
    TurnSealed,
    TurnStart,
    Usage,
    UserMessage,
    decode_event,
    encode_event,
)
from dispatch.core.identity import TurnId
from dispatch.core.turn import Turn, closing_events, evolve, outcome_of
from dispatch.protocol.ahp.projection import OUTPUT_CHARACTERS_MAX, Projection
from dispatch.protocol.ahp.reduce import fold
from dispatch.protocol.ahp.transcript import TurnFacts, turn_object
from tests.properties.strategies import bodies, dones, user_messages
from tests.protocol.ahp.histories import EMPTY_CHAT

AT_MS = 1_700_000_000_000
TURN = "t1"
Object = dict[str, Any]


def lived(message: UserMessage, body: list[AnyEvent], done: Done) -> tuple[Turn, list[AnyEvent]]:
    """A whole turn as the core lets it happen, and the turn at its end."""
    turn = Turn(id=TurnId(TURN))
    events: list[AnyEvent] = []
    for event in [message, TurnStart(), *body]:
        events.append(event)
        turn = evolve(turn, event)
    for event in closing_events(turn, done):
        events.append(event)
        turn = evolve(turn, event)
    return turn, [decode_event(encode_event(event)) for event in events]


def kept(events: list[AnyEvent]) -> list[StoredLine]:
    chunks = Fold()
    for event in events:
        chunks.add(event, encode_event(event))
    chunks.finish()
    return [decode_line(line) for line in chunks.take()[1].splitlines()]


def projected(events: list[AnyEvent]) -> list[Object]:
    projection = Projection(TURN)
    return [action for event in events for action in projection.project(event, AT_MS)]


def facts(turn: Turn) -> TurnFacts:
    assert turn.done is not None
    return TurnFacts(
        turn_id=TURN,
        started_at_ms=AT_MS,
        duration_ms=round(turn.done.duration_ms or 0),
        outcome=outcome_of(turn.done.reason, errored=turn.errored),
        usage=turn.done.usage,
        done_reason=turn.done.reason,
    )


def without_consent(turn: Object) -> Object:
    """A turn without its questions and without how its calls were consented to."""
    parts = []
    for part in turn["responseParts"]:
        if part["kind"] == "inputRequest":
            continue
        if part["kind"] == "toolCall":
            call = part["toolCall"]
            names = ("toolCallId", "toolName", "displayName", "toolInput")
            part = {"kind": "toolCall", "toolCall": {name: call[name] for name in names}}
        parts.append(part)
    return {**turn, "responseParts": parts}


def folded(events: list[AnyEvent]) -> Object:
    return fold(EMPTY_CHAT, projected(events))


@given(message=user_messages, body=bodies, done=dones)
def test_the_folded_turn_is_what_is_read_back(
    message: UserMessage, body: list[AnyEvent], done: Done
) -> None:
    asking = (Request, RequestClosed)
    body = [event for event in body if not isinstance(event, asking)]
    turn, events = lived(message, body, done)
    chat = folded(events)
    assert "activeTurn" not in chat
    assert "activity" not in chat
    assert chat["turns"] == [turn_object(facts(turn), kept(events))]


@given(message=user_messages, body=bodies, done=dones)
def test_questions_and_consent_are_all_that_is_not_read_back(
    message: UserMessage, body: list[AnyEvent], done: Done
) -> None:
    turn, events = lived(message, body, done)
    shown = turn_object(facts(turn), kept(events))
    assert [without_consent(t) for t in folded(events)["turns"]] == [without_consent(shown)]


@given(message=user_messages, body=bodies, done=dones)
def test_ids_of_parts_and_calls_are_unique(
    message: UserMessage, body: list[AnyEvent], done: Done
) -> None:
    _, events = lived(message, body, done)
    parts = folded(events)["turns"][0]["responseParts"]
    ids = [part["id"] for part in parts if "id" in part]
    calls = [part["toolCall"]["toolCallId"] for part in parts if part["kind"] == "toolCall"]
    assert len(set(ids)) == len(ids)
    assert len(set(calls)) == len(calls)


def begun(*events: AnyEvent) -> tuple[Projection, Object]:
    """A turn after these events, and the chat."""
    projection = Projection(TURN)
    actions = []
    for event in (UserMessage("hi"), TurnStart(), *events):
        actions += projection.project(event, AT_MS)
    return projection, fold(EMPTY_CHAT, actions)


CALL = ToolCall("c", "shell", msgspec.Raw(b'{"run":"ls"}'))
APPROVAL = Request(
    "r",
    "approval",
    "Run it?",
    tool_call_id="c",
    options=(RequestOption("y", "Yes", "allow"), RequestOption("n", "No", "deny")),
)


def call_of(chat: Object) -> Object:
    [part] = [p for p in chat["activeTurn"]["responseParts"] if p["kind"] == "toolCall"]
    call: Object = part["toolCall"]
    return call


def test_a_message_with_pictures_has_attachments() -> None:
    images = (Image("data:image/png;base64,QUJD"), Image("https://x.example/a.png", "image/png"))
    [action] = Projection(TURN).project(UserMessage("see", images), AT_MS)
    assert action["startedAt"] == "2023-11-14T22:13:20.000Z"
    embedded, named = action["message"]["attachments"]
    assert (embedded["data"], embedded["contentType"]) == ("QUJD", "image/png")
    assert (named["type"], named["uri"]) == ("resource", "https://x.example/a.png")


def test_a_turn_from_the_queue_takes_its_message_out_of_it() -> None:
    queued = {"id": "q1", "message": {"text": "hi", "origin": {"kind": "user"}}}
    waiting = {**EMPTY_CHAT, "queuedMessages": [queued]}
    actions = Projection(TURN, queued_id="q1").project(UserMessage("hi"), AT_MS)
    assert "queuedMessages" not in fold(waiting, actions)


def test_an_approval_of_a_call_makes_the_call_wait() -> None:
    _, chat = begun(CALL, APPROVAL)
    assert call_of(chat)["status"] == "pending-confirmation"
    assert [option["kind"] for option in call_of(chat)["options"]] == ["approve", "deny"]
    assert call_of(chat)["toolInput"] == '{"run":"ls"}'
    assert chat["status"] == 24


def test_an_approved_call_runs_and_says_what_was_chosen() -> None:
    projection, chat = begun(CALL, APPROVAL)
    closed = RequestClosed("r", "answered", "u", option_id="y")
    actions = projection.project(closed, AT_MS)
    call = call_of(fold(chat, actions))
    assert (call["status"], call["selectedOption"]["id"]) == ("running", "y")


def test_a_denied_call_is_cancelled_whatever_its_agent_says_of_it() -> None:
    projection, chat = begun(CALL, APPROVAL)
    closed = RequestClosed("r", "answered", "u", option_id="n")
    actions = projection.project(closed, AT_MS)
    actions += projection.project(ToolResult("c", "shell", "denied", is_error=True), AT_MS)
    assert call_of(fold(chat, actions))["reason"] == "denied"


def test_a_question_is_asked_and_its_answers_are_kept_in_the_turn() -> None:
    asked = Request(
        "r", "input", "Which?", questions=(RequestQuestion("q", "Colour", "choice", ("red",)),)
    )
    projection, chat = begun(asked)
    assert chat["status"] == 24
    answers = {"q": msgspec.Raw(b'"red"')}
    closed = RequestClosed("r", "answered", action="accept", answers=answers)
    actions = projection.project(closed, AT_MS)
    [part] = fold(chat, actions)["activeTurn"]["responseParts"]
    assert part["response"] == "accept"
    assert part["request"]["answers"]["q"]["value"] == {"kind": "selected", "value": "red"}


def test_an_approval_of_nothing_in_particular_is_a_question() -> None:
    _, chat = begun(Request("r", "approval", "Go on?"))
    [part] = chat["activeTurn"]["responseParts"]
    assert part["request"]["questions"][0]["kind"] == "boolean"


def test_the_live_output_of_a_tool_is_shown_by_its_end() -> None:
    _, chat = begun(CALL, *[ToolOutput("c", "x" * 5_000, "stdout")] * 3)
    assert call_of(chat)["content"] == [{"type": "text", "text": "x" * OUTPUT_CHARACTERS_MAX}]


def test_tokens_are_summed_over_the_turn() -> None:
    _, chat = begun(Usage(TokenUsage(1, 2, 3)), Usage(TokenUsage(10, 20)))
    usage = chat["activeTurn"]["usage"]
    assert usage == {"inputTokens": 11, "outputTokens": 22, "cacheReadTokens": 3}


def test_a_retry_is_an_activity_until_the_agent_goes_on() -> None:
    projection, chat = begun(ProviderRetry(0, 5, "busy"))
    assert chat["activity"] == "Retrying"
    assert "activity" not in fold(chat, projection.project(TextDelta("x"), AT_MS))


def test_steering_that_was_taken_leaves_its_slot_and_stands_in_the_turn() -> None:
    projection, chat = begun()
    chat = {**chat, "steeringMessage": {"id": "s", "message": {"text": "left"}}}
    actions = projection.project(Steering("left", "s"), AT_MS)
    after = fold(chat, actions)
    assert "steeringMessage" not in after
    assert after["activeTurn"]["responseParts"] == [
        {"kind": "systemNotification", "content": "left"}
    ]


def test_a_failed_turn_can_be_resumed_and_goes_on_under_its_own_id() -> None:
    events = [UserMessage("hi"), TurnStart(), TextDelta("a"), ErrorEvent("lost")]
    chat = folded([*events, Done("error"), TurnSealed()])
    assert chat["status"] == 2
    again = Projection(TURN, resumes=chat["turns"][0]["responseParts"])
    more: list[AnyEvent] = [TurnStart("t0"), TextDelta("b"), Done("stop"), TurnSealed()]
    for event in more:
        chat = fold(chat, again.project(event, AT_MS))
    [turn] = chat["turns"]
    assert turn["state"] == "complete"
    texts = [part["content"] for part in turn["responseParts"] if part["kind"] == "markdown"]
    assert texts == ["a", "b"]


def test_text_after_an_error_is_a_part_of_its_own() -> None:
    _, chat = begun(TextDelta("a"), ErrorEvent("lost"), TextDelta("b"))
    assert [part["content"] for part in chat["activeTurn"]["responseParts"]] == ["a", "b"]
