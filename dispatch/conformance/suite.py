"""Many transcripts against one server, one after the other.

Neighbours: `replay` runs one; `cli.conformance` shows what is said here.
A transcript whose agents the server does not serve is skipped: that says nothing about the server.
Invariant: every transcript that was asked for has one `Verdict`, unless the run was to stop early.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from dispatch.client.dial import Address
from dispatch.client.http import HttpApi
from dispatch.conformance.matching import Mismatch
from dispatch.conformance.replay import Replay
from dispatch.conformance.transcripts import Transcript, read_transcript
from dispatch.errors import DispatchError, NotFound


class _Agent(msgspec.Struct):
    name: str


class _Agents(msgspec.Struct):
    agents: list[_Agent] = []


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one transcript went; `step` (from 1) and `reason` say where and why it did not."""

    transcript: str
    outcome: Literal["passed", "failed", "skipped"]
    claim: str
    step: int | None = None
    reason: str | None = None


async def served_agents(address: Address) -> frozenset[str]:
    """The names of the agents that a server has; raises `DispatchError`."""
    try:
        reply = await HttpApi(address).fetch(_Agents, "/agents")
    except NotFound:
        return frozenset()
    return frozenset(agent.name for agent in reply.agents)


async def judge(
    address: Address,
    paths: Mapping[str, Path],
    *,
    exact: bool = False,
    keep_going: bool = False,
) -> AsyncIterator[Verdict]:
    """Replay in order, up to the first that fails, or all; raises `CannotConnect`."""
    served = await served_agents(address)
    for name, path in paths.items():
        transcript = read_transcript(path)
        missing = sorted(set(transcript.agents) - served)
        if missing:
            reason = f"the server has no agent {', '.join(missing)}"
            yield Verdict(name, "skipped", transcript.claim, reason=reason)
            continue
        verdict = await _verdict(address, name, transcript, exact=exact)
        yield verdict
        if verdict.outcome == "failed" and not keep_going:
            return


async def _verdict(address: Address, name: str, transcript: Transcript, *, exact: bool) -> Verdict:
    async with Replay(address, exact=exact) as replay:
        for number, step in enumerate(transcript.steps, 1):
            try:
                await replay.step(step)
            except (Mismatch, DispatchError) as error:
                return Verdict(name, "failed", transcript.claim, number, str(error))
    return Verdict(name, "passed", transcript.claim)
