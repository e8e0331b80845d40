"""The HTTP side as a whole: what the daemon says of itself, and how each failure is answered."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from structlog.testing import capture_logs

from dispatch.errors import StorageFailed, StorageLocked
from dispatch.server.http import build_app, is_public
from dispatch.settings import AuthSettings, AuthToken, Limits
from tests.server.acting import GUARD_SECONDS, Stage, settings, staged

JSON = "application/json"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(settings(tmp_path)) as stage:
        yield stage


async def raw(stage: Stage, request: bytes) -> tuple[int, bytes]:
    """Write these bytes as they are; status and whole text of the answer."""
    address = urlsplit(stage.daemon.url)
    with anyio.fail_after(GUARD_SECONDS):
        async with await anyio.connect_tcp(address.hostname or "", address.port or 0) as tcp:
            await tcp.send(request)
            answer = b""
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                answer += await tcp.receive()
    return int(answer.split()[1]), answer


def head(stage: Stage, line: str, *headers: str) -> bytes:
    host = urlsplit(stage.daemon.url).netloc
    return "\r\n".join([f"{line} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


# -- what the daemon says of itself


async def test_health_is_ok(stage: Stage) -> None:
    reply = await stage.http.get("/health")
    assert (reply.status_code, reply.json()) == (200, {"ok": True})


async def test_ready_is_ok_once_it_accepts(stage: Stage) -> None:
    assert (await stage.http.get("/ready")).json() == {"ok": True}


async def test_ready_is_503_while_draining_and_health_is_not(stage: Stage) -> None:
    stage.daemon.services.is_draining = True
    reply = await stage.http.get("/ready")
    assert reply.status_code == 503
    assert reply.json()["code"] == "unavailable"
    assert reply.headers["retry-after"] == "1"
    assert (await stage.http.get("/health")).status_code == 200


async def test_metrics_are_prometheus_text_for_a_neighbour(stage: Stage) -> None:
    await stage.say("c", "counted")
    reply = await stage.http.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    assert "dispatch_events_total" in reply.text
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", reply.text, re.M))
    assert {"dispatch_auth_refused_total", "dispatch_first_delta_seconds"} <= helps.keys()
    for name, text in helps.items():
        assert len(text.split()) > 3, f"{name}: {text}"
        assert text.endswith(".")


async def test_models_are_what_a_send_takes_with_the_default_agent_first(stage: Stage) -> None:
    reply = await stage.http.get("/models")
    assert reply.json() == {"models": ["actor/quick", "actor/slow", "plain"]}


async def test_agents_tell_how_they_are(stage: Stage) -> None:
    reply = await stage.http.get("/agents")
    assert reply.json() == {
        "agents": [
            {
                "name": "actor",
                "kind": "actor",
                "running": 0,
                "waiting": 0,
                "models": ["quick", "slow"],
                "steer": True,
                "isDefault": True,
            },
            {"name": "plain", "kind": "actor", "running": 0, "waiting": 0},
        ]
    }


async def test_answers_are_not_stored_and_not_guessed_at(stage: Stage) -> None:
    reply = await stage.http.get("/models")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_head_of_a_streamed_reply_has_no_body(stage: Stage) -> None:
    await stage.say("c", "said")
    for path in ("/conversations/c", "/conversations", "/conversations/c/export"):
        reply = await stage.http.head(path)
        assert (reply.status_code, reply.content) == (200, b""), path


# -- paths and methods


@pytest.mark.parametrize(
    "path",
    ["/web", "/nowhere", "/conversations/c/nothing", "/conversations/", "/health/", "//health"],
)
async def test_anything_else_is_404_in_json(stage: Stage, path: str) -> None:
    reply = await stage.http.get(stage.daemon.url + path)
    assert reply.status_code == 404
    assert reply.headers["content-type"] == JSON
    assert reply.json() == {"error": "Not found", "code": "not_found"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/health", {"GET", "HEAD"}),
        ("GET", "/chat", {"POST"}),
        ("PATCH", "/conversations/c", {"GET", "HEAD", "DELETE"}),
        ("POST", "/conversations/c/cwd", {"GET", "HEAD", "PUT", "DELETE"}),
        ("GET", "/conversations/c/queue", {"POST", "PUT"}),
        ("GET", "/auth/session", {"POST", "DELETE"}),
    ],
)
async def test_another_method_is_405_in_json_and_names_the_right_ones(
    stage: Stage, method: str, path: str, allowed: set[str]
) -> None:
    reply = await stage.http.request(method, path)
    assert reply.status_code == 405
    assert reply.json() == {"error": "Method not allowed", "code": "invalid"}
    assert set(reply.headers["allow"].split(", ")) == allowed


ROUTES_OF_ONE: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "", None),
    ("DELETE", "", None),
    ("GET", "/metrics", None),
    ("GET", "/status", None),
    ("GET", "/last", None),
    ("GET", "/export", None),
    ("POST", "/stop", {}),
    ("POST", "/close", None),
    ("POST", "/open", {}),
    ("POST", "/read", {"upToSeq": 1}),
    ("POST", "/fork", {"turnId": "t"}),
    ("POST", "/truncate", {"afterTurn": None}),
    ("POST", "/resume", {"turnId": "t"}),
    ("PUT", "/queue", {"messageIds": ["t"]}),
    ("POST", "/queue", {"text": "x"}),
    ("DELETE", "/queue/t", None),
    ("POST", "/requests/r", {"approved": True}),
    ("GET", "/title", None),
    ("PUT", "/title", {"title": "x"}),
    ("GET", "/model", None),
    ("PUT", "/model", {"model": "plain"}),
    ("GET", "/reasoning-effort", None),
    ("PUT", "/reasoning-effort", {"reasoningEffort": "low"}),
    ("GET", "/cwd", None),
    ("DELETE", "/cwd", None),
    ("GET", "/lsp", None),
    ("GET", "/mcp", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES_OF_ONE)
async def test_a_malformed_id_is_400_on_every_route(
    stage: Stage, method: str, path: str, body: dict[str, Any] | None
) -> None:
    for spelt in ("a%20b", "a%252Fb", "'%3B%20DROP", "%7B%7D", "x" * 129, "%C3%A9"):
        url = f"{stage.daemon.url}/conversations/{spelt}{path}"
        reply = await stage.http.request(method, url, json=body)
        assert reply.status_code == 400, spelt
        assert reply.json() == {
            "error": "malformed conversationId: expected 1 to 128 of A-Z a-z 0-9 . _ : -",
            "code": "invalid",
        }


@pytest.mark.parametrize(
    "path",
    [
        "/conversations/a%2Fstatus",
        "/conversations/a%2fb/title",
        "/conversations/a/status%0A",
        "/conversations/%00",
        "/conversations/a%0d%0aX-Evil:%201/status",
        "/conversations/%FF/status",
        "/health%0a",
    ],
)
async def test_a_path_that_decodes_to_another_is_400(stage: Stage, path: str) -> None:
    status, answer = await raw(stage, head(stage, f"GET {path}"))
    assert status == 400
    assert b'"code":"invalid"' in answer
    assert b"malformed" in answer


async def test_every_id_of_the_alphabet_is_an_id(stage: Stage) -> None:
    for name in ("..", ".", "a:b", "A-Z_0.9", "x" * 128):
        status, _ = await raw(stage, head(stage, f"GET /conversations/{name}"))
        assert status == 200, name


@pytest.mark.parametrize(("method", "path", "body"), ROUTES_OF_ONE)
async def test_a_deleted_id_is_410_on_every_route(
    stage: Stage, method: str, path: str, body: dict[str, Any] | None
) -> None:
    await stage.say("c", "soon gone")
    assert (await stage.http.delete("/conversations/c")).status_code == 200
    reply = await stage.http.request(method, f"/conversations/c{path}", json=body)
    assert reply.status_code == 410
    assert reply.json() == {"error": "the conversation was deleted", "code": "gone"}


# -- bodies


WITH_BODY = [
    ("POST", "/chat"),
    ("POST", "/conversations/c/queue"),
    ("POST", "/conversations/c/read"),
    ("POST", "/conversations/c/fork"),
    ("POST", "/conversations/c/truncate"),
    ("POST", "/conversations/c/resume"),
    ("PUT", "/conversations/c/queue"),
    ("POST", "/conversations/c/requests/r"),
    ("PUT", "/conversations/c/title"),
    ("PUT", "/conversations/c/model"),
    ("PUT", "/conversations/c/reasoning-effort"),
    ("PUT", "/conversations/c/cwd"),
]
MAY_BE_EMPTY = [("POST", "/conversations/c/stop"), ("POST", "/conversations/c/open")]


@pytest.mark.parametrize(("method", "path"), [*WITH_BODY, *MAY_BE_EMPTY])
async def test_what_is_not_json_is_refused_by_name(stage: Stage, method: str, path: str) -> None:
    for content in (b"{", b"nonsense", b"\xff\xfe", b'{"a":1}{"b":2}', b'{"message":"\\ud800"}'):
        reply = await stage.http.request(method, path, content=content)
        assert (reply.status_code, reply.json()) == (
            400,
            {"error": "Invalid JSON body", "code": "invalid"},
        )


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
async def test_no_body_is_not_json(stage: Stage, method: str, path: str) -> None:
    reply = await stage.http.request(method, path)
    assert (reply.status_code, reply.json()["error"]) == (400, "Invalid JSON body")


@pytest.mark.parametrize(("method", "path"), [*WITH_BODY, *MAY_BE_EMPTY])
async def test_json_that_is_no_object_is_refused_by_name(
    stage: Stage, method: str, path: str
) -> None:
    for content in (b"[]", b"null", b'"text"', b"1"):
        reply = await stage.http.request(method, path, content=content)
        assert (reply.status_code, reply.json()) == (
            400,
            {"error": "Request body must be a JSON object", "code": "invalid"},
        )


@pytest.mark.parametrize(("method", "path"), [*WITH_BODY, *MAY_BE_EMPTY])
async def test_json_over_its_depth_is_refused(stage: Stage, method: str, path: str) -> None:
    for depth in (65, 10_000, 200_000):
        content = b'{"deep":' + b"[" * depth + b"]" * depth + b"}"
        reply = await stage.http.request(method, path, content=content)
        assert reply.status_code == 400
        assert reply.json()["code"] == "invalid"


@pytest.mark.parametrize(("method", "path"), [*WITH_BODY, *MAY_BE_EMPTY])
async def test_a_body_over_its_bound_is_413_before_it_is_sent(
    stage: Stage, method: str, path: str
) -> None:
    size = Limits().body_bytes_max + 1
    status, answer = await raw(stage, head(stage, f"{method} {path}", f"Content-Length: {size}"))
    assert status == 413
    assert b'{"error":"the body is over 1048576 bytes","code":"too_large"}' in answer


async def test_a_body_of_untold_length_is_413_at_its_bound(stage: Stage) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(64):
            taken += 1
            yield b" " * 65_536

    reply = await stage.http.post("/chat", content=endless())
    assert (reply.status_code, reply.json()["code"]) == (413, "too_large")


async def test_a_body_within_its_bound_is_read(stage: Stage) -> None:
    text = "x" * (Limits().body_bytes_max - 100)
    events = await stage.say("c", text)
    assert events[0]["text"] == text


async def test_a_body_that_does_not_arrive_is_408(tmp_path: Path) -> None:
    async with staged(settings(tmp_path, limits=Limits(wait_seconds_max=0.05))) as stage:
        request = head(stage, "POST /chat", "Content-Length: 10")
        status, answer = await raw(stage, request + b"{")
        assert status == 408
        assert b"no whole body within 0.05 seconds" in answer


async def test_a_client_that_leaves_in_its_body_is_no_event(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(stage.daemon.url)
    with capture_logs() as logs:
        async with await anyio.connect_tcp(address.hostname or "", address.port or 0) as tcp:
            await tcp.send(head(stage, "POST /chat", "Content-Length: 10") + b"{")
        assert (await stage.http.get("/health")).status_code == 200
    assert logs == []
    assert caplog.records == []


# -- failures


async def test_a_defect_is_500_and_logged_once_without_what_was_sent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    await stage.say("private-name", "private-text")
    monkeypatch.setattr(stage.daemon.services.store, "metrics", broken)
    with capture_logs() as logs:
        reply = await stage.http.get("/conversations/private-name/metrics?private=query")
    assert (reply.status_code, reply.json()) == (500, {"error": "internal", "code": "internal"})
    assert logs == []
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert "private" not in caplog.text


async def test_a_fault_is_logged_with_its_route_and_not_its_path(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise StorageFailed("the disk does not answer")

    await stage.say("private-name", "private-text")
    monkeypatch.setattr(stage.daemon.services.store, "metrics", broken)
    with capture_logs() as logs:
        reply = await stage.http.get("/conversations/private-name/metrics")
    assert (reply.status_code, reply.json()["code"]) == (500, "storage_failed")
    (entry,) = logs
    assert isinstance(entry.pop("exc_info"), StorageFailed)
    assert entry == {
        "event": "http.fault",
        "log_level": "error",
        "code": "storage_failed",
        "route": "/conversations/{id}/metrics",
    }
    assert caplog.records == []


async def test_a_refusal_of_the_disk_is_503_with_a_time_to_come_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def locked(*_: object) -> None:
        raise StorageLocked("another process holds the database", retry_after_ms=2_300)

    await stage.say("c", "said")
    monkeypatch.setattr(stage.daemon.services.store, "metrics", locked)
    reply = await stage.http.get("/conversations/c/metrics")
    assert reply.status_code == 503
    assert reply.json()["code"] == "storage_locked"
    assert reply.headers["retry-after"] == "3"


@pytest.mark.parametrize("failure", [StorageLocked("locked"), ZeroDivisionError("a defect")])
async def test_a_stream_that_fails_is_cut_and_not_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    async def broken(*_: object) -> None:
        raise failure

    await stage.say("c", "said")
    monkeypatch.setattr(stage.daemon.services.store, "chunk_bytes", broken)
    with pytest.raises(httpx.RemoteProtocolError):
        await stage.http.get("/conversations/c")
    assert (await stage.http.get("/health")).status_code == 200


# -- credentials


def token_of(user: str, account: str = "one", *rights: Any) -> AuthToken:
    sha256 = hashlib.sha256(user.encode()).hexdigest()
    return AuthToken(sha256=sha256, account=account, user=user, rights=rights or ("watch", "send"))


def bearer(user: str) -> dict[str, str]:
    return {"authorization": f"Bearer {user}"}


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Stage]:
    tokens = (
        token_of("ann"),
        token_of("bob"),
        token_of("eve", "two"),
        token_of("reader", "one", "watch"),
        token_of("writer", "one", "send"),
        token_of("root", "one", "admin"),
    )
    async with staged(settings(tmp_path, auth=AuthSettings(tokens=tokens))) as stage:
        yield stage


async def test_without_auth_there_are_no_tickets_and_no_sessions(stage: Stage) -> None:
    for path in ("/auth/ticket", "/auth/session"):
        reply = await stage.http.post(path)
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    assert (await stage.http.delete("/auth/session")).json() == {"ok": True}


async def test_with_auth_everything_but_health_needs_a_credential(guarded: Stage) -> None:
    for method, path in [("GET", "/models"), ("POST", "/chat"), ("GET", "/conversations/c")]:
        reply = await guarded.http.request(method, path)
        assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
        assert reply.headers["www-authenticate"] == 'Bearer realm="dispatch"'
    assert (await guarded.http.get("/health")).status_code == 200


async def test_a_ticket_is_good_for_one_request(guarded: Stage) -> None:
    issued = await guarded.http.post("/auth/ticket", headers=bearer("ann"))
    reply = issued.json()
    assert set(reply) == {"ticket", "expiresAt"}
    path = f"/models?ticket={reply['ticket']}"
    assert (await guarded.http.get(path)).status_code == 200
    assert (await guarded.http.get(path)).status_code == 401


async def test_a_session_is_a_cookie_until_it_is_ended(guarded: Stage) -> None:
    reply = await guarded.http.post("/auth/session", headers=bearer("ann"))
    assert reply.json() | {"expiresAt": 0} == {
        "account": "one",
        "user": "ann",
        "rights": ["send", "watch"],
        "expiresAt": 0,
    }
    assert "HttpOnly; SameSite=Strict" in reply.headers["set-cookie"]
    kept = dict(guarded.http.cookies)
    assert (await guarded.http.get("/models")).status_code == 200
    ended = await guarded.http.delete("/auth/session")
    assert "Max-Age=0" in ended.headers["set-cookie"]
    guarded.http.cookies.update(kept)
    assert (await guarded.http.get("/models")).status_code == 401


async def test_a_session_that_is_over_can_still_be_signed_out(guarded: Stage) -> None:
    guarded.http.cookies.set("dispatch_session", "not.one")
    reply = await guarded.http.delete("/auth/session")
    assert reply.status_code == 200
    assert "Max-Age=0" in reply.headers["set-cookie"]


async def test_metrics_are_for_this_machine_or_for_a_credential(guarded: Stage) -> None:
    forwarded = {"x-forwarded-for": "203.0.113.7"}
    assert (await guarded.http.get("/metrics")).status_code == 200
    assert (await guarded.http.get("/metrics", headers=forwarded)).status_code == 401
    trusted = forwarded | bearer("reader")
    assert (await guarded.http.get("/metrics", headers=trusted)).status_code == 200
    assert (await guarded.http.get("/ready")).status_code == 200


async def test_only_what_says_nothing_of_anybody_is_public() -> None:
    assert is_public("GET", "/health")
    assert is_public("HEAD", "/ready")
    assert is_public("DELETE", "/auth/session")
    assert not is_public("POST", "/auth/session")
    assert not is_public("POST", "/metrics")
    assert not is_public("GET", "/models")
    assert not is_public("DELETE", "/health")


async def test_another_account_sees_an_id_that_does_not_exist(guarded: Stage) -> None:
    body = {"conversationId": "c", "message": "secret"}
    assert (await guarded.http.post("/chat", json=body, headers=bearer("ann"))).status_code == 200
    for method, path, sent in ROUTES_OF_ONE:
        if (method, path) in {("POST", "/queue"), ("POST", "/open")} or method == "PUT":
            continue
        known = await guarded.http.request(
            method, f"/conversations/c{path}", json=sent, headers=bearer("eve")
        )
        never = await guarded.http.request(
            method, f"/conversations/x{path}", json=sent, headers=bearer("eve")
        )
        assert known.status_code == never.status_code, path
        assert known.text == never.text.replace('"x"', '"c"'), path
    listed = await guarded.http.get("/conversations", headers=bearer("eve"))
    assert listed.json() == {"conversations": []}


async def test_another_user_of_the_account_sees_it(guarded: Stage) -> None:
    body = {"conversationId": "c", "message": "hello"}
    await guarded.http.post("/chat", json=body, headers=bearer("ann"))
    reply = await guarded.http.get("/conversations/c", headers=bearer("bob"))
    assert reply.json()["chunks"][0]["chunk"]["text"] == "hello"


@pytest.mark.parametrize(("method", "path", "body"), ROUTES_OF_ONE)
async def test_each_route_asks_for_its_right(
    guarded: Stage, method: str, path: str, body: dict[str, Any] | None
) -> None:
    reads = method == "GET" or path == "/read"
    allowed, refused = ("reader", "writer") if reads else ("writer", "reader")
    url = f"/conversations/c{path}"
    reply = await guarded.http.request(method, url, json=body, headers=bearer(refused))
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    reply = await guarded.http.request(method, url, json=body, headers=bearer(allowed))
    assert reply.status_code != 403
    reply = await guarded.http.request(method, url, json=body, headers=bearer("root"))
    assert reply.status_code != 403


async def test_chat_needs_the_rights_to_send_and_to_watch(guarded: Stage) -> None:
    for user, status in [("reader", 403), ("writer", 403), ("ann", 200)]:
        reply = await guarded.http.post("/chat", json={"message": "hi"}, headers=bearer(user))
        assert reply.status_code == status, user


async def test_a_page_of_a_foreign_origin_reads_nothing(stage: Stage) -> None:
    reply = await stage.http.get("/conversations", headers={"origin": "https://evil.example"})
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")


async def test_errors_of_routes_carry_the_headers_that_let_a_page_read_them(stage: Stage) -> None:
    reply = await stage.http.get("/nowhere", headers={"origin": stage.daemon.url})
    assert reply.status_code == 404
    assert reply.headers["access-control-allow-origin"] == stage.daemon.url
    exposed = reply.headers["access-control-expose-headers"]
    assert "x-conversation-id" in exposed


async def test_the_app_waits_for_readiness(stage: Stage) -> None:
    daemon = stage.daemon
    app = build_app(
        daemon.services, daemon.connections, None, metrics=lambda: b"", is_ready=lambda: False
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        assert (await http.get("/ready")).status_code == 503
