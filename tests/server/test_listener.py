"""The one port over real sockets: what a head may be, how upgrades are handed over, the end."""

import asyncio
import logging
import resource
import signal
import socket
from typing import Any

import anyio
import pytest

from dispatch.errors import CloseCode, ConfigError, Unavailable
from dispatch.server.auth import Authenticator
from dispatch.server.credential import ANYONE, digest
from dispatch.server.gate import Doorkeeper
from dispatch.server.handshake import Handshake
from dispatch.server.http1 import LINE_BYTES_MAX
from dispatch.server.listener import SEND_BUFFER_BYTES, Listener
from dispatch.server.websocket import frame_text
from dispatch.settings import DEMO_AGENTS, AuthSettings, AuthToken, JwtSettings, Limits, Settings
from tests.server.wire import (
    ACCEPT,
    CLOSE,
    GUARD_SECONDS,
    TEXT,
    Frame,
    Recorder,
    Server,
    closing,
    frames,
    hello,
    masked,
    serving,
    until,
    upgrade,
)

TOKEN = "a token of 256 bits, say"
AUTH = AuthSettings(tokens=(AuthToken(sha256=digest(TOKEN), user="ann"),))


@pytest.fixture(scope="module")
async def server():
    async with serving() as server:
        yield server


def get(server: Server, path: str = "/health", *lines: str) -> bytes:
    return "\r\n".join(
        [f"GET {path} HTTP/1.1", f"Host: {server.authority}", *lines, "", ""]
    ).encode("latin-1")


async def answer(server: Server, request: bytes) -> tuple[int, dict[str, str], bytes]:
    async with await server.connect() as raw:
        raw.send(request)
        return await raw.response()


# ---------------------------------------------------------------- the sockets


async def test_port_0_is_a_port_that_answers_once_it_is_known() -> None:
    async with serving() as server:
        assert server.listener.port > 0
        assert server.listener.url == f"http://127.0.0.1:{server.listener.port}"
        status, headers, body = await answer(server, get(server))
        assert (status, body) == (200, b"/health local")
        assert headers["server"] == "dispatch"
        assert "date" in headers


async def test_small_frames_are_not_held_back_and_send_buffers_are_bounded(server: Server) -> None:
    async with await server.upgraded():
        accepted = server.recorders[-1].websocket._transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        # Linux doubles it for its own book-keeping.
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER_BYTES


@pytest.mark.parametrize("host", ["::1", "localhost", "0.0.0.0", "::"])
async def test_other_ways_to_name_an_address_work(host: str) -> None:
    if ":" in host:
        with socket.socket(socket.AF_INET6) as probe:
            try:
                probe.bind(("::1", 0))
            except OSError:
                pytest.skip("no IPv6 on this machine")
    async with serving(host=host, insecure=True) as server:
        status, _, _ = await answer(server, get(server))
        assert status == 200
        async with await server.upgraded():
            pass


async def test_a_port_that_is_taken_is_named() -> None:
    async with serving() as server:
        settings = Settings(port=server.listener.port, agents=DEMO_AGENTS)
        second = Listener(settings, hello, Doorkeeper(settings, None), lambda handshake: Recorder())
        with pytest.raises(ConfigError, match=str(server.listener.port)):
            async with second:
                pass


async def test_a_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.invalid"):
        async with serving(host="nowhere.invalid"):
            pass


async def test_signals_are_left_to_the_program() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    async with serving():
        assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


# ---------------------------------------------------------------- the handshake


async def test_an_upgrade_is_answered_with_the_rfcs_own_example(server: Server) -> None:
    status, headers, _ = await answer(server, upgrade(server.authority))
    assert status == 101
    assert headers["sec-websocket-accept"] == ACCEPT.decode()
    assert headers["upgrade"] == "websocket"
    assert "sec-websocket-protocol" not in headers
    assert "sec-websocket-extensions" not in headers


