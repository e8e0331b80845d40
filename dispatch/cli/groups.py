"""`dispatch groups`: several agents, one prompt.

Neighbours: `client.groups` talks to the daemon, `group_talk` shows what members say; `commands`
lists the group. Each command imports what it needs, so that `--help` is there at once.
Invariant: a program reads one JSON object a line, frames as the daemon wrote them.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Literal

import click

from dispatch.cli.usage import (
    FAILED,
    INTERRUPTED,
    Commands,
    api,
    ask,
    checked,
    json_option,
    run,
    standard_input,
    url_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dispatch.cli.group_talk import GroupOutput
    from dispatch.protocol.groups.schema import GroupConversation

# A restarted daemon is back in seconds; who waits for one answer should not wait for ever.
SEND_PATIENCE_SECONDS: Final = 60.0
READ_ATTEMPTS: Final = 4

group_argument = click.argument("group", callback=checked("id"))


@click.group(cls=Commands)
def groups() -> None:
    """Groups: several agents that answer the same messages."""


@groups.command("list")
@url_option
@json_option
def list_groups(url: str, as_json: bool) -> None:
    """List the groups, newest activity first."""
    from dispatch.cli.group_talk import show_groups
    from dispatch.cli.screen import is_text, write_json
    from dispatch.client import GroupApi

    found = ask(url, lambda http: GroupApi(http).list())
    if is_text(as_json):
        show_groups(found)
    else:
        write_json(*found)


@groups.command()
@click.argument("agents", metavar="AGENT...", nargs=-1, required=True)
@click.option("--title", metavar="TEXT", help="Else the names of the agents.")
@url_option
@json_option
def create(agents: Sequence[str], title: str | None, url: str, as_json: bool) -> None:
    """Make a group of these agents, each with a conversation of its own."""
    from dispatch.cli.screen import is_text, note, write_json
    from dispatch.client import GroupApi

    group = ask(url, lambda http: GroupApi(http).create(agents, title))
    if is_text(as_json):
        click.echo(group.id)
        note(f'dispatch groups send {group.id} "hello"')
    else:
        write_json(group)


@groups.command(short_help="Send TEXT to the members and show their answers as they come.")
@group_argument
@click.argument("text")
@click.option("--to", metavar="AGENT", multiple=True, help="Only to this member; may be repeated.")
@url_option
@json_option
def send(group: str, text: str, to: Sequence[str], url: str, as_json: bool) -> None:
    """Send TEXT (- reads standard input) to the members and show their answers as they come.

    The exit code is 0 if everybody who was asked has answered.
    """
    from dispatch.client import GroupApi, Options, Reconnecting

    message = standard_input() if text == "-" else text
    if not message.strip():
        raise click.UsageError("the message is empty")
    accepted: list[int] = []

    async def talk() -> bool:
        output = _output(as_json, is_sender=True)
        http = api(url, Options(patience_seconds=SEND_PATIENCE_SECONDS))
        results: dict[str, int] = {}
        async with aclosing(GroupApi(http).send(group, message, to=to or None)) as items:
            async for item in items:
                output.item(item)
                if isinstance(item, Reconnecting):
                    continue
                if item.get("kind") == "user":
                    accepted.append(item["seq"])
                results = item.get("results", results)
        return results.get("completed") == sum(results.values())

    try:
        is_done = run(talk)
    except KeyboardInterrupt:
        if not accepted:
            raise
        click.echo(f"\nthe answers go on; dispatch groups stop {group} ends them", err=True)
        click.get_current_context().exit(INTERRUPTED)
    click.get_current_context().exit(0 if is_done else FAILED)


@groups.command(short_help="Show what happens in GROUP until Ctrl-C.")
@group_argument
@click.option("--history", is_flag=True, help="Begin with everything that was said.")
@url_option
@json_option
def watch(group: str, history: bool, url: str, as_json: bool) -> None:
    """Show what happens in GROUP until Ctrl-C; a lost connection is resumed.

    Begins with the answers that are still being said.
    """
    from dispatch.client import GroupApi

    async def look() -> None:
        output = _output(as_json)
        watcher = GroupApi(api(url, read_attempts=READ_ATTEMPTS)).watch(group, history=history)
        async with aclosing(watcher) as items:
            async for item in items:
                output.item(item)

    run(look)


@groups.command(short_help="Stop what runs or waits in GROUP.")
@group_argument
@click.option("--agent", metavar="AGENT", help="Only this member.")
@url_option
@json_option
def stop(group: str, agent: str | None, url: str, as_json: bool) -> None:
    """Stop what runs or waits in GROUP; what was said is kept."""
    from dispatch.cli.screen import is_text, write_json
    from dispatch.client import GroupApi

    reply = ask(url, lambda http: GroupApi(http).stop(group, familiar=agent))
    if is_text(as_json):
        stopped = ", ".join(reply.stopped)
        click.echo(f"stopped {stopped}" if stopped else "nothing was running")
    else:
        write_json(reply)


@groups.command()
@group_argument
@click.argument("title")
@url_option
@json_option
def rename(group: str, title: str, url: str, as_json: bool) -> None:
    """Give GROUP a TITLE of its own."""
    from dispatch.client import GroupApi

    _show(ask(url, lambda http: GroupApi(http).rename(group, title)), as_json)


@groups.command()
@group_argument
@click.argument("agents", metavar="AGENT...", nargs=-1, required=True)
@url_option
@json_option
def add(group: str, agents: Sequence[str], url: str, as_json: bool) -> None:
    """Let agents take part in GROUP, from the next message on."""
    from dispatch.client import GroupApi

    _show(ask(url, lambda http: GroupApi(http).change_members(group, add=agents)), as_json)


@groups.command()
@group_argument
@click.argument("agents", metavar="AGENT...", nargs=-1, required=True)
@url_option
@json_option
def remove(group: str, agents: Sequence[str], url: str, as_json: bool) -> None:
    """Take agents out of GROUP; what they said stays."""
    from dispatch.client import GroupApi

    _show(ask(url, lambda http: GroupApi(http).change_members(group, remove=agents)), as_json)


@groups.command()
@group_argument
@click.option(
    "--sessions",
    type=click.Choice(["delete", "keep"]),
    help="What becomes of the members' conversations. [default: those that it made go with it]",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@url_option
@json_option
def delete(
    group: str, sessions: Literal["delete", "keep"] | None, yes: bool, url: str, as_json: bool
) -> None:
    """Delete GROUP for ever."""
    from dispatch.cli.screen import is_text, write_json
    from dispatch.client import GroupApi

    if not yes:
        click.confirm(f"delete {group} for ever?", abort=True, err=True)
    reply = ask(url, lambda http: GroupApi(http).delete(group, sessions))
    if is_text(as_json):
        click.echo("deleted" if reply.deleted else "it was deleted before")
    else:
        write_json(reply)


def _show(group: GroupConversation, as_json: bool) -> None:
    from dispatch.cli.screen import is_text, write_json
    from dispatch.cli.usage import visible

    if is_text(as_json):
        click.echo(visible(f"{group.title} ({', '.join(group.member_familiar_ids)})"))
    else:
        write_json(group)


def _output(as_json: bool, *, is_sender: bool = False) -> GroupOutput:
    from dispatch.cli.group_talk import GroupLines, GroupTalk
    from dispatch.cli.screen import is_text

    return GroupTalk(is_sender=is_sender) if is_text(as_json) else GroupLines()
