"""Any OpenAI-compatible endpoint as an agent: OpenAI, Ollama, vLLM, llama.cpp and many more.

Neighbours: `options` is what an operator writes, `messages` a conversation as it is sent,
`endpoint` sends it, `stream` makes events of what comes, `failures` says what went wrong; `compose`
builds the agent. No tools are offered, steering is not taken (the broker makes it the next turn),
and files are not touched.
Invariant: what was shown stands: an endpoint is asked again only while nothing of its answer was,
and when it breaks off after that, the turn ends with an error behind what was said.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final

import anyio
import structlog

from dispatch.agents.openai.endpoint import Address, Endpoint
from dispatch.agents.openai.failures import EndpointFailure
from dispatch.agents.openai.messages import messages_of
from dispatch.agents.openai.options import (
    OpenAIOptions,
    check_options,
    find_key,
    first_model,
    name_of_limit,
)
from dispatch.agents.openai.stream import Answer
from dispatch.agents.options import check_model, decode_options
from dispatch.agents.port import AgentFailure, AgentInfo, Emit, TurnRequest
from dispatch.core.events import (
    AgentEvent,
    ProviderRetry,
    ReasoningDelta,
    StepComplete,
    Usage,
)

# Lines without an event, such as comments that keep a connection alive, and what of tool calls is
# gathered: so many of the longest lines in a row say that no event will come.
_SILENT_LINES: Final = 4
# Counts follow the last word at once; who waits for the turn's end need not wait for a server that
# forgets to hang up.
_LAST_WORDS_SECONDS: Final = 2.0
_PROBE_SECONDS_MAX: Final = 3.0
# Waiting longer is the person's decision, who can send the message again.
_RETRY_AFTER_SECONDS_MAX: Final = 120.0
# What a turn finds out about the agent and not about its own message.
_STANDING: Final = frozenset({"unauthorized", "unreachable", "not_found", "redirected"})

_log = structlog.get_logger("dispatch.agents.openai")


class OpenAIAgent:
    """Asks an endpoint once for each turn, and again where that may help."""

    def __init__(self, name: str, options: OpenAIOptions, *, line_bytes_max: int) -> None:
        """Use options that were decoded; raises `ConfigError` for those that cannot work.

        `line_bytes_max` bounds one piece of an answer, in bytes.
        """
        self._name = name
        self._options = options
        check_options(name, options)
        self._model = first_model(options)
        self._silent_bytes_max = _SILENT_LINES * line_bytes_max
        self._key, self._key_problem = find_key(options)
        address = Address(
            base_url=options.base_url,
            key=self._key,
            connect_seconds=options.connect_seconds,
            stall_seconds=options.stall_seconds,
            line_bytes_max=line_bytes_max,
        )
        self._endpoint = Endpoint(name, address)
        self._found: tuple[str, ...] = ()
        self._problem: str | None = None
        self._has_answered = False

    @classmethod
    def from_options(
        cls, name: str, options: dict[str, object], *, line_bytes_max: int
    ) -> OpenAIAgent:
        """Build from a table of the configuration; raises `ConfigError`."""
        decoded = decode_options(name, options, OpenAIOptions)
        return cls(name, decoded, line_bytes_max=line_bytes_max)

    @property
    def info(self) -> AgentInfo:
        """What clients are told: the models listed, else those found by `probe`, the default first;
        `problem` is how the endpoint was found last.
        """
        names = self._options.models or self._found
        return AgentInfo(
            self._name,
            "openai",
            models=tuple(dict.fromkeys((self._model, *names))) if names else (),
            turns_max=self._options.turns_max,
            problem=self._key_problem or self._problem,
        )

    @property
    def cwd_roots(self) -> tuple[Path, ...]:
        """It uses no files, so a client's directory is refused."""
        return ()

    async def run(self, request: TurnRequest, emit: Emit) -> None:
        """Ask until an answer begins, and emit it to its end."""
        if self._options.models:
            check_model(self.info, request.model)
        if self._key_problem is not None:
            raise AgentFailure(self._key_problem, "key_missing")
        body = await self._body(request)
        attempt = 0
        while True:
            call = _Call(self._options, emit)
            try:
                await self._ask(body, call)
                break
            except EndpointFailure as failure:
                _log.warning("agent.failed", agent=self._name, code=failure.code, attempt=attempt)
                delay = None if call.has_content else self._delay_seconds(failure, attempt)
                if delay is None:
                    self._problem = failure.message if failure.code in _STANDING else None
                    raise
                retry = ProviderRetry(attempt, delay * 1000, failure.message, failure.code)
            await emit(retry)
            await anyio.sleep(delay)
            attempt += 1
        self._problem = None

    async def probe(self) -> None:
        """Ask for the models; never raises, and takes three seconds at the most."""
        if self._key_problem is not None:
            return
        try:
            with anyio.fail_after(_PROBE_SECONDS_MAX):
                self._found = await self._endpoint.models()
            self._problem = None
        except TimeoutError:
            self._problem = f"the endpoint did not answer within {_PROBE_SECONDS_MAX:g} seconds"
        except EndpointFailure as failure:
            # Not every endpoint lists its models; one that has answered is well all the same.
            is_listless = failure.code in ("not_found", "bad_request", "bad_answer")
            self._problem = None if is_listless and self._has_answered else failure.message

    async def aclose(self) -> None:
        """Close the client; idempotent."""
        await self._endpoint.aclose()

    async def _body(self, request: TurnRequest) -> dict[str, object]:
        options = self._options
        prompt = request.system_prompt
        body: dict[str, object] = {
            "model": request.model or self._model,
            "messages": messages_of(
                await request.history(),
                request,
                options.system_prompt if prompt is None else prompt,
                goes_on=bool(await request.said()),
            ),
        }
        if options.usage:
            body["stream_options"] = {"include_usage": True}
        if options.temperature is not None:
            body["temperature"] = options.temperature
        if options.max_tokens is not None:
            body[name_of_limit(options.base_url)] = options.max_tokens
        if request.reasoning_effort is not None:
            body["reasoning_effort"] = request.reasoning_effort
        return body

    async def _ask(self, body: dict[str, object], call: _Call) -> None:
        """One attempt; raises `EndpointFailure`."""
        answer = Answer(self._key)
        try:
            await self._read(body, answer, call)
        except EndpointFailure:
            # What was gathered of tool calls is said all the same, half of one too.
            await call.say_calls(answer)
            raise
        await call.end(answer)
        self._has_answered = True

    async def _read(self, body: dict[str, object], answer: Answer, call: _Call) -> None:
        silent_bytes, deadline = 0, math.inf
        async with aclosing(self._endpoint.lines(body)) as lines:
            while not answer.is_over and (line := await _next(lines, deadline)) is not None:
                events = answer.take(line)
                if answer.is_complete:
                    deadline = min(deadline, anyio.current_time() + _LAST_WORDS_SECONDS)
                silent_bytes = 0 if events else silent_bytes + len(line)
                if silent_bytes > self._silent_bytes_max and not answer.is_complete:
                    raise EndpointFailure("bad_answer", "it goes on and says nothing")
                call.has_content = call.has_content or answer.has_calls
                for event in events:
                    await call.say(event)

    def _delay_seconds(self, failure: EndpointFailure, attempt: int) -> float | None:
        """How long to wait before asking again; None: do not."""
        options = self._options
        if not failure.is_passing or attempt >= options.retries_max:
            return None
        after = failure.after_seconds
        if after is not None:
            return after if after <= _RETRY_AFTER_SECONDS_MAX else None
        return options.retry_seconds[min(attempt, len(options.retry_seconds) - 1)]


