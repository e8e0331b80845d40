"""Where a client may let an agent work: only inside the directories the agent's owner allows.

Neighbours: `broker` and `catalog` ask before a `cwd` is kept; `agents.port` has the roots.
Invariant: a `cwd` that is stored is absolute, without links, and inside a root of its agent.
"""

from __future__ import annotations

import anyio.to_thread

from dispatch.agents.options import resolve_cwd
from dispatch.core.commands import TurnBody
from dispatch.errors import PeerError
from dispatch.runtime.live import Live
from dispatch.runtime.services import Services


async def allowed_directory(services: Services, live: Live, body: TurnBody) -> str:
    """The resolved `cwd` of a send; raises `PeerError` naming the field."""
    name, agent, _ = services.agent_of(body.model or live.details.model)
    roots = agent.cwd_roots if agent is not None else ()
    if not roots:
        raise PeerError(f"'cwd' is not allowed: agent \"{name}\" has no cwd_roots")
    assert body.cwd is not None, "only asked where a directory is named"
    found = await anyio.to_thread.run_sync(resolve_cwd, roots, body.cwd)
    if found is None:
        raise PeerError(f"'cwd' is not a directory inside the cwd_roots of agent \"{name}\"")
    return str(found)
