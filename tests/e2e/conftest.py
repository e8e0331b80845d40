"""Daemons for tests: real processes on free ports of the loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.e2e.process import DaemonProcess

FAST_ECHO = '[agents.echo]\nkind = "echo"\ndelay_ms = 2\n'

StartDaemon = Callable[..., Awaitable[DaemonProcess]]


@pytest.fixture
async def start_daemon(tmp_path: Path) -> AsyncIterator[StartDaemon]:
    """Starts daemons with a configuration, and ends them after the test."""
    started: list[DaemonProcess] = []

    async def start(config: str = FAST_ECHO, *arguments: str) -> DaemonProcess:
        folder = tmp_path / f"daemon-{len(started)}"
        folder.mkdir()
        daemon = DaemonProcess(folder, config, arguments)
        started.append(daemon)
        await daemon.start()
        return daemon

    yield start
    for daemon in started:
        await daemon.end()


@pytest.fixture
async def daemon(start_daemon: StartDaemon) -> DaemonProcess:
    """A daemon with a fast echo agent."""
    return await start_daemon()
