"""What must be true when it is over, whatever happened: the invariants, as sentences that broke.

Neighbours: `world` kept what the disk took, `devices` what each person was shown. The truth is what
was committed; a claim compares everything else with it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec

from dispatch.core.content import Fold
from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    Steering,
    Truncated,
    TurnStart,
    UserMessage,
    decode_event,
)
from dispatch.core.identity import LOCAL, ConversationId, TurnId
from dispatch.core.turn import IllegalEvent, Phase, Turn, evolve, outcome_of
from dispatch.protocol.chat.frames import old_event
from dispatch.storage.memory import MemoryStore
from dispatch.testing.audit import audit
from tests.simulation.devices import Cutting, Device, Sent, Shown, Snapshot
from tests.simulation.old_devices import OldDevice
from tests.simulation.world import Committed, World

Events = dict[int, Committed]


async def broken_claims(
    world: World, devices: Sequence[Device], old_devices: Sequence[OldDevice] = ()
) -> list[str]:
    """Every broken claim; empty when all is well."""
    found = list(world.trouble)
    for old in old_devices:
        found += [f"{old.name}: {problem}" for problem in _old(world, old)]
    for name, events in world.committed.items():
        found += [f"{name}: {problem}" for problem in _log(events)]
        found += [f"{name}: {problem}" for problem in _resumptions(events)]
    for device in devices:
        for name, watching in device.watching.items():
            where = f"{device.name} of {name}"
            events = world.committed.get(name, {})
            found += [f"{where}: {problem}" for problem in _seen(watching.shown, events)]
            found += [f"{where}: {problem}" for problem in _snapshots(watching.snapshots, events)]
            found += [f"{where}: {problem}" for problem in _histories(watching.histories, events)]
            head = max(events, default=0)
            if watching.is_subscribed and name in world.deleted:
                found.append(f"{where}: was never told that it is gone")
            elif watching.is_subscribed and (watching.position or 0) != head:
                found.append(f"{where}: was left at {watching.position}, and the log is at {head}")
        found += [problem for frame in device.forks for problem in await _fork(world, frame)]
        for cut in device.cuts:
            found += [f"{cut.client_id}: {problem}" for problem in _cut_once(world, cut)]
        for sent in device.sent:
            found += [f"{sent.client_id}: {problem}" for problem in _once(world, sent)]
    prompts = Counter(world.prompts)
    found += [f"an agent was asked {n} times: {prompt}" for prompt, n in prompts.items() if n > 1]
    if not world.prunes:
        store = MemoryStore(world.disk)
        await store.open()
        found += await audit(store)
    return found


# -- durable before visible, no gap, no duplicate ----------------------------------------------


def _seen(shown: list[Shown], events: Events) -> Iterator[str]:
    """Each frame is exactly what the disk has between the position before it and its own."""
    for after, offset, frame in shown:
        if offset <= after:
            yield f"{offset} was shown after {after}"
            continue
        missing = [number for number in range(after + 1, offset + 1) if number not in events]
        if missing:
            yield f"{missing} were shown, and the disk does not have them"
            continue
        due = [events[number] for number in range(after + 1, offset + 1)]
        wrong = _frame_of(due) != _plain(frame)
        if wrong:
            yield f"({after}, {offset}] was shown as {_plain(frame)} and is {_frame_of(due)}"


def _frame_of(due: list[Committed]) -> dict[str, Any] | str:
    """The one frame that shows a run of events, less its ids."""
    turns = {event.turn for event in due}
    payloads = [msgspec.json.decode(event.record.payload) for event in due]
    kinds = {payload["type"] for payload in payloads}
    if len(turns) > 1:
        return f"several turns: {sorted(turns)}"
    if kinds == {"truncated"} and len(payloads) == 1:
        # Of no turn.
        return payloads[0]
    if len(payloads) == 1:
        return {**payloads[0], "turnId": due[0].turn}
    if len(kinds) > 1 or not kinds <= {"text-delta", "reasoning-delta"}:
        return f"several frames: {[payload['type'] for payload in payloads]}"
    text = "".join(payload["delta"] for payload in payloads)
    return {"type": kinds.pop(), "delta": text, "turnId": due[0].turn}


def _plain(frame: dict[str, Any]) -> dict[str, Any]:
    shown = dict(frame.get("event", frame))
    names = {"chat.request": "request", "chat.request.closed": "request-closed"}
    names["conversation.truncated"] = "truncated"
    shown["type"] = names.get(shown["type"], shown["type"])
    return {k: v for k, v in shown.items() if k not in ("conversationId", "position")}


def _old(world: World, device: OldDevice) -> Iterator[str]:
    """Over one line: the log from some turn's first event on, as Part 1 knows it, and no gap."""
    for number, line in enumerate(device.lines):
        for name, shown in line.shown.items():
            if not shown:
                continue
            events = world.committed.get(name, {})
            turn = shown[0]["turnId"]
            first = min((o for o, event in events.items() if event.turn == turn), default=None)
            if first is None:
                yield f"{name}: {turn} was shown, and the disk does not have it"
                continue
            due = [_known(events[o], name) for o in sorted(events) if o >= first]
            if not _is_start(_joined(shown), _joined([event for event in due if event])):
                yield f"{name}: over line {number} something else than the log was shown"
    for name, text in device.texts:
        if _times(world, name, text) > 1:
            yield f"{text!r} is in the log more than once"


