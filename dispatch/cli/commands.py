"""What a person types: `dispatch serve`, `send`, `watch`, `history`, `list` and the rest.

Neighbours: `compose` builds the daemon, `client` talks to one, `screen` shows, `usage` says how a
command is asked and how it fails; `init`, `local`, `respond`, `people`, `groups` and `chats` have
others.
Each command imports what it needs, so that `--help` is there at once.
Invariant: what goes wrong is one line on standard error, never a traceback.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dispatch.cli.chats import chats
from dispatch.cli.conformance import conformance
from dispatch.cli.groups import groups
from dispatch.cli.init import init
from dispatch.cli.local import backup, check_data, config, token
from dispatch.cli.people import export, forget
from dispatch.cli.respond import respond
from dispatch.cli.usage import (
    FAILED,
    INTERRUPTED,
    Commands,
    Failure,
    ask,
    checked,
    config_option,
    conversation_argument,
    data_option,
    failure_of,
    json_option,
    run,
    sole,
    standard_input,
    url_option,
)
from dispatch.errors import ConfigError, DispatchError

if TYPE_CHECKING:
    from dispatch.cli.screen import Output
    from dispatch.core.commands import OnBusy

# A restarted daemon is back in seconds; who waits for one answer should not wait for ever.
SEND_PATIENCE_SECONDS: Final = 60.0

UNFINISHED: Final = frozenset({"aborted", "error", "interrupted"})


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 the request or its turn failed, 2 wrong usage, 3 no connection, "
    "130 Ctrl-C. DISPATCH_TOKEN holds the token for a daemon that wants one.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    help="Show the version.",
    callback=lambda context, _, wanted: _version(context) if wanted else None,
)
def cli() -> None:
    """A broker for AI-agent turns: durable, watched from any device, resumed from any position."""


def _version(context: click.Context) -> None:
    # Not imported: the package root belongs to those outside.
    click.echo(f"dispatch {sys.modules['dispatch'].__version__}")
    context.exit()


@cli.command()
@click.option(
    "--host",
    metavar="HOST",
    help="Address to bind; others than loopback need [auth] or --insecure.",
)
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    help="0 picks a free one. [default: 8765]",
)
@data_option
@config_option
@click.option(
    "--ready-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Written once connections are accepted: url and pid, as JSON.",
)
@click.option("--insecure", is_flag=True, default=None, help="Let others in without [auth].")
@click.option("--default-agent", metavar="NAME", help="For messages that name no agent.")
def serve(config: Path | None, **flags: object) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    import anyio

    from dispatch.settings import load_settings, placed

    read = partial(load_settings, config=config, flags=flags)
    settings = read()
    # Behind the settings: a wrong one is told at once, and compose imports all of the daemon.
    from dispatch import compose

    try:
        code = anyio.run(compose.serve, settings, read)
    except* ConfigError as refused:
        message = str(sole(refused))
        raise ConfigError(placed(message, config=config, flags=flags)) from refused
    click.get_current_context().exit(code)


@cli.command(short_help="Send TEXT and show the answer as it comes.")
@click.argument("text")
@click.option(
    "-c", "--conversation", metavar="ID", callback=checked("id"), help="Else a new one is begun."
)
@click.option(
    "-m",
    "--model",
    "--agent",
    metavar="AGENT[/MODEL]",
    help="Else the conversation's, or the default.",
)
@click.option(
    "--on-busy",
    type=click.Choice(["reject", "queue", "steer", "interrupt"]),
    default="reject",
    show_default=True,
    help="What to do if a turn is running.",
)
@url_option
@json_option
def send(
    text: str, conversation: str | None, model: str | None, on_busy: OnBusy, url: str, as_json: bool
) -> None:
    """Send TEXT (- reads standard input) and show the answer as it comes.

    The conversation's id goes to standard error, for `dispatch watch` on another device.
    """
    from dispatch.cli.screen import note
    from dispatch.client import Accepted, Client, Delta, Options, answer
    from dispatch.core.events import Done

    message = standard_input() if text == "-" else text
    if not message:
        raise click.UsageError("the message is empty")
    sent: list[Accepted] = []

    async def talk() -> str:
        output, reason = _output(as_json, is_sender=True), ""
        options = Options(patience_seconds=SEND_PATIENCE_SECONDS)
        async with Client(url, options=options) as client:
            items = answer(
                client, message, conversation_id=conversation, model=model, on_busy=on_busy
            )
            async for item in items:
                match item:
                    case Accepted():
                        sent.append(item)
                        note(f"conversation {item.conversation_id}")
                    case Delta(event=Done(reason=said)):
                        reason = said
                    case _:
                        pass
                output.item(item)
        return reason

    try:
        reason = run(talk)
    except KeyboardInterrupt:
        if not sent:
            raise
        note(f"\nthe turn goes on; dispatch stop {sent[0].conversation_id} ends it")
        click.get_current_context().exit(INTERRUPTED)
    click.get_current_context().exit(FAILED if reason in UNFINISHED else 0)


@cli.command(short_help="Show what happens in CONVERSATION until Ctrl-C.")
@conversation_argument
@click.option("--after", metavar="POSITION", callback=checked("position"), help="Go on from there.")
@click.option("--history", is_flag=True, help="Begin with everything that was said.")
@url_option
@json_option
def watch(conversation: str, after: str | None, history: bool, url: str, as_json: bool) -> None:
    """Show what happens in CONVERSATION until Ctrl-C; a lost connection is resumed.

    Begins with the running turn, if there is one.
    """
    from dispatch.client import Client

    if history and after:
        raise click.UsageError("--after and --history exclude each other")

    async def look() -> None:
        output = _output(as_json)
        since = 0 if history else None
        async with Client(url) as client:
            async for item in client.follow(conversation, after=after, since_seq=since):
                output.item(item)

    run(look)


@cli.command()
@conversation_argument
@click.option("-n", "--limit", type=click.IntRange(1), help="Only the newest so many chunks.")
@url_option
@json_option
def history(conversation: str, limit: int | None, url: str, as_json: bool) -> None:
    """Show what was said in CONVERSATION."""
    from dispatch.cli.screen import Talk, is_text, note, write_json

    page = ask(url, lambda http: http.history(conversation, limit=limit))
    if not is_text(as_json):
        write_json(*page.chunks)
        return
    ends = ask(url, lambda http: http.outcomes(conversation)) if page.chunks else {}
    Talk().history(page.chunks, {seq: end for seq, end in ends.items() if end in UNFINISHED})
    if any(chunk.superseded for chunk in page.chunks):
        note("what was truncated is left out (--json has it)")
    if not page.chunks:
        note("nothing was said yet, or the turn is still running (dispatch watch shows it)")


@cli.command("list")
@click.option("--search", metavar="TEXT", help="Only with TEXT in title or last message.")
@click.option("-n", "--limit", type=click.IntRange(1), help="Only the newest so many.")
@url_option
@json_option
def list_conversations(search: str | None, limit: int | None, url: str, as_json: bool) -> None:
    """List the conversations, newest activity first."""
    from datetime import UTC, datetime

    from dispatch.cli.screen import is_text, show_conversations, write_json

    found = ask(url, lambda http: http.conversations(search=search, limit=limit))
    if is_text(as_json):
        show_conversations(found, datetime.now(UTC), search)
    else:
        write_json(*found)


@cli.command(short_help="Stop the turn that runs in CONVERSATION.")
@conversation_argument
@url_option
@json_option
def stop(conversation: str, url: str, as_json: bool) -> None:
    """Stop the turn that runs in CONVERSATION; what it said is kept."""
    from dispatch.cli.screen import is_text, write_json

    reply = ask(url, lambda http: http.stop(conversation))
    if is_text(as_json):
        click.echo("stopped" if reply.aborted_turn else "nothing was running")
    else:
        write_json(reply)


@cli.command(short_help="List the agents, how they are, and their models.")
@url_option
@json_option
def agents(url: str, as_json: bool) -> None:
    """List the agents, how they are, and their models.

    `dispatch send --model` takes AGENT or AGENT/MODEL.
    """
    from dispatch.cli.screen import is_text, show_agents, write_json

    standings = ask(url, lambda http: http.agents())
    if is_text(as_json):
        show_agents(standings)
    else:
        write_json(*standings)


for _command in (
    init,
    respond,
    config,
    check_data,
    backup,
    token,
    export,
    forget,
    groups,
    chats,
    conformance,
):
    cli.add_command(_command)


def _output(as_json: bool, *, is_sender: bool = False) -> Output:
    from dispatch.cli.screen import JsonLines, Talk, is_text

    return Talk(is_sender=is_sender) if is_text(as_json) else JsonLines()


def main() -> None:
    """The `dispatch` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that cannot show a character gets its number, not a traceback.
            stream.reconfigure(errors="backslashreplace")
    try:
        cli(prog_name="dispatch")
    except Exception as error:
        # The outermost boundary: whatever it is, a person reads one line.
        if os.environ.get("DISPATCH_TRACEBACK"):
            raise
        cause = sole(error)
        if isinstance(cause, DispatchError):
            failure = failure_of(cause)
        else:
            what = f"{type(cause).__name__}: {cause}"
            failure = Failure(f"internal error: {what} (DISPATCH_TRACEBACK=1 shows where)")
        failure.show()
        sys.exit(failure.exit_code)
