"""Two clients that want the same at once: one gets it, and each is told what became of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dispatch.storage.sqlite import SqliteStore
from dispatch.testing import HeldStore
from dispatch.testing.scripted import FOR_EVER, ScriptedAgent
from tests.server.ahp.peer import Peer, daemon_of, message, peer_of, pending, turn_started

REMOVED = {"type": "chat/pendingMessageRemoved", "kind": "queued", "id": "p1"}


def reordered(*names: str) -> dict[str, object]:
    return {"type": "chat/queuedMessagesReordered", "order": list(names)}


@asynccontextmanager
async def crossing(tmp_path: Path) -> AsyncIterator[tuple[Peer, Peer, str, HeldStore]]:
    """Two clients in a chat with a turn and two waiting messages; the disk is being written to, and
    what they want from here on waits for it.
    """
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
        yield ann, bob, chat, store
        store.release()
        await cid.check()


async def begun(one: Peer, chat: str, action: dict[str, object]) -> int:
    """The number of an action that has begun to be carried out."""
    seq = await one.dispatch(chat, action)
    # Answered at once, when what came before it waits for the disk.
    await one.call("ping")
    return seq


async def test_a_message_that_two_take_back_goes_by_the_wish_of_the_first(tmp_path: Path) -> None:
    async with crossing(tmp_path) as (ann, bob, chat, store):
        seq = await begun(ann, chat, REMOVED)
        assert "No such message" in await bob.refused(chat, REMOVED)
        store.release()
        assert (await ann.echo(seq))["action"] == REMOVED


async def test_two_orders_of_the_queue_are_both_told_as_whose_they_are(tmp_path: Path) -> None:
    async with crossing(tmp_path) as (ann, bob, chat, store):
        one = await begun(ann, chat, reordered("p2", "p1"))
        other = await begun(bob, chat, reordered("p1", "p2"))
        store.release()
        assert (await ann.echo(one))["action"] == reordered("p2", "p1")
        assert (await bob.echo(other))["action"] == reordered("p1", "p2")


async def test_an_order_that_is_so_already_is_told_once_to_who_wanted_it(tmp_path: Path) -> None:
    async with crossing(tmp_path) as (ann, bob, chat, store):
        one = await begun(ann, chat, reordered("p2", "p1"))
        other = await begun(bob, chat, reordered("p2", "p1"))
        store.release()
        assert (await ann.echo(one))["action"] == reordered("p2", "p1")
        assert (await bob.echo(other))["action"] == reordered("p2", "p1")
        told = [each["action"]["type"] for each in bob.actions]
        assert told.count("chat/queuedMessagesReordered") == 2


async def test_a_turn_that_two_cancel_ends_by_the_wish_of_the_first(tmp_path: Path) -> None:
    async with crossing(tmp_path) as (ann, bob, chat, store):
        cancelled = {"type": "chat/turnCancelled", "turnId": "t1", "duration": 1}
        one = await begun(ann, chat, cancelled)
        other = await begun(bob, chat, cancelled)
        store.release()
        assert "rejectionReason" not in await ann.echo(one)
        assert "not running" in (await bob.echo(other))["rejectionReason"]


async def test_a_truncation_behind_a_turn_that_another_leaves_behind_is_refused(
    tmp_path: Path,
) -> None:
    async with crossing(tmp_path) as (ann, bob, chat, store):
        store.release()
        await ann.accepted(chat, {"type": "chat/turnCancelled", "turnId": "t1", "duration": 1})
        store.hold()
        one = await begun(ann, chat, {"type": "chat/truncated"})
        await store.reached()
        other = await begun(bob, chat, {"type": "chat/truncated", "turnId": "t1"})
        store.release()
        assert "rejectionReason" not in await ann.echo(one)
        assert (await bob.echo(other))["rejectionReason"]


async def test_a_chat_that_two_truncate_at_once_is_truncated_for_each(tmp_path: Path) -> None:
    async with crossing(tmp_path) as (ann, bob, chat, store):
        truncated = {"type": "chat/truncated"}
        one = await begun(ann, chat, truncated)
        other = await begun(bob, chat, truncated)
        store.release()
        for peer, seq in ((ann, one), (bob, other)):
            assert (await peer.echo(seq))["action"] == truncated
