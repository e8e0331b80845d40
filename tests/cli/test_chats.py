"""`dispatch chats`: what is typed, what is shown, and the exit code."""

import pytest

from dispatch.cli import chats as command_line
from tests.client.answering import HttpServer
from tests.client.command import dispatch, lines
from tests.client.eventing import AT, Frame, detail, message, sent, session, sse, told

pytest_plugins = ("tests.client.fixtures",)
pytestmark = pytest.mark.timeout(60)

ESCAPE = "\x1b[2Jred\u202e"
GONE = (404, {"error": "Chat session not found", "code": "SESSION_NOT_FOUND"})


def listed(*items: Frame) -> Frame:
    unread = sum(int(str(item["unread_count"])) for item in items)
    return {"sessions": items, "unread_total": unread, "next_cursor": None, "cursor": 7}


def item(unread: int, **fields: object) -> Frame:
    last = {"content": f"hi {ESCAPE}", "role": "user", "created_at": AT, "failure_reason": None}
    shown: Frame = {"unread_count": unread, "has_unread": unread > 0, "last_message": last}
    return session(**shown, agent_typing=False) | fields


def test_sessions_are_listed_as_json_lines(http: HttpServer) -> None:
    http.answers = [(200, listed(item(2), item(0, id="c-2")))]
    result = dispatch("chats", "list", "--status", "all", "-n", "5", url=http.url)
    assert [line["unread_count"] for line in lines(result)] == [2, 0]
    assert lines(result)[0] == item(2)
    assert http.seen[0][1] == "/v1/chat?status=all&limit=5"


@pytest.mark.usefixtures("terminal")
def test_unread_counts_are_listed_on_a_terminal(http: HttpServer) -> None:
    quiet = item(0, id="c-2", title="", last_message=None, agent_typing=True)
    http.answers = [(200, listed(item(2), quiet))]
    result = dispatch("chats", "list", url=http.url)
    heading, first, second = result.stdout.splitlines()
    assert heading.split() == ["session", "unread", "agent", "status", "active", "title"]
    assert first.split()[:4] == ["c-1", "2", "echo", "active"]
    assert first.endswith("My chat: hi \u241b[2Jred<U+202E>")
    assert second.split()[:4] == ["c-2", "-", "echo", "typing"]
    assert result.stderr == "2 unread\n"


@pytest.mark.usefixtures("terminal")
def test_no_sessions_are_told_how_to_begin_one(http: HttpServer) -> None:
    http.answers = [(200, listed())]
    assert "dispatch chats create" in dispatch("chats", "list", url=http.url).stderr


def test_a_session_is_begun_with_an_agent(http: HttpServer) -> None:
    http.answers = [(201, session())]
    result = dispatch("chats", "create", "echo", "--title", "My chat", url=http.url)
    assert lines(result) == [session()]
    body = {"agent_key": "echo", "title": "My chat"}
    assert http.seen == [("POST", "/v1/chat", body, None)]


@pytest.mark.usefixtures("terminal")
def test_a_new_session_is_named_alone_on_a_terminal(http: HttpServer) -> None:
    http.answers = [(201, session())]
    assert dispatch("chats", "create", "echo", url=http.url).stdout == "c-1\n"


def test_a_message_and_its_answer_are_one_json_line(http: HttpServer) -> None:
    reply = sent(response=message(2, "ho"))
    http.answers = [(201, reply)]
    result = dispatch("chats", "send", "c-1", "-", url=http.url, stdin="two\nlines\n")
    assert result.exit_code == 0
    assert lines(result) == [reply]
    body = http.seen[0][2]
    assert isinstance(body, dict)
    assert body["content"] == "two\nlines"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("response", "stdout", "code"),
    [
        (message(2, f"ho {ESCAPE}"), "ho \u241b[2Jred<U+202E>\n", 0),
        (message(2, "", status="no_response"), "(no response)\n", 0),
        (message(2, "ha", status="cancelled"), "ha\n(cancelled)\n", 1),
        (message(2, "", status="failed", failure_reason="broken"), "error: broken\n", 1),
    ],
)
def test_an_answer_is_shown_alone_on_a_terminal(
    http: HttpServer, response: Frame, stdout: str, code: int
) -> None:
    http.answers = [(201, sent(response=response))]
    result = dispatch("chats", "send", "c-1", "hi", url=http.url)
    assert (result.stdout, result.exit_code) == (stdout, code)


