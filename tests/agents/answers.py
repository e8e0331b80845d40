"""A loopback endpoint for tests, and answers for it to give.

Neighbours: `endpoint` is the program that is started here and plays what is written here.
Invariant: the program that was started is ended, and waited for.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

_KEYS = itertools.count()

DONE = b"data: [DONE]\n\n"


class LoopbackEndpoint:
    """The running program. Each `url` is a world of its own."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}"

    def url(self, behaviour: str) -> str:
        """A base URL nobody else has."""
        return f"{self._root}/{behaviour}/key-{next(_KEYS)}/v1"

    async def count(self, url: str) -> int:
        """How many answers were asked for under a URL."""
        return int(await self._told("count", url))

    async def gone(self, url: str) -> None:
        """Return once who asked under a URL has hung up."""
        await self._told("gone", url)

    async def _told(self, what: str, url: str) -> str:
        key = url.split("/")[-2]
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"{self._root}/{what}/{key}")).text


@contextmanager
def serving() -> Iterator[LoopbackEndpoint]:
    """The program, for as long as the block runs."""
    program = Path(__file__).with_name("endpoint.py")
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield LoopbackEndpoint(int(process.stdout.readline()))
        finally:
            # `with` closes its input, which ends it; it does not wait for peers that still hang on.
            process.kill()


def data(value: object) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def piece(finish: str | None = None, **delta: object) -> bytes:
    """One piece of an answer, as servers send it."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return data({"id": "c-1", "object": "chat.completion.chunk", "choices": [choice]})


def text(*words: str) -> bytes:
    """Pieces of text."""
    return b"".join(piece(content=word) for word in words)


def whole(*words: str) -> bytes:
    """A whole answer."""
    return text(*words) + piece("stop") + DONE


def answer(
    *pieces: bytes,
    end: str = "whole",
    status: int = 200,
    headers: dict[str, str] | None = None,
    forever: bytes = b"",
) -> dict[str, object]:
    """One answer of `scripted`: pieces of the body, then, `forever` apart, its end: `whole`, `cut`
    in the middle, left `open`, or `silence` without even a head.
    """
    return {
        "status": status,
        "headers": headers or {},
        "pieces": [one.decode("latin-1") for one in pieces],
        "forever": [forever.decode("latin-1")] if forever else [],
        "end": end,
    }


def refusal(status: int, error: object = None, **headers: str) -> dict[str, object]:
    """An answer that is an error."""
    body = json.dumps({"error": error if error is not None else {"message": "no"}}).encode()
    return answer(body, status=status, headers={"content_type": "application/json", **headers})


def script(answers: Sequence[dict[str, object]]) -> str:
    """The message that makes `scripted` give these answers, one a request."""
    return json.dumps(answers)
