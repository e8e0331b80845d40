"""Two clients that want the same at once: one gets it, and each is told what became of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from dispatch.compose import Daemon
from dispatch.storage.sqlite import SqliteStore
from dispatch.testing import HeldStore
from dispatch.testing.scripted import FOR_EVER, ScriptedAgent
from tests.server.ahp.peer import Peer, daemon_of, message, peer_of, pending, turn_started

REMOVED = {"type": "chat/pendingMessageRemoved", "kind": "queued", "id": "p1"}
CANCELLED = {"type": "chat/turnCancelled", "turnId": "t1", "duration": 1}
TRUNCATED = {"type": "chat/truncated"}


def reordered(*names: str) -> dict[str, object]:
    return {"type": "chat/queuedMessagesReordered", "order": list(names)}


class Crossing(NamedTuple):
    """Clients in a chat with a turn and two waiting messages; `cid` looks on."""

    daemon: Daemon
    ann: Peer
    bob: Peer
    cid: Peer
    chat: str
    store: HeldStore


@asynccontextmanager
async def crossing(tmp_path: Path) -> AsyncIterator[Crossing]:
    """The disk is being written to, and what is wanted from here on waits for it."""
    store = HeldStore(SqliteStore(tmp_path))
    async with (
        daemon_of(tmp_path, ScriptedAgent(FOR_EVER), store=store) as daemon,
        peer_of(daemon, "c1") as ann,
        peer_of(daemon, "c2") as bob,
        peer_of(daemon, "c3") as cid,
    ):
        _, chat = await ann.make_session()
        await bob.subscribe(chat)
        await cid.subscribe(chat)
        await ann.accepted(chat, turn_started("first"))
        await ann.accepted(chat, pending("queued", "second", "p1"))
        await ann.accepted(chat, pending("queued", "third", "p2"))
        store.hold()
        await cid.dispatch(chat, {"type": "chat/draftChanged", "draft": message("half")})
        await store.reached()
        yield Crossing(daemon, ann, bob, cid, chat, store)
        store.release()
        await cid.check()


async def both_at_once(
    crossing: Crossing, of_ann: dict[str, object], of_bob: dict[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """What each is told of an action; both have begun, most likely, when the disk goes on."""
    _, ann, bob, _, chat, store = crossing
    one, other = await ann.dispatch(chat, of_ann), await bob.dispatch(chat, of_bob)
    await ann.call("ping")
    await bob.call("ping")
    store.release()
    return await ann.echo(one), await bob.echo(other)


def refusals(*echoes: dict[str, object]) -> list[str]:
    return [str(echo["rejectionReason"]) for echo in echoes if "rejectionReason" in echo]


async def test_a_message_that_two_take_back_goes_by_the_wish_of_one(tmp_path: Path) -> None:
    async with crossing(tmp_path) as both:
        (refusal,) = refusals(*await both_at_once(both, REMOVED, REMOVED))
        assert "No such message" in refusal


async def test_two_orders_of_the_queue_are_both_told_as_whose_they_are(tmp_path: Path) -> None:
    async with crossing(tmp_path) as both:
        orders = reordered("p2", "p1"), reordered("p1", "p2")
        one, other = await both_at_once(both, *orders)
        assert (one["action"], other["action"]) == orders


async def test_an_order_that_is_so_already_is_told_once_to_who_wanted_it(tmp_path: Path) -> None:
    async with crossing(tmp_path) as both:
        order = reordered("p2", "p1")
        assert not refusals(*await both_at_once(both, order, order))
        cid = both.cid
        await cid.until(lambda envelope: envelope["origin"]["clientId"] == "c1")
        await cid.check()
        assert [envelope["action"] for envelope in cid.actions].count(order) == 2


async def test_a_turn_that_two_cancel_ends_by_the_wish_of_one(tmp_path: Path) -> None:
    async with crossing(tmp_path) as both:
        (refusal,) = refusals(*await both_at_once(both, CANCELLED, CANCELLED))
        assert "not running" in refusal


async def test_a_truncation_behind_a_turn_that_another_leaves_behind_is_answered(
    tmp_path: Path,
) -> None:
    async with crossing(tmp_path) as both:
        both.store.release()
        await both.ann.accepted(both.chat, CANCELLED)
        both.store.hold()
        one, other = await both_at_once(both, TRUNCATED, {**TRUNCATED, "turnId": "t1"})
        assert "rejectionReason" not in one
        # It came first, or its turn was gone.
        assert other["channel"] == both.chat


async def test_a_wish_that_is_sent_again_does_not_take_the_place_of_another(
    tmp_path: Path,
) -> None:
    async with (
        crossing(tmp_path) as both,
        peer_of(both.daemon, both.ann.client_id) as again,
    ):
        seq = both.ann.client_seq + 1
        await again.dispatch(both.chat, TRUNCATED, seq)
        await again.call("ping")
        one, other = await both_at_once(both, TRUNCATED, TRUNCATED)
        assert not refusals(other)
        # Told with the event to who follows, and the repeat to who sent it.
        assert one["origin"] == {"clientId": "c1", "clientSeq": seq}


async def test_a_chat_that_two_truncate_at_once_is_truncated_for_each(tmp_path: Path) -> None:
    async with crossing(tmp_path) as both:
        assert not refusals(*await both_at_once(both, TRUNCATED, TRUNCATED))
