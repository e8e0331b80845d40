"""What Hypothesis draws for AHP: what happens in a session and at the root.

Members that older versions do not know are among it.
"""

from hypothesis import strategies as st

from tests.protocol.ahp.shapes import (
    action,
    call_ids,
    chats,
    directories,
    errors,
    flags,
    markdowns,
    metas,
    record,
    requests,
    risks,
    texts,
    times,
    tool_inputs,
    turn_ids,
)

statuses = st.sampled_from([1, 2, 8, 24]).flatmap(
    lambda activity: st.sampled_from([0, 32, 64, 96, 128]).map(lambda rest: activity | rest)
)
origins = st.one_of(
    st.just({"kind": "user"}),
    record({"kind": st.just("fork"), "chat": chats, "turnId": turn_ids}),
    record({"kind": st.just("sideChat"), "chat": chats, "turnId": turn_ids}),
)
summary_members = {
    "title": texts,
    "status": statuses,
    "modifiedAt": times,
    "activity": texts,
    "origin": origins,
    "workingDirectories": st.lists(directories, max_size=2),
    "movable": flags,
    "changes": metas,
}
chat_summaries = record(
    {name: {**summary_members, "resource": chats}[name] for name in ("resource", "title", "status")}
    | {"modifiedAt": times},
    **{
        name: summary_members[name]
        for name in ("activity", "origin", "workingDirectories", "movable", "changes")
    },
)
calls_that_wait = record(
    {
        "status": st.just("pending-confirmation"),
        "toolCallId": call_ids,
        "toolName": texts,
        "displayName": texts,
        "invocationMessage": markdowns,
    },
    toolInput=tool_inputs,
    riskAssessment=risks,
)
calls_to_authenticate = record(
    {
        "status": st.just("auth-required"),
        "toolCallId": call_ids,
        "toolName": texts,
        "displayName": texts,
        "invocationMessage": markdowns,
        "confirmed": st.just("not-needed"),
        "contributor": st.just({"kind": "mcp", "customizationId": "m1"}),
        "auth": st.just({"reason": "required", "resource": {"resource": "https://mcp.example"}}),
    }
)
input_ids = st.sampled_from(["i1", "i2", "i3"])
of_input = {"id": input_ids, "chat": chats}
session_inputs = st.one_of(
    record({**of_input, "kind": st.just("chatInput"), "request": requests}),
    record(
        {
            **of_input,
            "kind": st.just("toolConfirmation"),
            "turnId": turn_ids,
            "toolCall": calls_that_wait,
        }
    ),
    record(
        {
            **of_input,
            "kind": st.just("toolClientExecution"),
            "turnId": turn_ids,
            "clientId": st.just("k1"),
            "toolCall": calls_that_wait,
        }
    ),
    record(
        {
            **of_input,
            "kind": st.just("toolAuthentication"),
            "turnId": turn_ids,
            "toolCall": calls_to_authenticate,
        }
    ),
)
configs = st.dictionaries(st.sampled_from(["a", "b"]), texts, max_size=2)
clients = record({"clientId": st.sampled_from(["k1", "k2"]), "tools": st.just([])})
plugins = record(
    {
        "type": st.just("plugin"),
        "id": st.just("g1"),
        "uri": directories,
        "name": texts,
        "enabled": flags,
    }
)

session_actions = st.one_of(
    action("session/ready"),
    action("session/creationFailed", {"error": errors}),
    action("session/chatAdded", {"summary": chat_summaries}),
    action("session/chatRemoved", {"chat": chats}),
    action("session/chatUpdated", {"chat": chats, "changes": record({}, **summary_members)}),
    action("session/defaultChatChanged", defaultChat=chats),
    action("session/titleChanged", {"title": texts}),
    action("session/isReadChanged", {"isRead": flags}),
    action("session/isArchivedChanged", {"isArchived": flags}),
    action("session/activityChanged", activity=texts),
    action("session/configChanged", {"config": configs}, replace=flags),
    action("session/metaChanged", _meta=metas),
    action("session/serverToolsChanged", {"tools": st.just([])}),
    action("session/changesetsChanged", changesets=st.just([])),
    action("session/activeClientSet", {"activeClient": clients}),
    action("session/activeClientRemoved", {"clientId": st.sampled_from(["k1", "k2"])}),
    action("session/inputNeededSet", {"request": session_inputs}),
    action("session/inputNeededRemoved", {"id": input_ids}),
    action("session/workingDirectorySet", {"directory": directories}),
    action("session/workingDirectoryRemoved", {"directory": directories}),
    action("session/customizationsChanged", {"customizations": st.lists(plugins, max_size=1)}),
    action("session/customizationToggled", {"id": st.just("g1"), "enabled": flags}),
    action("session/customizationUpdated", {"customization": plugins}),
    action("session/customizationRemoved", {"id": st.just("g1")}),
)

agents = record(
    {
        "provider": texts,
        "displayName": texts,
        "description": texts,
        "models": st.just([]),
    },
    capabilities=record(
        {},
        multipleChats=record({}, fork=flags, sideChat=flags),
        multipleWorkingDirectories=record({}, immutablePrimary=flags, primaryReplacement=flags),
    ),
)
root_actions = st.one_of(
    action("root/agentsChanged", {"agents": st.lists(agents, max_size=2)}),
    action("root/activeSessionsChanged", {"activeSessions": st.integers(0, 5)}),
    action("root/configChanged", {"config": configs}, replace=flags),
)