@pytest.mark.usefixtures("terminal")
def test_who_does_not_wait_is_told_what_became_of_it(http: HttpServer) -> None:
    http.answers = [(201, sent()), (201, sent(queued=True)), (201, sent(response=None))]
    words = ["chats", "send", "c-1", "hi", "--wait"]
    told = [dispatch(*words, seconds, url=http.url).stderr for seconds in ("0", "0", "0.01")]
    assert told[:2] == ["sent\n", "queued\n"]
    assert "no answer yet" in told[2]
    assert http.seen[0][1] == "/v1/chat/c-1/messages"


def test_an_empty_message_is_wrong_usage() -> None:
    assert dispatch("chats", "send", "c-1", " ").exit_code == 2


def test_a_session_that_is_not_there_is_one_line(http: HttpServer) -> None:
    http.answers = [GONE]
    result = dispatch("chats", "send", "c-1", "hi", url=http.url)
    assert (result.exit_code, result.stderr) == (1, "dispatch: Chat session not found\n")


def test_who_interrupts_a_send_leaves_the_answer_to_the_daemon(
    http: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "run", interrupted)
    result = dispatch("chats", "send", "c-1", "hi", url=http.url)
    assert result.exit_code == 130
    assert "dispatch chats watch c-1" in result.stderr


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatch.client.patience.jittered", lambda *_: 0.0)


def test_watch_writes_frames_as_they_come(http: HttpServer) -> None:
    frame = told("chat_message", message(1, "hi"), 16)
    http.answers = [(200, sse(frame)), GONE]
    result = dispatch("chats", "watch", "c-1", "--deltas", url=http.url)
    assert lines(result)[0] == frame[1]
    assert lines(result)[1]["type"] == "client.reconnecting"
    assert http.seen[0][1] == "/v1/chat/c-1/events?deltas=1"
    assert result.exit_code == 1


@pytest.mark.usefixtures("terminal")
def test_watch_shows_a_session_as_a_messenger_does(http: HttpServer) -> None:
    typing = {"chat_session_id": "c-1", "by": "agent", "typing": True, "phase": "queued"}
    read = {"chat_session_id": "c-1", "last_read_seq": 4, "unread_count": 0}
    request = {"chat_session_id": "c-1", "request": {"title": "May I?", "requestId": "r1"}}
    failed = message(4, "half", status="failed", failure_reason="broken")
    streaming = message(4, "ha", status="streaming")
    old = detail(message(1, "hi"), message(2, "ho"), message(3, "and?"), streaming, unread_count=1)
    http.answers = [
        (200, old),
        (
            200,
            sse(
                told("chat_typing", typing, 16),
                told("chat_request", request, 32),
                told("chat_message", failed, 48),
                told("chat_session_read", read, 64),
                told("chat_session_archived", session(), 80),
                told("chat_session_deleted", {"id": "c-1"}, 96),
            ),
        ),
    ]
    result = dispatch("chats", "watch", "c-1", url=http.url)
    assert result.stdout.splitlines() == [
        "you: hi",
        "echo: ho",
        "you: and?",
        "? May I?",
        "echo: half",
        "error: broken",
    ]
    assert result.stderr.splitlines() == [
        "watching My chat (echo, 1 unread); Ctrl-C ends",
        "echo is typing ... (waits for its turn)",
        "  dispatch respond c-1 r1",
        "read up to 4, 0 unread",
        "My chat was archived",
        "My chat was deleted",
        "dispatch: chat session c-1 was deleted",
    ]
    assert (result.exit_code, http.cursors) == (1, [None, "7"])


@pytest.mark.usefixtures("terminal")
def test_what_was_missed_is_caught_up_with_once(http: HttpServer) -> None:
    resync = (None, {"event": "resync_required", "data": {"cursor": 90}})
    http.answers = [
        (200, detail(message(1, "hi"))),
        (200, sse(resync, told("chat_message", message(2, "ho"), 96))),
        (200, detail(message(1, "hi"), message(2, "ho"))),
        GONE,
    ]
    result = dispatch("chats", "watch", "c-1", url=http.url)
    assert result.stdout.splitlines() == ["you: hi", "echo: ho"]
    assert "connecting again" in result.stderr


