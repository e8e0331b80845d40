"""The commands that need no daemon: check a configuration or data, copy data, make a token.

Neighbours: `commands` lists these beside those that talk to a daemon, `compose` does the work.
Invariant: what is shown of a configuration has no secret in it.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import click

from dispatch.cli.usage import (
    FAILED,
    Commands,
    Failure,
    config_option,
    data_directory,
    data_option,
    json_option,
    visible,
)


@click.group(cls=Commands)
def config() -> None:
    """The daemon's configuration."""


@config.command("check", short_help="Show what would be in force, or what is wrong.")
@config_option
@json_option
def check_config(config: Path | None, as_json: bool) -> None:
    """Check the configuration as `serve` does and show what would be in force, secrets left out.

    Exit 1 where `serve` would refuse it, with a line for each reason and nothing else.
    """
    from dispatch.cli.redaction import redacted, toml_lines
    from dispatch.cli.screen import is_text, note, show_settings, write_json
    from dispatch.settings import load_settings, placed

    settings = load_settings(config=config)
    # Behind the settings: a wrong one is told at once, and compose imports all of the daemon.
    from dispatch import compose

    if problems := compose.problems(settings):
        # Alone: among a hundred lines of settings they would be looked for.
        for problem in problems:
            Failure(placed(problem, config=config)).show()
        click.get_current_context().exit(FAILED)
    if is_text(as_json):
        defaults = toml_lines(redacted(load_settings(environment={})))
        show_settings(toml_lines(redacted(settings)), set(defaults))
        note("in order; what differs from the defaults is bold")
    else:
        write_json(redacted(settings))


@click.command("check", short_help="Verify every invariant of a data directory.")
@data_option
@config_option
@json_option
def check_data(data: Path | None, config: Path | None, as_json: bool) -> None:
    """Verify every invariant of a data directory; exit 1 if one is broken."""
    from dispatch.cli.screen import is_text, write_json

    directory = data_directory(data, config)
    from dispatch import compose

    findings = compose.verify(directory)
    if not is_text(as_json):
        write_json(*({"finding": finding} for finding in findings))
        write_json({"data": str(directory), "ok": not findings, "findings": len(findings)})
    else:
        for finding in findings:
            click.secho(f"! {visible(finding)}", fg="red")
        found = f"{len(findings)} finding{'s' * (len(findings) > 1)}" if findings else "in order"
        click.echo(f"{directory}: {found}")
    click.get_current_context().exit(FAILED if findings else 0)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@data_option
@config_option
@json_option
def backup(file: Path, force: bool, data: Path | None, config: Path | None, as_json: bool) -> None:
    """Copy the database to FILE, also while the daemon runs."""
    from dispatch.cli.screen import is_text, write_json

    directory = data_directory(data, config)
    if file.exists() and not force:
        raise Failure(f"{file} exists; --force replaces it")
    from dispatch import compose

    compose.backup(directory, file)
    size = file.stat().st_size
    if is_text(as_json):
        click.echo(f"{file}: {size:,} bytes")
    else:
        write_json({"file": str(file), "bytes": size})


@click.command()
@click.option("--user", default="local", show_default=True, help="Whom the token stands for.")
@click.option("--account", default="local", show_default=True, help="The account of the user.")
@click.option(
    "--rights",
    multiple=True,
    type=click.Choice(["watch", "send", "admin"]),
    default=["watch", "send"],
    show_default=True,
    help="Once for each right.",
)
@json_option
def token(user: str, account: str, rights: tuple[str, ...], as_json: bool) -> None:
    """Make a token, and the configuration that accepts it.

    The token is shown this once; the configuration holds only its digest.
    """
    from dispatch.cli.redaction import toml_value
    from dispatch.cli.screen import is_text, write_json

    # 256 bits: not to be guessed, so the digest needs neither salt nor cost.
    secret = secrets.token_urlsafe(32)
    entry = {
        "sha256": hashlib.sha256(secret.encode()).hexdigest(),
        "account": account,
        "user": user,
        "rights": list(dict.fromkeys(rights)),
    }
    if not is_text(as_json):
        write_json({"token": secret, **entry})
        return
    click.echo(f"token (shown only now; clients take it from DISPATCH_TOKEN):\n\n  {secret}\n")
    click.echo("for the daemon's configuration file:\n\n  [[auth.tokens]]")
    for name, value in entry.items():
        click.echo(f"  {name} = {toml_value(value)}")
