"""The rules of one conversation: what is decided, and that what was decided can be applied."""

import itertools
from contextlib import suppress
from typing import Literal, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dispatch.core.commands import OnBusy
from dispatch.core.conversation import (
    Absorbed,
    Began,
    Ended,
    Fact,
    Happened,
    Queued,
    Sealed,
    State,
    StatusChanged,
    Steered,
    Unqueued,
    Waiting,
    Withdrawn,
    agent_event,
    cancel,
    close,
    completed,
    end,
    evolve,
    place,
    respond,
    settle,
    start,
)
from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    Request,
    RequestClosed,
    RequestOption,
    RequestQuestion,
    Response,
    Steering,
    TextDelta,
    ToolCall,
    TurnSealed,
    TurnStart,
    UserMessage,
    answer_of,
    decode_event,
    encode_event,
)
from dispatch.core.identity import TurnId, UserId
from dispatch.core.turn import Phase
from dispatch.errors import Busy, PeerError
from dispatch.errors import RequestClosed as AlreadyClosed
from tests.properties.strategies import running_events

T1, T2, T3 = TurnId("t1"), TurnId("t2"), TurnId("t3")
ANN = UserId("ann")
RAW = msgspec.Raw(b"{}")
ASK = Request("r1", "approval", "May I?")
# `both` is a name that its agent gave twice: it says neither yes nor no.
CHOICE = msgspec.structs.replace(
    ASK,
    options=(
        RequestOption("yes", "Yes", "allow"),
        RequestOption("no", "No", "deny"),
        RequestOption("both", "Once", "allow"),
        RequestOption("both", "Never", "deny"),
    ),
)


def waiting(turn: TurnId, ordinal: int = 1, text: str = "x") -> Waiting:
    return Waiting(turn, ordinal, text, 0)


def evolved(state: State, *facts: Fact) -> State:
    for fact in facts:
        state = evolve(state, fact)
    return state


def started(state: State | None = None, turn: TurnId = T1) -> State:
    state = state or State()
    return evolved(state, *start(state, turn, UserMessage("hi")))


def ended(state: State, reason: str = "stop") -> State:
    return evolved(state, *end(state, None, Done(reason)))


def said(state: State, *events: AnyEvent) -> State:
    for event in events:
        assert state.running is not None
        state = evolved(state, *agent_event(state, state.running.id, event))  # type: ignore[arg-type]
    return state


# -- where a message goes ----------------------------------------------------------------------

IDLE = State()
CLOSED = State(status="closed")
RUNNING = started()
ENDING = ended(RUNNING)
WAITED = State(queue=(waiting(T2),))

Expected = Literal["start", "queue", "steer", "interrupt", "hold", "busy"]

PLACES: dict[tuple[str, OnBusy, bool], Expected] = {
    ("running", "reject", False): "busy",
    ("running", "reject", True): "busy",
    ("running", "queue", False): "queue",
    ("running", "queue", True): "queue",
    ("running", "steer", False): "queue",
    ("running", "steer", True): "steer",
    ("running", "interrupt", False): "interrupt",
    ("running", "interrupt", True): "interrupt",
    ("ending", "reject", False): "hold",
    ("ending", "reject", True): "hold",
    ("ending", "queue", False): "queue",
    ("ending", "queue", True): "queue",
    ("ending", "steer", False): "queue",
    ("ending", "steer", True): "queue",
    ("ending", "interrupt", False): "hold",
    ("ending", "interrupt", True): "hold",
}


@pytest.mark.parametrize(
    ("name", "on_busy", "steers"),
    list(itertools.product(["running", "ending"], get_args(OnBusy), [False, True])),
)
def test_where_a_message_goes_while_a_turn_runs(name: str, on_busy: OnBusy, steers: bool) -> None:
    state = RUNNING if name == "running" else ENDING
    expected = PLACES[name, on_busy, steers]
    if expected == "busy":
        with pytest.raises(Busy, match=r"^a turn is already generating for this conversation$"):
            place(state, on_busy, agent_steers=steers)
    else:
        assert place(state, on_busy, agent_steers=steers) == expected


