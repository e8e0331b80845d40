"""How each wish of the native dialect is answered: one function a frame.

Neighbours: `connection` calls `carry_out` from its worker and turns what is raised into
`chat.error`; `broker` and `catalog` do the work; `protocol/native.md` says what goes back.
Invariant: an acknowledgement is written when what it says is durable, and before anything that
follows from it.
"""

from __future__ import annotations

from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from dispatch.core.commands import Accepted, Subscribe
from dispatch.core.identity import WATCH, ConversationId, may, require
from dispatch.core.truncation import Superseded
from dispatch.errors import DispatchError, Gone
from dispatch.protocol.chat import commands as wish
from dispatch.protocol.chat.frames import QUEUE_SURFACE, chunks_frame
from dispatch.runtime.live import Live
from dispatch.server.branches import branched
from dispatch.server.watch import Watch

if TYPE_CHECKING:
    from dispatch.server.connection import Connection


async def carry_out(connection: Connection, command: wish.Frame) -> None:
    """Do what a frame asks and write what goes back; raises what `chat.error` tells."""
    match command:
        case wish.ChatSend():
            await _send(connection, command)
        case wish.ChatSubscribe(subscribe=subscribe):
            await _subscribe(connection, subscribe, command.ref)
        case wish.ChatQueueCancel():
            await _cancel(connection, command)
        case wish.ChatQueueReorder(conversation=conversation, messages=messages):
            order = await connection.hub.broker.reorder(
                connection.principal, conversation, messages
            )
            told = {"conversationId": conversation, "messageIds": order}
            connection.reply({"type": "chat.queue.reordered", **told}, command.ref)
        case wish.ChatStop():
            await _stop(connection, command)
        case wish.ChatTruncate(truncate=truncate):
            cut = await connection.hub.broker.truncate(connection.principal, truncate)
            given = truncate.client_message_id
            connection.send(connection.dialect.truncated(cut, given, command.ref))
        case wish.ChatFork():
            await _fork(connection, command)
        case wish.ChatRespond():
            await _respond(connection, command)
        case wish.ChatRead():
            await _read(connection, command)
        case wish.SurfaceFrame():
            await _surface(connection, command)
        case _:
            raise AssertionError(f"no one carries out {type(command).__name__}")


async def _send(connection: Connection, command: wish.ChatSend) -> None:
    send, hub = command.send, connection.hub
    # Who may not watch gets the acknowledgement and nothing else.
    may_watch = may(connection.principal, WATCH)
    watched: list[Watch] = []

    def prepare(live: Live) -> None:
        if live.record.id in connection.watches or not (connection.is_open and may_watch):
            return
        if command.is_queue and live.state.is_busy:
            return
        connection.check_watch()
        hub.conversations.hold(live)
        watch = connection.watch(live, live.in_flight_offset)
        watch.catch_up()
        watched.append(watch)

    def accepted(told: Accepted) -> None:
        if connection.dialect.is_v1:
            frame = connection.dialect.accepted(told, send.client_message_id, command.ref)
            connection.send(frame)

    replays = send.client_message_id is None and not command.is_queue
    if send.conversation is not None and replays and may_watch:
        # Replay before the answer, also where the journal has to be asked.
        await watch_in_flight(connection, send.conversation)
    repeats: list[Accepted] = []

    def accepted_or_repeated(told: Accepted) -> None:
        accepted(told)
        if told.duplicate and may_watch:
            repeats.append(told)

    try:
        await hub.broker.send(connection.principal, send, accepted_or_repeated, prepare)
    except DispatchError:
        if send.conversation is None:
            for watch in watched:
                connection.unwatch(watch.live.record.id)
        raise
    finally:
        for watch in watched:
            # Where the ring or the peer stopped it: whatever became of the message, it is watched.
            await connection.follow(watch)
    for repeat in repeats:
        # It was answered: that there is nothing left to watch is no second answer.
        with suppress(Gone):
            await _watch_after(connection, repeat.conversation, repeat.offset)


