"""Agents that speak the Agent Client Protocol over stdio: one process a conversation.

`agent` runs a turn; `keeper` holds processes between turns and `records` what outlives them; `peer`
is one process and the connection with it, `wire` its lines, `session` what the protocol makes of
it; `exchange` is one prompt and all that is said about it; `prompt`, `narration`, `permission` and
`choices` translate.
Invariant: none of that is imported before such an agent is built: the library is an extra, and
takes half a second to load.
"""

from __future__ import annotations

from pathlib import Path

from dispatch.agents.ledger import ProcessLedger
from dispatch.agents.port import Agent
from dispatch.errors import ConfigError


def build_acp_agent(
    name: str,
    options: dict[str, object],
    *,
    ledger: ProcessLedger,
    sessions: Path,
    line_bytes_max: int,
) -> Agent:
    """Build from a table of the configuration; raises `ConfigError`.

    `sessions` is the directory in which it may remember the agent's own sessions.
    """
    try:
        from dispatch.agents.acp.agent import AcpAgent
        from dispatch.agents.acp.records import Records
    except ImportError as error:
        raise ConfigError(
            f"agents.{name}: kind acp needs a library that is not installed: "
            f"pip install 'dispatch-broker[acp]' ({error})"
        ) from error
    return AcpAgent.from_options(
        name, options, ledger=ledger, records=Records(sessions), line_bytes_max=line_bytes_max
    )
