"""A disk that is full, over AHP: what is not kept is refused, and is taken once there is room."""

from pathlib import Path

from dispatch.errors import StorageFull
from dispatch.storage.sqlite import SqliteStore
from dispatch.testing import FaultyStore
from dispatch.testing.scripted import ScriptedAgent
from tests.server.ahp.peer import daemon_of, peer_of, pending, turn_started

RENAME = {"type": "session/titleChanged", "title": "Another"}


async def test_a_full_disk_refuses_every_kind_of_action_and_shows_nothing(tmp_path: Path) -> None:
    store = FaultyStore(SqliteStore(tmp_path))
    async with (
        daemon_of(tmp_path, ScriptedAgent("ok"), store=store) as daemon,
        peer_of(daemon) as ann,
    ):
        session, chat = await ann.make_session()
        before = {channel: dict(state) for channel, state in ann.states.items()}
        store.break_down(StorageFull("no room"))
        for channel, action in (
            (chat, turn_started("hello")),
            (chat, pending("queued", "later")),
            (chat, {"type": "chat/draftChanged", "draft": turn_started("half")["message"]}),
            (session, RENAME),
        ):
            assert await ann.refused(channel, action)
        assert ann.states == before
        store.repair()
        await ann.accepted(session, RENAME)
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/turnComplete")
        await ann.check()
