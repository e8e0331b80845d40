"""`dispatch groups`: what is typed, what is shown, and the exit code."""

import pytest

from dispatch.cli import groups as command_line
from tests.client.answering import HttpServer
from tests.client.command import dispatch, lines
from tests.client.eventing import chunk, done, group, group_done, page, row, sse, user

pytest_plugins = ("tests.client.fixtures",)
pytestmark = pytest.mark.timeout(60)

ESCAPE = "\x1b[2Jred\u202e"
DELETED = {"kind": "group_deleted", "groupId": "g-1", "seq": None}
SAID = {"kind": "user", "groupId": "g-1", **user(1, "hi")}


def test_groups_are_listed_as_json_lines(http: HttpServer) -> None:
    http.answers = [(200, {"ok": True, "groups": [group(), group(id="g-2")]})]
    result = dispatch("groups", "list", url=http.url)
    assert result.exit_code == 0
    assert [line["id"] for line in lines(result)] == ["g-1", "g-2"]
    assert lines(result)[0] == group()


@pytest.mark.usefixtures("terminal")
def test_groups_are_listed_with_their_members_on_a_terminal(http: HttpServer) -> None:
    run = {"userSeq": 1, "pending": ["opus"], "startedAt": "2026-01-02T03:04:05.006Z"}
    busy = group(title=f"Two {ESCAPE}", activeRuns=[run], activeRun=run, lastSeq=4)
    http.answers = [(200, {"ok": True, "groups": [busy]})]
    heading, shown = dispatch("groups", "list", url=http.url).stdout.splitlines()
    assert heading.split() == ["group", "status", "turns", "title"]
    assert shown.split()[:4] == ["g-1", "answering", "4", "Two"]
    assert shown.endswith("(opus, codex)")
    assert "\x1b" not in shown


@pytest.mark.usefixtures("terminal")
def test_no_groups_are_told_how_to_make_one(http: HttpServer) -> None:
    http.answers = [(200, {"ok": True, "groups": []})]
    assert "dispatch groups create" in dispatch("groups", "list", url=http.url).stderr


def test_a_group_is_made_of_the_agents_that_are_named(http: HttpServer) -> None:
    http.answers = [(201, group())]
    result = dispatch("groups", "create", "opus", "codex", "--title", "Two", url=http.url)
    assert lines(result) == [group()]
    body = {"memberFamiliarIds": ["opus", "codex"], "title": "Two"}
    assert http.seen == [("POST", "/api/groups", body, None)]


@pytest.mark.usefixtures("terminal")
def test_a_new_group_is_named_alone_on_a_terminal(http: HttpServer) -> None:
    http.answers = [(201, group())]
    result = dispatch("groups", "create", "opus", url=http.url)
    assert result.stdout == "g-1\n"
    assert 'dispatch groups send g-1 "hello"' in result.stderr


def test_a_group_without_agents_is_wrong_usage() -> None:
    assert dispatch("groups", "create").exit_code == 2


def test_send_writes_frames_as_they_come(http: HttpServer) -> None:
    http.answers = [
        (200, sse((16, SAID), (32, done(2, "opus", "ho")), (48, group_done(completed=1))))
    ]
    result = dispatch("groups", "send", "g-1", "-", "--to", "opus", url=http.url, stdin="hi\n")
    assert result.exit_code == 0
    assert [(line["kind"], line["frameId"]) for line in lines(result)] == [
        ("user", 16),
        ("done", 32),
        ("done", 48),
    ]
    body = http.seen[0][2]
    assert isinstance(body, dict)
    assert (body["text"], body["targetFamiliarIds"]) == ("hi", ["opus"])


@pytest.mark.usefixtures("terminal")
def test_answers_that_come_at_once_are_shown_one_after_the_other(http: HttpServer) -> None:
    http.answers = [
        (
            200,
            sse(
                (16, SAID),
                (32, chunk(2, "opus", "one ")),
                (48, chunk(3, "codex", f"eins {ESCAPE}")),
                (64, chunk(2, "opus", "two")),
                (80, chunk(3, "codex", "zwei")),
                (96, done(2, "opus", "one two")),
                (112, done(3, "codex", f"eins {ESCAPE}zwei")),
                (128, group_done(completed=2)),
            ),
        )
    ]
    result = dispatch("groups", "send", "g-1", "hi", url=http.url)
    assert result.stdout.splitlines() == [
        "opus: one two",
        "codex: eins \u241b[2Jred<U+202E>zwei",
    ]
    assert result.exit_code == 0