async def test_the_answer_and_the_first_frame_arrive_in_one_piece() -> None:
    async with serving(recorder=lambda handshake: Recorder(frame_text(b"hello"))) as server:
        loop = asyncio.get_running_loop()
        with socket.socket() as plain:
            plain.setblocking(False)
            await loop.sock_connect(plain, ("127.0.0.1", server.listener.port))
            await loop.sock_sendall(plain, upgrade(server.authority))
            head, _, rest = (await loop.sock_recv(plain, 65536)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert frames(rest) == [Frame(True, TEXT, b"hello")]


async def test_frames_right_behind_the_head_are_delivered(server: Server) -> None:
    behind = masked(TEXT, b"one") + masked(TEXT, b"two" * 10_000) + masked(CLOSE, closing(1000))
    async with await server.upgraded(behind=behind) as raw:
        assert (await raw.frame()).code == 1000
        assert server.recorders[-1].messages == [b"one", b"two" * 10_000]


async def test_it_makes_no_difference_where_the_head_is_cut(server: Server) -> None:
    request = upgrade(server.authority) + masked(TEXT, b"behind") + masked(CLOSE, closing(1000))
    for cut in range(1, len(request)):
        async with await server.connect() as raw:
            raw.send(request[:cut])
            await until(lambda raw=raw: not raw.writer.transport.get_write_buffer_size())
            await anyio.lowlevel.checkpoint()
            raw.send(request[cut:])
            assert (await raw.response())[0] == 101
            assert (await raw.frame()).code == 1000
        assert server.recorders[-1].messages == [b"behind"]


async def test_a_connection_that_served_requests_may_upgrade(server: Server) -> None:
    async with await server.connect() as raw:
        for _ in range(2):
            raw.send(get(server))
            assert (await raw.response())[0] == 200
        raw.send(upgrade(server.authority))
        assert (await raw.response())[0] == 101


@pytest.mark.parametrize(
    ("status", "lines", "version"),
    [
        (426, ["Sec-WebSocket-Version: 12"], None),
        (426, ["Sec-WebSocket-Version: 8, 13"], None),
        (400, [], None),
        (400, ["Sec-WebSocket-Key: "], "13"),
        (400, ["Sec-WebSocket-Key: c2hvcnQ="], "13"),
        (400, ["Sec-WebSocket-Key: not base64"], "13"),
        (400, ["Content-Length: 3\r\n\r\nabc"], "13"),
        (400, ["Sec-WebSocket-Protocol: soap"], "13"),
        (400, ["Sec-WebSocket-Protocol: dispatch.v2, DISPATCH.V1"], "13"),
        (421, ["Host: evil.example"], "13"),
        (403, ["Origin: https://evil.example"], "13"),
        (403, ["Origin: null"], "13"),
        (401, ["Authorization: Bearer wrong"], "13"),
        (401, ["Sec-WebSocket-Protocol: dispatch.v1, dispatch.token.d3Jvbmc"], "13"),
        (401, ["Sec-WebSocket-Protocol: dispatch.v1, dispatch.token.*"], "13"),
    ],
)
async def test_an_upgrade_is_refused(status: int, lines: list[str], version: str | None) -> None:
    async with serving(auth=AUTH) as server:
        request = upgrade(server.authority, "/ws", *lines, version=version)
        got, headers, body = await answer(server, request)
        assert got == status
        assert headers["content-type"] == "application/json"
        assert b'"error"' in body
        assert headers["connection"] == "close"
        if status == 426:
            assert headers["sec-websocket-version"] == "13"
        assert server.recorders == []


@pytest.mark.parametrize(
    ("status", "start"), [(405, b"POST /ws HTTP/1.1"), (505, b"GET /ws HTTP/1.0")]
)
async def test_only_get_and_http_1_1_upgrade(server: Server, status: int, start: bytes) -> None:
    request = upgrade(server.authority).replace(b"GET /ws HTTP/1.1", start)
    assert (await answer(server, request))[0] == status


async def test_a_foreign_page_makes_us_do_no_work_on_its_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unasked(*arguments: object) -> None:
        raise AssertionError("judged a credential of a foreign page")

    async with serving(auth=AUTH) as server:
        for name in ("check", "redeem_ticket", "check_session"):
            monkeypatch.setattr(Authenticator, name, unasked)
        lines = ["Origin: https://evil.example", f"Authorization: Bearer {TOKEN}"]
        for request in (
            upgrade(server.authority, "/ws?ticket=x", *lines),
            get(server, "/conversations?ticket=x", *lines),
        ):
            status, headers, _ = await answer(server, request)
            assert status == 403
            assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["dispatch.v1"], "dispatch.v1"),
        (["soap, dispatch.v1"], "dispatch.v1"),
        (["soap", "dispatch.v1"], "dispatch.v1"),
        (["dispatch.token.x"], None),
        (["dispatch.token.x, dispatch.v1"], "dispatch.v1"),
    ],
)
async def test_a_subprotocol_is_chosen_and_a_token_is_never_echoed(
    server: Server, offered: list[str], chosen: str | None
) -> None:
    lines = "\r\n".join(f"Sec-WebSocket-Protocol: {offer}" for offer in offered)
    request = upgrade(server.authority, "/ws", *([lines] if lines else []))
    status, headers, _ = await answer(server, request)
    assert status == 101
    assert headers.get("sec-websocket-protocol") == chosen
    assert server.handshakes[-1].subprotocol == chosen
    assert server.recorders[-1].websocket.subprotocol == chosen