class _Call:
    """One call of the model: passes its events on and takes their times."""

    def __init__(self, options: OpenAIOptions, emit: Emit) -> None:
        self._shows_reasoning = options.reasoning
        self._emit = emit
        self._began = anyio.current_time()
        self._first: float | None = None
        self.has_content = False

    async def say(self, event: AgentEvent) -> None:
        """Emit what the model says; what it thinks, where that is wanted."""
        if self._first is None:
            self._first = anyio.current_time()
        if isinstance(event, ReasoningDelta) and not self._shows_reasoning:
            return
        self.has_content = True
        await self._emit(event)

    async def say_calls(self, answer: Answer) -> None:
        """Emit the tool calls that were gathered."""
        for event in answer.calls():
            await self._emit(event)

    async def end(self, answer: Answer) -> None:
        """Emit what is known at the end, and how it ended; raises `EndpointFailure`."""
        ended = anyio.current_time()
        if not self.has_content:
            # It may be worth asking again, so nothing is said of this time.
            answer.done()
        await self.say_calls(answer)
        if answer.usage is not None:
            await self._emit(Usage(answer.usage))
        first = ended if self._first is None else self._first
        await self._emit(
            StepComplete(
                ttft_ms=_milliseconds(first - self._began),
                decode_ms=_milliseconds(ended - first),
                gen_total_ms=_milliseconds(ended - self._began),
            )
        )
        await self._emit(answer.done())


async def _next(lines: AsyncGenerator[bytes, None], deadline: float) -> bytes | None:
    """The next line; None when there is none, or none that matters: a deadline says that the answer
    is whole, whatever becomes of the connection.
    """
    if deadline == math.inf:
        return await anext(lines, None)
    with anyio.CancelScope(deadline=deadline), suppress(EndpointFailure):
        return await anext(lines, None)
    return None


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
