"""What a person types: `dispatch …`.

`commands`, `local`, `init` and `respond` are the commands, `screen` what they print (for people on
a terminal, JSON lines in a pipe), `usage` their options, failures and exit codes, `redaction` keeps
secrets out of both.
Invariant: an error is one clear line and an exit code, never a traceback.
"""

from dispatch.cli.commands import cli, main

__all__ = ["cli", "main"]
