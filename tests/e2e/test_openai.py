"""An OpenAI-compatible endpoint behind a real daemon: shown, kept, stopped and killed like any."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from tests.agents.answers import (
    DONE,
    LoopbackEndpoint,
    answer,
    piece,
    refusal,
    script,
    serving,
    text,
    whole,
)
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import GUARD_SECONDS, Frame, events, v1_wire
from tests.e2e.wire import text as text_of
from tests.protocol.replies import http_client

KEY = "sk-very-secret-of-the-e2e-test"

CONFIG = """
default_agent = "gpt"
[agents.gpt]
kind = "openai"
base_url = "{url}"
model = "small"
api_key_env = "E2E_KEY"
retry_seconds = [0.05]
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[LoopbackEndpoint]:
    with serving() as endpoint:
        yield endpoint


@pytest.fixture
async def start(
    start_daemon: StartDaemon, endpoint: LoopbackEndpoint, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator:
    """Starts a daemon at a URL of the endpoint; in the end the key is nowhere it has written."""
    monkeypatch.setenv("E2E_KEY", KEY)
    daemons: list[DaemonProcess] = []

    async def start(url: str) -> DaemonProcess:
        daemons.append(await start_daemon(CONFIG.format(url=url)))
        return daemons[-1]

    yield start
    for daemon in daemons:
        await daemon.end()
        written = [path for path in daemon.folder.rglob("*") if path.is_file()]
        assert len(written) > 2
        assert [path.name for path in written if KEY.encode() in path.read_bytes()] == []


async def sent(daemon: DaemonProcess, message: str, device: str = "m") -> list[Frame]:
    """The frames of one turn, up to its seal."""
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.subscribe", conversationId="c")
        await wire.send(
            type="chat.send", conversationId="c", message=message, clientMessageId=device
        )
        frames = await wire.until_event("turn-sealed")
        assert KEY not in json.dumps(wire.seen)
        return frames


async def get(daemon: DaemonProcess, path: str) -> Frame:
    async with http_client(daemon.url) as http:
        found: Frame = (await http.get(path)).json()
        return found


async def chunks(daemon: DaemonProcess) -> list[Frame]:
    return [chunk["chunk"] for chunk in (await get(daemon, "/conversations/c"))["chunks"]]


async def test_a_turn_is_shown_with_its_figures_and_kept(start, endpoint) -> None:
    daemon = await start(endpoint.url("says"))
    frames = await sent(daemon, "grüße und 🦔")
    assert text_of(frames) == "grüße und 🦔"
    done = next(event for event in events(frames) if event["type"] == "done")
    assert (done["reason"], done["contextSize"]) == ("stop", 12)
    assert (await chunks(daemon))[-1] == {"type": "text", "text": "grüße und 🦔"}
    (turn,) = (await get(daemon, "/conversations/c/metrics"))["turns"]
    assert turn["usage"] == {"inputTokens": 7, "outputTokens": 5}
    (step,) = turn["steps"]
    assert step["ttftMs"] > 0


async def test_the_next_turn_tells_the_model_what_was_said(start, endpoint) -> None:
    daemon = await start(endpoint.url("repeats"))
    first = text_of(await sent(daemon, "one", "m1"))
    told = json.loads(text_of(await sent(daemon, "two", "m2")))
    assert told["headers"]["authorization"] == "Bearer [redacted]"
    assert told["body"]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "two"},
    ]


async def test_a_refused_attempt_is_shown_and_asked_again(start, endpoint) -> None:
    daemon = await start(endpoint.url("scripted"))
    limited = refusal(429, {"message": "slow down, $KEY"})
    frames = await sent(daemon, script([limited, answer(whole("good"))]))
    retry = next(event for event in events(frames) if event["type"] == "provider-retry")
    assert (retry["attempt"], retry["delayMs"], retry["code"]) == (0, 50, "rate_limited")
    assert retry["message"].endswith("(429): slow down, [key]")
    assert text_of(frames) == "good"


async def test_what_was_said_before_it_broke_off_is_kept_before_the_error(start, endpoint) -> None:
    daemon = await start(endpoint.url("scripted"))
    await sent(daemon, script([answer(text("so ", "far"), end="cut")]))
    said, error = (await chunks(daemon))[-2:]
    assert said == {"type": "text", "text": "so far"}
    assert (error["type"], error["code"]) == ("error", "cut_off")


async def test_a_models_tool_call_is_kept_closed_and_ends_the_turn(start, endpoint) -> None:
    function = {"name": "find", "arguments": '{"x": 1}'}
    pieces = [piece(tool_calls=[{"index": 0, "id": "c1", "function": function}])]
    daemon = await start(endpoint.url("scripted"))
    await sent(daemon, script([answer(*pieces, piece("tool_calls"), DONE)]))
    call, result, error = (await chunks(daemon))[-3:]
    assert (call["toolName"], call["input"]) == ("find", {"x": 1})
    assert (result["toolCallId"], result["isError"]) == ("c1", True)
    assert error["code"] == "no_tools"


async def test_a_stop_from_another_device_hangs_up(start, endpoint) -> None:
    url = endpoint.url("waits")
    daemon = await start(url)
    async with v1_wire(daemon.url) as wire, v1_wire(daemon.url) as other:
        await wire.send(type="chat.subscribe", conversationId="c")
        await wire.send(type="chat.send", conversationId="c", message="x", clientMessageId="m")
        await wire.until_event("text-delta")
        await other.send(type="chat.stop", conversationId="c")
        frames = await wire.until_event("turn-sealed")
    done = next(event for event in events(frames) if event["type"] == "done")
    assert done["reason"] == "aborted"
    with anyio.fail_after(GUARD_SECONDS):
        await endpoint.gone(url)


async def test_a_killed_daemon_keeps_what_it_had_shown(start, endpoint) -> None:
    url = endpoint.url("waits")
    daemon = await start(url)
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.subscribe", conversationId="c")
        await wire.send(type="chat.send", conversationId="c", message="x", clientMessageId="m")
        shown = text_of(await wire.until_event("text-delta"))
        await daemon.kill()
    with anyio.fail_after(GUARD_SECONDS):
        await endpoint.gone(url)
    await daemon.start()
    _, said, error = await chunks(daemon)
    assert said == {"type": "text", "text": shown}
    assert (error["type"], error["code"]) == ("error", "interrupted")


async def test_an_endpoint_that_is_down_does_not_keep_the_daemon_from_starting(start) -> None:
    daemon = await start("http://127.0.0.1:9/v1")
    frames = await sent(daemon, "hello")
    error = next(event for event in events(frames) if event["type"] == "error")
    assert error["code"] == "unreachable"