@pytest.mark.parametrize("on_busy", get_args(OnBusy))
@pytest.mark.parametrize("state", [IDLE, CLOSED], ids=["idle", "closed"])
def test_a_free_conversation_starts_whatever_is_sent(state: State, on_busy: OnBusy) -> None:
    assert place(state, on_busy, agent_steers=True) == "start"


@pytest.mark.parametrize("on_busy", get_args(OnBusy))
def test_while_nothing_runs_who_is_asked_first_goes_first_also_ahead_of_a_queue(
    on_busy: OnBusy,
) -> None:
    assert place(WAITED, on_busy, agent_steers=True) == "start"


# -- how a turn begins and ends ----------------------------------------------------------------


def test_a_turn_begins_with_the_message_and_turn_start() -> None:
    message = UserMessage("hi")
    assert start(IDLE, T1, message) == (
        Began(T1),
        Happened(message),
        Happened(TurnStart()),
        StatusChanged("active"),
    )
    assert RUNNING.status == "active"
    assert RUNNING.running is not None
    assert (RUNNING.running.id, RUNNING.running.phase) == (T1, Phase.RUNNING)


def test_who_is_active_already_is_not_told_again() -> None:
    state = evolve(ENDING, Sealed())
    assert StatusChanged("active") not in start(state, T2, UserMessage("next"))


def test_two_turns_at_once_are_a_defect() -> None:
    with pytest.raises(AssertionError, match="one turn at a time"):
        start(RUNNING, T2, UserMessage("hi"))


def test_a_turn_ends_with_done_and_turn_sealed_and_only_once() -> None:
    facts = end(RUNNING, T1, Done("stop"))
    assert facts == (Happened(Done("stop")), Happened(TurnSealed()), Ended("completed"))
    state = evolved(RUNNING, *facts)
    assert state.ending
    assert end(state, None, Done("aborted")) == ()
    assert end(state, T1, Done("aborted")) == ()


def test_only_the_turn_that_was_named_is_ended() -> None:
    assert end(RUNNING, T2, Done("aborted")) == ()
    assert end(IDLE, None, Done("aborted")) == ()
    assert end(RUNNING, None, Done("aborted"))[-1] == Ended("aborted")


def test_an_error_on_the_way_out_makes_the_outcome() -> None:
    error = ErrorEvent("x", "y")
    facts = end(RUNNING, None, Done("stop"), error=error)
    assert Happened(error) in facts
    assert facts[-1] == Ended("error")
    assert end(said(RUNNING, error), None, Done("stop"))[-1] == Ended("error")


def test_after_the_seal_the_conversation_is_free_and_falls_idle() -> None:
    state = evolve(ENDING, Sealed())
    assert (state.running, state.ending, state.status) == (None, False, "active")
    assert settle(state) == (StatusChanged("idle"),)


def test_it_does_not_fall_idle_while_a_turn_runs_or_waits_or_once_it_is_closed() -> None:
    assert settle(RUNNING) == ()
    assert settle(WAITED) == ()
    assert settle(CLOSED) == ()
    assert settle(IDLE) == ()


def test_a_start_that_the_disk_refused_leaves_what_waited() -> None:
    state = evolve(RUNNING, Queued(waiting(T2)))
    state = evolve(state, Withdrawn())
    assert (state.running, state.queue) == (None, (waiting(T2),))


# -- what an agent says ------------------------------------------------------------------------


def test_what_comes_from_another_turn_or_after_the_end_is_dropped() -> None:
    assert agent_event(RUNNING, T1, TextDelta("x")) == (Happened(TextDelta("x")),)
    assert agent_event(RUNNING, T2, TextDelta("x")) == ()
    assert agent_event(ENDING, T1, TextDelta("x")) == ()
    assert agent_event(IDLE, T1, TextDelta("x")) == ()


