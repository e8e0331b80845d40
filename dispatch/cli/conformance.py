"""`dispatch conformance`: whether the server at an address keeps the protocol.

Neighbours: `conformance` has the transcripts and judges; `commands` lists this.
The address is an argument and not `--url`: this is not about the daemon of this machine.
Invariant: exit code 0 says that at least one transcript was replayed, and that none failed.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from dispatch.cli.usage import FAILED, json_option, run, visible

if TYPE_CHECKING:
    from pathlib import Path

    from dispatch.conformance.suite import Verdict

_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}


@click.command(short_help="Replay the golden transcripts against the server at URL.")
@click.argument("url")
@click.option(
    "--token", metavar="TOKEN", envvar="DISPATCH_TOKEN", show_envvar=True, help="For its [auth]."
)
@click.option(
    "--only", metavar="NAME", multiple=True, help="Those with NAME in their name; repeatable."
)
@click.option("--keep-going", is_flag=True, help="Go on behind one that failed.")
@click.option("--exact", is_flag=True, help="Further fields and other words fail as well.")
@click.option(
    "--agents",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    help="Print the TOML of the agents that they need.",
    callback=lambda context, _, wanted: _print_agents(context) if wanted else None,
)
@json_option
def conformance(
    url: str, token: str | None, only: tuple[str, ...], keep_going: bool, exact: bool, as_json: bool
) -> None:
    """Replay the golden transcripts of the protocol against the server at URL.

    They leave conversations behind, and nobody else should act as the same person meanwhile.

    \b
    Those that need agents which the server does not serve are skipped. To serve them:
        dispatch conformance --agents > agents.toml
        dispatch serve --config agents.toml
    """
    from dispatch.conformance.transcripts import published

    paths = published(only)
    if not paths:
        raise click.BadParameter("no transcript has such a name", param_hint="--only")
    if not _judge(url, token, paths, keep_going=keep_going, exact=exact, as_json=as_json):
        click.get_current_context().exit(FAILED)


def _judge(
    url: str,
    token: str | None,
    paths: dict[str, Path],
    *,
    keep_going: bool,
    exact: bool,
    as_json: bool,
) -> bool:
    """Show each verdict as it falls; whether the server passed."""
    from dispatch.cli.screen import is_text, write_json
    from dispatch.client.dial import Address
    from dispatch.conformance.suite import judge

    counts: Counter[str] = Counter()
    address = Address.parse(url, token or None)

    async def show() -> None:
        async for verdict in judge(address, paths, exact=exact, keep_going=keep_going):
            counts[verdict.outcome] += 1
            if is_text(as_json):
                _show(verdict)
            else:
                write_json(verdict)

    run(show)
    if is_text(as_json):
        told = [f"{counts[outcome]} {outcome}" for outcome in _COLOURS if counts[outcome]]
        click.echo(", ".join(told) or "nothing was replayed")
    return counts["passed"] > 0 and not counts["failed"]


def _show(verdict: Verdict) -> None:
    word = click.style(f"{verdict.outcome:8}", fg=_COLOURS[verdict.outcome])
    click.echo(f"{word} {verdict.transcript}")
    if verdict.reason:
        where = f"step {verdict.step}: " if verdict.step else ""
        click.echo(f"         {visible(where + verdict.reason)}")


def _print_agents(context: click.Context) -> None:
    from dispatch.conformance.agents import configuration

    click.echo(configuration(), nl=False)
    context.exit()
