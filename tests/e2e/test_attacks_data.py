"""Attacks 30 and 33: hostile text in ids, bodies and paths.

What is legal comes back as it was sent, byte for byte; what is not is refused by a typed error
before any engine sees it, on the wire as in every route and frame.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import anyio
import pytest

from tests.e2e.attackers import ask_raw, http_of, not_json, pong
from tests.e2e.conftest import FAST_ECHO
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import events, text, v1_wire

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
    ("POST", "/resume", {"turnId": "t"}),
    ("POST", "/truncate", {"afterTurn": "t"}),
    ("POST", "/queue", {"text": "x"}),
    ("DELETE", "/queue/x", None),
    ("PUT", "/queue", {"messageIds": ["x"]}),
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
                {"type": "chat.resume", "turnId": "t"},
                {"type": "chat.truncate", "afterTurn": "t"},
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
                {"type": "chat.resume", "turnId": strange},
                {"type": "chat.truncate", "afterTurn": strange},
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
                ("POST", "/conversations/ids/resume", {"turnId": strange}),
                ("POST", "/conversations/ids/truncate", {"afterTurn": strange}),
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
    "/index.html",
    "/web/",
    "/web/page",
    "/web/../web/client.js",
    "/web/%2e%2e/cli/commands.py",
    "/web/..%2fcli%2fcommands.py",
    "/web/client.js%00",
    "/web//client.js",
    "/web/frames.d.ts",
    "/%",
    "/%zz",
    "/\x7f",
    "http://127.0.0.1/etc/passwd",
)


@pytest.mark.parametrize("path", PATHS)
async def test_no_path_leads_out_of_the_routes(daemon: DaemonProcess, path: str) -> None:
    """33: no file but the page's; the answer is an error in JSON, not to be guessed about."""
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
