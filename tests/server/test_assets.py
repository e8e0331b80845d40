"""The page's files: exactly those that were there at the start, and nothing beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from dispatch.server import assets
from dispatch.server.http import is_public
from tests.server.acting import Stage, settings, staged


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A tree of files behind the routes alone, as no gate stands in front of them."""
    root = tmp_path / "web"
    (root / "page").mkdir(parents=True)
    (root / "index.html").write_text("<!doctype html>")
    (root / "page" / "app.js").write_text("export {};")
    (root / "frames.d.ts").write_text("declare const secret: 1;")
    (tmp_path / "secret.js").write_text("secret")
    (root / "link.js").symlink_to(tmp_path / "secret.js")
    app = Starlette(routes=assets.routes(root))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_files_have_their_path_and_type_and_the_index_is_the_root(
    web: httpx.AsyncClient,
) -> None:
    reply = await web.get("/web/page/app.js")
    assert reply.text == "export {};"
    assert reply.headers["content-type"] == "text/javascript; charset=utf-8"
    assert (await web.get("/")).text == "<!doctype html>"


@pytest.mark.parametrize(
    "path",
    [
        "/web/missing.js",
        "/web/page",
        "/web/page/",
        "/web/",
        "/web/link.js",
        "/web/frames.d.ts",
        "/web/../secret.js",
        "/web/page/../../secret.js",
        "/web/%2e%2e/secret.js",
        "/web//page/app.js",
        "/web/page\\app.js",
        "/web/page/app.js%00",
        "/web//etc/passwd",
    ],
)
async def test_what_is_not_exactly_a_file_of_the_page_is_not_there(
    web: httpx.AsyncClient, path: str
) -> None:
    """33: no traversal, no listing, no link, no other kind of file."""
    request = web.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    assert (await web.send(request)).status_code == 404


async def test_a_file_that_a_browser_has_is_not_sent_again(web: httpx.AsyncClient) -> None:
    first = await web.get("/web/page/app.js")
    tag = first.headers["etag"]
    again = await web.get("/web/page/app.js", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert (await web.get("/", headers={"if-none-match": tag})).status_code == 200


async def test_a_file_may_run_and_fetch_nothing_of_others(web: httpx.AsyncClient) -> None:
    headers = (await web.get("/")).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-cache"


async def test_the_page_is_public_and_can_only_be_read(tmp_path: Path) -> None:
    assert is_public("GET", "/")
    assert is_public("HEAD", "/web/client.js")
    assert not is_public("POST", "/")
    assert not is_public("GET", "/webs")
    async with staged(settings(tmp_path)) as stage:
        await _reads(stage)


async def _reads(stage: Stage) -> None:
    reply = await stage.http.get("/web/client.js")
    assert reply.status_code == 200
    assert (await stage.http.post("/web/client.js")).status_code == 405
