"""Keeping a daemon as the README has it: backup, restore, a person, and what an old one refuses."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tests.e2e.checkout import Checkout
from tests.e2e.readme import claim

pytestmark = pytest.mark.timeout(120)

RUN = "Run it"
BACKUP = claim(RUN, "sh", "dispatch backup")
RESTORE = claim(RUN, "sh", "mkdir restored")
PERSON = claim(RUN, "sh", "dispatch forget")


async def test_a_backup_is_taken_while_it_runs_and_restored_elsewhere(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    async with checkout.serving("./scripts/serve"):
        await checkout.typed('dispatch send "keep this" --conversation attic')
        printed = await checkout.typed(BACKUP.code)
    told = [json.loads(line) for line in printed.splitlines()]
    assert told[0]["file"] == "copy.db"
    assert told[-1]["ok"] is True
    *prepare, serve = RESTORE.code.splitlines()
    await checkout.typed("\n".join(prepare))
    async with checkout.serving(serve):
        kept = (await checkout.typed("dispatch history attic")).splitlines()
    assert [json.loads(line)["chunk"]["text"] for line in kept] == ["keep this"] * 2


async def test_an_older_version_refuses_a_newer_database_and_leaves_it(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    async with checkout.serving("./scripts/serve"):
        pass
    database = tmp_path / "dispatch-data" / "dispatch.db"
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = database.read_bytes()
    refused = await checkout.typed("! ./scripts/serve --port 0 2>&1")
    assert "written by a newer dispatch" in refused.splitlines()[-1]
    assert database.read_bytes() == before


async def test_a_person_is_exported_and_forgotten_as_typed(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    # Without [auth] everybody is one person, who may do everything.
    export, forget = PERSON.code.replace("ada", "local").splitlines()
    async with checkout.serving("./scripts/serve"):
        await checkout.typed('dispatch send "of mine" --conversation attic')
        await checkout.typed(export)
        [told] = (await checkout.typed(forget)).splitlines()
        left = await checkout.typed("dispatch list")
    lines = [json.loads(line) for line in (tmp_path / "local.ndjson").read_text().splitlines()]
    assert [line["type"] for line in lines] == [
        *("user", "conversation", "turn", "chunk", "chunk", "end", "whole")
    ]
    assert json.loads(told)["removed"]["conversations"] == 1
    assert left == ""