@pytest.mark.usefixtures("terminal")
def test_how_a_member_failed_is_told_and_is_the_exit_code(http: HttpServer) -> None:
    failure = {"code": "timeout", "message": "too slow"}
    http.answers = [
        (
            200,
            sse(
                (16, SAID),
                (32, {**chunk(2, "opus", ""), "kind": "error", "message": "too slow"}),
                (48, done(2, "opus", "half", outcome="error", error=failure)),
                (64, done(3, "codex", "", outcome="cancelled")),
                (80, done(4, "haiku", "")),
                (96, group_done(completed=1, error=1, cancelled=1)),
            ),
        )
    ]
    result = dispatch("groups", "send", "g-1", "hi", url=http.url)
    assert result.stdout.splitlines() == [
        "opus: half",
        "opus: error: too slow",
        "codex: (cancelled)",
        "haiku: (no answer)",
    ]
    assert result.exit_code == 1


@pytest.mark.usefixtures("terminal")
def test_tools_and_questions_of_members_are_shown(http: HttpServer) -> None:
    tool = {
        "kind": "tool_use",
        "phase": "call",
        "toolName": "grep",
        "input": {"pattern": "x" * 300},
    }
    ask = {"kind": "request", "requestId": "r1", "request": {"title": "May I?"}, "sessionId": "c-1"}
    of = {"familiarId": "opus", "replyTo": 1, "seq": None}
    stream = sse((16, {**tool, **of}), (32, {**ask, **of}), (48, group_done(completed=1)))
    http.answers = [(200, stream)]
    shown = dispatch("groups", "send", "g-1", "hi", url=http.url).stdout.splitlines()
    assert shown[0].startswith('opus: * grep {"pattern":"xxx')
    assert shown[1:] == ["opus: ? May I?", "opus:   dispatch respond c-1 r1"]


def test_a_refused_send_is_one_line(http: HttpServer) -> None:
    refusal = {"ok": False, "error": f"no {ESCAPE}", "code": "invalid_targets"}
    http.answers = [(400, refusal)]
    result = dispatch("groups", "send", "g-1", "hi", "--to", "nobody", url=http.url)
    assert result.exit_code == 1
    assert result.stderr == "dispatch: no \u241b[2Jred<U+202E>\n"


@pytest.mark.parametrize("words", [["g-1", "  "], ["not an id", "hi"]])
def test_what_cannot_be_sent_is_wrong_usage(words: list[str]) -> None:
    assert dispatch("groups", "send", *words).exit_code == 2


def test_a_daemon_that_is_not_there_is_exit_code_three(http: HttpServer) -> None:
    http.shutdown()
    http.server_close()
    result = dispatch("groups", "send", "g-1", "hi", url=http.url)
    assert result.exit_code == 3
    assert "dispatch serve starts a daemon" in result.stderr


