"""What a running daemon consists of: the only place that names concrete adapters.

Neighbours: `cli` calls `serve`, `verify` and `backup`; tests enter `running`. Read it from top to
bottom to know a daemon's life: take the data, end what a dead one left running, seal what it left
open, accept, drain, let go.
Invariant: the port accepts only after recovery is durable, and everything that was entered is left
in the reverse order, also when the start fails half-way.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import anyio
import msgspec
import structlog

from dispatch.agents.acp import build_acp_agent
from dispatch.agents.command import CommandAgent
from dispatch.agents.echo import EchoAgent
from dispatch.agents.ledger import ProcessLedger
from dispatch.agents.openai.agent import OpenAIAgent
from dispatch.agents.port import Agent
from dispatch.agents.python import PythonAgent
from dispatch.errors import CloseCode, ConfigError
from dispatch.observability import Metrics, configure_logging
from dispatch.runtime.broker import Broker
from dispatch.runtime.clock import Clock, RandomIds, SystemClock
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.feed import Feeds
from dispatch.runtime.journal import Journal
from dispatch.runtime.residence import residing
from dispatch.runtime.retention import keep_tidy
from dispatch.runtime.services import Services
from dispatch.runtime.slots import Slots
from dispatch.runtime.verbs import Verbs, all_verbs
from dispatch.server.ahp.connections import AhpConnections
from dispatch.server.auth import Authenticator
from dispatch.server.connections import Connections
from dispatch.server.gate import Doorkeeper, Gate
from dispatch.server.http import build_app, is_public
from dispatch.server.listener import Handshake, Listener
from dispatch.server.offers import AHP_PATH
from dispatch.server.tickets import session_key
from dispatch.server.websocket import Receiver
from dispatch.settings import AgentSettings, Settings
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import Opened, Store
from dispatch.storage.sqlite import SqliteStore
from dispatch.version import VERSION

log = structlog.get_logger()

# Long enough for peers to answer a close frame.
_GOODBYE_SECONDS: Final = 2.0
# Young objects die young here; the oldest generation is collected when almost nothing is new, so
# that ten thousand connections do not cost a pause.
_GC_THRESHOLDS: Final = (10_000, 50, 1_000)
_SWITCH_SECONDS: Final = 0.0005
# In place of the key that sessions are signed with, where none is ever issued.
_NO_KEY: Final = bytes(32)


@dataclass(slots=True)
class Daemon:
    """A daemon that accepts: where it is, and how to end it in good order."""

    url: str
    services: Services
    broker: Broker
    conversations: Conversations
    connections: Connections
    authenticator: Authenticator | None
    drain: Callable[[float], Awaitable[None]]
    # The protocol of one more connection, whose bytes the caller carries.
    connection: Callable[[], asyncio.Protocol]


async def serve(settings: Settings, read_again: Callable[[], Settings] | None = None) -> int:
    """Run until SIGTERM or SIGINT, drain, and return the exit code. A second signal is immediate,
    and so is one during the start, which may wait for room on the disk. At SIGHUP `read_again`
    gives the settings anew, and `[auth]` is taken over.

    Raises `DispatchError` where the start fails, alone or in a group.
    """
    configure_logging(settings.log_level)
    gc.set_threshold(*_GC_THRESHOLDS)
    # A busy loop gives a long statement of the writer's thread the interpreter back this soon, and
    # not after 5 ms: a batch of 32 turns beside a busy loop took 300 ms instead of 2.
    sys.setswitchinterval(_SWITCH_SECONDS)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        stop = _Stop()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop.listen, signals)
            with stop.life:
                async with running(settings) as daemon:
                    if settings.ready_file is not None:
                        _write_ready_file(settings.ready_file, daemon.url)
                    log.info("daemon.ready", url=daemon.url, pid=os.getpid(), version=VERSION)
                    gc.collect()
                    gc.freeze()
                    stop.can_drain = True
                    stop.hang_up = partial(_reload, daemon.authenticator, read_again)
                    await stop.asked.wait()
                    await daemon.drain(settings.drain_seconds)
            tasks.cancel_scope.cancel()
    log.info("daemon.stopped")
    return 0


def _reload(authenticator: Authenticator | None, read_again: Callable[[], Settings] | None) -> None:
    """Take over `[auth]` as it is written now; what cannot be read leaves all as it was."""
    if read_again is None:
        return
    try:
        auth = read_again().auth
        if auth is None or authenticator is None:
            if auth is not None or authenticator is not None:
                raise ConfigError("[auth] comes and goes with a restart alone")
            return
        authenticator.reload(auth)
    except ConfigError as error:
        log.error("auth.not_reloaded", error=error.message)
        return
    log.info("auth.reloaded", tokens=len(auth.tokens), jwt=auth.jwt is not None)


def _nothing() -> None:
    """Nobody is in yet."""


class _Stop:
    """What the signals ask of the daemon: to drain, to end as it stands, or to read again."""

    def __init__(self) -> None:
        self.life = anyio.CancelScope()
        self.asked = anyio.Event()
        self.can_drain = False
        self.hang_up: Callable[[], None] = _nothing

    async def listen(self, signals: AsyncIterator[signal.Signals]) -> None:
        async for number in signals:
            if number is signal.SIGHUP:
                self.hang_up()
            elif self.can_drain and not self.asked.is_set():
                log.info("daemon.stopping", signal=number.name)
                self.asked.set()
            else:
                log.warning("daemon.stopping_at_once", signal=number.name)
                self.life.cancel()


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    store: Store | None = None,
    agents: dict[str, Agent] | None = None,
    clock: Clock | None = None,
    is_bound: bool = True,
) -> AsyncIterator[Daemon]:
    """A whole daemon; tests may bring their own store, agents and clock, and do without a port."""
    clock = clock or SystemClock()
    metrics = Metrics()
    ledger = ProcessLedger(settings.data / "processes")
    if agents is None:
        agents = {
            name: build_agent(name, agent, settings, ledger)
            for name, agent in settings.agents.items()
        }
    async with _opened(store or _build_store(settings)) as (opened_store, opened):
        await ledger.end_leftovers()
        feeds = Feeds(
            events_max=settings.limits.ring_events_max,
            bytes_max=settings.limits.ring_bytes_max,
            bytes_total_max=settings.limits.rings_bytes_max,
        )
        journal = Journal(
            opened_store,
            feeds,
            clock,
            next_position=opened.next_position,
            delta_bytes_max=settings.limits.delta_bytes_max,
            observe=metrics.committed,
        )
        services = Services(
            store=opened_store,
            opened=opened,
            feeds=feeds,
            journal=journal,
            clock=clock,
            ids=RandomIds(),
            limits=settings.limits,
            agents=agents,
            default_agent=settings.default_agent,
            keys=count(opened.next_key),
            slots=Slots(settings.groups.runs_max),
            first_delta=metrics.first_delta,
        )
        async with (
            residing(agents.values()),
            _serving(settings, services, metrics, is_bound=is_bound) as daemon,
        ):
            yield daemon


@asynccontextmanager
async def _serving(
    settings: Settings, services: Services, metrics: Metrics, *, is_bound: bool
) -> AsyncIterator[Daemon]:
    verbs = all_verbs(services)
    authenticator = _authenticator(settings)
    keeper = Doorkeeper(settings, authenticator)
    hub = Connections(services, verbs, keeper)
    ahp = AhpConnections(services, verbs, hub)

    def figures() -> dict[str, float]:
        refused = 0 if authenticator is None else authenticator.refused_total
        counted = _figures(services, verbs, hub)
        return counted | {"auth_refused_total": refused}

    metrics.collect_from(figures)
    app = build_app(
        services,
        hub,
        authenticator,
        metrics=metrics.text,
        is_ready=lambda: not services.is_draining,
    )
    async with verbs.broker.running():
        await verbs.recover(services)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.run)
            tasks.start_soon(ahp.run)
            tasks.start_soon(keep_tidy, services, verbs.catalog, settings.retention)

            def accept(handshake: Handshake) -> Receiver:
                if handshake.head.path == AHP_PATH:
                    return ahp.accept(handshake.credential)
                return hub.accept(handshake.credential, handshake.head.query)

            async with Listener(
                settings, Gate(app, keeper, public=is_public), keeper, accept, is_bound=is_bound
            ) as listener:

                async def drain(seconds: float) -> None:
                    # Until the last turn has ended a probe may see that we are not ready, and who
                    # comes back may see how its turn ends; only what would start one is refused.
                    await verbs.broker.drain(seconds)
                    listener.stop_accepting()
                    hub.close_all()
                    ahp.close_all()
                    await listener.drain(_GOODBYE_SECONDS, CloseCode.DRAINING)

                yield Daemon(
                    listener.url,
                    services,
                    verbs.broker,
                    verbs.conversations,
                    hub,
                    authenticator,
                    drain,
                    listener.connection,
                )
            tasks.cancel_scope.cancel()


def build_agent(
    name: str, agent: AgentSettings, settings: Settings, ledger: ProcessLedger
) -> Agent:
    """One configured agent; raises `ConfigError` naming what is wrong with it."""
    match agent.kind:
        case "echo":
            return EchoAgent.from_options(name, agent.options)
        case "command":
            return CommandAgent.from_options(
                name,
                agent.options,
                ledger=ledger,
                line_bytes_max=settings.limits.event_bytes_max,
            )
        case "acp":
            return build_acp_agent(
                name,
                agent.options,
                ledger=ledger,
                sessions=settings.data / "sessions",
                line_bytes_max=settings.limits.event_bytes_max,
            )
        case "openai":
            return OpenAIAgent.from_options(
                name, agent.options, line_bytes_max=settings.limits.event_bytes_max
            )
        case "python":
            return PythonAgent.from_options(name, agent.options)
        case kind:
            known = "echo, acp, command, openai, python"
            raise ConfigError(f'agents.{name}.kind: "{kind}" is not one of {known}')


def problems(settings: Settings) -> list[str]:
    """Why `serve` would refuse these settings, a sentence each; nothing is started or written."""
    found = []
    ledger = ProcessLedger(settings.data / "processes")
    for name, agent in settings.agents.items():
        try:
            build_agent(name, agent, settings, ledger)
        except ConfigError as error:
            found.append(error.message)
    if settings.auth is not None:
        try:
            Authenticator(settings.auth, settings.limits, _NO_KEY)
        except ConfigError as error:
            found.append(error.message)
    return found


def verify(data: Path) -> list[str]:
    """Every broken invariant of a data directory, as sentences; empty when all is well."""
    from dispatch.storage.check import verify as verify_store

    return verify_store(data)


def backup(data: Path, target: Path) -> None:
    """Copy a data directory's database, also while a daemon runs on it."""
    from dispatch.storage.sqlite import backup_file

    backup_file(data, target)


