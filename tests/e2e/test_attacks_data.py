"""Attacks 30 to 33: hostile text in ids, bodies, heads and paths; and what of it reaches the logs.

What is legal comes back as it was sent, byte for byte; what is not is refused by a typed error
before any engine sees it. The log is one JSON object a line whatever clients write, and holds
nothing of what people say to each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import anyio
import httpx
import pytest

from tests.e2e.agents import config
from tests.e2e.attackers import (
    GUARD_SECONDS,
    auth,
    figures,
    http_of,
    not_json,
    pong,
    raw_socket,
    token,
    wire_of,
)
from tests.e2e.conftest import FAST_ECHO, StartDaemon
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import events, old_wire, text, v1_wire

TEXTS = {
    "sql": "'; DROP TABLE conversation; --",
    "sql in a like": "%' OR 1=1 --",
    "a byte of zero": "before\0after",
    "right to left": "\u202egnp.exe\u2066",
    "per cent": "%s %d %n %00 %%",
    "braces": "{} {0} {self.__class__} ${jndi:ldap://127.0.0.1/x} #{7*7}",
    "line ends": "a\r\nSet-Cookie: x=1\r\n\r\n<script>",
    "line ends of others": "a\u0085b\u2028c\u2029d",
    "a terminal's escapes": "\x1b]0;owned\x07\x1b[2J\x1b[31mred",
    "outside the plane": "\U0001f600\U0010ffff",
    "not a character": "\ufffe\uffff",
    "a replacement": "\ufffd",
    "quotes": "\"'`\\/\b\f",
    "markup": "<img src=x onerror=alert(1)>&amp;",
    "a path": "../../../../etc/passwd",
    "half a megabyte": "m" * 500_000,
}
# None of these is an id, on any route or in any frame.
BAD_IDS = (
    "'; DROP TABLE conversation; --",
    "a b",
    "a\0b",
    "a\nb",
    "a\r\nb: c",
    "\u202eabc",
    "%",
    "%2e%2e",
    "{tag}",
    "a/b",
    "../x",
    "..\\x",
    "\x1b[31m",
    "${jndi:ldap://127.0.0.1/x}",
    "\u0430bc",
    "\U0001f600",
    "x" * 129,
    "x" * 5_000,
    "",
)


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    """One for most of these, and its log is looked at in the end."""
    process = DaemonProcess(tmp_path_factory.mktemp("daemon"), 'log_level = "debug"\n' + FAST_ECHO)
    await process.start()
    try:
        yield process
        assert not_json(process.log) == []
    finally:
        await process.end()


@pytest.mark.parametrize("name", TEXTS)
async def test_a_hostile_text_comes_back_as_it_was_sent(daemon: DaemonProcess, name: str) -> None:
    """30: as a message in frame, line, history, title, list, queue and export."""
    said, conversation = TEXTS[name], f"text-{list(TEXTS).index(name)}"
    one = f"/conversations/{conversation}"
    async with v1_wire(daemon.url) as wire, http_of(daemon.url) as http:
        await wire.send(
            type="chat.send", conversationId=conversation, message=said, clientMessageId=said[:128]
        )
        seen = await wire.until_event("turn-sealed")
        assert seen[0]["clientMessageId"] == said[:128]
        assert events(seen)[0]["text"] == said
        assert text(seen).split() == said.split()
        chunks = (await http.get(one)).json()["chunks"]
        assert chunks[0]["chunk"]["text"] == said
        body = {"message": f".{said}.", "conversationId": conversation, "clientMessageId": "h"}
        lines = (await http.post("/chat", json=body)).text.split("\n")
        assert json.loads(lines[0])["text"] == f".{said}."
        title = said[:200].strip("\0") or "-"
        assert (await http.put(f"{one}/title", json={"title": title})).json()["title"] == title
        assert (await http.get(f"{one}/title")).json()["title"] == title
        found = (await http.get("/conversations", params={"search": title[:60]})).json()
        assert conversation in [row["id"] for row in found["conversations"]]
        exported = (await http.get(f"{one}/export")).text.split("\n")
        assert json.loads(exported[0])["title"] == title
        assert json.loads(exported[2])["chunk"]["text"] == said
        # A workspace is a label like any other.
        await http.post(f"{one}-w/open", json={"workspaceId": said[:200].strip() or "w"})
        query = {"workspaceId": said[:200].strip() or "w"}
        rows = (await http.get("/conversations", params=query)).json()["conversations"]
        assert [row["id"] for row in rows] == [f"{conversation}-w"]


async def test_what_is_searched_for_is_text_and_no_pattern(daemon: DaemonProcess) -> None:
    """30: neither SQL's nor anybody's."""
    async with http_of(daemon.url) as http:
        await http.put("/conversations/plain/title", json={"title": "plain"})
        everything = len((await http.get("/conversations")).json()["conversations"])
        assert everything > 0
        for field in ("q", "search"):
            for pattern in ("%", "_____", "*", "pl%", "[p]lain", ".*", "' OR '1'='1", "\0", "\\"):
                response = await http.get("/conversations", params={field: pattern})
                rows = response.json()["conversations"]
                assert "plain" not in [row["id"] for row in rows], (field, pattern)
        for query in ("status=idle'--", "before=1", "before=1:' OR 1", "limit=1e3", "limit=-1"):
            response = await http.get(f"/conversations?{query}")
            assert (response.status_code, response.json()["code"]) == (400, "invalid"), query
        response = await http.get("/conversations?" + "&".join(f"a{n}=1" for n in range(500)))
        assert response.status_code == 400


ROUTES = (
    ("GET", "", None),
    ("GET", "/metrics", None),
    ("GET", "/status", None),
    ("GET", "/last", None),
    ("GET", "/export", None),
    ("GET", "/title", None),
    ("PUT", "/title", {"title": "x"}),
    ("PUT", "/model", {"model": "echo"}),
    ("DELETE", "/cwd", None),
    ("POST", "/stop", {}),
    ("POST", "/close", None),
    ("POST", "/open", None),
    ("POST", "/read", {"upToSeq": 1}),
    ("POST", "/fork", {"turnId": "t"}),
    ("POST", "/queue", {"text": "x"}),
    ("DELETE", "/queue/x", None),
    ("POST", "/requests/x", {"approved": True}),
    ("DELETE", "", None),
)


async def test_what_is_no_id_is_refused_on_every_route_and_in_every_frame(
    daemon: DaemonProcess,
) -> None:
    """30: encoded once or twice in a path, or plain in a frame and a body."""
    async with http_of(daemon.url) as http, v1_wire(daemon.url) as wire:
        before = (await http.get("/conversations")).json()
        for bad in BAD_IDS:
            for method, path, body in ROUTES if bad else ():
                for encoded in (quote(bad, safe=""), quote(quote(bad, safe=""))):
                    response = await http.request(
                        method, f"/conversations/{encoded}{path}", json=body
                    )
                    answer = (response.status_code, response.json()["code"])
                    assert answer in ((400, "invalid"), (414, "too_large")), (bad, path)
            for frame in (
                {"type": "chat.subscribe"},
                {"type": "chat.send", "message": "x"},
                {"type": "chat.queue", "text": "x"},
                {"type": "chat.stop"},
                {"type": "chat.read", "upToSeq": 1},
                {"type": "chat.fork", "turnId": "t"},
                {"type": "chat.respond", "requestId": "r"},
                {"type": "subscribe", "surfaceId": "message-queue"},
            ):
                await wire.send(**frame, conversationId=bad)
                (told,) = await pong(wire)
                assert (told["type"], told["code"]) == ("chat.error", "invalid"), (bad, frame)
            response = await http.post("/chat", json={"message": "x", "conversationId": bad})
            assert (response.status_code, response.json()["code"]) == (400, "invalid"), bad
        assert (await http.get("/conversations")).json() == before


async def test_other_ids_of_clients_may_be_anything_and_find_nothing(
    daemon: DaemonProcess,
) -> None:
    """30: turns, requests, queued messages and surfaces are looked up by what was sent."""
    async with http_of(daemon.url) as http, v1_wire(daemon.url) as wire:
        await http.post("/conversations/ids/open")
        for name, strange in TEXTS.items():
            strange = strange[:2_000]
            for frame in (
                {"type": "chat.stop", "turnId": strange},
                {"type": "chat.fork", "turnId": strange},
                {"type": "chat.respond", "requestId": strange, "approved": True},
                {"type": "chat.queue.cancel", "messageId": strange},
                {"type": "subscribe", "surfaceId": strange},
            ):
                await wire.send(**frame, conversationId="ids")
                told = await pong(wire)
                assert [f.get("code", f["type"]) for f in told] in (
                    ["chat.stopped"], ["not_found"], ["closed"], [], ["error"],
                ), name  # fmt: skip
            encoded = quote(strange, safe="")
            for method, path, body in (
                ("DELETE", f"/conversations/ids/queue/{encoded}", None),
                ("POST", f"/conversations/ids/requests/{encoded}", {"approved": True}),
                ("POST", "/conversations/ids/fork", {"turnId": strange}),
            ):
                response = await http.request(method, path, json=body)
                assert response.status_code in (200, 400, 404, 409, 414), (name, path)
                assert response.headers["content-type"] == "application/json"


PATHS = (
    "/../../etc/passwd",
    "/..%2f..%2fetc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "//etc/passwd",
    "///etc/passwd",
    "/..\\..\\windows\\win.ini",
    "/..%5c..%5cwindows%5cwin.ini",
    "/etc/passwd%00.html",
    "/%c0%ae%c0%ae/etc/passwd",
    "/%252e%252e/etc/passwd",
    "/static/../../dispatch.toml",
    "/data/dispatch.db",
    "/dispatch.db",
    "/.git/config",
    "/.env",
    "/proc/self/environ",
    "/file:///etc/passwd",
    "/conversations/../../etc/passwd",
    "/conversations/%2e%2e/status",
    "/conversations/x/..%2f..%2fetc",
    "/",
    "/index.html",
    "/assets/",
    "/%",
    "/%zz",
    "/\x7f",
    "http://127.0.0.1/etc/passwd",
)


def ask_raw(daemon: DaemonProcess, start: bytes, *lines: bytes) -> bytes:
    """A request as it is written, and its whole answer."""
    host = daemon.url.removeprefix("http://").encode()
    head = b"\r\n".join([start, b"Host: " + host, *lines, b"Connection: close", b"", b""])
    with raw_socket(daemon.url) as sock:
        sock.sendall(head)
        answer = b""
        try:
            while part := sock.recv(65536):
                answer += part
        except (ConnectionResetError, TimeoutError):
            pass
        return answer


@pytest.mark.parametrize("path", PATHS)
async def test_no_path_leads_out_of_the_routes(daemon: DaemonProcess, path: str) -> None:
    """33: nothing is a file; the answer is an error in JSON that a browser must not guess about."""
    for method in ("GET", "HEAD", "POST", "DELETE"):
        start = f"{method} {path} HTTP/1.1".encode("latin-1")
        answer = await anyio.to_thread.run_sync(ask_raw, daemon, start)
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        assert status in (400, 404, 405), (method, path, answer)
        lowered = head.lower()
        assert b"content-type: application/json" in lowered
        assert b"x-content-type-options: nosniff" in lowered
        if method != "HEAD":
            assert set(json.loads(body)) == {"error", "code"}
        for secret in (b"root:", b"[agents", b"SQLite", b"Traceback", b"Index of"):
            assert secret not in answer


async def test_hostile_heads_are_answered_and_logged_as_nothing(daemon: DaemonProcess) -> None:
    """31: line ends, escapes and lookups in Origin, Host, agent, cookie, token, path and query."""
    hostile = (
        b"\x1b[31mred\x1b[0m",
        b"${jndi:ldap://127.0.0.1/x}",
        b'"}\t{"event":"daemon.owned","level":"error"}',
        b'%0d%0a{"event":"forged"}',
        b"\xff\xfe\x80",
        b"a\x0bb",
    )
    names = (b"Origin", b"User-Agent", b"Referer", b"X-Forwarded-For", b"Cookie", b"Authorization")
    for value in hostile:
        for name in (*names, b"Host", b"Sec-WebSocket-Protocol"):
            for start in (b"GET /conversations HTTP/1.1", b"GET /ws HTTP/1.1"):
                line = name + b": " + value
                answer = await anyio.to_thread.run_sync(ask_raw, daemon, start, line)
                assert answer.startswith(b"HTTP/1.1 "), (name, value)
        bare = value.replace(b"\t", b"").replace(b" ", b"")
        for target in (b"/" + bare, b"/conversations?q=" + bare, b"/conversations/" + bare):
            await anyio.to_thread.run_sync(ask_raw, daemon, b"GET " + target + b" HTTP/1.1")
        await anyio.to_thread.run_sync(ask_raw, daemon, value + b" / HTTP/1.1")
    assert not_json(daemon.log) == []
    for mark in ("jndi", "forged", "owned", "\x1b", "red"):
        assert mark not in daemon.log, mark


CANARIES = {
    "prompt": "canary-prompt-3f2a",
    "title": "canary-title-77b1",
    "steer": "canary-steer-9d0c",
    "search": "canary-search-55aa",
    "answer": "canary-answer-1e1e",
    "stderr": "canary-stderr-8888",
    "image": "canary-image-4c4c",
    "id": "canary-message-id-2b2b",
    "workspace": "canary-workspace-0f0f",
}
PROGRAM = """
import json, sys
told = json.loads(sys.stdin.readline())
def say(**event):
    print(json.dumps(event), flush=True)