async def test_the_receiver_learns_who_asks_and_for_what() -> None:
    async with serving(auth=AUTH) as server:
        line = f"Authorization: Bearer {TOKEN}"
        async with await server.upgraded("/any/path?heal=0&a=%20", line):
            handshake = server.handshakes[0]
            assert handshake.credential is not None
            assert handshake.credential.principal.user == "ann"
            assert (handshake.head.path, handshake.head.query) == ("/any/path", "heal=0&a=%20")
            assert handshake.head.client == "127.0.0.1"
            websocket = server.recorders[0].websocket
            assert (websocket.path, websocket.query) == ("/any/path", "heal=0&a=%20")
            assert (b"authorization", line.partition(": ")[2].encode()) in (
                server.recorders[0].headers_seen
            )


async def test_without_auth_everyone_is_the_local_user(server: Server) -> None:
    async with await server.upgraded():
        assert server.handshakes[-1].credential == ANYONE


async def test_the_owner_may_refuse_an_upgrade() -> None:
    def refuse(handshake: Handshake) -> Recorder:
        raise Unavailable("draining", retry_after_ms=2500)

    async with serving(recorder=refuse) as server:
        status, headers, body = await answer(server, upgrade(server.authority))
        assert (status, headers["retry-after"]) == (503, "3")
        assert body == b'{"error":"draining","code":"unavailable"}'


async def test_what_asks_for_another_protocol_is_answered_as_http(server: Server) -> None:
    request = get(server, "/health", "Connection: Upgrade", "Upgrade: h2c")
    async with await server.connect() as raw:
        raw.send(request + get(server, "/next"))
        assert (await raw.response())[2] == b"/health local"
        assert (await raw.response())[2] == b"/next local"


async def test_an_upgrade_without_connection_upgrade_is_a_request(server: Server) -> None:
    request = upgrade(server.authority, "/ws", "Connection: keep-alive")
    assert (await answer(server, request))[2] == b"/ws local"


# ---------------------------------------------------------------- naming oneself later


async def test_who_offers_nothing_may_name_itself_in_time() -> None:
    async with (
        serving(Limits(auth_seconds_max=1), auth=AUTH) as server,
        await server.upgraded() as silent,
        await server.upgraded() as named,
    ):
        assert [handshake.credential for handshake in server.handshakes] == [None, None]
        assert server.listener.statistics().unauthenticated == 2
        server.recorders[1].websocket.authenticated()
        (frame,) = frames(await silent.rest())
        assert frame.code == CloseCode.UNAUTHORIZED
        assert server.recorders[1].websocket.is_open
        assert server.listener.statistics().unauthenticated == 0
        await named.close()


