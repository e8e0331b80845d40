"""An agent's session of the protocol, on a process of its own: opened, prompted, interrupted.

Neighbours: `peer` is the process and the connection with it, `agent` opens and prompts, `exchange`
takes what a prompt leads to. Of what a client may offer it offers nothing: files and terminals are
the agent's own.
Invariant: one prompt at a time; what arrives while there is none is shown to nobody.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import structlog
from acp import PROTOCOL_VERSION, RequestError
from acp.meta import CLIENT_METHODS
from acp.schema import (
    AgentCapabilities,
    CancelNotification,
    ClientCapabilities,
    Implementation,
    InitializeRequest,
    InitializeResponse,
    LoadSessionRequest,
    LoadSessionResponse,
    NewSessionRequest,
    NewSessionResponse,
    PromptRequest,
    PromptResponse,
    RequestPermissionRequest,
    SessionNotification,
)
from pydantic import BaseModel, ValidationError

from dispatch.agents.acp.choices import Choice, Choices
from dispatch.agents.acp.exchange import Asked, Exchange
from dispatch.agents.acp.peer import Lost, Peer, Ways
from dispatch.agents.acp.permission import outcome_of
from dispatch.agents.acp.prompt import Block
from dispatch.agents.ledger import ProcessLedger
from dispatch.agents.port import AgentFailure
from dispatch.agents.process import Launch
from dispatch.core.events import TokenUsage
from dispatch.core.identity import TurnId
from dispatch.version import VERSION

log = structlog.get_logger()


class Session(Peer):
    """See the module.

    `turn` is the last one it knows of; `is_new` until it has answered: then it was told of all that
    was before. `spent` are the tokens it told last.
    """

    def __init__(self, name: str, launch: Launch, ledger: ProcessLedger, ways: Ways) -> None:
        """Nothing is started yet."""
        super().__init__(name, launch, ledger, ways)
        self._exchange: Exchange | None = None
        self.id = ""
        self.turn: TurnId | None = None
        self.is_new = True
        self._system_prompt: str | None = None
        self.spent: TokenUsage | None = None
        self.choices = Choices()

    async def open(self, session: str | None) -> None:
        """Agree on the protocol, then load that session, or begin a new one where there is none or
        it cannot be loaded. Raises `AgentFailure`.
        """
        await self.connected.wait()
        try:
            with anyio.fail_after(self.ways.start_seconds):
                await self._open(session)
        except TimeoutError as error:
            raise AgentFailure(
                f"{self.name} was not ready within {self.ways.start_seconds:g} seconds",
                "start_timeout",
            ) from error
        except Lost as error:
            raise await self.failure() from error

    async def _open(self, session: str | None) -> None:
        opening = InitializeRequest(
            protocol_version=PROTOCOL_VERSION,
            client_capabilities=ClientCapabilities(),
            client_info=Implementation(name="dispatch", version=VERSION),
        )
        about, _ = await self.request("initialize", opening, InitializeResponse)
        if about.protocol_version != PROTOCOL_VERSION:
            raise AgentFailure(
                f"{self.name} speaks version {about.protocol_version} of the protocol,"
                f" and this is {PROTOCOL_VERSION}",
                "protocol_version",
            )
        self.about = about
        if session is None or not await self._load(session):
            await self._begin()

    async def _begin(self) -> None:
        request = NewSessionRequest(cwd=str(self.launch.cwd), mcp_servers=[])
        found, raw = await self.request("session_new", request, NewSessionResponse)
        self.id = found.session_id
        self.spent = TokenUsage(0, 0)
        self.choices = Choices.told(found, raw)

    async def _load(self, session: str) -> bool:
        """Whether it is the same session again; what is replayed of it is not listened to."""
        capabilities = self._capabilities
        if capabilities is None or not capabilities.load_session:
            return False
        request = LoadSessionRequest(cwd=str(self.launch.cwd), session_id=session, mcp_servers=[])
        try:
            found, raw = await self.request("session_load", request, LoadSessionResponse)
        except AgentFailure as failure:
            if failure.code == "auth_required":
                raise
            log.info("acp.session_not_loaded", agent=self.name)
            return False
        self.id = session
        self.is_new = False
        self.choices = Choices.told(found, raw)
        return True

    @property
    def _capabilities(self) -> AgentCapabilities | None:
        return self.about.agent_capabilities if self.about is not None else None

    @property
    def takes_images(self) -> bool:
        """Whether a prompt may hold pictures."""
        capabilities = self._capabilities
        prompts = capabilities.prompt_capabilities if capabilities is not None else None
        return bool(prompts is not None and prompts.image)

    def news_of(self, system_prompt: str | None) -> str | None:
        """The instructions, if it was not told these before."""
        if system_prompt is None or system_prompt == self._system_prompt:
            return None
        self._system_prompt = system_prompt
        return system_prompt

    async def choose(self, choice: Choice, value: str) -> None:
        """Set a model, a mode or an effort. Raises `AgentFailure`."""
        # Not known until it is answered: the turn may be stopped before that.
        choice.current = ""
        try:
            await self.send(choice.method, choice.params(self.id, value))
        except Lost as error:
            raise await self.failure() from error
        choice.current = value

    def prompt(self, turn: TurnId, blocks: list[Block]) -> Exchange:
        """Hand it a turn; the exchange tells what comes of it."""
        self.heard()
        self.turn = turn
        self._exchange = exchange = Exchange()
        if self.is_leaving:
            exchange.end()
            return exchange
        request = PromptRequest(session_id=self.id, prompt=[*blocks])
        self.tasks.start_soon(partial(self._prompt, exchange, request))
        return exchange

    async def _prompt(self, exchange: Exchange, request: PromptRequest) -> None:
        try:
            response, _ = await self.request("session_prompt", request, PromptResponse)
        except AgentFailure as failure:
            exchange.end(failure=failure)
        except Lost:
            self.leave()
        else:
            self.is_new = False
            exchange.end(response)

    async def interrupt(self, exchange: Exchange) -> None:
        """Stop a prompt that nobody wants any more, and wait until the agent has; one that does not
        stop within the grace is ended.
        """
        exchange.stop()
        if not self.is_leaving:
            await self.notify("session_cancel", CancelNotification(session_id=self.id))
        with anyio.move_on_after(self.ways.grace_seconds):
            await exchange.over.wait()
        if not exchange.over.is_set() or exchange.is_lost:
            self.leave()
            await self.gone.wait()

    async def room(self) -> None:
        """See `Peer`."""
        if self._exchange is not None:
            await self._exchange.room()

    def lost(self) -> None:
        """See `Peer`."""
        if self._exchange is not None:
            self._exchange.end()

    async def handle(self, method: str, params: Any, is_notification: bool) -> BaseModel | None:
        """See `Peer`."""
        try:
            if method == CLIENT_METHODS["session_update"]:
                self._update(SessionNotification.model_validate(params))
                return None
            if method == CLIENT_METHODS["session_request_permission"] and not is_notification:
                return await self._ask(RequestPermissionRequest.model_validate(params))
        except ValidationError as error:
            if is_notification:
                # Of a kind that is newer than the library, or not what the protocol says.
                return None
            raise RequestError.invalid_params() from error
        if is_notification:
            return None
        raise RequestError.method_not_found(method)

    def _update(self, note: SessionNotification) -> None:
        if self.id and note.session_id != self.id:
            return
        self.choices.follow(note.update)
        if self._exchange is not None:
            self._exchange.put(note)

    async def _ask(self, request: RequestPermissionRequest) -> BaseModel:
        if request.session_id != self.id:
            raise RequestError.invalid_params()
        asked = Asked(request)
        if self._exchange is None:
            asked.settle(None)
        else:
            self._exchange.put(asked)
        await asked.settled.wait()
        return outcome_of(asked.option)
