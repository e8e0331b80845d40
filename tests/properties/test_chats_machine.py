"""Two devices of one user, an agent and a crash now and then, against what a person would expect.

After every step the rows are dense, each task has one end, what is unread is what a count of the
rows gives, the agent types exactly while it has something to do, and both devices, one of which
streams and one of which polls, have the same before them.
"""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dispatch.agents.port import AgentFailure, Emit, TurnRequest
from dispatch.core.events import TextDelta
from dispatch.core.identity import LOCAL
from dispatch.core.replay import Frame
from dispatch.errors import Archived, DispatchError
from dispatch.protocol.sessions.frames import message_object
from dispatch.protocol.sessions.requests import Create, DetailQuery, ListQuery, Message
from dispatch.runtime.chats.catalog import Cancelled, ReadUpTo
from dispatch.runtime.chats.reading import Detail
from dispatch.runtime.chats.sends import Sent
from dispatch.runtime.chats.streams import stream_name
from dispatch.server.chats.events import EventReader
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.port import Store
from dispatch.storage.sqlite import SqliteStore
from dispatch.testing import Harness, ScriptedAgent, SequentialIds, broker_on

Word = Literal["say", "finish", "fail"]

GUARD_SECONDS = 10.0
STREAM = stream_name(LOCAL.account, LOCAL.user)
ENDS = {"complete", "failed", "cancelled", "no_response"}


