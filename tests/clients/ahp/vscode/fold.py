"""VS Code's reducers in a process, asked from a test.

Neighbours: `fold.mjs` is the other end of the pipe.
Invariant: it answers for what its version and its package have, which `knows` tells.
"""

from __future__ import annotations

import json
import subprocess

from tests.clients.ahp.ahp_client.words import Json
from tests.clients.ahp.vscode.packages import command

# Not in the versions as VS Code 1.138 and 1.128 had them: they fold nothing.
_NOT_YET = {"0.9": ("chat/isReadChanged", "chat/isArchivedChanged"), "0.5.1": ("chat/turnsLoaded",)}
# No host of ours sends what is said of plugins: their shapes changed with 0.8, and theirs are new.
_REFUSED = ("session/customization", "session/mcpServer")
# What folds into a part of a turn was lost where the package was bundled.
_LOST = {"0.9": (), "0.5.1": ("chat/delta", "chat/reasoning", "chat/toolCall")}


class VscodeFold:
    """The reducers of one version."""

    def __init__(self, version: str) -> None:
        self._unknown = _NOT_YET[version] + _LOST[version] + _REFUSED
        self._process = subprocess.Popen(
            command("fold.mjs", version), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def knows(self, *kinds: str) -> bool:
        return not any(kind.startswith(self._unknown) for kind in kinds)

    def states(self, kind: str, state: Json, sent: list[tuple[Json, str]]) -> list[Json]:
        """The state after each action; beside an action is what its clock says."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        actions = [{"action": action, "now": now} for action, now in sent]
        line = json.dumps({"kind": kind, "state": state, "actions": actions})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        states: list[Json] = json.loads(self._process.stdout.readline())
        return states

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=10)
