"""What is done to a chat session beside talking in it: a name, the archive, its end.

Neighbours: `chats` is the group that these are commands of; `client.chats` talks to the daemon.
Invariant: what cannot be taken back is asked about first, or is told with `--yes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dispatch.cli.usage import ask, checked, json_option, url_option

if TYPE_CHECKING:
    from dispatch.protocol.sessions.schema import ChatSession

session_argument = click.argument("session", callback=checked("id"))


@click.command()
@session_argument
@click.argument("title")
@url_option
@json_option
def rename(session: str, title: str, url: str, as_json: bool) -> None:
    """Give SESSION a TITLE."""
    from dispatch.client import ChatApi

    _show(ask(url, lambda http: ChatApi(http).rename(session, title)), as_json)


@click.command(short_help="Put SESSION away; nothing new is taken.")
@session_argument
@url_option
@json_option
def archive(session: str, url: str, as_json: bool) -> None:
    """Put SESSION away; what runs in it goes on, and nothing new is taken."""
    from dispatch.client import ChatApi

    _show(ask(url, lambda http: ChatApi(http).archive(session)), as_json)


@click.command()
@session_argument
@url_option
@json_option
def restore(session: str, url: str, as_json: bool) -> None:
    """Take SESSION back from the archive."""
    from dispatch.client import ChatApi

    _show(ask(url, lambda http: ChatApi(http).restore(session)), as_json)


@click.command()
@session_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@url_option
@json_option
def purge(session: str, yes: bool, url: str, as_json: bool) -> None:
    """Remove SESSION and all that was said in it, for ever."""
    from dispatch.cli.screen import is_text, write_json
    from dispatch.client import ChatApi

    if not yes:
        click.confirm(f"remove {session} and all that was said in it?", abort=True, err=True)
    reply = ask(url, lambda http: ChatApi(http).purge(session))
    if is_text(as_json):
        click.echo("removed")
    else:
        write_json(reply)


@click.command(short_help="End the task that runs in SESSION, else the first that waits.")
@session_argument
@click.option("--task", metavar="ID", callback=checked("id"), help="Only this one.")
@url_option
@json_option
def cancel(session: str, task: str | None, url: str, as_json: bool) -> None:
    """End the task that runs in SESSION, else the first that waits; what was said is kept."""
    from dispatch.cli.screen import is_text, write_json
    from dispatch.client import ChatApi

    reply = ask(url, lambda http: ChatApi(http).cancel(session, task))
    if is_text(as_json):
        # A task that was over before answers with how it ended.
        click.echo("nothing was running" if reply.status == "idle" else reply.status)
    else:
        write_json(reply)


@click.command()
@session_argument
@url_option
@json_option
def pending(session: str, url: str, as_json: bool) -> None:
    """Show what SESSION still has to answer, the first to come first."""
    from dispatch.cli.screen import is_text, note, show_rows, write_json
    from dispatch.client import ChatApi

    first = ask(url, lambda http: ChatApi(http).pending(session))
    tasks = [] if first is None else [first, *first.queued_tasks]
    if not is_text(as_json):
        write_json(*([] if first is None else [first]))
    elif tasks:
        rows = [(task.task_id, task.status, task.created_at) for task in tasks]
        show_rows(("task", "status", "since"), rows, [""] * len(rows))
    else:
        note("nothing is due")


def _show(session: ChatSession, as_json: bool) -> None:
    from dispatch.cli.screen import is_text, write_json
    from dispatch.cli.usage import visible

    if is_text(as_json):
        click.echo(visible(f"{session.title or session.id} ({session.status})"))
    else:
        write_json(session)


COMMANDS = (rename, archive, restore, purge, cancel, pending)