class ChatsMachine(RuleBasedStateMachine):
    """See the module; subclasses say on which store."""

    def new_disk(self) -> Callable[[], Store]:
        """Where the stores of one run come from: each is the next owner of the same disk."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self._logs = structlog.testing.capture_logs()
        self._logs.__enter__()
        self._runner = asyncio.Runner()
        self._open_store = self.new_disk()
        self._ids = SequentialIds()
        self._daemon: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self.broker: Harness
        self.session = ""
        self.frames: list[dict[str, Any]] = []
        self.sent: dict[str, Sent] = {}
        # What a task must have become, as far as somebody was told.
        self.ends: dict[str, str] = {}
        self.is_archived = False
        self.read_to = 0
        self.count = 0

    # -- the machinery -------------------------------------------------------------------------

    def run(self, call: Any) -> Any:
        """Carry out, and return the result or the error once everything has settled."""

        async def main() -> Any:
            try:
                result = await call
            except DispatchError as error:
                result = error
            await self._settle()
            return result

        return self._runner.run(main())

    async def _settle(self) -> None:
        for _ in range(4):
            await self.broker.services.journal.idle()
            for _ in range(12):
                await asyncio.sleep(0)
        streams = self.broker.chats.streams
        await streams.find(STREAM)
        # A disk takes its time: a replay is over once it has reached the newest.
        async with asyncio.timeout(GUARD_SECONDS):
            while self.newest < streams.head(STREAM):
                await asyncio.sleep(0)

    @property
    def newest(self) -> int:
        """The id of the last frame that was streamed."""
        return max([frame["id"] for frame in self.frames if "id" in frame], default=0)

    async def _serve(self, ready: asyncio.Event) -> None:
        options: dict[str, Any] = {"ids": self._ids, "seconds": float("inf")}
        agents = [ScriptedAgent(self._follow_orders, name="puppet")]
        async with broker_on(self._open_store(), agents=agents, **options) as self.broker:
            ready.set()
            await self._over.wait()

    async def _start(self) -> None:
        ready, self._over = asyncio.Event(), asyncio.Event()
        self.orders: dict[str, asyncio.Queue[Word]] = {}
        loop = asyncio.get_running_loop()
        self._daemon = loop.create_task(self._serve(ready))
        await asyncio.wait(
            [self._daemon, asyncio.ensure_future(ready.wait())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self._daemon.done():
            self._daemon.result()
        self._reader = loop.create_task(self._read())
        await self._settle()

    async def _stop(self) -> None:
        assert self._daemon is not None
        self._reader.cancel()
        self._over.set()
        await self._daemon
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        """The device that streams, from where it was."""
        reader = EventReader(self.broker.chats.streams, deltas=True)
        async for batch in reader.frames(LOCAL, self.newest):
            for frame in batch:
                self._note(frame)

    def _note(self, frame: Frame) -> None:
        shown = msgspec.json.decode(frame.payload)
        assert shown["event"] != "resync_required"
        if frame.is_kept:
            assert shown["id"] == frame.offset
            assert all(frame.offset > f["id"] for f in self.frames if "id" in f)
        self.frames.append(shown)

    async def _follow_orders(self, request: TurnRequest, emit: Emit) -> None:
        orders = self.orders[request.turn_id] = asyncio.Queue()
        number = 0
        while True:
            number += 1
            match await orders.get():
                case "say":
                    await emit(TextDelta(f"{request.message}.{number} "))
                case "finish":
                    return
                case "fail":
                    raise AgentFailure("as told")

    def teardown(self) -> None:
        try:
            if self._daemon is not None:
                self._runner.run(self._stop())
        finally:
            self._runner.close()
            self._logs.__exit__(None, None, None)

    def detail(self) -> Detail:
        """What the device that polls has before it."""
        query = DetailQuery(limit=200)
        detail = self.run(self.broker.chats.reading.detail(LOCAL, self.session, query))
        assert isinstance(detail, Detail), detail
        return detail

    @property
    def running(self) -> str | None:
        """The task whose agent waits for a word."""
        tasks = self.run(self.broker.chats.reading.tasks(LOCAL, self.session))
        running = [task.id for task in tasks if task.status == "running"]
        return running[0] if running and running[0] in self.orders else None

    # -- rules ---------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self._runner.run(self._start())
        self._create()

    def _create(self) -> None:
        view = self.run(self.broker.chats.chats.create(LOCAL, Create(agent_key="puppet")))
        self.session = view.id
        self.sent, self.ends, self.is_archived, self.read_to = {}, {}, False, 0

    @property
    def own_frames(self) -> list[dict[str, Any]]:
        """What was streamed of the session."""
        return [frame for frame in self.frames if frame.get("sessionId") == self.session]

    def _send(self, text: str, client_id: str) -> Any:
        message = Message(content=text, client_message_id=client_id)
        return self.run(self.broker.chats.sends.send(LOCAL, self.session, message, None))

    @rule()
    def send(self) -> None:
        self.count += 1
        text = f"m{self.count}"
        sent = self._send(text, f"id{self.count}")
        if self.is_archived:
            assert isinstance(sent, Archived)
            return
        assert isinstance(sent, Sent), sent
        assert not sent.duplicate
        self.sent[text] = sent

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        text = data.draw(st.sampled_from(sorted(self.sent)))
        again = self._send(text, f"id{text[1:]}")
        assert again == self.sent[text]._replace(duplicate=True)

    @rule(word=st.sampled_from(["say", "say", "finish", "fail"]))
    def order(self, word: Word) -> None:
        running = self.running
        if running is None:
            return

        async def tell() -> None:
            self.orders[running].put_nowait(word)

        said = any(m.row.turn_id == running and m.content for m in self.detail().messages)
        self.run(tell())
        if word == "finish":
            self.ends[running] = "complete" if said else "no_response"
        elif word == "fail":
            self.ends[running] = "failed"

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        tasks = [sent.task for sent in self.sent.values()]
        task = data.draw(st.sampled_from([None, *tasks]))
        before = self.run(self.broker.chats.reading.tasks(LOCAL, self.session))
        told = self.run(self.broker.chats.chats.cancel(LOCAL, self.session, task))
        assert isinstance(told, Cancelled), told
        expected = task if task is not None else next((t.id for t in before), None)
        assert told.task == expected
        if told.task is None:
            assert told.status == "idle"
        elif any(t.id == told.task for t in before):
            assert told.status == "cancelled"
            self.ends[told.task] = "cancelled"
        else:
            assert told.status == self.ends[told.task]

    @rule(up_to=st.one_of(st.none(), st.integers(0, 12)))
    def read(self, up_to: int | None) -> None:
        rows = self.detail().messages
        told = self.run(self.broker.chats.chats.read(LOCAL, self.session, up_to))
        assert isinstance(told, ReadUpTo), told
        spoken = [m.row.seq or 0 for m in rows if m.content is not None]
        newest = min(min(spoken, default=len(rows) + 1) - 1, len(rows))
        if not self.is_archived:
            wanted = newest if up_to is None else min(up_to, newest)
            self.read_to = max(self.read_to, wanted)
        assert told.last_read_seq == self.read_to

    @rule()
    def read_twice_at_once(self) -> None:
        rows = len(self.detail().messages)

        async def both() -> tuple[ReadUpTo, ReadUpTo]:
            verbs = self.broker.chats.chats
            return await asyncio.gather(
                verbs.read(LOCAL, self.session, rows), verbs.read(LOCAL, self.session, rows // 2)
            )

        self.read_to = max(told.last_read_seq for told in self.run(both()))

    @rule(away=st.booleans())
    def put_away(self, away: bool) -> None:
        verbs = self.broker.chats.chats
        view = self.run((verbs.archive if away else verbs.restore)(LOCAL, self.session))
        assert view.status == ("archived" if away else "active")
        self.is_archived = away

    @rule(count=st.integers(2, 4), cancels=st.booleans())
    def do_at_once(self, count: int, cancels: bool) -> None:
        if self.is_archived:
            return
        texts = [f"m{self.count + number}" for number in range(1, count + 1)]
        self.count += count
        verbs = self.broker.chats

        async def send(text: str) -> None:
            message = Message(content=text, client_message_id=f"id{text[1:]}")
            self.sent[text] = await verbs.sends.send(LOCAL, self.session, message, None)

        async def cancel() -> None:
            if cancels:
                told = await verbs.chats.cancel(LOCAL, self.session, None)
                if told.task is not None:
                    assert told.status == "cancelled"
                    self.ends[told.task] = told.status

        async def all_of_it() -> None:
            await asyncio.gather(*map(send, texts[:-1]), cancel(), send(texts[-1]))

        assert self.run(all_of_it()) is None

    @rule(title=st.sampled_from(["a", "b"]))
    def rename(self, title: str) -> None:
        view = self.run(self.broker.chats.chats.rename(LOCAL, self.session, title))
        assert view.title == title

    @rule()
    def purge(self) -> None:
        assert self.run(self.broker.chats.chats.purge(LOCAL, self.session)) is None
        ends = [f["event"] for f in self.own_frames]
        assert ends[-1] == "chat_session_deleted"
        typing = [f["data"]["typing"] for f in self.own_frames if f["event"] == "chat_typing"]
        assert typing == [True, False] * (len(typing) // 2)
        gone = self._send("unheard", "unheard")
        assert isinstance(gone, DispatchError)
        assert gone.code in ("gone", "not_found")
        assert not self.broker.services.slots.is_full
        self._create()

    @rule()
    def crash(self) -> None:
        running = self.running
        tasks = self.run(self.broker.chats.reading.tasks(LOCAL, self.session))
        self._runner.run(self._stop())
        self._runner.run(self._start())
        if tasks and tasks[0].status == "running":
            self.ends[tasks[0].id] = "failed"
        assert running is None or running == tasks[0].id

    # -- what holds after every step -----------------------------------------------------------

    @invariant()
    def both_devices_have_the_same(self) -> None:
        if not self.session:
            return
        detail = self.detail()
        polled = [
            message_object(m.row, session_id=self.session, content=m.content)
            for m in detail.messages
        ]
        assert [row["seq"] for row in polled] == list(range(1, len(polled) + 1))
        ended = [row for row in polled if row["status"] != "streaming"]
        told = [f["data"] for f in self.own_frames if f["event"] == "chat_message"]
        assert sorted(told, key=lambda row: row["seq"]) == ended
        self.check_tasks(detail, polled)
        self.check_typing(detail)
        unread = sum(r["role"] == "assistant" and r["seq"] > self.read_to for r in ended)
        assert detail.unread == (0 if self.is_archived else unread)
        assert detail.view.last_read_seq == self.read_to
        self.check_list(detail)
        assert detail.cursor == self.newest

    def check_tasks(self, detail: Detail, polled: list[dict[str, Any]]) -> None:
        replies = [row for row in polled if row["role"] == "assistant"]
        assert len({row["task_id"] for row in replies}) == len(replies)
        ends = {r["task_id"]: r["status"] for r in replies if r["status"] in ENDS}
        assert ends == self.ends
        is_open = {task.id for task in detail.tasks}
        assert is_open | set(ends) == {sent.task for sent in self.sent.values()}
        assert not is_open & set(ends)
        failures = [f for f in self.own_frames if f["event"].startswith("chat_task_")]
        assert len(failures) == sum(end in ("failed", "cancelled") for end in ends.values())

    def check_typing(self, detail: Detail) -> None:
        typing = [f["data"]["typing"] for f in self.own_frames if f["event"] == "chat_typing"]
        assert typing == [True, False] * (len(typing) // 2) + [True] * (len(typing) % 2)
        assert bool(detail.tasks) == bool(len(typing) % 2)

    def check_list(self, detail: Detail) -> None:
        query = ListQuery(status="all")
        listed = self.run(self.broker.chats.reading.listed(LOCAL, query))
        (item,) = listed.items
        titles = [f["data"]["title"] for f in self.own_frames if "title" in f.get("data", {})]
        assert item.view.title == titles[-1]
        assert item.view == detail.view
        assert (item.unread, item.is_typing) == (detail.unread, bool(detail.tasks))
        assert listed.unread_total == detail.unread
        assert listed.cursor == detail.cursor
        last = item.last
        assert (None if last is None else last.row.key) == (
            detail.messages[-1].row.key if detail.messages else None
        )


class OnMemory(ChatsMachine):
    def new_disk(self) -> Callable[[], Store]:
        disk = MemoryDisk()
        return lambda: MemoryStore(disk)


class OnSqlite(ChatsMachine):
    def new_disk(self) -> Callable[[], Store]:
        self._directory = tempfile.TemporaryDirectory(prefix="dispatch-machine-")
        data = Path(self._directory.name) / "data"
        return lambda: SqliteStore(data, synchronous="off")

    def teardown(self) -> None:
        super().teardown()
        self._directory.cleanup()


TestOnMemory = OnMemory.TestCase
TestOnMemory.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestOnSqlite = OnSqlite.TestCase
TestOnSqlite.settings = settings(
    max_examples=8,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
