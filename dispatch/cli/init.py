"""`dispatch init`: asks which agent, and writes a commented configuration for it.

Neighbours: `starter` has the texts, `ollama` looks whether one answers, `commands` lists this.
Whoever is no terminal is asked nothing: what is not given by a flag is then an error by name.
Invariant: a file is in place only if `serve` would take it, and none is replaced without a word.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from dispatch.cli import starter
from dispatch.cli.starter import Starter
from dispatch.cli.usage import Failure, json_option, visible

AGENTS: Final = {
    "ollama": "a model on this machine, by Ollama",
    "openai": "an OpenAI-compatible URL: OpenAI, vLLM, llama.cpp and many more",
    "acp": "a coding agent that speaks the Agent Client Protocol",
    "command": "a program of yours, in any language",
    "python": "a Python generator of yours",
    "demo": "the echo, to try it",
}
# Which flags say something about which agent.
_FLAGS: Final = {
    "ollama": {"url", "model"},
    "openai": {"url", "model", "key_env"},
    "acp": {"command"},
    "command": {"command"},
    "python": {"target"},
    "demo": set[str](),
}
OPENAI_URL: Final = "https://api.openai.com/v1"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Asked:
    """The flags, and whether a person may be asked for what is missing."""

    url: str | None
    model: str | None
    key_env: str | None
    command: str | None
    target: str | None
    may_ask: bool

    def text(self, flag: str, question: str, default: str | None = None) -> str:
        """What the flag says, else what the person answers, else the default."""
        given: str | None = getattr(self, flag)
        if given is None and self.may_ask:
            given = click.prompt(
                question, default=default, show_default=bool(default), prompt_suffix=" ", err=True
            )
        given = default if given is None else given
        if given is None:
            name = flag.replace("_", "-")
            raise click.UsageError(f"--{name} is wanted: {question.removesuffix('?').lower()}")
        return given


@click.command(short_help="Write a configuration, with the agent of your choice.")
@click.option(
    "--path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("dispatch.toml"),
    show_default=True,
    help="Where to write it.",
)
@click.option("--agent", type=click.Choice(list(AGENTS)), help="Else you are asked.")
@click.option("--url", metavar="URL", help="Of Ollama, or of the OpenAI-compatible endpoint.")
@click.option("--model", metavar="NAME", help="Which of its models.")
@click.option(
    "--key-env",
    metavar="VARIABLE",
    help="The environment variable that holds the endpoint's key; '' if it wants none.",
)
@click.option("--command", metavar="COMMAND", help="The ACP agent, or your program.")
@click.option("--target", metavar="MODULE:FUNCTION", help="Your generator, in FILE's directory.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing: Ollama if it answers, else the demo.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
def init(
    path: Path, agent: str | None, yes: bool, force: bool, as_json: bool, **flags: str | None
) -> None:
    """Write a commented configuration, and say how to go on.

    Ollama is looked for at OLLAMA_HOST, or where it usually is. Keys are named by their environment
    variable and never written down.
    """
    asked = Asked(**flags, may_ask=_is_person() and not yes)
    for name, given in flags.items():
        if given is not None and agent is not None and name not in _FLAGS[agent]:
            raise click.UsageError(f"--{name.replace('_', '-')} says nothing about {agent}")
    _may_write(path, force=force, may_ask=asked.may_ask)
    chosen = agent or _choose(asked, yes=yes)
    made = _STARTERS[chosen](asked, path.parent.resolve())
    written = _put_in_place(path, made)
    _say(path, made, written, as_json=as_json)


def _is_person() -> bool:
    return sys.stdin.isatty()


def _may_write(path: Path, *, force: bool, may_ask: bool) -> None:
    if path.exists() and not force:
        if not may_ask:
            raise Failure(f"{path} exists; --force replaces it")
        if not click.confirm(f"{path} exists. Replace it?", err=True):
            raise Failure(f"{path} is left as it is")


def _choose(asked: Asked, *, yes: bool) -> str:
    """Which agent, where none was named."""
    if not asked.may_ask and not yes:
        raise click.UsageError(
            "nobody can be asked here: name the agent with --agent, or say --yes"
        )
    from dispatch.cli import ollama

    url = _ollama_url(asked.url)
    found = ollama.models(url)
    usual = "ollama" if found else "demo"
    if not asked.may_ask:
        return usual
    for name, about in AGENTS.items():
        here = f"; it answers at {url}" if name == "ollama" and found is not None else ""
        click.echo(f"  {name:<8} {about}{here}", err=True)
    chosen: str = click.prompt(
        "Which agent answers?",
        type=click.Choice(list(AGENTS)),
        default=usual,
        show_choices=False,
        prompt_suffix=" ",
        err=True,
    )
    return chosen


def _ollama_url(given: str | None) -> str:
    from dispatch.cli import ollama

    text = given or os.environ.get("OLLAMA_HOST")
    try:
        return ollama.address(text)
    except ValueError as error:
        where = "--url" if given else "OLLAMA_HOST"
        raise Failure(f"{where}: {error}") from error


def _demo(_: Asked, __: Path) -> Starter:
    return starter.demo()


def _ollama(asked: Asked, _: Path) -> Starter:
    from dispatch.cli import ollama

    url = _ollama_url(asked.url)
    found = ollama.models(url)
    if asked.model is None and not found:
        what = (
            f"no Ollama answers at {url}" if found is None else f"the Ollama at {url} has no model"
        )
        raise Failure(f"{what}; --url says where it is, --model which model it will have")
    if found:
        click.echo(f"Ollama at {url} has {', '.join(visible(name) for name in found)}", err=True)
    model = asked.text("model", "Which model?", found[0] if found else None)
    if found is None or not {model, f"{model}:latest"} & set(found):
        click.echo(f"it does not have {visible(model)} yet: ollama pull brings it", err=True)
    return starter.ollama(url, model)


def _openai(asked: Asked, _: Path) -> Starter:
    url = asked.text("url", "The base URL of the endpoint?", OPENAI_URL).rstrip("/")
    model = asked.text("model", "The name of the model?")
    question = "The environment variable that holds the key (never the key itself)?"
    # What is wrong with either is the adapter's to say, when the whole is checked.
    variable = asked.text("key_env", question, "" if _is_here(url) else "OPENAI_API_KEY")
    return starter.openai(url, model, variable.strip())


def _is_here(url: str) -> bool:
    """Whether an endpoint is on this machine, where none wants a key."""
    try:
        return urlsplit(url).hostname in _LOOPBACK
    except ValueError:
        return False


def _acp(asked: Asked, _: Path) -> Starter:
    question = "The command that starts it, such as npx -y @zed-industries/claude-agent-acp?"
    return starter.acp(_program(asked.text("command", question)))


def _command(asked: Asked, folder: Path) -> Starter:
    program = "agent.py"
    line = asked.text("command", f"The command (empty: {program} is written for you)?", "")
    if line:
        return starter.command(_program(line))
    return starter.command(["python3", str(folder / program)], program=program)


def _python(asked: Asked, folder: Path) -> Starter:
    module = "my_agent.py"
    target = asked.text("target", f"module:function (empty: {module} is written for you)?", "")
    if target:
        return starter.python(target, str(folder))
    return starter.python("my_agent:answer", str(folder), module=module)


_STARTERS: Final[dict[str, Callable[[Asked, Path], Starter]]] = {
    "ollama": _ollama,
    "openai": _openai,
    "acp": _acp,
    "command": _command,
    "python": _python,
    "demo": _demo,
}


def _program(line: str) -> list[str]:
    """The words of a command; it may be installed later, so that it is missing is only told."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise Failure(f"--command: {error}") from error
    if not words:
        raise Failure("--command is empty")
    if shutil.which(words[0]) is None:
        click.echo(f"{visible(words[0])} is not found here yet", err=True)
    return words


