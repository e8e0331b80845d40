"""`dispatch export` and `dispatch forget`: a person, for who administers the account.

Neighbours: `client.people` talks to the daemon; `commands` lists these.
Invariant: what cannot be taken back is asked about first, or is told with `--yes`; an export that
is not whole is an error, whatever of it was written.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from dispatch.cli.usage import CANNOT_CONNECT, Failure, api, ask, json_option, run, url_option

if TYPE_CHECKING:
    from dispatch.client import PeopleApi, UserForgotten

account_option = click.option(
    "--account", metavar="ACCOUNT", help="Refused unless it is that of the token."
)


def _named(_: click.Context, __: click.Parameter, user: str) -> str:
    if not user or not user.isprintable():
        raise click.BadParameter("not the name of a user")
    return user


@click.command(short_help="Everything of a person, as JSON lines: --user ada > ada.ndjson.")
@click.option("--user", metavar="USER", required=True, callback=_named, help="Whose.")
@account_option
@url_option
@json_option
def export(user: str, account: str | None, url: str, as_json: bool) -> None:
    """Write everything of a person to standard output, as JSON lines; needs the right admin.

    Conversations, chat sessions, read cursors, groups, and what they said elsewhere. On a terminal
    it is counted and not shown. Exit 0 says that it is whole.
    """
    from dispatch.cli.screen import is_text, note, show_rows
    from dispatch.client import PeopleApi

    people = PeopleApi(api(url))
    if not is_text(as_json):
        run(lambda: _written(people, user, account))
        return
    kinds = run(lambda: _counted(people, user, account))
    rows = [(kind, f"{kinds[name]:,}") for kind, name in _KINDS.items() if kinds[name]]
    if rows:
        show_rows(("what", "how many"), rows, [""] * len(rows))
        note(f"dispatch export --user {shlex.quote(user)} > FILE writes it down")
    else:
        note(f"nothing is kept of {user}")


_KINDS = {
    "conversations": "conversation",
    "turns": "turn",
    "chat sessions": "chat-session",
    "read cursors": "read",
    "said elsewhere": "said",
    "groups": "group",
}


async def _written(people: PeopleApi, user: str, account: str | None) -> None:
    from dispatch.cli.screen import json_line

    async with aclosing(people.export(user, account=account)) as lines:
        async for line in lines:
            sys.stdout.buffer.write(json_line(line.removesuffix(b"\n")))
    sys.stdout.buffer.flush()


async def _counted(people: PeopleApi, user: str, account: str | None) -> Counter[str]:
    import msgspec

    kinds: Counter[str] = Counter()
    async with aclosing(people.export(user, account=account)) as lines:
        async for line in lines:
            kinds[msgspec.json.decode(line)["type"]] += 1
    return kinds


@click.command(short_help="Remove what is a person's alone, for ever.")
@click.argument("user", callback=_named)
@account_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@url_option
@json_option
def forget(user: str, account: str | None, yes: bool, url: str, as_json: bool) -> None:
    """Remove the conversations, chat sessions and read cursors of USER, for ever; needs the right
    admin.

    What they said in conversations of others and in groups stays, and is counted. The same command
    again goes on where one was interrupted.
    """
    from dispatch.cli.screen import is_text, write_json
    from dispatch.client import ConnectionLost, PeopleApi

    if not yes:
        _confirm(user)
    try:
        told = ask(url, lambda http: PeopleApi(http).forget(user, account=account))
    except ConnectionLost as error:
        message = f"{error.message}; part of it may be done, and the same again does the rest"
        raise Failure(message, CANNOT_CONNECT) from error
    if is_text(as_json):
        _show(told)
    else:
        write_json(told)


def _confirm(user: str) -> None:
    """Ask whoever is there; where nobody is, `--yes` has to say it."""
    if not is_attended():
        raise click.UsageError("this cannot be taken back: say --yes")
    question = f"remove the conversations and chat sessions of {user}, for ever?"
    click.confirm(question, abort=True, err=True)


def is_attended() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


def _show(told: UserForgotten) -> None:
    from dispatch.cli.screen import note, show_rows

    removed, stayed = told.removed, told.stayed
    found = [
        ("conversations", removed.conversations, stayed.conversations),
        ("chat sessions", removed.chat_sessions, 0),
        ("read cursors", removed.read_cursors, 0),
        ("messages", removed.waiting_messages, stayed.messages),
        ("groups", 0, stayed.groups),
    ]
    rows = [(what, f"{gone:,}", f"{left:,}") for what, gone, left in found if gone or left]
    if not rows:
        note(f"nothing is kept of {told.user}")
        return
    show_rows((told.user, "removed", "stays"), rows, [""] * len(rows))
    if told.turns_ended:
        note(f"{told.turns_ended} of their turns elsewhere were ended")
    if any(left for _, _, left in found):
        note("what stays is part of groups, or of conversations of others")