@pytest.mark.usefixtures("terminal")
def test_a_lost_line_is_told_and_nothing_is_shown_twice(
    http: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatch.client.patience.jittered", lambda *_: 0.0)
    begun = [(16, SAID), (32, chunk(2, "opus", "one "))]
    rest = [(48, done(2, "opus", "one two")), (64, group_done(completed=1))]
    http.answers = [(200, sse(*begun)), (200, sse(*begun, *rest))]
    result = dispatch("groups", "send", "g-1", "hi", url=http.url)
    assert result.stdout.splitlines() == ["opus: one ", "opus: two"]
    assert "connecting again\nconnected again\n" in result.stderr


def test_watch_writes_the_snapshot_and_then_frames(http: HttpServer) -> None:
    open_row = row(2, "opus", "so far", streaming=True)
    http.answers = [
        (200, page(settledSeq=1)),
        (200, page(open_row, settledSeq=1, cursor=32)),
        (200, sse((48, DELETED))),
    ]
    result = dispatch("groups", "watch", "g-1", url=http.url)
    snapshot, frame = lines(result)
    assert snapshot["kind"] == "snapshot"
    assert snapshot["events"] == [open_row]
    assert frame == {**DELETED, "frameId": 48}
    assert result.exit_code == 1
    assert "was deleted" in result.stderr


@pytest.mark.usefixtures("terminal")
def test_watch_shows_what_was_said_and_goes_on_in_mid_answer(http: HttpServer) -> None:
    half = row(4, "opus", "half ", streaming=True, replyTo=3)
    changed = {"kind": "group_updated", "seq": None, "group": group(title="New")}
    http.answers = [
        (200, page(user(1, "hi\nyou"), row(2, "opus", "ho"), user(3, "more"), half, cursor=32)),
        (
            200,
            sse(
                (48, {**chunk(4, "opus", "of "), "replyTo": 3}),
                (64, done(4, "opus", "half of it", replyTo=3)),
                (80, changed),
                (96, {**SAID, "seq": 5, "text": "bye"}),
                (112, DELETED),
            ),
        ),
    ]
    result = dispatch("groups", "watch", "g-1", "--history", url=http.url)
    assert result.stdout.splitlines() == [
        "> hi",
        "  you",
        "opus: ho",
        "> more",
        "opus: half of it",
        "> bye",
    ]
    assert "watching opus & codex (opus, codex); Ctrl-C ends" in result.stderr
    assert "now New (opus, codex)" in result.stderr


@pytest.mark.usefixtures("terminal")
def test_after_a_gap_only_what_is_new_is_shown(http: HttpServer) -> None:
    gap = {"kind": "progress", "id": "resume-gap", "seq": None, "cursor": 90}
    http.answers = [
        (200, page(user(1, "hi"), row(2, "opus", "ho"), cursor=32)),
        (200, sse((48, chunk(3, "codex", "ein")), (None, gap), (112, DELETED))),
        (200, page(user(1, "hi"), row(2, "opus", "ho"), row(3, "codex", "eins"), cursor=96)),
    ]
    result = dispatch("groups", "watch", "g-1", "--history", url=http.url)
    assert result.stdout.splitlines() == ["> hi", "opus: ho", "codex: eins"]
    assert "some frames are gone" in result.stderr


def test_stop_tells_whose_answers_were_ended(http: HttpServer) -> None:
    http.answers = [(200, {"ok": True, "stopped": ["opus"], "queued": False})]
    result = dispatch("groups", "stop", "g-1", "--agent", "opus", url=http.url)
    assert lines(result) == [{"ok": True, "stopped": ["opus"], "queued": False}]
    assert http.seen == [("POST", "/api/groups/g-1/stop", {"familiarId": "opus"}, None)]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("stopped", "shown"),
    [(["opus", "codex"], "stopped opus, codex\n"), ([], "nothing was running\n")],
)
def test_stop_is_told_in_words(http: HttpServer, stopped: list[str], shown: str) -> None:
    http.answers = [(200, {"ok": True, "stopped": stopped, "queued": False})]
    assert dispatch("groups", "stop", "g-1", url=http.url).stdout == shown


def test_an_interrupted_send_leaves_the_answers_to_the_daemon(
    http: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(work: object) -> None:
        run(work)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    run = command_line.run
    monkeypatch.setattr(command_line, "run", interrupted)
    http.answers = [(200, sse((16, SAID), (32, group_done())))]
    result = dispatch("groups", "send", "g-1", "hi", url=http.url)
    assert result.exit_code == 130
    assert "dispatch groups stop g-1 ends them" in result.stderr


def test_a_group_is_renamed_and_its_members_are_changed(http: HttpServer) -> None:
    http.answers = [(200, group(title="Team"))] * 3
    assert lines(dispatch("groups", "rename", "g-1", "Team", url=http.url)) == [group(title="Team")]
    assert dispatch("groups", "add", "g-1", "opus", "codex", url=http.url).exit_code == 0
    assert dispatch("groups", "remove", "g-1", "codex", url=http.url).exit_code == 0
    assert [(method, body) for method, _, body, _ in http.seen] == [
        ("PATCH", {"title": "Team"}),
        ("PATCH", {"addMemberFamiliarIds": ["opus", "codex"]}),
        ("PATCH", {"removeMemberFamiliarIds": ["codex"]}),
    ]


@pytest.mark.usefixtures("terminal")
def test_a_changed_group_is_shown_with_its_members_on_a_terminal(http: HttpServer) -> None:
    http.answers = [(200, group(title=f"Team {ESCAPE}"))]
    shown = dispatch("groups", "rename", "g-1", "Team", url=http.url).stdout
    assert shown.startswith("Team ")
    assert shown.endswith("(opus, codex)\n")
    assert "\x1b" not in shown


def test_a_group_is_deleted_only_after_a_yes(http: HttpServer) -> None:
    deleted = {"ok": True, "deleted": True, "sessionsDeleted": ["c-1"], "sessionsKept": []}
    http.answers = [(200, deleted)] * 2
    assert dispatch("groups", "delete", "g-1", url=http.url, stdin="n\n").exit_code == 1
    assert http.seen == []
    assert lines(dispatch("groups", "delete", "g-1", "--yes", url=http.url)) == [deleted]
    result = dispatch("groups", "delete", "g-1", "--sessions", "keep", url=http.url, stdin="y\n")
    assert result.exit_code == 0
    assert [path for _, path, _, _ in http.seen] == [
        "/api/groups/g-1",
        "/api/groups/g-1?sessions=keep",
    ]