async def watch_in_flight(connection: Connection, conversation: ConversationId) -> Live | None:
    """Watch from the running turn's first event; None if it was watched or the peer is gone."""
    require(connection.principal, WATCH)
    if conversation in connection.watches:
        return None
    live = await connection.hub.conversations.load(connection.principal, conversation)
    if not _may_watch(connection, live):
        return None
    await connection.follow(connection.watch(live, live.in_flight_offset))
    return live


async def _watch_after(connection: Connection, conversation: ConversationId, offset: int) -> None:
    if conversation in connection.watches:
        return
    live = await connection.hub.conversations.load(connection.principal, conversation)
    if _may_watch(connection, live):
        await connection.follow(connection.watch(live, min(offset, live.feed.head)))


def _may_watch(connection: Connection, live: Live) -> bool:
    """Whether a loaded conversation can be watched now; lets go of it if not."""
    may = False
    try:
        if connection.is_open and live.record.id not in connection.watches:
            connection.check_watch()
            may = True
    finally:
        if not may:
            connection.hub.conversations.release(live)
    return may


async def _subscribe(connection: Connection, subscribe: Subscribe, ref: str | int | None) -> None:
    if not connection.dialect.is_v1:
        live = await watch_in_flight(connection, subscribe.conversation)
        if live is not None and connection.heals:
            await connection.hub.healer.heal(live, connection)
        return
    require(connection.principal, WATCH)
    watch = connection.watches.get(subscribe.conversation)
    if watch is not None:
        seam = _Seam.of(connection, watch.live)
        connection.reply(seam.subscribed(recovered=True), ref)
        return
    live = await connection.hub.conversations.load(connection.principal, subscribe.conversation)
    recovered = True
    after = subscribe.after
    if after is not None:
        recovered = await _is_retained(connection, live, after.generation, after.offset)
    if not _may_watch(connection, live):
        return
    # From here to the watch there is no await: head, seq and turn are of one instant.
    seam = _Seam.of(connection, live)
    if subscribe.since_seq is not None and subscribe.since_seq > seam.last_seq:
        # Chunks that are not there were seen elsewhere, before a restore say: a gap like others.
        recovered = False
    start = seam.head if not recovered else after.offset if after else seam.in_flight
    watch = connection.watch(live, start)
    connection.reply(seam.subscribed(recovered=recovered), ref)
    # A peer that drains meanwhile must not be brought to the head ahead of what was announced.
    watch.is_following = True
    try:
        if not recovered:
            await watch.snapshot(connection.hub.history)
        elif subscribe.since_seq is not None:
            await _history(watch, subscribe.since_seq, seam.last_seq, seam.superseded)
    finally:
        watch.is_following = False
    await connection.follow(watch)


async def _is_retained(connection: Connection, live: Live, generation: str, offset: int) -> bool:
    """Whether every event after a position can still be served."""
    if generation != connection.hub.generation or offset > live.feed.head:
        return False
    if offset >= live.feed.ring.floor:
        return True
    return bool(await connection.hub.history.events(live.record.key, offset, 1))


async def _history(watch: Watch, since: int, last_seq: int, superseded: Superseded) -> None:
    """`chat.history` frames up to the seam, at least one, unless it is dropped meanwhile."""
    connection, live, sent = watch.connection, watch.live, False
    history = connection.hub.history
    found = history.pages(live.record.key, since=since, before=last_seq + 1, superseded=superseded)
    async with aclosing(found) as pages:
        async for page in pages:
            await connection.until_writable()
            if watch.is_dropped:
                return
            sent = True
            connection.send(
                chunks_frame(
                    "chat.history",
                    live.record.id,
                    page.chunks,
                    page.last_seq,
                    more=page.last_seq < last_seq,
                )
            )
            # Until it has left, it is held.
            await connection.until_writable()
    if not sent and not watch.is_dropped:
        connection.send(chunks_frame("chat.history", live.record.id, [], last_seq, more=False))