@asynccontextmanager
async def _opened(store: Store) -> AsyncIterator[tuple[Store, Opened]]:
    try:
        yield store, await store.open()
    finally:
        with anyio.CancelScope(shield=True):
            await store.close()


def _build_store(settings: Settings) -> Store:
    if settings.storage.kind == "memory":
        return MemoryStore()
    if settings.storage.synchronous != "full":
        log.warning("storage.relaxed", synchronous=settings.storage.synchronous)
    return SqliteStore(settings.data, synchronous=settings.storage.synchronous)


def _authenticator(settings: Settings) -> Authenticator | None:
    if settings.auth is None:
        return None
    # Made once: a restart does not sign anybody out.
    key = session_key(settings.data / "session.key", secrets.token_bytes)
    return Authenticator(settings.auth, settings.limits, key)


def _figures(services: Services, verbs: Verbs, hub: Connections) -> dict[str, float]:
    feeds, journal, connections = (
        services.feeds.statistics(),
        services.journal.statistics(),
        hub.statistics(),
    )
    return {
        "connections": connections.open,
        "subscriptions": connections.watches,
        "connections_lagging": connections.paused,
        "slow_consumer_closes_total": connections.stalled_total,
        "turns_running": verbs.accounts.running_total,
        "conversations_live": len(verbs.conversations),
        "events_total": journal.events,
        "commits_total": journal.commits,
        "deliveries_total": feeds.deliveries,
        "writes_total": feeds.writes,
        "ring_bytes": feeds.ring_bytes,
        "storage_refusing": float(journal.is_refusing),
    }


def _write_ready_file(path: Path, url: str) -> None:
    """Appears whole or not at all: whoever waits for it may read it at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode({"url": url, "pid": os.getpid()}))
    temporary.replace(path)
