"""Actions, snapshots and notifications as JSON-RPC bytes, once a version.

Neighbours: `conversion` gives them their shapes, `jsonrpc` frames them.
A change that takes several actions in a version is sent in one write. All but the last of them
carry the number before the change's own: a client that was cut off among them has not seen the
change, is told all of them again, and `rebuild` and the steps see to it that this does no harm.
Invariant: a change's own number is on its last envelope and on no other.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dispatch.protocol.ahp.conversion import down_actions, down_state
from dispatch.protocol.ahp.objects import present
from dispatch.protocol.ahp.versions import Version
from dispatch.protocol.codec import Object
from dispatch.protocol.jsonrpc import encode_notification

ENVELOPES_PER_POSITION: Final = 16
"""How many serverSeqs an event has: position times this and an index, which starts at 1."""

_ENCODER: Final = msgspec.json.Encoder()


class Origin(msgspec.Struct, frozen=True, rename="camel"):
    """Which client dispatched an action, and the number it gave it."""

    client_id: str
    client_seq: int


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """An action of a channel, canonical, with the states around it."""

    channel: str
    server_seq: int
    action: Object
    before: Object
    after: Object
    origin: Origin | None = None


def server_seq(position: int, index: int) -> int:
    """The number of an event's action; `index` counts from 1, below `ENVELOPES_PER_POSITION`."""
    assert 0 < index < ENVELOPES_PER_POSITION, "an event is at most fifteen actions"
    return position * ENVELOPES_PER_POSITION + index


def envelopes(version: Version, change: Change) -> list[Object]:
    """What a client of the version is sent; nothing if it knows no word for the change."""
    said = down_actions(version, change.action, change.before, change.after)
    last = len(said) - 1
    return [
        present(
            channel=change.channel,
            action=action,
            serverSeq=change.server_seq - (index < last),
            origin=_origin(change.origin) if index == last else None,
        )
        for index, action in enumerate(said)
    ]


def _origin(origin: Origin | None) -> Object | None:
    """Absent, never null, where the host itself acts."""
    return (
        None if origin is None else {"clientId": origin.client_id, "clientSeq": origin.client_seq}
    )


def rejection(channel: str, action: Object, number: int, origin: Origin, reason: str) -> Object:
    """The echo of an action that was refused: as it came, for its sender alone."""
    return present(
        channel=channel,
        action=action,
        serverSeq=number,
        origin=_origin(origin),
        rejectionReason=reason,
    )


def encode_envelope(envelope: Object) -> bytes:
    """The notification of one action."""
    return encode_notification("action", _ENCODER.encode(envelope))


def snapshot(version: Version, channel: str, kind: str, state: Object, from_seq: int) -> Object:
    """A channel's state for a client of the version; actions after `from_seq` follow."""
    return {"resource": channel, "state": down_state(version, kind, state), "fromSeq": from_seq}
