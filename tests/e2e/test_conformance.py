"""The check can fail: each kind of step, against a daemon that keeps the protocol.

A transcript that claims something false is for the replay what a server is that breaks the
protocol; and a server that does break it, in every reply, passes nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest

from dispatch.client.dial import Address
from dispatch.conformance.agents import AGENTS, configuration
from dispatch.conformance.matching import Mismatch
from dispatch.conformance.replay import Replay
from dispatch.conformance.transcripts import Transcript, published
from tests.e2e.commands import lines, run
from tests.e2e.conftest import StartDaemon

pytestmark = pytest.mark.timeout(60)

# A step that is to fail by waiting for what never comes; nothing else is this slow, loaded or not.
WAIT_SECONDS = 3.0

Steps = list[dict[str, Any]]
Spoil = Callable[[Steps], None]


def first(steps: Steps, do: str, which: int = 0) -> dict[str, Any]:
    return [step for step in steps if step["do"] == do][which]


def spoil_status(steps: Steps) -> None:
    first(steps, "request")["status"] = 418


def spoil_header(steps: Steps) -> None:
    first(steps, "request")["headers"]["X-Conversation-Id"] = "another"


def spoil_reply(steps: Steps) -> None:
    first(steps, "request")["reply"]["latestSeq"] = 77


def spoil_line(steps: Steps) -> None:
    first(steps, "request")["lines"][2]["delta"] = "goodbye"


def spoil_length_of_lines(steps: Steps) -> None:
    first(steps, "request")["lines"].pop()


def spoil_event(steps: Steps) -> None:
    frames = next(step["frames"] for step in steps if "frames" in step)
    frames[1]["data"]["streaming"] = False


def spoil_connect(steps: Steps) -> None:
    first(steps, "connect")["subprotocol"] = None


def spoil_send(steps: Steps) -> None:
    first(steps, "send")["frame"]["message"] = "goodbye"


def spoil_frame(steps: Steps) -> None:
    first(steps, "expect", 1)["frames"][0]["duplicate"] = True


def spoil_order(steps: Steps) -> None:
    first(steps, "expect", 1)["frames"].insert(0, {"type": "pong"})


def spoil_text(steps: Steps) -> None:
    first(steps, "expect", 1)["frames"][3]["event"]["delta"] += "and more"


def spoil_name(steps: Steps) -> None:
    first(steps, "expect", 1)["frames"][2]["event"]["turnId"] = "$turn9"


def spoil_end(steps: Steps) -> None:
    first(steps, "expect", -1)["frames"].append({"type": "pong"})


def spoil_broadcast(steps: Steps) -> None:
    first(steps, "told")["frames"][0]["title"] = "Cellar"


def spoil_list(steps: Steps) -> None:
    first(steps, "told", -1)["frames"][0]["type"] = "group.changed"


def spoil_code(steps: Steps) -> None:
    first(steps, "closed")["code"] = 1000


def spoil_close(steps: Steps) -> None:
    first(steps, "closed")["do"] = "close"
    steps.append({"do": "send", "on": "phone", "frame": {"type": "ping"}})


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("chat/020", spoil_status),
        ("chat/020", spoil_header),
        ("chat/001", spoil_reply),
        ("chat/020", spoil_line),
        ("chat/020", spoil_length_of_lines),
        ("groups/003", spoil_event),
        ("chat/001", spoil_connect),
        ("chat/001", spoil_send),
        ("chat/001", spoil_frame),
        ("chat/001", spoil_order),
        ("chat/001", spoil_text),
        ("chat/001", spoil_name),
        ("chat/001", spoil_end),
        ("chat/022", spoil_broadcast),
        ("groups/013", spoil_list),
        ("chat/017", spoil_code),
        ("chat/017", spoil_close),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_false_claim_is_found(start_daemon: StartDaemon, name: str, spoil: Spoil) -> None:
    daemon = await start_daemon(configuration())
    (path,) = published([name]).values()
    written = json.loads(path.read_text("utf-8"))
    await replay(daemon.url, written)
    spoil(written["steps"])
    with pytest.raises(Mismatch):
        await replay(daemon.url, written)


async def replay(url: str, written: dict[str, Any]) -> None:
    transcript = msgspec.convert(written, Transcript)
    async with Replay(Address.parse(url)) as replaying:
        for step in transcript.steps:
            await replaying.step(step, WAIT_SECONDS)


class Nonsense(BaseHTTPRequestHandler):
    """Has every agent, and answers everything else with an empty object."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        agents = [{"name": agent.__name__, "kind": "python"} for agent in AGENTS]
        body = json.dumps({"agents": agents} if self.path == "/agents" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def nonsense() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Nonsense) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_a_server_that_answers_nonsense_passes_nothing(nonsense: str) -> None:
    ended = await run("", "conformance", nonsense, "--keep-going")
    assert {verdict["outcome"] for verdict in lines(ended)} == {"failed"}
    assert len(lines(ended)) == len(published())
    assert ended.returncode == 1
    first_alone = await run("", "conformance", nonsense)
    assert len(lines(first_alone)) == 1
    assert {"transcript", "step", "reason"} <= lines(first_alone)[0].keys()
