"""Which session of its own an agent had for a conversation: what is needed to load it again.

Neighbours: `agent` writes a record before each prompt and reads it when it has no process; the
directory is beside that of the process ledger, so a session is found again after a restart.
Invariant: a record is whole or absent, and losing one costs no more than a transcript: it is never
synced, and what cannot be written or read is as good as absent.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog
from anyio.to_thread import run_sync

from dispatch.core.identity import AccountId, ConversationId, TurnId

log = structlog.get_logger()

# Of the size of a line each; beyond them the oldest are forgotten. An agent forgets too.
RECORDS_MAX: Final = 10_000
# Listing the directory is what costs, so it is not done at each write.
_WRITES_PER_SWEEP: Final = 500

Owner = tuple[str, AccountId, ConversationId]
"""An agent's name and whose conversation it is with."""


class Record(msgspec.Struct, frozen=True):
    """The agent's own id of a session, the last turn that it was told of, and where it works."""

    session: str
    turn: TurnId
    cwd: str


class Records:
    """One small file for each conversation of each agent."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`; it is made when it is needed."""
        self._directory = directory
        self._writes = 0

    async def read(self, owner: Owner) -> Record | None:
        """What was written last."""
        return await run_sync(self._read, self._path(owner))

    async def write(self, owner: Owner, record: Record) -> None:
        """Remember a session."""
        self._writes += 1
        sweep = self._writes % _WRITES_PER_SWEEP == 1
        try:
            await run_sync(self._write, self._path(owner), record, sweep)
        except OSError as error:
            log.warning("acp.session_not_recorded", agent=owner[0], reason=error.strerror)

    async def forget(self, owner: Owner) -> None:
        """Remember it no more."""
        with suppress(OSError):
            await run_sync(self._path(owner).unlink, True)

    def _path(self, owner: Owner) -> Path:
        # Not the ids themselves: a file's name knows no difference of case on some systems.
        return self._directory / f"{hashlib.sha256(msgspec.json.encode(owner)).hexdigest()}.json"

    def _read(self, path: Path) -> Record | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError):
            return None

    def _write(self, path: Path, record: Record, sweep: bool) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if sweep:
            self._sweep()
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.replace(path)

    def _sweep(self) -> None:
        files = sorted(self._directory.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in files[:-RECORDS_MAX]:
            path.unlink(missing_ok=True)
