"""What Hypothesis draws for AHP: what actions of every channel are made of.

Ids are few, so that actions meet what they are about; the rest may be absent, empty or in any of
its shapes.
"""

from typing import Any

from hypothesis import strategies as st

from dispatch.protocol.ahp.objects import iso_time

Strategy = st.SearchStrategy[Any]

texts = st.text(max_size=6)
turn_ids = st.sampled_from(["t1", "t2", "t3"])
call_ids = st.sampled_from(["c1", "c2"])
part_ids = st.sampled_from(["p1", "p2"])
request_ids = st.sampled_from(["r1", "r2"])
pending_ids = st.sampled_from(["q1", "q2", "q3"])
chats = st.sampled_from(["ahp-chat:/a", "ahp-chat:/b", "ahp-chat:/c"])
directories = st.sampled_from(["file:///one", "file:///two"])
times = st.integers(0, 2_000_000_000_000).map(iso_time)
metas = st.just({"x": 1}) | st.just({"x": 2})
flags = st.booleans()


def record(members: dict[str, Strategy], /, **optional: Strategy) -> Strategy:
    return st.fixed_dictionaries(members, optional=optional)


def action(
    kind: str, members: dict[str, Strategy] | None = None, /, **optional: Strategy
) -> Strategy:
    return record({"type": st.just(kind), **(members or {})}, **optional)


attachments = st.one_of(
    record({"type": st.just("simple"), "label": texts}, modelRepresentation=texts),
    record({"type": st.just("chat"), "label": texts, "resource": chats}, endTurn=turn_ids),
)
message_kinds = st.sampled_from(["user", "agent", "tool", "systemNotification", "automation"])
messages = record(
    {"text": texts, "origin": record({"kind": message_kinds})},
    attachments=st.lists(attachments, max_size=2),
    model=record({"id": texts}),
    _meta=metas,
)
markdowns = st.one_of(texts, record({"markdown": texts}))
tool_inputs = st.one_of(texts, record({"uri": st.just("file:///input.json")}))
contributors = st.one_of(
    record({"kind": st.just("mcp"), "customizationId": st.sampled_from(["m1", "m2"])}),
    record({"kind": st.just("client"), "clientId": st.sampled_from(["k1", "k2"])}),
)
options = st.lists(
    record(
        {
            "id": st.sampled_from(["o1", "o2"]),
            "label": texts,
            "kind": st.sampled_from(["approve", "deny"]),
        }
    ),
    max_size=2,
)
contents = st.lists(record({"type": st.just("text"), "text": texts}), max_size=2)
results = record(
    {"success": flags, "pastTenseMessage": markdowns},
    content=contents,
    structuredContent=metas,
    error=record({"message": texts}, code=texts),
)
errors = record({"errorType": texts, "message": texts})
usages = record({}, inputTokens=st.integers(0, 9), outputTokens=st.integers(0, 9))
answers = st.one_of(
    record({"state": st.just("skipped")}),
    record({"state": st.just("draft"), "value": record({"kind": st.just("text"), "value": texts})}),
)
questions = st.lists(
    record({"kind": st.just("text"), "id": part_ids, "message": texts}, required=flags), max_size=2
)
requests = record(
    {"id": request_ids},
    message=texts,
    questions=questions,
    answers=st.dictionaries(part_ids, answers, max_size=2),
)
risks = st.one_of(
    record({"kind": st.just("judge"), "status": st.just("loading")}),
    record(
        {
            "kind": st.just("judge"),
            "status": st.just("complete"),
            "reason": markdowns,
            "safety": st.floats(0, 1),
        }
    ),
)
durations = st.integers(-5, 10_000)
error_parts = record({"kind": st.just("error"), "error": errors}, resumable=flags)
said_parts = st.one_of(
    record({"kind": st.just("markdown"), "id": part_ids, "content": texts}),
    record({"kind": st.just("reasoning"), "id": part_ids, "content": texts}),
    record({"kind": st.just("systemNotification"), "content": markdowns}),
    record({"kind": st.just("contentRef"), "uri": directories}),
)
finished_turns = record(
    {
        "id": st.sampled_from(["old1", "old2", "t1"]),
        "startedAt": times,
        "duration": st.integers(0, 9),
        "message": messages,
        "responseParts": st.lists(said_parts, max_size=2),
        "state": st.sampled_from(["complete", "cancelled"]),
    },
    usage=usages,
)

of_turn = {"turnId": turn_ids}
of_call = {"turnId": turn_ids, "toolCallId": call_ids}
