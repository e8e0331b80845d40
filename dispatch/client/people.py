"""People, for who administers an account: everything of theirs in one file, and their end.

    async for line in client.people.export("ada"):
        file.write(line)

Neighbours: `http` asks; `cli.people` types it; the types are the dialect's own (`protocol.people`).
Source: `protocol/native.md`, 2.5.
Invariant: an export that ends without an error is whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final
from urllib.parse import quote

from dispatch.client.failures import ConnectionLost
from dispatch.client.http import HttpApi, with_query
from dispatch.protocol.people import UserForgotten

# Each conversation is a commit of the daemon's, and a person may have many thousand.
FORGET_SECONDS_MAX: Final = 3600.0

_WHOLE: Final = b'{"type":"whole",'


class PeopleApi:
    """The verbs about people; the right `admin` is asked for."""

    def __init__(self, http: HttpApi) -> None:
        """Nothing is opened before something is asked."""
        self._http = http

    async def export(self, user: str, *, account: str | None = None) -> AsyncGenerator[bytes, None]:
        """Everything of a person, line by line as it comes; `account` is refused if not one's own.

        Raises `ConnectionLost` where it breaks off: what came until then is not all.
        """
        path = with_query(f"{_path(user)}/export", {"account": account})
        last, rest = b"", b""
        async with await self._http.open("GET", path) as reply:
            while piece := await reply.piece():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    last = line
                    yield line + b"\n"
        if rest or not last.startswith(_WHOLE):
            raise ConnectionLost("the export broke off: what came is not all of it")

    async def forget(self, user: str, *, account: str | None = None) -> UserForgotten:
        """Remove what is a person's alone, for ever; the same again goes on where it ended."""
        path = with_query(_path(user), {"account": account})
        return await self._http.ask(UserForgotten, "DELETE", path, wait_seconds=FORGET_SECONDS_MAX)


def _path(user: str) -> str:
    # A slash is a slash: encoded ones are refused.
    return f"/users/{quote(user, safe='/')}"
