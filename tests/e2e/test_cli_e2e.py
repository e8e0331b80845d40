"""The command line and the Python client against a real daemon, each command a process."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from dispatch.client import (
    Client,
    Delta,
    Options,
    Reconnecting,
    RequestDone,
    RequestOpened,
    Transcript,
    answer,
    ask,
)
from dispatch.core.events import Response, TextDelta, TurnSealed
from dispatch.errors import Busy, Conflict, NotFound, RequestClosed
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess

pytestmark = pytest.mark.timeout(90)

GUARD_SECONDS = 20.0
SLOW_ECHO = '[agents.echo]\nkind = "echo"\ndelay_ms = 50\n'
TEN_WORDS = " ".join(f"word{n}" for n in range(10))
ENDLESS = " ".join(["on"] * 20_000)

HASTY = Options(backoff_seconds=0.05, backoff_seconds_max=0.2)

Frame = dict[str, object]


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("DISPATCH_")}
    return kept | {"DISPATCH_URL": url} | more


async def run(
    url: str, *words: str, stdin: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    with anyio.fail_after(GUARD_SECONDS):
        ended = await anyio.run_process(
            [sys.executable, "-m", "dispatch", *words],
            input=stdin.encode(),
            env=environment(url, **more),
            check=False,
        )
    return subprocess.CompletedProcess(
        words, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
    )


class Running:
    """A command that goes on; its JSON lines as they come."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self.process = process
        self._bytes = b""

    async def line(self) -> Frame:
        assert self.process.stdout is not None
        with anyio.fail_after(GUARD_SECONDS):
            while b"\n" not in self._bytes:
                self._bytes += await self.process.stdout.receive()
        line, _, self._bytes = self._bytes.partition(b"\n")
        frame: Frame = json.loads(line)
        return frame

    async def until(self, kind: str) -> list[Frame]:
        """The lines up to and including an event or frame of this type."""
        found: list[Frame] = []
        while not found or kind not in (found[-1]["type"], event_type(found[-1])):
            found.append(await self.line())
        return found

    async def ended(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        with anyio.fail_after(GUARD_SECONDS):
            told = b"".join([part async for part in self.process.stderr])
            return await self.process.wait(), told.decode()


@asynccontextmanager
async def going(url: str, *words: str) -> AsyncIterator[Running]:
    command = [sys.executable, "-m", "dispatch", *words]
    async with await anyio.open_process(command, env=environment(url)) as process:
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()


def event_type(frame: Frame) -> object:
    event = frame.get("event")
    return event.get("type") if isinstance(event, dict) else None


def said(frames: list[Frame]) -> str:
    events = [frame["event"] for frame in frames if frame["type"] == "chat.delta"]
    return "".join(e["delta"] for e in events if e["type"] == "text-delta")  # type: ignore[index]


def lines(ended: subprocess.CompletedProcess[str]) -> list[Frame]:
    return [json.loads(line) for line in ended.stdout.splitlines()]


async def test_what_was_sent_is_answered_kept_and_listed(daemon: DaemonProcess) -> None:
    sent = await run(daemon.url, "send", "-", stdin="one two three\n")
    assert sent.returncode == 0
    frames = lines(sent)
    conversation = str(frames[0]["conversationId"])
    assert sent.stderr == f"conversation {conversation}\n"
    assert "one two three" in said(frames)
    assert event_type(frames[-1]) == "turn-sealed"
    kept = lines(await run(daemon.url, "history", conversation))
    assert [(line["seq"], line["role"]) for line in kept] == [(1, "user"), (2, "assistant")]
    [listed] = lines(await run(daemon.url, "list"))
    assert (listed["id"], listed["title"]) == (conversation, "one two three")
    assert lines(await run(daemon.url, "agents"))[0] == {"model": "echo"}


async def test_a_second_device_sees_the_same_while_it_happens(daemon: DaemonProcess) -> None:
    async with going(daemon.url, "watch", "shared") as watcher:
        await watcher.until("chat.subscribed")
        sent = lines(await run(daemon.url, "send", TEN_WORDS, "-c", "shared"))
        seen = await watcher.until("turn-sealed")
    assert said(seen) == said(sent)
    assert TEN_WORDS in said(sent)


async def test_watch_goes_on_from_a_position_and_from_history(daemon: DaemonProcess) -> None:
    sent = lines(await run(daemon.url, "send", TEN_WORDS, "-c", "c"))
    deltas = [frame for frame in sent if event_type(frame) == "text-delta"]
    async with going(daemon.url, "watch", "c", "--after", str(deltas[0]["position"])) as watcher:
        rest = await watcher.until("turn-sealed")
    assert said([deltas[0], *rest]) == said(sent)
    async with going(daemon.url, "watch", "c", "--history") as watcher:
        page = (await watcher.until("chat.history"))[-1]
    assert page["latestSeq"] == 2


async def test_a_busy_conversation_refuses_or_queues(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(SLOW_ECHO)
    async with going(daemon.url, "send", TEN_WORDS, "-c", "c") as first:
        await first.until("text-delta")
        refused = await run(daemon.url, "send", "me too", "-c", "c")
        assert refused.returncode == 1
        assert refused.stderr.startswith("dispatch: a turn is already generating")
        assert "--on-busy" in refused.stderr
        queued = lines(await run(daemon.url, "send", "me too", "-c", "c", "--on-busy", "queue"))
    assert "queueId" in queued[0]
    assert "me too" in said(queued)
    assert "word" not in said(queued)


async def test_a_stop_from_elsewhere_ends_a_send(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(SLOW_ECHO)
    async with going(daemon.url, "send", ENDLESS, "-c", "c") as sender:
        await sender.until("text-delta")
        stopped = lines(await run(daemon.url, "stop", "c"))
        assert stopped == [{"conversationId": "c", "abortedTurn": True}]
        await sender.until("turn-sealed")
        assert (await sender.ended())[0] == 1
    assert lines(await run(daemon.url, "stop", "c"))[0]["abortedTurn"] is False


async def test_who_interrupts_a_send_leaves_the_turn_to_the_daemon(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(SLOW_ECHO)
    async with going(daemon.url, "send", TEN_WORDS, "-c", "c") as sender:
        await sender.until("text-delta")
        sender.process.send_signal(signal.SIGINT)
        code, told = await sender.ended()
    assert code == 130
    assert "dispatch stop c" in told
    assert "Traceback" not in told
    async with Client(daemon.url) as client:
        transcript = Transcript()
        async for item in client.follow("c", since_seq=0):
            transcript.apply(item)
            if TEN_WORDS in transcript.text:
                break


async def test_a_terminal_shows_the_answer_without_escape_codes_of_others(
    daemon: DaemonProcess,
) -> None:
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "dispatch", "send", "red \x1b[31m \x9b2J now", "-c", "c"]
    process = subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env=environment(daemon.url, NO_COLOR="1", TERM="xterm"),
    )
    os.close(terminal)
    with anyio.fail_after(GUARD_SECONDS):
        shown = await anyio.to_thread.run_sync(read_to_end, controller)
        assert await anyio.to_thread.run_sync(process.wait) == 0
    assert process.stderr is not None
    process.stderr.close()
    assert "red ␛[31m <U+009B>2J now" in shown.decode()
    assert b"\x1b" not in shown


def read_to_end(controller: int) -> bytes:
    shown = b""
    with open(controller, "rb", buffering=0) as terminal:
        while True:
            try:
                part = terminal.read(4096)
            except OSError:
                # Linux says EIO when the last writer of a terminal is gone.
                return shown
            if not part:
                return shown
            shown += part


async def test_a_reader_that_leaves_early_is_no_failure_with_a_traceback(
    daemon: DaemonProcess,
) -> None:
    await run(daemon.url, "send", "-", "-c", "c", stdin="x" * 200_000)
    command = f"'{sys.executable}' -m dispatch history c | head -c 1"
    with anyio.fail_after(GUARD_SECONDS):
        ended = await anyio.run_process(command, env=environment(daemon.url))
    assert (ended.stdout, ended.stderr) == (b"{", b"")


async def test_a_token_is_wanted_and_taken_from_the_environment(start_daemon: StartDaemon) -> None:
    [made] = lines(await run("http://127.0.0.1:1", "token", "--user", "ann"))
    secret = str(made.pop("token"))
    entry = "\n".join(f"{name} = {json.dumps(value)}" for name, value in made.items())
    daemon = await start_daemon(f"[[auth.tokens]]\n{entry}\n")
    for words in (["send", "hi"], ["list"]):
        refused = await run(daemon.url, *words)
        assert refused.returncode == 1
        assert refused.stderr.endswith("; put a token into DISPATCH_TOKEN\n")
        assert (await run(daemon.url, *words, DISPATCH_TOKEN=secret)).returncode == 0
    assert secret not in daemon.log


async def test_a_backup_is_taken_while_the_daemon_runs_and_data_is_checked(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    sent = await run(daemon.url, "send", "keep this", "-c", "c")
    assert sent.returncode == 0
    target = tmp_path / "copy.db"
    [told] = lines(await run("", "backup", str(target), "--data", str(daemon.data)))
    assert told["bytes"] == target.stat().st_size
    assert b"keep this" in target.read_bytes()
    assert await daemon.stop() == 0
    checked = await run("", "check", "--data", str(daemon.data))
    assert (checked.returncode, lines(checked)[-1]["ok"]) == (0, True)


async def test_a_second_daemon_on_the_same_data_or_port_is_told_why_not(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    port = daemon.url.rpartition(":")[2]
    same_data = await run("", "serve", "--port", "0", "--data", str(daemon.data))
    same_port = await run("", "serve", "--port", port, "--data", str(tmp_path / "other"))
    for ended in (same_data, same_port):
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1].startswith("dispatch: ")
        assert "Traceback" not in ended.stderr


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


async def test_a_client_goes_on_after_the_daemon_was_killed_and_started_again(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(SLOW_ECHO, "--port", str(free_port()))
    transcript, events = Transcript(), []
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(daemon.url, options=HASTY) as client:
            async for item in answer(client, ENDLESS, conversation_id="c"):
                if isinstance(item, Delta):
                    events.append(item.event)
                    if sum(isinstance(event, TextDelta) for event in events) == 3:
                        await daemon.kill()
                        await daemon.start()
                if isinstance(item, Delta | Reconnecting):
                    transcript.apply(item)
            page = await client.http.history("c")
            # The daemon that was started again takes the next message.
            assert "again" in (await ask(client, "again", conversation_id="c")).text
    assert isinstance(events[-1], TurnSealed)
    kept = [line.chunk for line in page.chunks if line.role == "assistant"]
    assert kept[0].text == transcript.text  # type: ignore[union-attr]


async def test_a_client_sends_once_under_its_id(daemon: DaemonProcess) -> None:
    async with Client(daemon.url) as client:
        first = await client.send("hi", conversation_id="c", client_message_id="m1")
        again = await client.send("hi", conversation_id="c", client_message_id="m1")
        with pytest.raises(Conflict):
            await client.send("ho", conversation_id="c", client_message_id="m1")
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again.turn == first.turn


async def test_a_client_stops_forks_reads_queues_and_exports(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(SLOW_ECHO)
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(daemon.url) as client:
            done = await ask(client, "short", conversation_id="c")
            sent = await client.send(ENDLESS, conversation_id="c")
            with pytest.raises(Busy):
                await client.send("now", conversation_id="c")
            queue = await client.http.queue("c", "later")
            assert [message.text for message in queue.queue] == ["later"]
            stopped = await client.stop("c", sent.turn)
            assert stopped.aborted_turn
            forked = await client.fork("c", done.turn_id)
            page = await client.http.history(forked.conversation_id)
            assert [chunk.seq for chunk in page.chunks] == [1, 2]
            await client.http.read("c", 2)
            exported = b"".join([part async for part in client.http.export("c")])
            assert all(json.loads(line) for line in exported.splitlines())
            with pytest.raises(NotFound):
                await client.fork("c", "no-such-turn")


ASKING_AGENT = """
import json, sys

def say(**event):
    print(json.dumps(event), flush=True)

json.loads(sys.stdin.readline())
say(type="text-delta", delta="before ")
say(type="request", requestId="r1", kind="approval", title="May I?",
    options=[{"id": "y", "label": "Yes", "effect": "allow"}])
told = json.loads(sys.stdin.readline())
if told["type"] == "steer":
    say(type="steering", text=told["text"])
say(type="text-delta", delta=told.get("text") or told.get("optionId") or "nothing")
"""


@pytest.fixture
async def asking(start_daemon: StartDaemon, tmp_path: Path) -> DaemonProcess:
    """A daemon whose agent asks, and takes an answer or steering for one."""
    program = tmp_path / "agent.py"
    program.write_text(ASKING_AGENT)
    command = json.dumps([sys.executable, str(program)])
    return await start_daemon(
        'default_agent = "asking"\n[agents.asking]\nkind = "command"\nsteer = true\n'
        f"command = {command}\n"
    )


async def test_a_question_of_the_agent_is_answered_through_the_client(
    asking: DaemonProcess,
) -> None:
    items = []
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(asking.url) as client:
            async for item in answer(client, "go", conversation_id="c"):
                items.append(item)
                if isinstance(item, RequestOpened):
                    reply = Response(item.request_id, approved=True, option_id="y")
                    await client.http.respond("c", reply)
                    with pytest.raises(RequestClosed):
                        await client.http.respond("c", reply)
    [closed] = [item for item in items if isinstance(item, RequestDone)]
    assert (closed.outcome, closed.by) == ("answered", "local")
    texts = [i.event.delta for i in items if isinstance(i, Delta) and is_text(i)]
    assert "".join(texts) == "before y"


def is_text(item: Delta) -> bool:
    return isinstance(item.event, TextDelta)


async def test_steering_from_elsewhere_shows_the_rest_of_the_turn_it_went_to(
    asking: DaemonProcess,
) -> None:
    async with going(asking.url, "send", "go", "-c", "c") as sender:
        await sender.until("chat.request")
        steered = await run(asking.url, "send", "left", "-c", "c", "--on-busy", "steer")
        first = await sender.until("turn-sealed")
    frames = lines(steered)
    assert frames[0]["steered"] is True
    assert "steering" in [event_type(frame) for frame in frames]
    assert said(frames) == said(first) == "left"


async def test_a_position_of_another_life_is_answered_by_what_there_is(
    daemon: DaemonProcess,
) -> None:
    await run(daemon.url, "send", "hi", "-c", "c")
    async with going(daemon.url, "watch", "c", "--after", "zzzzzzzz:1") as watcher:
        frames = await watcher.until("chat.snapshot")
    assert frames[0]["recovered"] is False
    assert frames[1]["lastSeq"] == 2
