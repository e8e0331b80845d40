"""Every verb of the broker in any order, against a model, on every store, through crashes.

The model is what a person would say the broker does: one turn at a time, a queue, and nothing that
was accepted is lost or done twice. After every step the broker and its disk must agree with it.
"""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dispatch.agents.port import AgentFailure, Emit, Steer, TurnRequest
from dispatch.core.commands import Accepted, Cut, OnBusy, Truncate
from dispatch.core.events import Request, Response, Steering, StepComplete, TextDelta
from dispatch.core.identity import LOCAL, ConversationId, TurnId
from dispatch.core.truncation import decode_superseded, is_superseded
from dispatch.errors import Busy, Conflict, DispatchError, Gone, NotFound, NotResumable
from dispatch.errors import RequestClosed as AlreadyClosed
from dispatch.runtime.admission import decode_accepted
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.port import Store
from dispatch.storage.sqlite import SqliteStore
from dispatch.testing import Harness, ScriptedAgent, SequentialIds, Watcher, broker_on
from dispatch.testing.audit import audit

NAMES = ("c1", "c2")
# Which of several: drawn apart from how many there are, for that may depend on a crash and a disk.
PICKS = st.integers(0, 60)
T = TypeVar("T")


def picked(choices: Sequence[T], pick: int) -> T:
    return choices[pick % len(choices)]


Word = Literal["say", "step", "ask", "acknowledge", "finish", "fail"]


@dataclass
class Message:
    """Something a person sent, and what the broker must make of it."""

    text: str
    client_id: str
    turn: str = ""
    place: str = ""


@dataclass
class Conversation:
    """What the model knows of one conversation."""

    name: str
    is_stored: bool = False
    is_closed: bool = False
    is_deleted: bool = False
    running: Message | None = None
    asked: str | None = None
    queue: list[Message] = field(default_factory=list)
    steers: list[Message] = field(default_factory=list)
    sealed: list[tuple[str, str]] = field(default_factory=list)
    left_behind: set[str] = field(default_factory=set)
    accepted: list[Message] = field(default_factory=list)

    @property
    def status(self) -> str:
        if self.is_closed:
            return "closed"
        return "active" if self.running is not None else "idle"

    def start(self, message: Message) -> None:
        self.running, self.asked = message, None
        self.is_closed = False
        self.is_stored = True

    def end(self, outcome: str, following: Message | None = None) -> None:
        """The running turn is sealed; then `following`, or what waits, in the order it came."""
        assert self.running is not None
        self.sealed.append((self.running.turn, outcome))
        self.running, self.asked = None, None
        order = {message.client_id: number for number, message in enumerate(self.accepted)}
        self.queue = sorted(self.queue + self.steers, key=lambda m: order[m.client_id])
        self.steers = []
        if following is not None:
            self.start(following)
        elif self.queue:
            self.start(self.queue.pop(0))