def test_an_agents_events_get_the_ids_it_left_out() -> None:
    ((fact,), raw) = (agent_event(RUNNING, T1, ToolCall("c", "n", RAW)), RAW)
    assert fact == Happened(ToolCall("c", "n", raw, "t1#0"))


def test_the_first_answer_wins() -> None:
    state = said(RUNNING, ASK)
    facts = respond(state, Response("r1", approved=True), ANN)
    assert facts == (Happened(RequestClosed("r1", "answered", "ann", approved=True)),)
    with pytest.raises(AlreadyClosed, match="request r1 is closed"):
        respond(evolved(state, *facts), Response("r1", approved=False), ANN)


@pytest.mark.parametrize(
    ("approved", "option", "problem"),
    [
        (False, "yes", "contradicts"),
        (True, "no", "contradicts"),
        (True, "both", "contradicts"),
        (False, "both", "contradicts"),
        (None, "maybe", "not one of the request's options"),
        (False, "maybe", "not one of the request's options"),
    ],
)
def test_an_approval_that_says_yes_and_no_is_refused_and_leaves_the_request_open(
    approved: bool | None, option: str, problem: str
) -> None:
    state = said(RUNNING, CHOICE)
    with pytest.raises(PeerError, match=problem) as refused:
        respond(state, Response("r1", approved=approved, option_id=option), ANN)
    assert refused.value.code == "invalid"
    facts = respond(state, Response("r1", approved=False), ANN)
    assert facts == (Happened(RequestClosed("r1", "answered", "ann", approved=False)),)


@pytest.mark.parametrize(
    ("approved", "option"),
    [(True, "yes"), (False, "no"), (None, "yes"), (None, "no"), (True, None), (False, None)],
)
def test_an_approval_is_a_word_or_an_option_or_both_of_one_mind(
    approved: bool | None, option: str | None
) -> None:
    answer = Response("r1", approved=approved, option_id=option)
    ((fact),) = respond(said(RUNNING, CHOICE), answer, ANN)
    assert isinstance(fact.event, RequestClosed)
    assert (fact.event.outcome, fact.event.by, fact.event.option_id) == ("answered", "ann", option)
    # Whoever reads it back need not know which options there were.
    assert fact.event.approved is (approved if approved is not None else option == "yes")


def test_an_answer_is_kept_whole_and_on_one_line() -> None:
    asked = Request("r1", "input", "Who?", questions=(RequestQuestion("q", "Name", "text"),))
    answer = Response("r1", action="accept", answers={"q": msgspec.Raw(b'{\n"a": 1\r}')})
    ((fact),) = respond(said(RUNNING, asked), answer, ANN)
    payload = encode_event(fact.event)
    assert b"\n" not in payload
    assert b"\r" not in payload
    read = decode_event(payload)
    assert isinstance(read, RequestClosed)
    kept = answer_of(read)
    assert kept is not None
    assert (kept.request_id, kept.action) == ("r1", "accept")
    assert kept.answers is not None
    assert msgspec.json.decode(kept.answers["q"]) == {"a": 1}


def test_what_nobody_answered_has_no_answer() -> None:
    assert answer_of(RequestClosed("r1", "cancelled")) is None


@pytest.mark.parametrize(
    ("option", "approved"), [("yes", True), ("no", False), ("both", None), (None, None)]
)
def test_an_agent_is_told_whether_the_chosen_option_approves(
    option: str | None, approved: bool | None
) -> None:
    told = completed(said(RUNNING, CHOICE), Response("r1", option_id=option))
    assert told == Response("r1", approved=approved, option_id=option)


@pytest.mark.parametrize("state", [IDLE, RUNNING, ended(said(RUNNING, ASK))])
def test_nobody_answers_what_was_not_asked_or_is_over(state: State) -> None:
    with pytest.raises(AlreadyClosed):
        respond(state, Response("r1"), ANN)