@pytest.mark.usefixtures("terminal")
def test_watch_of_all_sessions_says_which_one(http: HttpServer) -> None:
    made = session(id="c-9", title="Other", agent_key="opus")
    http.answers = [
        (200, listed(item(2))),
        (
            200,
            sse(
                told("chat_message", message(1, "hi"), 16),
                told("chat_session_created", made, 32),
                told("chat_message", message(2, "ho", chat_session_id="c-9"), 48),
            ),
        ),
        GONE,
    ]
    result = dispatch("chats", "watch", url=http.url)
    assert result.stdout.splitlines() == ["[My chat] you: hi", "[Other] opus: ho"]
    assert result.stderr.startswith("watching all sessions (2 unread); Ctrl-C ends\n")
    assert http.seen[1][1] == "/v1/chat/events"


def moved(unread: int = 0) -> Frame:
    return {"chat_session_id": "c-1", "last_read_seq": 2, "unread_count": unread}


def test_reading_shows_what_is_unread_and_moves_the_cursor_to_what_was_shown(
    http: HttpServer,
) -> None:
    http.answers = [
        (200, detail(message(1, "hi"), message(2, "ho"), last_read_seq=1)),
        (200, moved()),
    ]
    result = dispatch("chats", "read", "c-1", url=http.url)
    assert lines(result) == [message(2, "ho"), moved()]
    assert http.seen[1][:3] == ("POST", "/v1/chat/c-1/read", {"up_to_seq": 2})


@pytest.mark.usefixtures("terminal")
def test_reading_is_told_in_words(http: HttpServer) -> None:
    http.answers = [
        (200, detail(message(1, "hi"), message(2, "ho"))),
        (200, moved(1)),
        (200, detail(message(2, "ho"), last_read_seq=2)),
        (200, moved()),
    ]
    first = dispatch("chats", "read", "c-1", url=http.url)
    assert first.stdout == "you: hi\necho: ho\n"
    assert "1 unread" in first.stderr
    second = dispatch("chats", "read", "c-1", url=http.url)
    assert (second.stdout, second.stderr) == ("", "nothing new\n")


def test_a_session_is_renamed_put_away_taken_back_and_cancelled(http: HttpServer) -> None:
    cancelled = {"task_id": "t-1", "status": "cancelled"}
    http.answers = [(200, session(title="New"))] * 3 + [(200, cancelled)]
    assert lines(dispatch("chats", "rename", "c-1", "New", url=http.url)) == [session(title="New")]
    assert dispatch("chats", "archive", "c-1", url=http.url).exit_code == 0
    assert dispatch("chats", "restore", "c-1", url=http.url).exit_code == 0
    assert lines(dispatch("chats", "cancel", "c-1", "--task", "t-1", url=http.url)) == [cancelled]
    assert [(method, path, body) for method, path, body, _ in http.seen] == [
        ("PATCH", "/v1/chat/c-1", {"title": "New"}),
        ("DELETE", "/v1/chat/c-1", None),
        ("POST", "/v1/chat/c-1/restore", None),
        ("POST", "/v1/chat/c-1/cancel", {"task_id": "t-1"}),
    ]


def test_a_session_is_removed_only_after_a_yes(http: HttpServer) -> None:
    http.answers = [(200, {"id": "c-1", "purged": True})]
    assert dispatch("chats", "purge", "c-1", url=http.url, stdin="n\n").exit_code == 1
    assert http.seen == []
    assert dispatch("chats", "purge", "c-1", "--yes", url=http.url).exit_code == 0
    assert http.seen[0][:2] == ("DELETE", "/v1/chat/c-1?purge=true")


@pytest.mark.usefixtures("terminal")
def test_what_is_due_is_listed_on_a_terminal(http: HttpServer) -> None:
    waiting = {"task_id": "t-2", "status": "queued", "created_at": AT}
    running = {"task_id": "t-1", "status": "running", "created_at": AT, "queued_tasks": [waiting]}
    http.answers = [(200, running), (200, {})]
    _, first, second = dispatch("chats", "pending", "c-1", url=http.url).stdout.splitlines()
    assert first.split() == ["t-1", "running", AT]
    assert second.split() == ["t-2", "queued", AT]
    assert "nothing is due" in dispatch("chats", "pending", "c-1", url=http.url).stderr
