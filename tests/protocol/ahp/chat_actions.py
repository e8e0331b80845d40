"""What Hypothesis draws for AHP: what happens in a chat.

In groups, so that a test can weigh them: calls, questions, ends of turns, all else.
"""

from hypothesis import strategies as st

from tests.protocol.ahp.shapes import (
    action,
    answers,
    contents,
    contributors,
    directories,
    durations,
    error_parts,
    finished_turns,
    flags,
    markdowns,
    messages,
    metas,
    of_call,
    of_turn,
    options,
    part_ids,
    pending_ids,
    request_ids,
    requests,
    results,
    risks,
    said_parts,
    texts,
    times,
    tool_inputs,
    turn_ids,
    usages,
)

call_actions = st.one_of(
    action(
        "chat/toolCallStart",
        {**of_call, "toolName": texts, "displayName": texts},
        intention=texts,
        contributor=contributors,
        _meta=metas,
    ),
    action("chat/toolCallDelta", of_call, content=texts, invocationMessage=markdowns, _meta=metas),
    action(
        "chat/toolCallReady",
        {**of_call, "invocationMessage": markdowns},
        toolInput=tool_inputs,
        confirmationTitle=markdowns,
        riskAssessment=risks,
        editable=flags,
        options=options,
        contributor=contributors,
        intention=texts,
        confirmed=st.sampled_from(["not-needed", "setting"]),
        _meta=metas,
    ),
    action(
        "chat/toolCallConfirmed",
        {**of_call, "approved": st.just(True), "confirmed": st.just("user-action")},
        editedToolInput=texts,
        selectedOptionId=st.sampled_from(["o1", "o2"]),
        _meta=metas,
    ),
    action(
        "chat/toolCallConfirmed",
        {**of_call, "approved": st.just(False), "reason": st.sampled_from(["denied", "skipped"])},
        reasonMessage=markdowns,
        selectedOptionId=st.sampled_from(["o1", "o2"]),
    ),
    action(
        "chat/toolCallComplete",
        {**of_call, "result": results},
        requiresResultConfirmation=flags,
        _meta=metas,
    ),
    action("chat/toolCallResultConfirmed", {**of_call, "approved": flags}, _meta=metas),
    action("chat/toolCallContentChanged", {**of_call, "content": contents}, _meta=metas),
    action(
        "chat/toolCallAuthRequired",
        {
            **of_call,
            "auth": st.just(
                {"reason": "required", "resource": {"resource": "https://mcp.example"}}
            ),
        },
        _meta=metas,
    ),
    action("chat/toolCallAuthResolved", of_call, _meta=metas),
)
question_actions = st.one_of(
    action("chat/inputRequested", {"request": requests}),
    action(
        "chat/inputAnswerChanged",
        {"requestId": request_ids, "questionId": part_ids},
        answer=answers,
    ),
    action(
        "chat/inputCompleted",
        {"requestId": request_ids, "response": st.sampled_from(["accept", "decline", "cancel"])},
        answers=st.dictionaries(part_ids, answers, max_size=2),
    ),
)
ending_actions = st.one_of(
    action("chat/turnComplete", {**of_turn, "duration": durations}),
    action("chat/turnCancelled", {**of_turn, "duration": durations}),
    action("chat/error", {**of_turn, "duration": durations, "part": error_parts}),
)
other_actions = st.one_of(
    action(
        "chat/turnStarted",
        {**of_turn, "startedAt": times, "message": messages},
        queuedMessageId=pending_ids,
    ),
    action("chat/delta", {**of_turn, "partId": part_ids, "content": texts}),
    action("chat/reasoning", {**of_turn, "partId": part_ids, "content": texts}),
    action("chat/responsePart", {**of_turn, "part": said_parts | error_parts}),
    action("chat/usage", {**of_turn, "usage": usages}),
    action("chat/turnResume", of_turn),
    action("chat/activityChanged", activity=texts),
    action("chat/draftChanged", draft=messages),
    action(
        "chat/pendingMessageSet",
        {"kind": st.sampled_from(["steering", "queued"]), "id": pending_ids, "message": messages},
    ),
    action(
        "chat/pendingMessageRemoved",
        {"kind": st.sampled_from(["steering", "queued"]), "id": pending_ids},
    ),
    action("chat/queuedMessagesReordered", {"order": st.lists(pending_ids, max_size=4)}),
    action("chat/truncated", turnId=turn_ids),
    action(
        "chat/turnsLoaded",
        {"turns": st.lists(finished_turns, max_size=2, unique_by=lambda turn: turn["id"])},
        turnsNextCursor=texts,
    ),
    action("chat/isReadChanged", {"isRead": flags}),
    action("chat/isArchivedChanged", {"isArchived": flags}),
    action("chat/workingDirectorySet", {"directory": directories}),
    action("chat/workingDirectoryRemoved", {"directory": directories}),
    action("chat/somethingOfTheFuture"),
)
chat_actions = st.one_of(call_actions, question_actions, ending_actions, other_actions)
