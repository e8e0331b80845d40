"""The HTTP side of the client against a server that answers as a test says."""

from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from dispatch.client import CannotConnect
from dispatch.core.events import Response
from dispatch.errors import (
    DispatchError,
    Fault,
    NotFound,
    PeerError,
    RateLimited,
    RequestClosed,
    Unauthorized,
)
from tests.client.answering import HttpServer, running


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with running() as server:
        yield server


async def test_history_is_asked_for_as_the_page_says(server: HttpServer) -> None:
    chunk = {"seq": 3, "role": "user", "chunk": {"type": "text", "text": "hi"}}
    server.answers = [(200, {"chunks": [chunk], "latestSeq": 3})]
    page = await server.api("t0ken").history("a.b:c", since_seq=2, limit=5)
    assert page.latest_seq == 3
    assert page.chunks[0].seq == 3
    path = "/conversations/a.b%3Ac?sinceSeq=2&limit=5"
    assert server.seen == [("GET", path, None, "Bearer t0ken")]


async def test_an_id_cannot_leave_its_place_in_the_path(server: HttpServer) -> None:
    server.answers = [(200, {"chunks": [], "latestSeq": 0})]
    await server.api().history("../../models?x=")
    assert server.seen[0][1] == "/conversations/..%2F..%2Fmodels%3Fx%3D"


async def test_the_list_and_the_models_are_read(server: HttpServer) -> None:
    summary = {"id": "c", "createdAt": 1, "lastActivityAt": 2, "title": "hi"}
    summary |= {"status": "idle", "workspaceId": "default", "mood": "good"}
    server.answers = [(200, {"conversations": [summary]}), (200, {"models": ["echo", "x/y"]})]
    [found] = await server.api().conversations(search="a b", limit=3)
    assert found.last_activity_at == 2
    assert server.seen[0][1] == "/conversations?search=a+b&limit=3"
    assert await server.api().models() == ("echo", "x/y")


async def test_what_changes_something_is_posted_with_its_body(server: HttpServer) -> None:
    queue = {"conversationId": "c", "startedTurn": False}
    queue |= {"queue": [{"id": "q", "text": "hi", "queuedAt": 1}]}
    server.answers = [
        (200, {"conversationId": "c", "abortedTurn": True}),
        (200, queue),
        (200, {"conversationId": "c", "lastReadSeq": 7, "unread": 2}),
        (200, {}),
    ]
    api = server.api()
    assert (await api.stop("c")).aborted_turn
    assert (await api.queue("c", "hi")).queue[0].id == "q"
    assert (await api.read("c", 7)).unread == 2
    await api.respond("c", Response("r1", approved=True))
    assert [(method, path, body) for method, path, body, _ in server.seen] == [
        ("POST", "/conversations/c/stop", None),
        ("POST", "/conversations/c/queue", {"text": "hi"}),
        ("POST", "/conversations/c/read", {"upToSeq": 7}),
        ("POST", "/conversations/c/requests/r1", {"requestId": "r1", "approved": True}),
    ]


async def test_what_goes_back_is_posted_with_its_id(server: HttpServer) -> None:
    server.answers = [
        (200, {"conversationId": "c", "position": "g:7"}),
        (200, {"conversationId": "c", "turnId": "t2", "resumes": "t1"}),
    ]
    api = server.api()
    await api.truncate("c", None, client_message_id="cut")
    assert await api.resume("c", "t1", client_message_id="again") == "t2"
    assert [(method, path, body) for method, path, body, _ in server.seen] == [
        ("POST", "/conversations/c/truncate", {"afterTurn": None, "clientMessageId": "cut"}),
        ("POST", "/conversations/c/resume", {"turnId": "t1", "clientMessageId": "again"}),
    ]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, {"error": "nothing here", "code": "not_found"}, NotFound),
        (404, {"error": "nothing here"}, NotFound),
        (409, {"error": "nothing here", "code": "closed"}, RequestClosed),
        (401, {"error": "nothing here", "code": "unauthorized"}, Unauthorized),
        (429, {"error": "nothing here", "code": "rate_limited"}, RateLimited),
        (500, {"error": "nothing here"}, Fault),
    ],
)
async def test_a_refusal_is_the_exception_that_the_daemon_raised(
    server: HttpServer, status: int, body: object, kind: type[DispatchError]
) -> None:
    server.answers = [(status, body)]
    with pytest.raises(kind, match="nothing here"):
        await server.api().stop("c")


async def test_a_refusal_by_something_else_is_told_by_its_status(server: HttpServer) -> None:
    server.answers = [(502, b"<html>Bad Gateway</html>")]
    with pytest.raises(Fault, match="HTTP 502"):
        await server.api().stop("c")


async def test_a_redirect_is_not_followed_so_that_the_token_stays_here(server: HttpServer) -> None:
    server.answers = [(302, {})]
    with pytest.raises(DispatchError, match="HTTP 302"):
        await server.api("t0ken").models()
    assert len(server.seen) == 1


async def test_a_reply_that_makes_no_sense_is_named(server: HttpServer) -> None:
    server.answers = [(200, b"<html>hello</html>")]
    with pytest.raises(PeerError, match="GET /models"):
        await server.api().models()


async def test_a_read_that_finds_nobody_is_tried_again_and_a_write_is_not(
    server: HttpServer,
) -> None:
    server.answers = [(0, None), (0, None), (200, {"models": []}), (0, None)]
    assert await server.api().models() == ()
    with pytest.raises(CannotConnect, match="lost"):
        await server.api().stop("c")
    assert len(server.seen) == 4


async def test_an_address_where_nothing_listens_is_named(server: HttpServer) -> None:
    api = server.api()
    server.shutdown()
    server.server_close()
    with pytest.raises(CannotConnect, match="cannot connect to http://127"):
        await api.models()


async def test_an_export_comes_in_pieces_and_whole(server: HttpServer) -> None:
    lines = b"".join(b'{"line":%d}\n' % n for n in range(20_000))
    server.answers = [(200, lines)]
    pieces = [piece async for piece in server.api().export("c")]
    assert b"".join(pieces) == lines
    assert len(pieces) > 1


async def take_one(pieces: AsyncIterator[bytes]) -> bytes:
    return await anext(pieces)


async def test_a_refused_export_raises_before_the_first_piece(server: HttpServer) -> None:
    server.answers = [(404, {"error": "no such conversation", "code": "not_found"})]
    with pytest.raises(NotFound):
        await take_one(server.api().export("c"))


async def test_a_cancelled_request_is_left_at_once(server: HttpServer) -> None:
    server.answers = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await server.api().models()
    assert scope.cancelled_caught