def _put_in_place(path: Path, made: Starter) -> list[Path]:
    """Write the agent's files that are not there yet, and the configuration once it was checked."""
    from dispatch.settings import load_settings

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    written: list[Path] = []
    is_done = False
    try:
        for name, text in made.files.items():
            beside = path.parent / name
            if not beside.exists():
                beside.write_text(text, "utf-8")
                written.append(beside)
        temporary.write_text(made.toml(), "utf-8")
        # As the file says it: the environment of this moment is not that of the daemon.
        settings = load_settings(config=temporary, environment={})
        from dispatch import compose

        if problems := compose.problems(settings):
            raise Failure(f"nothing was written: {'; '.join(problems)}")
        temporary.replace(path)
        is_done = True
    finally:
        if not is_done:
            for left in (temporary, *written):
                left.unlink(missing_ok=True)
    return [path, *written]


def _say(path: Path, made: Starter, written: list[Path], *, as_json: bool) -> None:
    from dispatch.cli.screen import is_text, write_json

    steps = [
        f"dispatch serve --config {shlex.quote(str(path))}",
        'dispatch send "hello"',
    ]
    missing = [name for name in made.variables if not os.environ.get(name)]
    if not is_text(as_json):
        files = [str(file) for file in written]
        write_json({"agent": made.name, "written": files, "missing": missing, "next": steps})
        return
    for file in written:
        click.echo(f"wrote {visible(str(file))}")
    for name in missing:
        click.echo(f"the daemon needs its key in its environment: export {name}=...")
    click.echo(
        f"\nnow start it, and talk to it from a second terminal:\n\n  {steps[0]}\n  {steps[1]}"
    )
