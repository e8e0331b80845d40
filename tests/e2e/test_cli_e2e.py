"""The command line against a real daemon, each command a process."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.abc
import pytest

from tests.e2e.commands import (
    ENDLESS,
    GUARD_SECONDS,
    SLOW_ECHO,
    TEN_WORDS,
    environment,
    event_type,
    going,
    lines,
    run,
    said,
    start_asking,
)
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess

pytestmark = pytest.mark.timeout(90)


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
    assert lines(await run(daemon.url, "agents"))[0]["name"] == "echo"


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
    async with going(daemon.url, "send", ENDLESS, "-c", "c") as first:
        await first.until("text-delta")
        refused = await run(daemon.url, "send", "me too", "-c", "c")
        assert refused.returncode == 1
        assert refused.stderr.startswith("dispatch: a turn is already generating")
        assert "--on-busy" in refused.stderr
        queue = ["--on-busy", "queue"]
        async with going(daemon.url, "send", "me too", "-c", "c", *queue) as second:
            assert "queueId" in (await second.until("chat.accepted"))[0]
            await run(daemon.url, "stop", "c")
            assert said(await second.until("turn-sealed")) == "me too"
            assert (await second.ended())[0] == 0


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
    async with going(daemon.url, "send", ENDLESS, "-c", "c") as sender:
        await sender.until("text-delta")
        sender.process.send_signal(signal.SIGINT)
        code, told = await sender.ended()
    assert code == 130
    assert "dispatch stop c" in told
    assert "Traceback" not in told
    assert lines(await run(daemon.url, "stop", "c"))[0]["abortedTurn"] is True


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
    assert f"port {port} on" in same_port.stderr
    assert "--port" in same_port.stderr
    for ended in (same_data, same_port):
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1].startswith("dispatch: ")
        assert "Traceback" not in ended.stderr


async def test_steering_from_elsewhere_shows_the_rest_of_the_turn_it_went_to(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    asking = await start_asking(start_daemon, tmp_path)
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