# -- what waits --------------------------------------------------------------------------------


def test_what_waits_is_in_the_order_of_its_ordinals() -> None:
    state = evolved(RUNNING, Queued(waiting(T3, 3)), Queued(waiting(T2, 2)))
    assert [w.turn for w in state.queue] == [T2, T3]


def test_a_steer_that_was_not_taken_before_the_seal_is_queued_in_its_place() -> None:
    state = evolved(RUNNING, Queued(waiting(T3, 3)), Steered(waiting(T2, 2)))
    state = evolve(ended(state), Sealed())
    assert [w.turn for w in state.queue] == [T2, T3]
    assert state.steers == ()


def test_an_acknowledged_steer_is_taken_and_becomes_no_turn() -> None:
    state = evolved(RUNNING, Steered(waiting(T2, 2, "left")), Steered(waiting(T3, 3, "right")))
    facts = agent_event(state, T1, Steering("right"))
    assert facts == (Happened(Steering("right")), Absorbed(T3))
    state = evolved(state, *facts)
    assert [w.turn for w in state.steers] == [T2]
    assert agent_event(state, T1, Steering("reworded"))[-1] == Absorbed(T2)


def test_an_acknowledgement_says_the_id_of_the_text_that_was_taken() -> None:
    left, right = Waiting(T2, 2, "go", 0, "left"), Waiting(T3, 3, "go", 0, "right")
    state = evolved(RUNNING, Steered(left), Steered(right))
    assert agent_event(state, T1, Steering("go")) == (
        Happened(Steering("go", "left")),
        Absorbed(T2),
    )
    by_id = agent_event(state, T1, Steering("went", "right"))
    assert by_id == (Happened(Steering("went", "right")), Absorbed(T3))
    unknown = agent_event(state, T1, Steering("went", "nobody's"))
    assert unknown == (Happened(Steering("went", "left")), Absorbed(T2))


def test_an_agent_may_say_it_was_steered_when_nobody_did() -> None:
    assert agent_event(RUNNING, T1, Steering("x")) == (Happened(Steering("x")),)


def test_only_what_is_queued_can_be_cancelled() -> None:
    state = evolved(RUNNING, Queued(waiting(T2)), Steered(waiting(T3)))
    assert cancel(state, T2) == (Unqueued(T2),)
    assert cancel(state, T1) == cancel(state, T3) == cancel(IDLE, T2) == ()
    assert evolve(state, Unqueued(T2)).queue == ()


def test_closing_drops_everything_that_waits_and_leaves_the_turn_to_be_ended() -> None:
    state = evolved(RUNNING, Queued(waiting(T2)), Steered(waiting(T3)))
    facts = close(state)
    assert facts == (Unqueued(T2), Unqueued(T3), StatusChanged("closed"))
    state = evolved(state, *facts)
    assert (state.queue, state.steers, state.status) == ((), (), "closed")
    assert state.running is not None
    assert close(state) == ()
    state = evolve(ended(state), Sealed())
    assert settle(state) == ()
    assert state.status == "closed"


def test_a_queued_turn_leaves_the_queue_when_it_begins() -> None:
    state = evolved(IDLE, Queued(waiting(T2, 2)), Queued(waiting(T3, 3)))
    state = started(state, T2)
    assert [w.turn for w in state.queue] == [T3]


# -- any order of wishes -----------------------------------------------------------------------


