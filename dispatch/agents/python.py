"""Agents written in Python: an async generator over a `TurnRequest`, run inside the daemon.

Neighbours: `port` has what a generator is given, `core.events` what it may yield; `compose` builds
the adapter. A complete example is the docstring of `PythonAgent`, and a test runs it.
Invariant: what people's code yields was encoded and read back before anyone else sees it, so a
value of the wrong type ends this turn and cannot damage what is stored.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final

import msgspec
from anyio.lowlevel import checkpoint

from dispatch.agents.options import AgentOptions, check_model, decode_options, wrong_option
from dispatch.agents.port import AgentFailure, AgentInfo, Emit, TurnRequest
from dispatch.core.events import (
    AgentEvent,
    Done,
    TextDelta,
    decode_agent_event,
    encode_event,
)
from dispatch.errors import ConfigError

Target = Callable[[TurnRequest], AsyncGenerator[AgentEvent | str, None]]

# A generator that never waits must not keep the loop from everybody else.
_EVENTS_PER_YIELD: Final = 64

# What the top level of somebody's module raises; each is the operator's to mend, so it is told
# as a setting that does not work and not as a defect of the daemon.
_IMPORT_FAILURES: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class PythonOptions(AgentOptions, frozen=True):
    """`target` is `"module:function"`; `path` a directory to import the module from."""

    target: str
    path: Path | None = None
    steer: bool = False
    system_prompt: str | None = None
    cwd_roots: tuple[Path, ...] = ()


class PythonAgent:
    """Runs an async generator function of yours as an agent.

    `myagents.py`:

        from dispatch.agents.port import Respond, Steer, TurnRequest
        from dispatch.core.content import StoredLine, Text
        from dispatch.core.events import Request, RequestOption, Steering, TextDelta

        async def careful(request: TurnRequest):
            for line in await request.history():        # what was said before, oldest first
                match line:
                    case StoredLine("user", Text(said)):
                        yield TextDelta(f"Earlier you said: {said}\\n")

            yield Request(
                request_id="shout",                     # your own, unique in the turn
                kind="approval",
                title="May I shout?",
                options=(
                    RequestOption("yes", "Shout", "allow"),
                    RequestOption("no", "Whisper", "deny"),
                ),
            )
            loud, extra = False, []
            while True:                                 # everyone who watches can answer
                match await request.inbox.receive():
                    case Respond(response) if response.request_id == "shout":
                        loud = bool(response.approved)
                        break
                    case Steer(text):                   # needs `steer = true`
                        yield Steering(text)            # acknowledges it
                        extra.append(text)

            for text in [request.message, *extra]:
                yield text.upper() if loud else text.lower()   # a str is a TextDelta

    `dispatch.toml`:

        default_agent = "careful"

        [agents.careful]
        kind = "python"
        target = "myagents:careful"
        path = "/srv/agents"
        steer = true

    Returning completes the turn; a `Done(reason)` yielded last names another reason; raising
    `AgentFailure(text, code)` ends it with an error that people see, and any other exception with
    one that does not show its words. When the turn is stopped, the generator is cancelled at its
    `await`, or closed at its `yield`; do not `yield` inside a task group or a cancel scope. It
    shares the daemon's event loop: wait with `await`, and hand long computations to
    `anyio.to_thread.run_sync` or to a `command` agent.
    """

    def __init__(self, name: str, options: PythonOptions, target: Target) -> None:
        """Use options that were checked and a function that was found."""
        self._info = AgentInfo(
            name,
            "python",
            models=options.models,
            steer=options.steer,
            turns_max=options.turns_max,
        )
        self._cwd_roots = options.cwd_roots
        self._system_prompt = options.system_prompt
        self._target = target

    @classmethod
    def from_options(cls, name: str, options: dict[str, object]) -> PythonAgent:
        """Import the function and build; raises `ConfigError`."""
        decoded = decode_options(name, options, PythonOptions)
        return cls(name, decoded, _find(name, decoded))

    @property
    def info(self) -> AgentInfo:
        """What clients are told."""
        return self._info

    @property
    def cwd_roots(self) -> tuple[Path, ...]:
        """Directories that a client may name; what `request.cwd` is for, the generator decides."""
        return self._cwd_roots

    async def run(self, request: TurnRequest, emit: Emit) -> None:
        """Emit what the generator yields, and close it however the turn ends."""
        check_model(self._info, request.model)
        if request.system_prompt is None and self._system_prompt is not None:
            request = msgspec.structs.replace(request, system_prompt=self._system_prompt)
        count = 0
        async with aclosing(self._target(request)) as items:
            async for item in items:
                event = _event(item)
                await emit(event)
                if isinstance(event, Done):
                    return
                count += 1
                if count % _EVENTS_PER_YIELD == 0:
                    await checkpoint()

    async def probe(self) -> None:
        """Its function was imported when it was built."""

    async def aclose(self) -> None:
        """Nothing outlives a turn."""


def _event(item: object) -> AgentEvent:
    """What was yielded, as an event whose every field has the type it says."""
    # Most of what is yielded: text that cannot be other than it says, and is the same read back.
    # A subclass may say anything, and text beyond ASCII may hold half a character.
    if type(item) is str and item.isascii():
        return TextDelta(item)
    if type(item) is TextDelta and type(item.delta) is str and item.delta.isascii():
        return item
    if isinstance(item, str):
        item = TextDelta(item)
    if not isinstance(item, AgentEvent):
        raise AgentFailure(f"the agent yielded {type(item).__name__}, not an event", "bad_event")
    try:
        return decode_agent_event(encode_event(item))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise AgentFailure(
            f"the agent yielded a bad {type(item).__name__}: {error}", "bad_event"
        ) from error


def _find(name: str, options: PythonOptions) -> Target:
    module_name, colon, path = options.target.partition(":")
    if not (module_name and colon and path):
        raise wrong_option(name, "target", f'"{options.target}" is not "module:function"')
    if options.path is not None:
        _look_in(name, options.path)
    try:
        found: object = importlib.import_module(module_name)
    except _IMPORT_FAILURES as error:
        reason = f"cannot import {module_name}: {type(error).__name__}: {error}"
        raise wrong_option(name, "target", reason) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise wrong_option(name, "target", f'{module_name} has no "{path}"')
        found = getattr(found, part)
    return _generator_function(name, options.target, found)


def _look_in(name: str, directory: Path) -> None:
    resolved = directory.resolve()
    if not resolved.is_dir():
        raise wrong_option(name, "path", f"{directory} is not a directory")
    if str(resolved) not in sys.path:
        sys.path.insert(0, str(resolved))
    # A file written since the directory was last looked at is found all the same.
    importlib.invalidate_caches()


def _generator_function(name: str, target: str, found: object) -> Target:
    if inspect.isasyncgenfunction(found):
        return found
    call: object = getattr(found, "__call__", None)  # noqa: B004 - an object that is a function
    if not inspect.isclass(found) and inspect.isasyncgenfunction(call):
        return call
    problem: ConfigError = wrong_option(
        name, "target", f"{target} is not an async generator function (async def with yield)"
    )
    raise problem
