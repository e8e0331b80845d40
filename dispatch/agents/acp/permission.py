"""What an agent asks to be allowed, as a request to those who watch, and their answer to it.

Neighbours: `exchange` holds what is asked, `agent` shows it and passes the answer on.
Invariant: an answer picks one of the agent's own options, or none of them, which means no.
"""

from __future__ import annotations

from typing import Final

from acp.schema import (
    AllowedOutcome,
    DeniedOutcome,
    PermissionOption,
    RequestPermissionRequest,
    RequestPermissionResponse,
)

from dispatch.core.events import Request, RequestOption, Response

# The more cautious way of each first: a plain yes is for this once.
_ALLOWING: Final = ("allow_once", "allow_always")
_DENYING: Final = ("reject_once", "reject_always")


def request_of(asked: RequestPermissionRequest, request_id: str, title: str) -> Request:
    """The approval that watchers are asked for; `title` is what the tool is about to do."""
    return Request(
        request_id,
        "approval",
        title,
        tool_call_id=asked.tool_call.tool_call_id,
        options=tuple(
            RequestOption(
                option.option_id, option.name, "allow" if option.kind in _ALLOWING else "deny"
            )
            for option in asked.options
        ),
    )


def chosen_option(asked: RequestPermissionRequest, response: Response) -> str | None:
    """The agent's option that an answer means; None where it has none for it.

    An edited input cannot be passed on: the protocol has no place for it.
    """
    known = {option.option_id for option in asked.options}
    if response.option_id is not None:
        return response.option_id if response.option_id in known else None
    return _first(asked.options, _ALLOWING if response.approved else _DENYING)


def outcome_of(option: str | None) -> RequestPermissionResponse:
    """The agent's answer: what was picked, or that nothing was."""
    if option is None:
        return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
    return RequestPermissionResponse(outcome=AllowedOutcome(outcome="selected", option_id=option))


def _first(options: list[PermissionOption], kinds: tuple[str, ...]) -> str | None:
    for kind in kinds:
        for option in options:
            if option.kind == kind:
                return option.option_id
    return None