class Wishes(RuleBasedStateMachine):
    """Anybody wishes anything at any time; what is decided is applied and always can be."""

    @initialize()
    def begin(self) -> None:
        self.state = State()
        self.turns = 0
        self.begun: list[TurnId] = []
        self.sealed: list[TurnId] = []
        self.dropped: set[TurnId] = set()
        self.accepted: list[TurnId] = []

    def apply(self, *facts: Fact) -> None:
        for fact in facts:
            self.state = evolve(self.state, fact)
            match fact:
                case Began(turn):
                    self.begun.append(turn)
                case Unqueued(turn) | Absorbed(turn):
                    self.dropped.add(turn)

    @rule(on_busy=st.sampled_from(get_args(OnBusy)), steers=st.booleans(), refused=st.booleans())
    def send(self, on_busy: OnBusy, steers: bool, refused: bool) -> None:
        turn = TurnId(f"t{self.turns + 1}")
        try:
            placed = place(self.state, on_busy, agent_steers=steers)
        except Busy:
            assert on_busy == "reject"
            return
        if placed in ("hold", "interrupt"):
            assert self.state.is_busy
            return
        self.turns += 1
        if placed == "start":
            self.apply(*start(self.state, turn, UserMessage("x")))
            if refused:
                self.begun.pop()
                self.apply(Withdrawn())
                return
        else:
            entry = waiting(turn, self.turns)
            self.apply(Queued(entry) if placed == "queue" else Steered(entry))
        self.accepted.append(turn)

    @rule(event=running_events)
    def say(self, event: AnyEvent) -> None:
        turn = self.state.running.id if self.state.running else T1
        self.apply(*agent_event(self.state, turn, event))  # type: ignore[arg-type]

    @rule(reason=st.sampled_from(["stop", "aborted", "error", "interrupted"]))
    def finish(self, reason: str) -> None:
        self.apply(*end(self.state, None, Done(reason)))

    @precondition(lambda self: self.state.ending)
    @rule()
    def seal(self) -> None:
        assert self.state.running is not None
        self.sealed.append(self.state.running.id)
        self.apply(Sealed())

    @precondition(lambda self: self.state.running is None and self.state.queue)
    @rule()
    def start_next(self) -> None:
        self.apply(*start(self.state, self.state.queue[0].turn, UserMessage("x")))

    @rule(request=st.sampled_from(["a", "b", "c"]))
    def answer(self, request: str) -> None:
        with suppress(AlreadyClosed):
            self.apply(*respond(self.state, Response(request, approved=True, action="cancel"), ANN))

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.apply(*cancel(self.state, TurnId(f"t{data.draw(st.integers(1, self.turns))}")))

    @rule()
    def close(self) -> None:
        self.apply(*close(self.state))

    @rule()
    def settle(self) -> None:
        self.apply(*settle(self.state))

    @invariant()
    def every_accepted_turn_is_in_one_place(self) -> None:
        state = self.state
        waits = [w.turn for w in (*state.queue, *state.steers)]
        runs = [state.running.id] if state.running is not None else []
        everywhere = [*waits, *runs, *self.sealed, *self.dropped]
        assert sorted(everywhere) == sorted(self.accepted)

    @invariant()
    def every_turn_begins_once_and_in_order_of_its_acceptance(self) -> None:
        assert len(set(self.begun)) == len(self.begun)
        for queue in (self.state.queue, self.state.steers):
            assert [w.ordinal for w in queue] == sorted(w.ordinal for w in queue)

    @invariant()
    def a_turn_is_ending_exactly_when_it_has_said_so(self) -> None:
        running = self.state.running
        assert self.state.ending == (running is not None and running.phase is Phase.SEALED)
        if running is not None and not self.state.ending:
            assert running.phase is Phase.RUNNING


TestWishes = Wishes.TestCase
TestWishes.settings = settings(max_examples=60, stateful_step_count=40)


@given(st.permutations([1, 2, 3, 4, 5]))
def test_the_queue_is_the_same_whatever_order_its_facts_became_durable_in(
    ordinals: list[int],
) -> None:
    state = evolved(IDLE, *(Queued(waiting(TurnId(f"t{n}"), n)) for n in ordinals))
    assert [w.ordinal for w in state.queue] == [1, 2, 3, 4, 5]
