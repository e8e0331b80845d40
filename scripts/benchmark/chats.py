"""The list of a person with 10,000 chat sessions: how long a page takes.

Neighbours: `dispatched` runs the daemon, `alone` lists the row.
Invariant: every session has a message and an unread answer, so that nothing of the page is empty.
"""

from __future__ import annotations

import http.client
import json
import statistics
import time
from pathlib import Path
from typing import Any, Final

from scripts.benchmark import machine
from scripts.benchmark.client import WAIT_SECONDS_MAX
from scripts.benchmark.dispatched import daemon
from scripts.benchmark.generator import Failed, Figures

SESSIONS: Final = 10_000
PAGES: Final = 200
PAGE_SESSIONS: Final = 50


def chat_list(scratch: Path) -> Figures:
    """The first page, again and again, over one connection; milliseconds as its reader sees it."""
    with daemon(scratch) as running:
        line = http.client.HTTPConnection(
            "127.0.0.1", running.server.port, timeout=WAIT_SECONDS_MAX
        )
        for _ in range(SESSIONS):
            made = _ask(line, "POST", "/v1/chat", {"agent_key": "short"})
            _ask(line, "POST", f"/v1/chat/{made['id']}/messages", {"content": "Hello"})
        _until_answered(line)
        before = machine.cpu_seconds(running.server.pid)
        taken = []
        for _ in range(PAGES):
            began = time.perf_counter()
            page = _ask(line, "GET", f"/v1/chat?limit={PAGE_SESSIONS}")
            taken.append((time.perf_counter() - began) * 1000)
            if len(page["sessions"]) != PAGE_SESSIONS or page["unread_total"] != SESSIONS:
                raise Failed(f"the page is not whole: {page['unread_total']} unread")
        spent = machine.cpu_seconds(running.server.pid) - before
        line.close()
    quantiles = statistics.quantiles(taken, n=100)
    return {
        "p50_ms": statistics.median(taken),
        "p99_ms": quantiles[98],
        "cpu_ms": spent * 1000 / PAGES,
    }


def _until_answered(line: http.client.HTTPConnection) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while _ask(line, "GET", "/v1/chat?limit=1")["unread_total"] < SESSIONS:
        if time.monotonic() > deadline:
            raise Failed("some sessions were never answered")
        time.sleep(0.1)


def _ask(line: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> Any:
    line.request(method, path, None if body is None else json.dumps(body))
    answer = line.getresponse()
    told = json.loads(answer.read())
    if answer.status >= 300:
        raise Failed(f"{method} {path}: {answer.status} {told}")
    return told