async def test_no_more_may_wait_to_name_themselves_than_the_limit() -> None:
    limits = Limits(connections_unauthenticated_max=2)
    async with serving(limits, auth=AUTH) as server:
        waiting = [await server.upgraded() for _ in range(2)]
        assert (await answer(server, upgrade(server.authority)))[0] == 429
        line = f"Authorization: Bearer {TOKEN}"
        assert (await answer(server, upgrade(server.authority, "/ws", line)))[0] == 101
        await waiting[0].close()
        await until(lambda: server.listener.statistics().unauthenticated == 1)
        assert (await answer(server, upgrade(server.authority)))[0] == 101
        await waiting[1].close()


async def test_an_upgrade_waits_for_the_keys_it_needs_and_loses_nothing() -> None:
    settings = JwtSettings(
        algorithm="RS256", audience="a", issuer="i", jwks_url="http://127.0.0.1:1/jwks"
    )
    async with serving(auth=AuthSettings(jwt=settings)) as server:
        asked = []

        def fetch() -> dict[str, Any]:
            asked.append(True)
            return {}

        server.keeper.authenticator._claims._fetch = fetch
        # {"alg":"RS256","kid":"k"} - the payload and the signature never come into it.
        token = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.e30.AA"
        for _ in range(3):
            request = upgrade(server.authority, "/ws", f"Authorization: Bearer {token}")
            assert (await answer(server, request + masked(TEXT, b"behind")))[0] == 401
        assert asked == [True]


# ---------------------------------------------------------------- what a head may be


def long_header(size: int) -> str:
    return "X-Long: " + "x" * size


@pytest.mark.parametrize(
    ("status", "path", "lines"),
    [
        (414, "/" + "x" * 9000, []),
        (414, "/?" + "x" * 9000, []),
        (431, "/", [long_header(9000)]),
        (431, "/", [f"X-{number}: x" for number in range(129)]),
        (431, "/", [f"{long_header(4000)}" for _ in range(5)]),
        (431, "/", [long_header(1_000_000)]),
    ],
)
@pytest.mark.parametrize("upgrading", [False, True])
async def test_a_head_over_a_bound_is_refused_and_costs_nothing(
    server: Server, status: int, path: str, lines: list[str], upgrading: bool
) -> None:
    before = len(server.recorders)
    make = upgrade if upgrading else None
    if make is not None:
        request = upgrade(server.authority, path)[:-2] + "\r\n".join([*lines, "", ""]).encode()
    else:
        request = get(server, path, *lines)
    got, headers, body = await answer(server, request)
    assert got == status
    assert headers["connection"] == "close"
    assert b'"code":"too_large"' in body
    assert len(server.recorders) == before
    await until(lambda: server.listener.statistics().http == 0)


async def test_a_head_within_every_bound_is_served(server: Server) -> None:
    lines = [long_header(LINE_BYTES_MAX - 100), *(f"X-{number}: x" for number in range(90))]
    assert (await answer(server, get(server, "/" + "x" * 4000, *lines)))[0] == 200


async def test_a_header_that_never_ends_is_cut_off_at_the_bound(server: Server) -> None:
    async with await server.connect() as raw:
        raw.send(b"GET / HTTP/1.1\r\nX-Endless: ")
        with anyio.fail_after(GUARD_SECONDS):
            for _ in range(1000):
                raw.send(b"x" * 1000)
                await raw.writer.drain()
                if server.listener.statistics().heads_waiting == 0:
                    break
        assert (await raw.response())[0] == 431


async def test_who_is_refused_in_the_middle_of_a_sentence_is_not_cut_off(server: Server) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as talking:
        talking.setblocking(False)
        await loop.sock_connect(talking, ("127.0.0.1", server.listener.port))
        received = b""
        with anyio.fail_after(GUARD_SECONDS):
            # A reset would fail one of these, and take the answer with it on some systems.
            for _ in range(20):
                await loop.sock_sendall(talking, b"x" * 100_000)
            while chunk := await loop.sock_recv(talking, 65536):
                received += chunk
        assert received.startswith(b"HTTP/1.1 400 ")


