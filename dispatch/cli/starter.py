"""What `dispatch init` writes: a commented configuration with one agent, and that agent's program.

Neighbours: `init` asks for what goes in here and puts it in place; `settings` has the defaults that
the commented lines show (a test compares them).
Invariant: nothing secret is written: a key is named by its environment variable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_HEAD: Final = """\
# The configuration of a dispatch daemon.
#
#   dispatch config check --config FILE     shows what is in force, or what is wrong
#   dispatch serve --config FILE            starts the daemon
#
# A setting behind "#" has this value by default. Variables of the environment (DISPATCH_PORT) and
# flags (--port) go over what is written here.

# host = "127.0.0.1"        # any other than the loopback needs [auth] below
# port = 8765
# data = "dispatch-data"    # from where the daemon is started; better absolute
# log_level = "info"
# drain_seconds = 10.0      # what a stop leaves the running turns to end by themselves

# For messages that name no agent.
"""

_TAIL: Final = """
# There may be more agents, each a table: kind = "echo", "openai", "acp", "command" or "python".

# To let others in: `dispatch token --user ada` prints a token and the table for it.
# [auth]
# secure_cookies = false    # true behind a proxy that speaks https

# [limits]
# turn_seconds_max = 14400.0

# [retention]
# events_seconds = 86400.0  # how long a reader may be away and still get every single event
"""

PROGRAM: Final = '''\
"""An agent: the turn is the first line of standard input, each line of output is an event."""

import json
import sys

turn = json.loads(sys.stdin.readline())
for word in turn["message"].split():
    print(json.dumps({"type": "text-delta", "delta": word + " "}), flush=True)
print(json.dumps({"type": "done", "reason": "stop"}), flush=True)
'''

MODULE: Final = '''\
"""An agent: an async generator that is given the turn and yields what it says."""

from dispatch.agents.port import TurnRequest
from dispatch.core.events import TextDelta


async def answer(request: TurnRequest):
    history = await request.history()
    yield TextDelta(f"You said {request.message!r}, ")
    yield TextDelta(f"and I remember {len(history)} chunks.")
'''


@dataclass(frozen=True, slots=True)
class Starter:
    """An agent to begin with. `settings` are the lines of its table, as TOML values with a remark;
    `files` what is written beside the configuration, by name; `variables` what has to be in the
    daemon's environment.
    """

    name: str
    kind: str
    about: str
    settings: dict[str, tuple[object, str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    variables: tuple[str, ...] = ()

    def toml(self) -> str:
        """The whole configuration."""
        from dispatch.cli.redaction import toml_value

        lines = [f"default_agent = {toml_value(self.name)}", "", f"# {self.about}"]
        lines += [f"[agents.{self.name}]", f"kind = {toml_value(self.kind)}"]
        for key, (value, remark) in self.settings.items():
            line = f"{key} = {toml_value(value)}"
            lines.append(f"{line:<27} # {remark}" if remark else line)
        return _HEAD + "\n".join(lines) + "\n" + _TAIL


def demo() -> Starter:
    """The echo."""
    return Starter(
        "echo",
        "echo",
        "The demo: says the message back, word by word, without a network.",
        {"delay_ms": (40, "between words")},
    )


def ollama(url: str, model: str) -> Starter:
    """An Ollama at a base URL, by its OpenAI-compatible side."""
    return Starter(
        "ollama",
        "openai",
        "Ollama, by its OpenAI-compatible side.",
        {
            "base_url": (f"{url}/v1", ""),
            "api_key_env": ("", "it wants no key"),
            "model": (model, "unless a message names another: ollama/MODEL"),
        },
    )


def openai(url: str, model: str, key_variable: str) -> Starter:
    """An OpenAI-compatible endpoint; no `key_variable`: it wants no key."""
    return Starter(
        "openai",
        "openai",
        "An OpenAI-compatible endpoint.",
        {
            "base_url": (url, ""),
            "api_key_env": (key_variable, "the variable that holds the key; never the key itself"),
            "model": (model, "unless a message names another: openai/MODEL"),
        },
        variables=(key_variable,) if key_variable else (),
    )


def acp(command: list[str]) -> Starter:
    """An agent that speaks the Agent Client Protocol over its standard input and output."""
    return Starter(
        "acp",
        "acp",
        "An agent of the Agent Client Protocol: one process a conversation.",
        {"command": (command, "")},
    )


def command(words: list[str], *, program: str | None = None) -> Starter:
    """A program; `program`: the name of the file beside the configuration to write it to."""
    return Starter(
        "program",
        "command",
        "A program, one process a turn: a line of JSON in, an event a line out.",
        {"command": (words, "")},
        files={program: PROGRAM} if program else {},
    )


def python(target: str, path: str, *, module: str | None = None) -> Starter:
    """A generator in a module of the directory `path`; `module`: the file to write it to."""
    return Starter(
        "mine",
        "python",
        "An async generator in Python, inside the daemon.",
        {"target": (target, "module:function"), "path": (path, "where the module lies")},
        files={module: MODULE} if module else {},
    )