class _Seam(NamedTuple):
    """What a subscriber is told of the instant it joins."""

    conversation: ConversationId
    position: str
    head: int
    in_flight: int
    turn: str | None
    status: str
    last_seq: int
    superseded: Superseded

    @classmethod
    def of(cls, connection: Connection, live: Live) -> _Seam:
        """Read all of it in one step."""
        current = live.current
        shown = current is not None and current.first_offset is not None
        return cls(
            live.record.id,
            connection.position(live.feed.head),
            live.feed.head,
            live.in_flight_offset,
            current.id if current is not None and shown else None,
            live.state.status,
            live.record.last_seq,
            live.past.superseded,
        )

    def subscribed(self, *, recovered: bool) -> dict[str, Any]:
        """`chat.subscribed`."""
        frame: dict[str, Any] = {
            "type": "chat.subscribed",
            "conversationId": self.conversation,
            "recovered": recovered,
            "position": self.position,
            "status": self.status,
            "lastSeq": self.last_seq,
        }
        if self.superseded:
            frame["superseded"] = self.superseded
        return frame if self.turn is None else {**frame, "turnId": self.turn}


async def _stop(connection: Connection, command: wish.ChatStop) -> None:
    stopped = await connection.hub.broker.stop(
        connection.principal, command.conversation, command.turn
    )
    frame: dict[str, Any] = {
        "type": "chat.stopped",
        "conversationId": command.conversation,
        "abortedTurn": stopped is not None,
    }
    if stopped is not None:
        frame["turnId"] = stopped
    connection.reply(frame, command.ref)


async def _cancel(connection: Connection, command: wish.ChatQueueCancel) -> None:
    """Part 1 has no reply, and whoever gives no `ref` expects none."""
    cancelled = await connection.hub.broker.cancel(
        connection.principal, command.conversation, command.message
    )
    if command.ref is not None and connection.dialect.is_v1:
        frame = {
            "type": "chat.queue.cancelled",
            "conversationId": command.conversation,
            "messageId": command.message,
            "cancelled": cancelled,
        }
        connection.reply(frame, command.ref)


async def _fork(connection: Connection, command: wish.ChatFork) -> None:
    source = command.conversation, command.turn
    frame = await branched(
        connection.hub.catalog, connection.principal, *source, is_side_chat=command.is_side_chat
    )
    connection.reply({"type": "chat.forked", **frame}, command.ref)


async def _respond(connection: Connection, command: wish.ChatRespond) -> None:
    """A connection that watches sees the request close; to one that does not it is told here."""
    response = command.response
    await connection.hub.broker.respond(connection.principal, command.conversation, response)
    if command.conversation not in connection.watches:
        frame = {
            "type": "chat.request.closed",
            "conversationId": command.conversation,
            "requestId": response.request_id,
            "outcome": "answered",
            "by": connection.user,
        }
        connection.reply(frame, command.ref)


async def _read(connection: Connection, command: wish.ChatRead) -> None:
    seq, unread = await connection.hub.catalog.read(
        connection.principal, command.conversation, command.up_to_seq, reader=connection
    )
    frame = {
        "type": "chat.read",
        "conversationId": command.conversation,
        "lastReadSeq": seq,
        "unread": unread,
    }
    connection.reply(frame, command.ref)


async def _surface(connection: Connection, command: wish.SurfaceFrame) -> None:
    conversation = command.conversation
    if command.surface != QUEUE_SURFACE:
        problem = f"Unknown surface: {command.surface[:80]}"
    elif conversation is None:
        problem = f"Surface {QUEUE_SURFACE} needs a conversationId"
    elif command.verb == "unsubscribe":
        connection.hide_queue(conversation)
        return
    elif command.verb == "invoke":
        problem = f"Surface {QUEUE_SURFACE} has no actions"
    else:
        require(connection.principal, WATCH)
        if conversation not in connection.surfaces:
            connection.check_queue_shown()
            live = await connection.hub.conversations.load(connection.principal, conversation)
            connection.show_queue(live)
        return
    frame = {"type": "error", "surfaceId": command.surface[:80], "message": problem}
    connection.reply(frame, command.ref)