say(type="reasoning-delta", delta="canary-answer-1e1e")
say(type="text-delta", delta="canary-answer-1e1e " + told["message"])
say(type="tool-call", toolCallId="t", toolName="canary-answer-1e1e", input={"x": "canary"})
say(type="error", message="canary-answer-1e1e")
print("canary-stderr-8888", file=sys.stderr, flush=True)
if "bad" in told["message"]:
    print("canary-answer-1e1e is no event", flush=True)
sys.exit(3)
"""


async def test_nothing_that_people_say_and_no_token_reaches_logs_or_metrics(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """32: at the level of debugging, with turns that fail in every way."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    more = 'log_level = "debug"\n' + auth(("a", "ann", "watch send admin"))
    daemon = await start_daemon(
        config("failing", "steered", more=more)
        + FAST_ECHO
        + f'[agents.program]\nkind = "command"\ncommand = ["python3", "{program}"]\n'
    )
    c = CANARIES
    async with wire_of(daemon.url, "a", "ann") as wire, http_of(daemon.url, "a", "ann") as http:
        for model in ("echo", "program", "failing", f"{c['prompt']}/nobody"):
            for message in (c["prompt"], f"bad {c['prompt']}"):
                await wire.send(
                    type="chat.send",
                    message=message,
                    model=model,
                    clientMessageId=f"{c['id']} {model} {message}"[:128],
                    images=[{"url": f"data:{c['image']}"}],
                    workspaceId=c["workspace"],
                )
                await wire.until_event("turn-sealed")
        await wire.send(type="chat.send", conversationId="s", message="go", model="steered")
        await wire.until_event("text-delta")
        await wire.send(type="chat.send", conversationId="s", message=c["steer"], onBusy="steer")
        await wire.until_event("turn-sealed")
        await http.put("/conversations/s/title", json={"title": c["title"]})
        await http.get("/conversations", params={"search": c["search"]})
        await http.post("/chat", json={"message": c["prompt"], "cwd": f"/{c['prompt']}"})
        await http.get(f"/conversations?token={c['id']}")
        session = (await http.post("/auth/session")).headers["set-cookie"].split("=")[1]
        ticket = (await http.post("/auth/ticket")).json()["ticket"]
        metrics = (await http.get("/metrics")).text
    async with httpx.AsyncClient(base_url=daemon.url) as stranger:
        await stranger.get("/models", headers={"Authorization": f"Bearer {c['id']}"})
    await daemon.stop()
    secrets = [*c.values(), token("a", "ann"), session.partition(";")[0], ticket]
    for secret in secrets:
        assert secret not in metrics, secret
        assert secret not in daemon.log, secret
    assert not_json(daemon.log) == []
    assert "turn.agent_failed" in daemon.log


async def test_metrics_are_numbers_without_a_clients_word_in_a_label(
    daemon: DaemonProcess,
) -> None:
    """31 and 32: what a client names makes no series of its own."""
    before = await figures(daemon)
    async with http_of(daemon.url) as http, old_wire(daemon.url) as wire:
        for number in range(50):
            model, conversation = f"m{number}", f"n{number}"
            await http.put(f"/conversations/{conversation}/model", json={"model": model})
            await wire.send(
                type="chat.send", conversationId=conversation, message="x", model=f"{model}/x"
            )
        with anyio.fail_after(GUARD_SECONDS):
            await pong(wire)
        told = (await http.get("/metrics")).text
    assert not re.search(r"\b[mn]\d+\b", told)
    assert set(before) == set(await figures(daemon))
