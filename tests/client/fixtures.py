"""Fixtures of the tests that type commands; they name this module as their plugin."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from anyio.from_thread import start_blocking_portal

from dispatch.cli import screen
from tests.client.answering import HttpServer, running
from tests.client.command import Start
from tests.client.scripted import Script, ScriptedServer


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts scripted daemons in a thread, since a command has an event loop of its own."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())

        def start(*scripts: Script, pages: dict[str, object] | None = None) -> ScriptedServer:
            server = ScriptedServer(*scripts)
            server.pages = pages or {}
            return stack.enter_context(portal.wrap_async_context_manager(server))

        yield start


@pytest.fixture
def http() -> Iterator[HttpServer]:
    with running() as server:
        yield server


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output counts as a terminal unless --json is given."""
    monkeypatch.setattr(screen, "is_text", lambda as_json: not as_json)
    monkeypatch.setenv("COLUMNS", "100")