def _known(event: Committed, name: str) -> dict[str, Any] | None:
    payload = old_event(event.record.payload)
    if payload is None:
        return None
    return {**msgspec.json.decode(payload), "conversationId": name, "turnId": event.turn}


def _joined(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring deltas of a run as one."""
    joined: list[dict[str, Any]] = []
    for event in events:
        last = joined[-1] if joined else {}
        run = ("delta" in event, event["type"], event["turnId"])
        if run == (True, last.get("type"), last.get("turnId")):
            joined[-1] = {**last, "delta": last["delta"] + event["delta"]}
        else:
            joined.append(event)
    return joined


def _is_start(shown: list[dict[str, Any]], due: list[dict[str, Any]]) -> bool:
    """Whether it is the beginning of what is due; the last delta may not have grown to its end."""
    *whole, last = shown
    if len(shown) > len(due) or whole != due[: len(whole)]:
        return False
    end = due[len(whole)]
    if "delta" in last and "delta" in end:
        end = {**end, "delta": end["delta"][: len(last["delta"])]}
    return last == end


def _snapshots(snapshots: list[Snapshot], events: Events) -> Iterator[str]:
    """A snapshot is the fold of its turn up to its position, and no more and no less."""
    for offset, frame in snapshots:
        turn = frame.get("turn")
        if turn is None:
            continue
        due = [
            decode_event(events[number].record.payload)
            for number in sorted(events)
            if number <= offset and events[number].turn == turn["turnId"]
        ]
        if _chunks(due) != turn["chunks"]:
            yield f"the snapshot at {offset} is not the fold of what is before it"
        try:
            known = [request.request_id for request in _life(turn["turnId"], due).open_requests]
        except IllegalEvent as error:
            yield f"the snapshot at {offset} is of no turn: {error}"
            continue
        told = [request["requestId"] for request in turn["requests"]]
        if told != known:
            yield f"the snapshot at {offset} has {told} open, and {known} are"


async def _kept(world: World, name: str) -> list[Any]:
    """Every chunk of a conversation, as it is kept."""
    store = MemoryStore(world.disk)
    await store.open()
    record = await store.conversation(LOCAL.account, ConversationId(name))
    if record is None:
        return []
    turns = await store.sealed_turns(record.key, limit=10_000)
    data = b"".join(await store.chunk_bytes([turn.key for turn in turns]))
    return [msgspec.json.decode(b"{%b}" % line) for line in data.split(b"\n")[:-1]]


def _histories(histories: list[tuple[int, int, list[Any]]], events: Events) -> Iterator[str]:
    """History is every chunk between what was asked for and what was promised."""
    numbered = [{"seq": seq, **chunk} for seq, chunk in enumerate(_folded(events), 1)]
    for since, last, chunks in histories:
        bare = [{k: v for k, v in chunk.items() if k != "superseded"} for chunk in chunks]
        # One that was cut off with its line is as good as far as it goes.
        if bare != numbered[since:last][: len(chunks)]:
            yield f"history ({since}, {last}] is not what is kept"
        marked = {chunk["seq"] for chunk in chunks if "superseded" in chunk}
        seqs = {chunk["seq"] for chunk in chunks}
        if not any(marked == left & seqs for left in _left_behind(events)):
            yield f"history ({since}, {last}] says that {sorted(marked)} do not count"


def _left_behind(events: Events) -> list[set[int]]:
    """The seqs that did not count, after each of the log's truncations and before the first."""
    left: set[int] = set()
    found = [set(left)]
    for offset in sorted(events):
        event = decode_event(events[offset].record.payload)
        if isinstance(event, Truncated):
            left |= set(range(event.after_seq + 1, event.last_seq + 1))
            found.append(set(left))
    return found


async def _fork(world: World, frame: dict[str, Any]) -> list[str]:
    """A fork is its source up to and including the turn, whatever became of the source."""
    source, turn = frame["forkedFrom"]["conversationId"], frame["forkedFrom"]["turnId"]
    events = world.committed[source]
    last = max(offset for offset, event in events.items() if event.turn == turn)
    due = _folded({offset: event for offset, event in events.items() if offset <= last})
    kept = await _kept(world, frame["conversationId"])
    counting = (
        [chunk for seq, chunk in enumerate(due, 1) if seq not in left]
        for left in _left_behind(events)
    )
    if kept not in counting:
        return [f"{frame['conversationId']} is not {source} up to {turn}"]
    return []


# -- every started turn ends exactly once ------------------------------------------------------


def _log(events: Events) -> Iterator[str]:
    offsets = sorted(events)
    if offsets != list(range(1, len(offsets) + 1)):
        yield f"offsets are {offsets}"
    runs = groupby((events[offset] for offset in offsets), key=lambda event: event.turn)
    names = []
    for name, run in runs:
        names.append(name)
        happened = [decode_event(event.record.payload) for event in run]
        if len(happened) == 1 and isinstance(happened[0], Truncated):
            continue
        try:
            turn = _life(name, happened)
        except IllegalEvent as error:
            yield f"{name}: {error}"
            continue
        if turn.phase is not Phase.SEALED:
            yield f"{name} was started and never sealed"
    if len(set(names)) != len(names):
        yield "the events of two turns are mixed"


def _resumptions(events: Events) -> Iterator[str]:
    """A turn goes on with the last one that counts, and that failed."""
    counting: list[tuple[str, str]] = []
    errored = False
    for offset in sorted(events):
        turn, event = events[offset].turn, decode_event(events[offset].record.payload)
        match event:
            case Truncated(after_turn=after):
                kept = [one for one, _ in counting]
                counting = counting[: kept.index(after) + 1] if after is not None else []
            case TurnStart(resumes=str() as resumed):
                last = counting[-1] if counting else ("nothing", "")
                if last[0] != resumed or last[1] not in {"error", "interrupted"}:
                    yield f"{turn} went on with {resumed}, and the last turn was {last}"
            case ErrorEvent():
                errored = True
            case Done(reason=reason):
                counting.append((turn, outcome_of(reason, errored=errored)))
                errored = False
            case _:
                pass


def _life(turn_id: str, events: list[AnyEvent]) -> Turn:
    turn = Turn(id=TurnId(turn_id))
    for event in events:
        turn = evolve(turn, event)
    return turn


def _folded(events: Events) -> list[Any]:
    """The chunks of a whole log, turn by turn."""
    chunks: list[Any] = []
    for _, run in groupby(sorted(events), lambda offset: events[offset].turn):
        chunks += _chunks([decode_event(events[offset].record.payload) for offset in run])
    return chunks


def _chunks(events: list[AnyEvent]) -> list[Any]:
    fold = Fold()
    for event in events:
        fold.add(event, msgspec.json.encode(event))
    fold.finish()
    lines = fold.take()[1].split(b"\n")[:-1]
    return [msgspec.json.decode(b"{%b}" % line) for line in lines]


# -- exactly once ------------------------------------------------------------------------------


def _once(world: World, sent: Sent) -> Iterator[str]:
    """A message that was accepted is in the log once, one that was only refused is not at all."""
    times = _times(world, sent.conversation, sent.text)
    if sent.resumes is not None:
        times = _resumed(world, sent)
    if times > 1:
        yield f"is in the log {times} times"
    if not sent.is_answered:
        yield "was never answered"
    if sent.accepted:
        names = {_name(frame) for frame in sent.accepted}
        if len(names) > 1:
            yield f"was accepted as {sorted(names)}"
        if sum("duplicate" not in frame for frame in sent.accepted) > 1:
            yield "was accepted twice as new"
        if not times and not sent.may_be_dropped and sent.conversation not in world.closed:
            yield "was accepted and is not in the log"
    elif times and sent.conversation not in world.deleted:
        # (Of what is deleted nobody remembers that it was accepted before.)
        yield f"was refused and is in the log: {sent.refused}"


def _cut_once(world: World, cut: Cutting) -> Iterator[str]:
    """A truncation that was acknowledged is in the log, where it was said to be, and once."""
    if not cut.is_answered:
        yield "was never answered"
    places = {frame["position"] for frame in cut.told}
    if len(places) > 1:
        yield f"was carried out at {sorted(places)}"
    if sum("duplicate" not in frame for frame in cut.told) > 1:
        yield "was carried out twice as new"
    for place in places:
        committed = world.committed.get(cut.conversation, {})
        event = committed.get(int(place.partition(":")[2]))
        shown = None if event is None else decode_event(event.record.payload)
        if not isinstance(shown, Truncated) or shown.after_turn != cut.after_turn:
            yield f"was carried out at {place}, where the log has {shown}"


def _times(world: World, conversation: str, text: str) -> int:
    return sum(
        isinstance(event, UserMessage | Steering) and event.text == text
        for committed in world.committed.get(conversation, {}).values()
        for event in [decode_event(committed.record.payload)]
    )


def _resumed(world: World, sent: Sent) -> int:
    """How many turns it was accepted as, that go on with the turn it names and with no message."""
    begun = [
        event.turn
        for event in world.committed.get(sent.conversation, {}).values()
        if decode_event(event.record.payload) == TurnStart(sent.resumes)
    ]
    return len({frame["turnId"] for frame in sent.accepted} & set(begun))


def _name(frame: dict[str, Any]) -> str:
    return str(frame.get("turnId") or frame.get("queueId") or f"steered at {frame['position']}")
