"""What Hypothesis draws for the core: every event, and the lives of turns."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    Image,
    ProviderRetry,
    ReasoningDelta,
    Request,
    RequestClosed,
    RequestOption,
    RequestQuestion,
    Steering,
    StepComplete,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolOutput,
    ToolResult,
    TurnSealed,
    TurnStart,
    Usage,
    UserMessage,
)

texts = st.text(max_size=30)
names = st.text(min_size=1, max_size=8)
# Few, so that calls and results, requests and answers meet.
ids = st.sampled_from(["a", "b", "c"])
step_ids = st.sampled_from(["", "s1", "s2"])
counts = st.integers(0, 2**40)
milliseconds = st.none() | st.floats(0, 1e9)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
pretty = st.sampled_from([-1, 0, 2])
# Some programs print their JSON over many lines.
raws = st.builds(
    lambda value, indent: msgspec.Raw(
        msgspec.json.format(msgspec.json.encode(value), indent=indent)
    ),
    json_values,
    pretty,
)

token_usages = st.builds(TokenUsage, counts, counts, st.none() | counts, st.none() | counts)

text_deltas = st.builds(TextDelta, texts)
reasoning_deltas = st.builds(ReasoningDelta, texts)
deltas = text_deltas | reasoning_deltas

running_events: st.SearchStrategy[AnyEvent] = st.one_of(
    text_deltas,
    reasoning_deltas,
    st.builds(ToolCall, ids, names, raws, step_ids),
    st.builds(ToolOutput, ids, texts, st.sampled_from(["stdout", "stderr"])),
    st.builds(ToolResult, ids, names, texts, st.booleans(), step_ids, milliseconds),
    st.builds(Usage, token_usages, st.none() | st.sampled_from(["s1", "s2"])),
    st.builds(StepComplete, step_ids, milliseconds, milliseconds, milliseconds),
    st.builds(ErrorEvent, texts, st.none() | names),
    st.builds(Steering, texts),
    st.builds(ProviderRetry, counts, st.floats(0, 1e6), texts, st.none() | names),
    st.builds(
        Request,
        ids,
        st.sampled_from(["approval", "input"]),
        texts,
        st.none() | texts,
        st.none() | ids,
        st.lists(
            st.builds(RequestOption, ids, texts, st.sampled_from(["allow", "deny"])), max_size=2
        ).map(tuple),
        st.lists(
            st.builds(RequestQuestion, ids, texts, st.sampled_from(["text", "choice", "boolean"])),
            max_size=2,
        ).map(tuple),
    ),
    st.builds(RequestClosed, ids, st.sampled_from(["answered", "cancelled"]), st.none() | names),
)
"""Whatever may come between `turn-start` and `done`."""

user_messages = st.builds(
    UserMessage,
    texts,
    st.lists(st.builds(Image, texts, st.none() | names), max_size=2).map(tuple),
    st.none() | names,
)
dones = st.builds(
    Done,
    st.sampled_from(["stop", "aborted", "error", "interrupted", "max-steps", "length"]),
    milliseconds,
    st.none() | token_usages,
    st.none() | counts,
)

events: st.SearchStrategy[AnyEvent] = st.one_of(
    running_events, user_messages, dones, st.just(TurnStart()), st.just(TurnSealed())
)

bodies = st.lists(running_events, max_size=20)
"""The middle of a turn."""