class BrokerMachine(RuleBasedStateMachine):
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
        self.words: asyncio.Queue[Word] = asyncio.Queue()
        self.model = {name: Conversation(name) for name in NAMES}
        # What was shown of each conversation, by offset, to somebody who never looks away.
        self.shown: dict[str, dict[int, bytes]] = {}
        self.watchers: dict[str, Watcher] = {}
        self.prompts: list[str] = []
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

    async def _serve(self, ready: asyncio.Event) -> None:
        agents = [
            ScriptedAgent(self._follow_orders, name="puppet", steer=True),
            ScriptedAgent(self._follow_orders, name="deaf"),
        ]
        options: dict[str, Any] = {"agents": agents, "ids": self._ids, "seconds": float("inf")}
        async with broker_on(self._open_store(), **options) as self.broker:
            ready.set()
            await self._over.wait()

    async def _start(self) -> None:
        ready, self._over = asyncio.Event(), asyncio.Event()
        self.orders: dict[str, asyncio.Queue[Word]] = {}
        self._daemon = asyncio.get_running_loop().create_task(self._serve(ready))
        await asyncio.wait(
            [self._daemon, asyncio.ensure_future(ready.wait())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self._daemon.done():
            self._daemon.result()
        await self._settle()
        self.watchers = {}
        for name in self.model:
            self._watch(name)

    def _watch(self, name: str) -> None:
        """Follow a conversation from all that its ring still has, if it is in memory."""
        live = self.broker.conversations.peek(LOCAL, ConversationId(name))
        if live is None:
            return
        self.broker.conversations.hold(live)
        self.shown.setdefault(name, {})
        watcher = self.watchers[name] = Watcher(live.feed, after=live.feed.ring.floor)
        watcher.resume()

    async def _stop(self) -> None:
        assert self._daemon is not None
        self._over.set()
        await self._daemon

    async def _follow_orders(self, request: TurnRequest, emit: Emit) -> None:
        # A turn may be resumed again once what resumed it was truncated: each time in another turn.
        self.prompts.append(request.message if request.resumes is None else request.turn_id)
        orders = self.orders[request.turn_id] = asyncio.Queue()
        number = 0
        while True:
            number += 1
            match await orders.get():
                case "say":
                    await emit(TextDelta(f"{request.message}.{number} "))
                case "step":
                    await emit(StepComplete())
                case "ask":
                    await emit(Request(f"r-{request.turn_id}-{number}", "approval", "May I?"))
                case "acknowledge":
                    while (given := request.inbox.receive_nowait()) is not None:
                        if isinstance(given, Steer):
                            await emit(Steering(given.text))
                            break
                case "finish":
                    return
                case "fail":
                    raise AgentFailure("as told")

    def _note_shown(self) -> None:
        for name, watcher in self.watchers.items():
            for entry in watcher.entries:
                known = self.shown[name].setdefault(entry.offset, entry.payload)
                assert known == entry.payload, "an offset was shown with two contents"

    def teardown(self) -> None:
        try:
            if self._daemon is not None:
                self._runner.run(self._stop())
        finally:
            self._runner.close()
            self._logs.__exit__(None, None, None)

    # -- rules ---------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self._runner.run(self._start())

    @rule(
        name=st.sampled_from(NAMES),
        on_busy=st.sampled_from(["reject", "queue", "steer", "interrupt"]),
        agent=st.sampled_from([None, "puppet", "deaf"]),
    )
    def send(self, name: str, on_busy: OnBusy, agent: str | None) -> None:
        self.count += 1
        message = Message(f"m{self.count}", f"id{self.count}")
        self._send(self.model[name], message, on_busy, agent)

    def _send(
        self, model: Conversation, message: Message, on_busy: OnBusy, agent: str | None = None
    ) -> None:
        live = self.broker.conversations.peek(LOCAL, ConversationId(model.name))
        steers = bool(
            live and live.current and live.current.agent and live.current.agent.info.steer
        )
        told = self.run(
            self.broker.send(
                message.text,
                model.name,
                on_busy=on_busy,
                client_id=message.client_id,
                model=agent,
            )
        )
        if model.is_deleted:
            assert isinstance(told, Gone)
            return
        if model.running is not None and on_busy == "reject":
            assert isinstance(told, Busy)
            return
        assert isinstance(told, Accepted), told
        assert not told.duplicate
        message.turn, message.place = told.turn, told.place
        model.accepted.append(message)
        if model.running is None:
            assert told.place == "started"
            model.start(message)
            if model.name not in self.watchers:
                self._watch(model.name)
        elif on_busy == "interrupt":
            assert told.place == "started"
            model.end("aborted", message)
        elif on_busy == "steer" and steers:
            assert told.place == "steered"
            model.steers.append(message)
        else:
            assert told.place == "queued"
            model.queue.append(message)

    @precondition(lambda self: any(model.accepted for model in self.model.values()))
    @rule(pick=PICKS, is_changed=st.booleans())
    def send_again(self, pick: int, is_changed: bool) -> None:
        model = picked([m for m in self.model.values() if m.accepted], pick)
        message = picked(model.accepted, pick)
        text = message.text + "!" * is_changed
        told = self.run(self.broker.send(text, model.name, client_id=message.client_id))
        if model.is_deleted:
            assert isinstance(told, Gone)
        elif is_changed:
            assert isinstance(told, Conflict)
        else:
            assert isinstance(told, Accepted)
            assert told.duplicate
            assert (told.turn, told.place) == (message.turn, message.place)

    @rule(name=st.sampled_from(NAMES), word=st.sampled_from(["say", "say", "step", "ask"]))
    def speak(self, name: str, word: Word) -> None:
        model = self.model[name]
        if model.running is not None:
            self._order(model, word)
            if word == "ask":
                live = self.broker.live(name)
                assert live.state.running is not None
                model.asked = live.state.running.open_requests[-1].request_id

    @rule(name=st.sampled_from(NAMES), word=st.sampled_from(["finish", "fail"]))
    def end(self, name: str, word: Word) -> None:
        model = self.model[name]
        if model.running is not None:
            self._order(model, word)
            model.end("completed" if word == "finish" else "error")

    @rule(name=st.sampled_from(NAMES))
    def acknowledge(self, name: str) -> None:
        model = self.model[name]
        if model.running is not None:
            self._order(model, "acknowledge")
            if model.steers:
                model.steers.pop(0)

    def _order(self, model: Conversation, word: Word) -> None:
        assert model.running is not None
        orders = self.orders[model.running.turn]

        async def order() -> None:
            orders.put_nowait(word)

        self.run(order())

    @rule(name=st.sampled_from(NAMES))
    def stop(self, name: str) -> None:
        model = self.model[name]
        stopped = self.run(self.broker.stop(name))
        if model.running is None:
            assert stopped is None
        else:
            assert stopped == model.running.turn
            model.end("aborted")

    @rule(name=st.sampled_from(NAMES))
    def close(self, name: str) -> None:
        model = self.model[name]
        closed = self.run(self.broker.broker.close(LOCAL, ConversationId(name)))
        if model.is_deleted:
            assert isinstance(closed, Gone)
            return
        model.queue, model.steers = [], []
        if model.running is None:
            assert closed is None
        else:
            assert closed == model.running.turn
            model.end("aborted")
        model.is_closed = model.is_stored

    @rule(name=st.sampled_from(NAMES), pick=PICKS)
    def cancel(self, name: str, pick: int) -> None:
        model = self.model[name]
        turns = [TurnId(message.turn) for message in model.accepted] or [TurnId("none")]
        turn = picked(turns, pick)
        is_queued = any(message.turn == turn for message in model.queue)
        cancelled = self.run(self.broker.broker.cancel(LOCAL, ConversationId(name), turn))
        assert cancelled == is_queued
        model.queue = [message for message in model.queue if message.turn != turn]

    @rule(name=st.sampled_from(NAMES), picks=st.lists(PICKS, max_size=3))
    def reorder(self, name: str, picks: list[int]) -> None:
        model = self.model[name]
        turns = [TurnId(message.turn) for message in model.accepted] or [TurnId("none")]
        wanted = list(dict.fromkeys(picked(turns, pick) for pick in picks))
        told = self.run(self.broker.broker.reorder(LOCAL, ConversationId(name), wanted))
        if model.is_deleted:
            assert isinstance(told, Gone)
            return
        places = sorted(model.accepted.index(message) for message in model.queue)
        first = [message for turn in wanted for message in model.queue if message.turn == turn]
        model.queue = [*first, *(message for message in model.queue if message not in first)]
        # Their places in the order of all that came change along.
        for place, message in zip(places, model.queue, strict=True):
            model.accepted[place] = message
        assert told == [message.turn for message in model.queue]

    @rule(name=st.sampled_from(NAMES))
    def respond(self, name: str) -> None:
        model = self.model[name]
        request = model.asked or "r-none"
        conversation = ConversationId(name)
        told = self.run(
            self.broker.broker.respond(LOCAL, conversation, Response(request, approved=True))
        )
        if model.is_deleted:
            assert isinstance(told, Gone)
        elif model.asked is None:
            assert isinstance(told, AlreadyClosed)
        else:
            assert told is None
            model.asked = None

    @rule(name=st.sampled_from(NAMES), pick=PICKS, is_sent_again=st.booleans())
    def truncate(self, name: str, pick: int, is_sent_again: bool) -> None:
        model = self.model[name]
        turns = [TurnId(turn) for turn, _ in model.sealed]
        after = picked([None, *turns, TurnId("none")], pick)
        self.count += 1
        wish = Truncate(
            conversation=ConversationId(name),
            after_turn=after,
            client_message_id=f"cut{self.count}",
        )
        told = self.run(self.broker.broker.truncate(LOCAL, wish))
        if model.is_deleted:
            assert isinstance(told, Gone)
            return
        if not model.is_stored or after == "none" or after in model.left_behind:
            assert isinstance(told, NotFound)
            return
        assert isinstance(told, Cut), told
        following = model.queue + model.steers
        if model.running is not None:
            # The last one waits for the truncation, so nothing is to run yet.
            model.queue, model.steers = [], []
            model.end("aborted")
        sealed = [turn for turn, _ in model.sealed]
        model.left_behind |= set(sealed[0 if after is None else sealed.index(after) + 1 :])
        order = {message.client_id: number for number, message in enumerate(model.accepted)}
        model.queue = sorted(following, key=lambda m: order[m.client_id])
        if model.queue:
            model.start(model.queue.pop(0))
        if is_sent_again:
            again = self.run(self.broker.broker.truncate(LOCAL, wish))
            assert (again.duplicate, again.offset) == (True, told.offset)

    @rule(name=st.sampled_from(NAMES), pick=PICKS)
    def resume(self, name: str, pick: int) -> None:
        model = self.model[name]
        turns = [turn for turn, _ in model.sealed]
        turn = picked(["none", *turns[-2:]], pick)
        self.count += 1
        message = Message("", f"again{self.count}")
        told = self.run(self.broker.resume(turn, name, client_id=message.client_id))
        if model.is_deleted:
            assert isinstance(told, Gone)
            return
        counting = [one for one in model.sealed if one[0] not in model.left_behind]
        last, outcome = counting[-1] if counting else ("", "")
        if turn == "none":
            assert isinstance(told, NotFound)
        elif last != turn or outcome not in {"error", "interrupted"}:
            assert isinstance(told, NotResumable)
        elif model.running is not None:
            assert isinstance(told, Busy)
        else:
            assert isinstance(told, Accepted), told
            message.turn, message.place = told.turn, told.place
            model.start(message)
            again = self.run(self.broker.resume(turn, name, client_id=message.client_id))
            assert isinstance(again, Accepted)
            assert (again.duplicate, again.turn) == (True, told.turn)

    @precondition(lambda self: len(self.model) < 5)
    @rule(name=st.sampled_from(NAMES), pick=PICKS)
    def fork(self, name: str, pick: int) -> None:
        source = self.model[name]
        turns = [TurnId(turn) for turn, _ in source.sealed] + [TurnId("none")]
        turn = picked(turns, pick)
        fork = self.run(self.broker.catalog.fork(LOCAL, ConversationId(name), turn))
        if source.is_deleted:
            assert isinstance(fork, Gone)
        elif turn == "none" or turn in source.left_behind:
            assert isinstance(fork, NotFound)
        else:
            before = source.sealed[: turns.index(turn) + 1]
            kept = [one for one in before if one[0] not in source.left_behind]
            self.model[fork] = Conversation(fork, is_stored=True, sealed=list(kept))

    @rule(name=st.sampled_from(NAMES), is_meant=st.integers(0, 4))
    def delete(self, name: str, is_meant: int) -> None:
        model = self.model[name]
        if is_meant and not model.is_deleted:
            return
        told = self.run(self.broker.catalog.delete(LOCAL, ConversationId(name)))
        if model.is_deleted:
            assert isinstance(told, Gone)
        elif not model.is_stored:
            assert isinstance(told, NotFound)
        else:
            assert told is None
            self.watchers.pop(name, None)
            self.shown.pop(name, None)
            self.model[name] = Conversation(name, is_stored=True, is_deleted=True)

    @rule(
        cut=st.integers(0, 12),
        name=st.sampled_from(NAMES),
        on_busy=st.sampled_from(["reject", "queue"]),
    )
    def crash(self, cut: int, name: str, on_busy: OnBusy) -> None:
        """Killed somewhere on the way of one more send, which is sent again afterwards."""
        self.count += 1
        message = Message(f"m{self.count}", f"id{self.count}")
        model = self.model[name]
        was_running = model.running is not None

        async def killed() -> None:
            sending = asyncio.ensure_future(
                self.broker.send(message.text, name, on_busy=on_busy, client_id=message.client_id)
            )
            for _ in range(cut):
                await asyncio.sleep(0)
            self._note_shown()
            self._over.set()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await self._stop()
            await self._start()

        self._runner.run(killed())
        arrived = self._runner.run(self._find(message, name))
        for each in self.model.values():
            if each.name == name and arrived is not None:
                message.turn, message.place = arrived
                model.accepted.append(message)
                if was_running:
                    model.queue.append(message)
                else:
                    model.start(message)
            if each.running is not None:
                each.end("interrupted")
        if arrived is None:
            self._send(model, message, on_busy)
        else:
            again = self.run(
                self.broker.send(message.text, name, on_busy=on_busy, client_id=message.client_id)
            )
            assert isinstance(again, Accepted)
            assert (again.duplicate, again.turn) == (True, message.turn)

    async def _find(self, message: Message, name: str) -> tuple[str, str] | None:
        key = "\x1f".join((LOCAL.account, LOCAL.user, name, message.client_id))
        found = await self.broker.store.turn_by_client_key(key)
        if found is None:
            return None
        told = decode_accepted(found[1].acceptance)
        return told.turn, told.place

    # -- what must hold after every step -------------------------------------------------------

    @invariant()
    def the_broker_agrees_with_the_model(self) -> None:
        if self._daemon is None:
            return
        for model in self.model.values():
            live = self.broker.conversations.peek(LOCAL, ConversationId(model.name))
            running = live.state.running if live is not None else None
            expected = None if model.running is None else model.running.turn
            assert (running.id if running is not None else None) == expected
            queue = [w.text for w in live.state.queue] if live is not None else []
            assert queue == [message.text for message in model.queue]
            steers = [w.text for w in live.state.steers] if live is not None else []
            assert steers == [message.text for message in model.steers]
        running_total = sum(model.running is not None for model in self.model.values())
        assert self.broker.accounts.running_total == running_total

    @invariant()
    def the_disk_agrees_with_the_model(self) -> None:
        if self._daemon is None:
            return
        for model in self.model.values():
            record = self._runner.run(
                self.broker.store.conversation(LOCAL.account, ConversationId(model.name))
            )
            if not model.is_stored:
                assert record is None
                continue
            assert record is not None
            assert record.status == ("deleted" if model.is_deleted else model.status)
            turns = self._runner.run(self.broker.store.sealed_turns(record.key, limit=10_000))
            assert [(turn.id, turn.outcome) for turn in turns] == model.sealed
            superseded = decode_superseded(record.superseded)
            marked = {turn.id for turn in turns if is_superseded(superseded, turn.first_seq)}
            assert marked == model.left_behind
        is_at_rest = all(model.running is None for model in self.model.values())
        assert self._runner.run(audit(self.broker.store, is_at_rest=is_at_rest)) == []

    @invariant()
    def everything_that_was_shown_is_kept(self) -> None:
        if self._daemon is None:
            return
        self._note_shown()
        for name, shown in self.shown.items():
            record = self._runner.run(
                self.broker.store.conversation(LOCAL.account, ConversationId(name))
            )
            if record is None:
                assert shown == {}
                continue
            records = self._runner.run(self.broker.store.events(record.key, 0, 100_000))
            stored = {event.offset: event.payload for event in records}
            assert shown.items() <= stored.items()
            watcher = self.watchers.get(name)
            if watcher is not None and watcher.entries:
                first = watcher.entries[0].offset
                assert watcher.offsets == list(range(first, first + len(watcher.entries)))
                assert watcher.offsets[-1] == max(stored)

    @invariant()
    def no_agent_was_asked_twice(self) -> None:
        assert len(set(self.prompts)) == len(self.prompts)


class OnMemory(BrokerMachine):
    """On the reference store."""

    def new_disk(self) -> Callable[[], Store]:
        disk = MemoryDisk()
        return lambda: MemoryStore(disk)


class OnSqlite(BrokerMachine):
    """On a real file; without waiting for the disk, which is another test's business."""

    def new_disk(self) -> Callable[[], Store]:
        self._directory = tempfile.TemporaryDirectory(prefix="dispatch-machine-")
        data = Path(self._directory.name) / "data"
        return lambda: SqliteStore(data, synchronous="off")

    def teardown(self) -> None:
        super().teardown()
        self._directory.cleanup()


TestOnMemory = OnMemory.TestCase
TestOnMemory.settings = settings(max_examples=60, stateful_step_count=30)
TestOnSqlite = OnSqlite.TestCase
TestOnSqlite.settings = settings(
    max_examples=20, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
)
