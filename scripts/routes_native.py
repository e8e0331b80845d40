"""The HTTP routes of the native dialect and of the daemon itself: which takes and gives which type.

Neighbours: `routes` has those of groups and chat sessions, `openapi` writes all of them down.
Invariant: `tests/protocol/test_schemas.py` holds this table to the routes that are served.
"""

from __future__ import annotations

from dispatch.protocol import people
from dispatch.protocol.chat import schema as native
from dispatch.protocol.chat import service
from scripts.routes import Operation, Parameter, integer

NDJSON = "application/x-ndjson"
TEXT = "text/plain"

C, ONE_C = "/conversations", "/conversations/{id}"
LABEL = {"type": "string"}
ACCOUNT = Parameter("account", LABEL, "Refused where it is not the credential's own.")

NATIVE_OPERATIONS = (
    Operation(
        "post",
        "/chat",
        "Say something; the events of the turn that answers it, through its seal.",
        {},
        native.ChatBody,
        errors=(400, 404, 409, 410, 413),
        stream="Part1Event",
        media=NDJSON,
    ),
    Operation(
        "get",
        C,
        "Conversations, newest activity first; all of them where there is no limit.",
        {200: native.ConversationList},
        parameters=(
            Parameter("status", LABEL, "A comma list of active, idle, closed."),
            Parameter("q", LABEL, "How their ids begin."),
            Parameter("workspaceId", LABEL, "Of this workspace."),
            Parameter("search", LABEL, "What titles and last messages contain."),
            integer("limit", "How many.", minimum=1),
            Parameter("before", LABEL, "A list's next."),
        ),
        errors=(400,),
    ),
    Operation(
        "get",
        ONE_C,
        "What was said; nothing where there is no such conversation.",
        {200: native.ChunkPage},
        parameters=(
            integer("sinceSeq", "Only chunks behind it.", minimum=0),
            integer("beforeSeq", "Only chunks before it.", minimum=1),
            integer("limit", "The newest so many; else all.", minimum=1),
        ),
        errors=(400, 410),
    ),
    Operation(
        "delete",
        ONE_C,
        "End its turn and remove it for ever.",
        {200: native.ConversationDeleted},
        errors=(400, 404, 409, 410),
    ),
    Operation(
        "get",
        f"{ONE_C}/metrics",
        "What its sealed turns took.",
        {200: native.ConversationMetrics},
        errors=(400, 410),
    ),
    Operation(
        "get",
        f"{ONE_C}/status",
        "Whether a turn runs.",
        {200: native.ConversationStatus},
        errors=(400, 404, 410),
    ),
    Operation(
        "get",
        f"{ONE_C}/last",
        "The last answer, after waiting for the running turn.",
        {200: native.LastAnswer},
        errors=(400, 410),
    ),
    Operation(
        "get",
        f"{ONE_C}/export",
        "All of it, line by line.",
        {},
        errors=(400, 404, 410),
        stream="ExportLine",
        media=NDJSON,
    ),
    Operation(
        "post",
        f"{ONE_C}/stop",
        "End the running turn.",
        {200: native.TurnStopped},
        native.StopBody,
        errors=(400, 410),
        body_is_required=False,
    ),
    Operation(
        "post",
        f"{ONE_C}/close",
        "End the running turn, drop the queue, and close it.",
        {200: native.TurnStopped},
        errors=(400, 410),
    ),
    Operation(
        "post",
        f"{ONE_C}/open",
        "Tell everybody that it is open.",
        {200: native.ConversationOpened},
        native.OpenBody,
        errors=(400, 410),
        body_is_required=False,
    ),
    Operation(
        "post",
        f"{ONE_C}/read",
        "Move the user's read cursor.",
        {200: native.ConversationRead},
        native.ReadBody,
        errors=(400, 404, 410),
    ),
    Operation(
        "post",
        f"{ONE_C}/truncate",
        "What is behind a turn does not count any more; what runs is ended.",
        {200: native.ConversationTruncated},
        native.TruncateBody,
        errors=(400, 404, 409, 410),
    ),
    Operation(
        "post",
        f"{ONE_C}/resume",
        "Let the last turn go on, which failed or was interrupted.",
        {200: native.TurnResumed},
        native.ResumeBody,
        errors=(400, 404, 409, 410),
    ),
    Operation(
        "post",
        f"{ONE_C}/fork",
        "A new conversation with the history up to and including a turn.",
        {200: native.ConversationForked},
        native.ForkBody,
        errors=(400, 404, 409, 410),
    ),
    Operation(
        "put",
        f"{ONE_C}/queue",
        "Let queued messages run in another order.",
        {200: native.QueueReordered},
        native.QueueOrderBody,
        errors=(400, 404, 409, 410),
    ),
    Operation(
        "post",
        f"{ONE_C}/queue",
        "Say something once everything before it is answered.",
        {200: native.MessageQueued},
        native.QueueBody,
        errors=(400, 404, 409, 410, 413),
    ),
    Operation(
        "delete",
        f"{ONE_C}/queue/{{message}}",
        "Take a queued message back.",
        {200: native.MessageUnqueued},
        errors=(400, 410),
    ),
    Operation(
        "post",
        f"{ONE_C}/requests/{{request}}",
        "Answer what an agent asks.",
        {200: native.RequestAnswered},
        native.AnswerBody,
        errors=(400, 404, 409, 410),
    ),
    Operation(
        "get",
        f"{ONE_C}/title",
        "Its title.",
        {200: native.ConversationTitle},
        errors=(400, 410),
    ),
    Operation(
        "put",
        f"{ONE_C}/title",
        "Name it.",
        {200: native.ConversationTitle},
        native.TitleBody,
        errors=(400, 410),
    ),
    Operation(
        "get",
        f"{ONE_C}/model",
        "What answers from now on.",
        {200: native.ConversationModel},
        errors=(400, 410),
    ),
    Operation(
        "put",
        f"{ONE_C}/model",
        "Choose what answers from now on.",
        {200: native.ConversationModel},
        native.ModelBody,
        errors=(400, 404, 410),
    ),
    Operation(
        "get",
        f"{ONE_C}/reasoning-effort",
        "How hard it thinks.",
        {200: native.ConversationEffort},
        errors=(400, 410),
    ),
    Operation(
        "put",
        f"{ONE_C}/reasoning-effort",
        "Choose how hard it thinks.",
        {200: native.ConversationEffort},
        native.EffortBody,
        errors=(400, 410),
    ),
    Operation(
        "get",
        f"{ONE_C}/cwd",
        "Where its agent works.",
        {200: native.ConversationDirectory},
        errors=(400, 410),
    ),
    Operation(
        "put",
        f"{ONE_C}/cwd",
        "Choose where its agent works.",
        {200: native.ConversationDirectory},
        native.DirectoryBody,
        errors=(400, 410),
    ),
    Operation(
        "delete",
        f"{ONE_C}/cwd",
        "Let the agent choose where it works.",
        {200: native.ConversationDirectory},
        errors=(400, 410),
    ),
    Operation(
        "get", f"{ONE_C}/lsp", "Language servers: none.", {200: native.NoServers}, errors=(400, 410)
    ),
    Operation(
        "get", f"{ONE_C}/mcp", "Tool servers: none.", {200: native.NoServers}, errors=(400, 410)
    ),
    Operation(
        "get",
        "/users/{user}/export",
        "Everything of a person, line by line; for the right admin.",
        {},
        parameters=(ACCOUNT,),
        errors=(400, 404),
        stream="UserExportLine",
        media=NDJSON,
    ),
    Operation(
        "delete",
        "/users/{user}",
        "Remove what is a person's alone, for ever; for the right admin.",
        {200: people.UserForgotten},
        parameters=(ACCOUNT,),
        errors=(400, 404),
    ),
    Operation("get", "/models", "What model takes.", {200: service.ModelList}),
    Operation("get", "/agents", "The agents, and how each is.", {200: service.AgentList}),
    Operation("get", "/health", "Whether the daemon is there.", {200: service.Fine}),
    Operation("get", "/ready", "Whether it takes messages.", {200: service.Fine}),
    Operation("get", "/metrics", "Counters, as Prometheus reads them.", {}, media=TEXT),
    Operation(
        "post",
        "/auth/ticket",
        "A ticket for one upgrade.",
        {200: service.Ticket},
        errors=(404,),
    ),
    Operation(
        "post",
        "/auth/session",
        "A cookie for this credential.",
        {200: service.SignedIn},
        errors=(404,),
    ),
    Operation("delete", "/auth/session", "End the cookie's session.", {200: service.Fine}),
)
