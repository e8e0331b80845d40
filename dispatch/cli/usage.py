"""How commands are asked and how they fail: what all of `dispatch …` has in common.

Neighbours: `cli` is made of these. Nothing but click is imported before it is needed, so that
`--help` is there at once.
Exit codes: 0 done; 1 the request failed, or its turn did; 2 wrong usage; 3 no connection;
130 Ctrl-C.
Invariant: what goes wrong is one line on standard error that carries no escape codes.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

import click

from dispatch.errors import DispatchError

if TYPE_CHECKING:
    from dispatch.client import HttpApi, Options

T = TypeVar("T")

FAILED: Final = 1
CANNOT_CONNECT: Final = 3
INTERRUPTED: Final = 130

HINTS: Final = {
    "cannot_connect": "; dispatch serve starts a daemon",
    "busy": "; --on-busy queue, steer or interrupt say what to do then",
    "unauthorized": "; put a token into DISPATCH_TOKEN",
}

# C1 controls start sequences on some terminals; the others change the direction of what is read,
# or end a line for some readers of JSON lines.
HIDDEN: Final = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONTROLS: Final = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}


def visible(text: str) -> str:
    """Text of unknown origin as it may be shown on a terminal."""
    shown = text.replace("\r\n", "\n").translate(_CONTROLS)
    return HIDDEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", shown)


class Failure(click.ClickException):
    """One line and an exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        # click's is of the class; here each failure has its own.
        self.__dict__["exit_code"] = exit_code

    def show(self, file: IO[str] | None = None) -> None:
        """On standard error; the message may quote the other side."""
        click.echo(f"dispatch: {visible(' '.join(self.message.split()))}", err=True)


class Commands(click.Group):
    """Turns what goes wrong in a command into its line and its code."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except DispatchError as error:
            raise failure_of(error) from error
        except KeyboardInterrupt:
            # The terminal shows ^C and stays on that line.
            click.echo(err=True)
            ctx.exit(INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            what = f"{error.filename}: " if error.filename else ""
            raise Failure(f"{what}{error.strerror or error}") from error


def sole(error: BaseException) -> BaseException:
    """What one task of a group failed with is the failure."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def failure_of(error: DispatchError) -> Failure:
    """The line and the code for what a daemon, or the way to it, refused."""
    message = error.message + HINTS.get(error.code, "")
    is_unreachable = error.code in {"cannot_connect", "connection_lost"}
    return Failure(message, CANNOT_CONNECT if is_unreachable else FAILED)


def checked(kind: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Refuses a malformed id or position as wrong usage, before anything is opened."""

    def check(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
        from dispatch.core.identity import parse_conversation_id, parse_position

        try:
            if text is not None:
                (parse_position if kind == "position" else parse_conversation_id)(text)
        except DispatchError as error:
            raise click.BadParameter(error.message) from error
        return text

    return check


def _checked_url(_: click.Context, __: click.Parameter, url: str) -> str:
    from dispatch.client.dial import Address

    try:
        Address.parse(url)
    except DispatchError as error:
        raise click.BadParameter(error.message) from error
    return url


url_option = click.option(
    "--url",
    metavar="URL",
    callback=_checked_url,
    envvar="DISPATCH_URL",
    default="http://127.0.0.1:8765",
    show_default=True,
    show_envvar=True,
    help="Where the daemon is.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="JSON lines, as when the output is no terminal."
)
data_option = click.option(
    "--data",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Data directory; else that of the configuration.",
)
config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="DISPATCH_CONFIG",
    show_envvar=True,
    help="TOML file.",
)
conversation_argument = click.argument("conversation", callback=checked("id"))


def standard_input() -> str:
    """All of it, without the newline that a shell adds."""
    if sys.stdin.isatty():
        click.echo("type the message; Ctrl-D ends it", err=True)
    return sys.stdin.buffer.read().decode(errors="replace").removesuffix("\n")


def data_directory(data: Path | None, config: Path | None) -> Path:
    """The data directory that is meant; it has to exist."""
    from dispatch.settings import load_settings

    directory = load_settings(config=config, flags={"data": data}).data
    if not directory.is_dir():
        raise Failure(f"no data directory at {directory}")
    return directory


def ask(url: str, question: Callable[[HttpApi], Awaitable[T]]) -> T:
    """One HTTP exchange."""
    http = api(url)
    return run(lambda: question(http))


def api(url: str, options: Options | None = None, *, read_attempts: int = 1) -> HttpApi:
    """The daemon's HTTP, with the token of the environment."""
    from dispatch.client import HttpApi
    from dispatch.client.dial import Address

    address = Address.parse(url, os.environ.get("DISPATCH_TOKEN") or None)
    return HttpApi(address, options, read_attempts=read_attempts)


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run what waits."""
    import anyio

    return anyio.run(work)
