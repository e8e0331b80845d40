"""Which versions are served, who gets which, and since when every word of the protocol exists.

Neighbours: `conversion` brings states and actions to a version, `rules` has its reducers.
Source: `protocol/ahp.md`, section Versions.
Invariant: the version that a client gets is one it offered, and the highest of those served.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from dispatch.protocol.ahp.rules import CANONICAL, RULES_0_5_1, RULES_0_7, Rules
from dispatch.protocol.jsonrpc import RpcError

UNSUPPORTED_PROTOCOL_VERSION: Final = -32005
OFFERS_MAX: Final = 64
"""How many offers of a client are read; one knows a handful."""

Number = tuple[int, int, int]
_NUMBER: Final = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})", re.ASCII)


class Version(msgspec.Struct, frozen=True):
    """A version whose shapes are served: its least number, the range of it, and its reducers."""

    number: Number
    offered_as: str
    rules: Rules


V1_0: Final = Version((1, 0, 0), "~1.0.0", CANONICAL)
V0_9: Final = Version((0, 9, 0), "^0.9.0", CANONICAL)
V0_7: Final = Version((0, 7, 0), "0.7.0", RULES_0_7)
V0_5_1: Final = Version((0, 5, 1), "0.5.1", RULES_0_5_1)

SERVED: Final = (V1_0, V0_9, V0_7, V0_5_1)
"""Newest first. 0.5.2 and 0.8 fold differently again and have no step of their own."""

_WITH_ANY_PATCH: Final = frozenset({V1_0, V0_9})


def parse_number(text: object) -> Number | None:
    """The three numbers of a version; None for anything else, pre-releases too."""
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def version_of(number: Number) -> Version | None:
    """The version that serves this number."""
    for version in SERVED:
        exact = number == version.number
        if exact or (version in _WITH_ANY_PATCH and number[:2] == version.number[:2]):
            return version
    return None


def negotiate(offered: Iterable[object]) -> tuple[str, Version]:
    """The offer that is taken, as it was written, and its version.

    Raises `RpcError` -32005, with `supportedVersions`, where none is served; what is no version
    number is passed over.
    """
    best: tuple[Number, str, Version] | None = None
    for text, _ in zip(offered, range(OFFERS_MAX), strict=False):
        number = parse_number(text)
        version = None if number is None else version_of(number)
        if number is not None and version is not None and (best is None or number > best[0]):
            best = (number, str(text), version)
    if best is None:
        raise RpcError(
            UNSUPPORTED_PROTOCOL_VERSION,
            "None of the offered protocol versions is served",
            data={"supportedVersions": [version.offered_as for version in SERVED]},
        )
    return best[1], best[2]


def _since(number: Number, channel: str, names: str) -> dict[str, Number]:
    return {f"{channel}/{name}": number for name in names.split()}


ACTIONS_SINCE: Final[dict[str, Number]] = {
    **_since((0, 1, 0), "root", "agentsChanged activeSessionsChanged terminalsChanged"),
    **_since((0, 1, 0), "root", "configChanged"),
    **_since((0, 1, 0), "session", "ready creationFailed titleChanged serverToolsChanged"),
    **_since((0, 1, 0), "session", "isReadChanged isArchivedChanged activityChanged"),
    **_since((0, 1, 0), "session", "configChanged metaChanged customizationsChanged"),
    **_since((0, 1, 0), "session", "customizationToggled customizationUpdated"),
    **_since((0, 2, 0), "session", "changesetsChanged customizationRemoved"),
    **_since((0, 3, 0), "session", "mcpServerStateChanged"),
    **_since((0, 4, 0), "session", "chatAdded chatRemoved chatUpdated defaultChatChanged"),
    **_since((0, 4, 0), "chat", "turnStarted delta responsePart reasoning usage truncated error"),
    **_since((0, 4, 0), "chat", "turnComplete turnCancelled queuedMessagesReordered"),
    **_since((0, 4, 0), "chat", "toolCallStart toolCallDelta toolCallReady toolCallConfirmed"),
    **_since((0, 4, 0), "chat", "toolCallComplete toolCallResultConfirmed"),
    **_since((0, 4, 0), "chat", "toolCallContentChanged pendingMessageSet pendingMessageRemoved"),
    **_since((0, 4, 0), "chat", "inputRequested inputAnswerChanged inputCompleted"),
    **_since((0, 5, 0), "session", "activeClientSet activeClientRemoved"),
    **_since((0, 5, 0), "chat", "activityChanged draftChanged"),
    **_since((0, 5, 1), "session", "inputNeededSet inputNeededRemoved"),
    **_since((0, 5, 1), "chat", "turnsLoaded"),
    **_since((0, 5, 2), "session", "mcpServerStartRequested mcpServerStopRequested"),
    **_since((0, 6, 0), "chat", "toolCallAuthRequired toolCallAuthResolved"),
    **_since((0, 7, 0), "session", "workingDirectorySet workingDirectoryRemoved"),
    **_since((0, 7, 0), "chat", "workingDirectorySet workingDirectoryRemoved"),
    **_since((0, 9, 0), "chat", "turnResume isReadChanged isArchivedChanged"),
}
"""Every action that is folded here, and the first version that knows it.

Not here, and so never sent: what was added beside these in 0.8 and 0.9 (background work, movable
chats, changesets of chats, an order of chats, replaced directories), terminals, canvases and so on.
"""

NOTIFICATIONS_SINCE: Final[dict[str, Number]] = {
    "action": (0, 1, 0),
    "root/sessionAdded": (0, 1, 0),
    "root/sessionRemoved": (0, 1, 0),
    "root/sessionSummaryChanged": (0, 1, 0),
    "auth/required": (0, 1, 0),
    "root/progress": (0, 5, 0),
}
"""Every notification that is sent, and the first version that knows it."""


def knows(version: Version, word: str) -> bool:
    """Whether a version knows an action or a notification."""
    since = ACTIONS_SINCE.get(word) or NOTIFICATIONS_SINCE.get(word)
    return since is not None and since <= version.number