async def test_empty_lines_are_no_way_around_the_bound(server: Server) -> None:
    async with await server.connect() as raw:
        raw.send(b"\r\n" * 20_000)
        assert (await raw.response())[0] == 431


async def test_a_large_body_is_not_mistaken_for_a_head() -> None:
    async def count(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        body = str(size).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async with serving(app=count) as server:
        request = get(server, "/x", "Content-Length: 300000").replace(b"GET", b"POST")
        async with await server.connect() as raw:
            for _ in range(3):
                raw.send(request + b"x" * 300_000 + request[:50])
                raw.send(request[50:] + b"x" * 300_000)
                assert (await raw.response())[2] == b"300000"
                assert (await raw.response())[2] == b"300000"


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    async with await server.connect() as raw:
        raw.send(b"".join(get(server, f"/{number}") for number in range(50)))
        for number in range(50):
            assert (await raw.response())[2] == b"/%d local" % number


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
async def test_what_is_not_http_is_refused_without_a_log(
    server: Server, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    status, _, body = await answer(server, garbage)
    assert (status, body) == (400, b'{"error":"this is not HTTP/1.1","code":"invalid"}')
    assert [record for record in caplog.records if record.name != "asyncio"] == []


async def test_an_error_of_the_app_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a defect")

    async with serving(app=broken) as server:
        assert (await answer(server, get(server)))[0] == 500
    assert "a defect" in caplog.text


async def test_a_token_in_a_query_is_refused_and_appears_in_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(0)
    async with serving(auth=AUTH) as server:
        for name in ("token", "access_token"):
            for request in (
                get(server, f"/conversations?{name}={digest(TOKEN)}"),
                upgrade(server.authority, f"/ws?{name}={digest(TOKEN)}"),
            ):
                status, headers, body = await answer(server, request)
                assert status == 401
                assert headers["www-authenticate"].startswith("Bearer")
                assert f"`{name}`" in body.decode()
                assert digest(TOKEN) not in body.decode()
    assert digest(TOKEN) not in caplog.text


# ---------------------------------------------------------------- slow heads


async def test_half_a_head_is_cut_off_in_time() -> None:
    async with serving(Limits(head_seconds_max=0.2)) as server, await server.connect() as raw:
        raw.send(get(server)[:-2])
        assert (await raw.response())[0] == 408
        assert await raw.rest() == b""


async def test_a_connection_that_says_nothing_is_cut_without_a_word() -> None:
    async with serving(Limits(head_seconds_max=0.2)) as server, await server.connect() as raw:
        assert await raw.rest() == b""


async def test_a_head_that_trickles_in_is_cut_off_in_time() -> None:
    async with serving(Limits(head_seconds_max=0.3)) as server, await server.connect() as raw:
        step = 0.01
        with anyio.fail_after(GUARD_SECONDS):
            for byte in get(server, "/" + "x" * 1000):
                raw.send(bytes([byte]))
                await anyio.sleep(step)
                if not server.listener.statistics().heads_waiting:
                    break
        assert (await raw.response())[0] == 408


@pytest.mark.parametrize("second", [b"GET / HT", b"\r\n"])
async def test_a_second_head_has_no_more_time_than_the_first(second: bytes) -> None:
    async with serving(Limits(head_seconds_max=0.2)) as server, await server.connect() as raw:
        raw.send(get(server))
        assert (await raw.response())[0] == 200
        raw.send(second)
        assert (await raw.response())[0] == 408


async def test_a_response_that_streams_is_not_cut_by_stray_bytes_of_the_client() -> None:
    release = anyio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await release.wait()
        await send({"type": "http.response.body", "body": b"the end"})

    async with (
        serving(Limits(head_seconds_max=0.2), app=stream) as server,
        await server.connect() as raw,
    ):
        raw.send(get(server))
        await raw.response()
        raw.send(b"GET / HT")
        await until(lambda: server.listener.statistics().heads_waiting == 1)
        await until(lambda: server.listener.statistics().heads_waiting == 0)
        release.set()
        with anyio.fail_after(GUARD_SECONDS):
            assert b"the end" in await raw.reader.readuntil(b"0\r\n\r\n")


async def test_a_body_that_stops_is_cut_and_one_that_goes_on_is_not() -> None:
    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await hello(scope, receive, send)

    limits = Limits(stall_seconds_max=0.3)
    async with (
        serving(limits, app=read) as server,
        await server.connect() as stopping,
        await server.connect() as slow,
    ):
        post = get(server, "/x", "Content-Length: 20").replace(b"GET", b"POST")
        stopping.send(post + b"12345")
        slow.send(post)
        step = 0.1
        for _ in range(20):
            slow.send(b"x")
            await anyio.sleep(step)
        assert (await slow.response())[0] == 200
        assert await stopping.rest() == b""


async def test_a_response_that_nobody_reads_is_cut_and_the_app_is_told() -> None:
    ended = anyio.Event()

    async def pour(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for _ in range(100_000):
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        finally:
            ended.set()

    limits = Limits(stall_seconds_max=0.3)
    async with serving(limits, app=pour) as server:
        loop = asyncio.get_running_loop()
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            await loop.sock_connect(deaf, ("127.0.0.1", server.listener.port))
            await loop.sock_sendall(deaf, get(server))
            await until(lambda: server.listener.statistics().http == 1)
            await until(lambda: server.listener.statistics().http == 0)


async def test_two_thousand_slow_heads_delay_nobody() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(2000, (hard - 500) // 2)
    async with serving(Limits(head_seconds_max=2.0)) as server:
        loop = asyncio.get_running_loop()
        slow = []
        for _ in range(count):
            one = socket.socket()
            one.setblocking(False)
            slow.append(one)
            await loop.sock_connect(one, ("127.0.0.1", server.listener.port))
            await loop.sock_sendall(one, b"GET / HTTP/1.1\r\nX: ")
        try:
            delays = []
            for _ in range(5):
                began = loop.time()
                assert (await answer(server, get(server)))[0] == 200
                delays.append(loop.time() - began)
            assert min(delays) < 0.1
            with anyio.fail_after(30):
                await until_all_cut(loop, slow)
            assert server.listener.statistics().heads_waiting == 0
        finally:
            for one in slow:
                one.close()


async def until_all_cut(loop: asyncio.AbstractEventLoop, sockets: list[socket.socket]) -> None:
    for one in sockets:
        received = b""
        while chunk := await loop.sock_recv(one, 65536):
            received += chunk
        assert received.startswith(b"HTTP/1.1 408 ")


# ---------------------------------------------------------------- how many


async def test_one_connection_too_many_is_told_to_come_back() -> None:
    async with serving(Limits(connections_max=3)) as server:
        held = [await server.upgraded(), await server.connect(), await server.connect()]
        await until(lambda: server.listener.statistics().http == 2)
        status, headers, body = await answer(server, get(server))
        assert (status, headers["retry-after"]) == (429, "5")
        assert b'"code":"too_many"' in body
        await held[0].close()
        await until(lambda: server.listener.statistics().websockets == 0)
        await until(lambda: server.listener.statistics().http == 2)
        assert (await answer(server, get(server)))[0] == 200
        for raw in held[1:]:
            await raw.close()


# ---------------------------------------------------------------- proxies


@pytest.mark.parametrize(
    ("trusted", "client", "scheme"),
    [
        ((), "127.0.0.1", "http"),
        (("10.0.0.0/8",), "127.0.0.1", "http"),
        (("127.0.0.1",), "192.0.2.7", "https"),
        (("127.0.0.0/8", "192.0.2.7"), "192.0.2.6", "https"),
    ],
)
async def test_only_a_trusted_proxy_says_who_the_client_is(
    trusted: tuple[str, ...], client: str, scheme: str
) -> None:
    seen = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"][0], scope["scheme"]))
        await hello(scope, receive, send)

    lines = ["X-Forwarded-For: 192.0.2.6, 192.0.2.7", "X-Forwarded-Proto: wss"]
    async with serving(app=look, trusted_proxies=trusted) as server:
        await answer(server, get(server, "/", *lines))
        await answer(server, upgrade(server.authority, "/ws", *lines))
        head = server.handshakes[0].head
        assert (head.client, head.scheme) == (client, scheme)
        assert seen == [(client, {"https": "wss"}.get(scheme, scheme))]


@pytest.mark.parametrize("proxy", ["proxy.example", "10.0.0.1/8", "10.0.0.0/99", ""])
async def test_a_proxy_that_is_no_address_is_a_mistake_of_the_configuration(proxy: str) -> None:
    with pytest.raises(ConfigError, match="trusted_proxies"):
        async with serving(trusted_proxies=(proxy,)):
            pass


# ---------------------------------------------------------------- stopping


async def test_who_stops_accepting_keeps_whoever_is_connected() -> None:
    async with (
        serving() as server,
        await server.upgraded() as watching,
        await server.connect() as idle,
    ):
        idle.send(get(server))
        await idle.response()
        server.listener.stop_accepting()
        assert await idle.rest() == b""
        with pytest.raises(OSError, match="Connect call failed"):
            await server.connect()
        watching.send(masked(TEXT, b"still here"))
        await until(lambda: server.recorders[0].messages == [b"still here"])


async def test_a_drain_says_goodbye_and_lets_requests_finish() -> None:
    release = anyio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await hello(scope, receive, send)

    async with (
        serving(app=slow) as server,
        await server.upgraded() as watching,
        await server.connect() as asking,
    ):
        asking.send(get(server))
        await until(lambda: server.listener._edge.state.tasks)
        drained = []

        async def drain() -> None:
            drained.append(await server.listener.drain(GUARD_SECONDS))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            frame = await watching.frame()
            assert frame.code == CloseCode.DRAINING
            watching.send(masked(CLOSE, frame.payload))
            release.set()
            status, headers, _ = await asking.response()
            assert (status, headers["connection"]) == (200, "close")
            assert await watching.rest() == b""
        assert drained == [True]
        assert server.recorders[0].calls == ["opened", "lost"]


async def test_a_drain_does_not_wait_for_ever_and_close_leaves_nothing() -> None:
    cancelled = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(True)

    async with (
        serving(app=endless) as server,
        await server.upgraded() as deaf,
        await server.connect() as asking,
    ):
        asking.send(get(server))
        await until(lambda: server.listener._edge.state.tasks)
        step = 0.05
        assert not await server.listener.drain(step)
        await server.listener.close()
        assert cancelled == [True]
        assert server.recorders[0].calls == ["opened", "lost"]
        assert frames(await deaf.rest())[0].code == CloseCode.DRAINING
        assert await asking.rest() == b""
        assert server.listener.statistics().http == 0


async def test_a_close_ends_a_drain_that_waits() -> None:
    async with serving() as server, await server.upgraded(), anyio.create_task_group() as tasks:
        drained = []

        async def drain() -> None:
            with anyio.fail_after(GUARD_SECONDS):
                drained.append(await server.listener.drain(GUARD_SECONDS * 10))

        tasks.start_soon(drain)
        await until(lambda: server.recorders[0].calls == ["opened", "lost"])
        await server.listener.close()
        with anyio.fail_after(GUARD_SECONDS):
            await until(lambda: drained == [True])


async def test_leaving_the_listener_frees_its_port_at_once() -> None:
    async with serving() as server:
        port = server.listener.port
        raw = await server.upgraded()
    settings = Settings(port=port, agents=DEMO_AGENTS)
    async with Listener(
        settings, hello, Doorkeeper(settings, None), lambda handshake: Recorder()
    ) as again:
        assert again.port == port
    await raw.close()


async def test_a_listener_may_be_stopped_in_any_order_and_twice() -> None:
    async with serving() as server:
        await server.listener.close()
        server.listener.stop_accepting()
        assert await server.listener.drain(1)
        await server.listener.close()
