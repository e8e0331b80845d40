"""`dispatch chats`: a messenger with an agent.

Neighbours: `client.chats` talks to the daemon, `chat_talk` shows what is said, `chat_care` has the
commands that do not talk; `commands` lists the group. Each command imports what it needs, so that
`--help` is there at once.
Invariant: a program reads one JSON object a line, as the daemon wrote it.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Literal

import click

from dispatch.cli.chat_care import COMMANDS
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
    from dispatch.client import HttpApi
    from dispatch.client.events import Frame
    from dispatch.protocol.sessions.schema import ChatDetail, ChatRead

# A restarted daemon is back in seconds; who waits for one answer should not wait for ever.
SEND_PATIENCE_SECONDS: Final = 60.0
READ_ATTEMPTS: Final = 4
# An agent may think for long; the daemon has a deadline of its own.
ANSWER_SECONDS: Final = 24 * 3600.0
# What a person is shown of what was said before.
RECENT_MAX: Final = 10
PAGE: Final = 200

session_argument = click.argument("session", callback=checked("id"))


@click.group(cls=Commands)
def chats() -> None:
    """Chat sessions: a messenger with an agent, with unread counts."""


for command in COMMANDS:
    chats.add_command(command)


@chats.command("list", short_help="List the sessions with their unread counts.")
@click.option(
    "--status",
    type=click.Choice(["active", "archived", "all"]),
    default="active",
    show_default=True,
    help="Which ones.",
)
@click.option("-n", "--limit", type=click.IntRange(1), help="Only the newest so many.")
@url_option
@json_option
def list_chats(
    status: Literal["active", "archived", "all"], limit: int | None, url: str, as_json: bool
) -> None:
    """List the sessions with their unread counts, newest activity first."""
    from datetime import UTC, datetime

    from dispatch.cli.chat_talk import show_sessions
    from dispatch.cli.screen import is_text, write_json
    from dispatch.client import ChatApi

    found = ask(url, lambda http: ChatApi(http).list(status, limit=limit))
    if is_text(as_json):
        show_sessions(found, datetime.now(UTC))
    else:
        write_json(*found.sessions)


@chats.command()
@click.argument("agent")
@click.option("--title", metavar="TEXT", help="Else the first message.")
@url_option
@json_option
def create(agent: str, title: str | None, url: str, as_json: bool) -> None:
    """Begin a session with AGENT."""
    from dispatch.cli.screen import is_text, note, write_json
    from dispatch.client import ChatApi

    session = ask(url, lambda http: ChatApi(http).create(agent, title))
    if is_text(as_json):
        click.echo(session.id)
        note(f'dispatch chats send {session.id} "hello"')
    else:
        write_json(session)


@chats.command(short_help="Send TEXT and wait for the answer.")
@session_argument
@click.argument("text")
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=ANSWER_SECONDS,
    help="How long; 0 does not wait. [default: until it is there]",
)
@url_option
@json_option
def send(session: str, text: str, wait: float, url: str, as_json: bool) -> None:
    """Send TEXT (- reads standard input) and wait for the answer."""
    from dispatch.cli.chat_talk import show_answer
    from dispatch.cli.screen import is_text, write_json
    from dispatch.client import ChatApi, Options
    from dispatch.protocol.sessions.schema import ChatMessage

    message = standard_input() if text == "-" else text
    if not message.strip():
        raise click.UsageError("the message is empty")
    http = api(url, Options(patience_seconds=SEND_PATIENCE_SECONDS))
    try:
        sent = run(lambda: ChatApi(http).send(session, message, wait_seconds=wait or None))
    except KeyboardInterrupt:
        click.echo(f"\nwhat was sent goes on; dispatch chats watch {session} shows it", err=True)
        click.get_current_context().exit(INTERRUPTED)
    if is_text(as_json):
        show_answer(sent)
    else:
        write_json(sent)
    answer = sent.response
    is_failed = isinstance(answer, ChatMessage) and answer.status in ("failed", "cancelled")
    click.get_current_context().exit(FAILED if is_failed else 0)


@chats.command(short_help="Show what happens in SESSION, or in all of them.")
@click.argument("session", required=False, callback=checked("id"))
@click.option("--deltas", is_flag=True, help="JSON: answers as they are said, too.")
@url_option
@json_option
def watch(session: str | None, deltas: bool, url: str, as_json: bool) -> None:
    """Show what happens in SESSION, or in all of them, until Ctrl-C.

    A lost connection is resumed.
    """
    from dispatch.cli.screen import is_text

    http = api(url, read_attempts=READ_ATTEMPTS)
    if is_text(as_json):
        run(lambda: _talk(http, session))
    else:
        run(lambda: _lines(http, session, deltas=deltas))


async def _lines(http: HttpApi, session: str | None, *, deltas: bool) -> None:
    from dispatch.cli.screen import write_json
    from dispatch.client import ChatApi

    async with aclosing(ChatApi(http).watch(session, deltas=deltas)) as items:
        async for item in items:
            write_json(item)


async def _talk(http: HttpApi, session: str | None) -> None:
    from dispatch.cli.chat_talk import ChatTalk
    from dispatch.client import ChatApi, Reconnecting

    chats, talk = ChatApi(http), ChatTalk()

    async def catch_up() -> int:
        if session is None:
            listed = await chats.list()
            talk.sessions(listed)
            return listed.cursor
        detail = await chats.get(session, limit=RECENT_MAX)
        talk.detail(detail)
        return detail.cursor

    async with aclosing(chats.watch(session, after=await catch_up())) as items:
        async for item in items:
            if isinstance(item, Reconnecting):
                talk.lost(item.reason)
            elif item.get("event") == "resync_required":
                await catch_up()
            else:
                talk.frame(item)
                _check_there(item, session)


def _check_there(frame: Frame, session: str | None) -> None:
    """Raise where the session that is watched is gone: nothing will come any more."""
    from dispatch.errors import Gone

    if session is not None and frame.get("event") == "chat_session_deleted":
        raise Gone(f"chat session {session} was deleted")


@chats.command(short_help="Show what is unread in SESSION, and mark it as read.")
@session_argument
@url_option
@json_option
def read(session: str, url: str, as_json: bool) -> None:
    """Show what is unread in SESSION, and mark it as read on every device."""
    from dispatch.cli.chat_talk import show_unread
    from dispatch.cli.screen import is_text, write_json

    detail, moved = ask(url, lambda http: _read(http, session))
    unread = [m for m in detail.messages if m.seq > detail.last_read_seq]
    if is_text(as_json):
        show_unread(detail, unread, moved)
    else:
        write_json(*unread, moved)


async def _read(http: HttpApi, session: str) -> tuple[ChatDetail, ChatRead]:
    """What is newest, and up to there it is read: what comes meanwhile stays unread."""
    from dispatch.client import ChatApi

    chats = ChatApi(http)
    detail = await chats.get(session, limit=PAGE)
    newest = max((message.seq for message in detail.messages), default=0)
    return detail, await chats.read(session, newest)
