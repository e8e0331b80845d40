"""The page's files: everything that lies under `dispatch/web` and is of a kind that browsers load.

Neighbours: `http` puts these routes beside the others, `gate` lets anybody fetch them (they are the
same for everyone, and the sign-in is among them); `scripts/vendor` fills `web/vendor`.
Invariant: what is served is what was read at the start, found by its exact path: no path of a
request ever reaches the file system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

WEB: Final = Path(__file__).resolve().parent.parent / "web"

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}

# Nothing but our own files runs or is fetched; pictures may be data, as pasted ones are. What a
# model says becomes HTML only through the one policy that sanitises it.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types lit-html dompurify",
    )
)
_HEADERS: Final = {
    # Kept and asked about each time: an upgraded daemon is never seen through an old page.
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Asset(NamedTuple):
    """One file; `tag` is its entity tag."""

    body: bytes
    media_type: str
    tag: str


def is_asset(path: str) -> bool:
    """Whether a path of a request is the page's; what is not there is answered like the rest."""
    return path == "/" or path.startswith("/web/")


def routes(root: Path = WEB) -> list[Route]:
    """Read all of them; `/` is `index.html`, the others are at `/web/` and their path."""
    assets = {f"/web/{name}": asset for name, asset in _read(root)}
    if (index := assets.get("/web/index.html")) is not None:
        assets["/"] = index

    async def serve(request: Request) -> Response:
        asset = assets.get(request.scope["path"])
        if asset is None:
            raise HTTPException(404)
        headers = _HEADERS | {"etag": asset.tag}
        if request.headers.get("if-none-match") == asset.tag:
            return Response(status_code=304, headers=headers)
        return Response(asset.body, media_type=asset.media_type, headers=headers)

    return [Route("/", serve), Route("/web/{path:path}", serve)]


def _read(root: Path) -> Iterator[tuple[str, Asset]]:
    for path in sorted(root.rglob("*")):
        media_type = _TYPES.get(path.suffix)
        if media_type is not None and path.is_file() and not path.is_symlink():
            body = path.read_bytes()
            tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            yield path.relative_to(root).as_posix(), Asset(body, media_type, tag)
