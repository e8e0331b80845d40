"""The clients that AHP has met: which version each gets, and whose it is.

Neighbours: `server.ahp` meets them at `initialize` and asks at `reconnect`; `storage` keeps a row
for each, so that a client is known to a daemon that was started anew.
Invariant: a client's id is one person's; it says nothing of who it is to anybody else.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from dispatch.core.identity import Principal
from dispatch.errors import Forbidden, NotFound
from dispatch.protocol.ahp.records import ClientDetails
from dispatch.protocol.ahp.versions import Version, negotiate
from dispatch.runtime.ahp.ledger import Ledger, new_record
from dispatch.runtime.journal import Outbox
from dispatch.runtime.services import Services
from dispatch.storage.keys import ConversationKey

_CLIENT: Final = msgspec.json.Decoder(ClientDetails)


class Client(NamedTuple):
    """Who speaks over a connection, and in which version (`offer`: as the client wrote it)."""

    principal: Principal
    id: str
    offer: str
    version: Version


class Clients:
    """See the module."""

    def __init__(self, services: Services) -> None:
        """See the module."""
        self._services = services

    async def meet(self, principal: Principal, client: str, offers: list[object]) -> Client:
        """A client says hello; raises `RpcError` for its versions and `Forbidden` for its id."""
        offer, version = negotiate(offers)
        store, account = self._services.store, principal.account
        record = await store.timeline(account, "ahp-client", client)
        if record is not None and record.user != principal.user:
            raise Forbidden("this clientId is somebody else's")
        details = ClientDetails(version=offer, generation=self._services.opened.generation)
        if record is None or _CLIENT.decode(record.details) != details:
            is_stored = record is not None
            record = record or new_record(self._services, principal, "ahp-client", client, details)
            ledger = Ledger(self._services, record, details, "", is_stored=is_stored)
            await self._keep(ledger, details)
        return Client(principal, client, offer, version)

    async def known(self, principal: Principal, client: str) -> Client:
        """A client comes back; raises `NotFound` for one that this person has not here."""
        record = await self._services.store.timeline(principal.account, "ahp-client", client)
        if record is None or record.user != principal.user:
            raise NotFound("no such client")
        details = _CLIENT.decode(record.details)
        if details.generation != self._services.opened.generation:
            raise NotFound("this client knows another history")
        offer, version = negotiate([details.version])
        return Client(principal, client, offer, version)

    async def _keep(self, ledger: Ledger[ClientDetails], details: ClientDetails) -> None:
        outbox = Outbox(self._services.journal, ConversationKey(0), None)
        fields = msgspec.structs.asdict(details)
        await outbox.commit(lambda draft: ledger.change(draft, **fields))
