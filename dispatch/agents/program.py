"""A program that an operator names: where it is, where it works, and what it may know.

Neighbours: `command` and `acp` are agents made of such programs; `process` starts what `launch`
returns and hears how it ends.
Invariant: the program is looked for from the agent's own directory and never from one that a client
names, and nothing of the daemon's environment reaches it unless the operator names it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Final

import msgspec

from dispatch.agents.ledger import MARK
from dispatch.agents.lines import printable
from dispatch.agents.options import AgentOptions, Seconds, resolve_cwd, wrong_option
from dispatch.agents.port import AgentFailure
from dispatch.agents.process import AgentProcess, Launch, leash

# What a program needs to find its files, speak its language and know the time. Nothing else of the
# daemon's environment is passed on unless it is named: that is where its keys are.
ENVIRONMENT_PASSED: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE"),
)

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ProgramOptions(AgentOptions, frozen=True):
    """`command` is a list, or a line that is split as a shell would (there is no shell)."""

    command: tuple[str, ...] | str
    cwd: Path | None = None
    cwd_roots: tuple[Path, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)
    env_pass: tuple[str, ...] = ()
    # Long enough to close a file and a connection, short enough for a person to wait.
    stop_grace_seconds: Seconds = 2.0


class Program:
    """One configured program; `problem` says why it could not be found last, if it could not."""

    def __init__(self, name: str, options: ProgramOptions) -> None:
        """Check what the operator wrote; raises `ConfigError`."""
        self.cwd_roots = options.cwd_roots
        self.problem: str | None = None
        self._command = _words(name, options.command)
        self._cwd = _directory(name, options.cwd)
        self._environment = _environment(name, options)
        # Asks a program what it can do; better now than in the first turn.
        leash()
        self.find()

    def find(self) -> str | None:
        """The program's absolute path, looked for anew."""
        program = self._command[0]
        if os.sep in program:
            path = shutil.which(self._cwd / program)
        else:
            path = shutil.which(program, path=self._environment.get("PATH", os.defpath))
        self.problem = None if path else f"program not found: {program}"
        return os.path.abspath(path) if path else None

    def launch(self, cwd: str | None) -> Launch:
        """What to start in a directory that a client named, or in the agent's own.

        Raises `AgentFailure`.
        """
        directory = self._cwd
        if cwd is not None:
            # The broker asked the same; a link may have been changed while the turn waited.
            resolved = resolve_cwd(self.cwd_roots, cwd)
            if resolved is None:
                raise AgentFailure("`cwd` is not inside the agent's cwd_roots", "cwd_refused")
            directory = resolved
        program = self.find()
        if program is None:
            raise AgentFailure(self.problem or "program not found", "spawn_failed")
        command = (program, *self._command[1:])
        return Launch(command=command, cwd=directory, environment=self._environment)


def ended_badly(name: str, process: AgentProcess, *, by_itself: bool, said: bool) -> AgentFailure:
    """How a program that was ended, or ended `by_itself`, failed its turn, with its last words.

    `said`: it had written something that was understood.
    """
    tail = printable(process.stderr_tail)
    if not by_itself:
        how = "closed its output and did not exit"
    elif (status := process.returncode or 0) < 0:
        how = f"was ended by signal {-status}"
    else:
        how = f"exited with status {status}"
    # What a shell answers when it cannot become the program.
    unstarted = process.returncode in (126, 127) and not said
    code = "spawn_failed" if unstarted else "agent_failed"
    return AgentFailure(f"{name} {how}" + (f": {tail}" if tail else ""), code)


def _words(name: str, command: tuple[str, ...] | str) -> tuple[str, ...]:
    if isinstance(command, str):
        try:
            command = tuple(shlex.split(command))
        except ValueError as error:
            raise wrong_option(name, "command", str(error)) from error
    if not command or not command[0] or any("\0" in word for word in command):
        raise wrong_option(name, "command", "names no program")
    return command


def _directory(name: str, cwd: Path | None) -> Path:
    directory = (cwd or Path()).absolute()
    if not directory.is_dir():
        raise wrong_option(name, "cwd", f"{cwd} is not a directory")
    return directory


def _environment(name: str, options: ProgramOptions) -> dict[str, str]:
    for key, value in options.env.items():
        if not _VARIABLE.fullmatch(key) or "\0" in value or key == MARK:
            raise wrong_option(name, f"env.{key}", "not a variable that can be set")
    passed = (*ENVIRONMENT_PASSED, *options.env_pass)
    return {key: os.environ[key] for key in passed if key in os.environ} | options.env
