"""Text that is folded in one go: what folding each piece gives."""

from hypothesis import given
from hypothesis import strategies as st

from dispatch.protocol.ahp.reduce import fold
from dispatch.protocol.ahp.running_fold import RunningFold
from dispatch.protocol.codec import Object

BEGUN: Object = {
    "resource": "ahp-chat:/c",
    "title": "",
    "status": 8,
    "modifiedAt": "",
    "turns": [],
    "activeTurn": {"id": "t", "message": {}, "responseParts": []},
}


def part(kind: str, name: str) -> Object:
    said = {"kind": kind, "id": name, "content": name}
    return {"type": "chat/responsePart", "turnId": "t", "part": said}


def piece(kind: str, name: str, text: str) -> Object:
    return {"type": f"chat/{kind}", "turnId": "t", "partId": name, "content": text}


ACTIONS = st.lists(
    st.one_of(
        st.builds(part, st.sampled_from(["markdown", "reasoning"]), st.sampled_from("ab")),
        st.builds(
            piece,
            st.sampled_from(["delta", "reasoning"]),
            st.sampled_from("abc"),
            st.text(max_size=3),
        ),
        st.just({"type": "chat/activityChanged", "activity": "busy"}),
        st.just({"type": "chat/turnComplete", "turnId": "t", "duration": 1}),
    ),
    max_size=30,
)


@given(ACTIONS, st.sets(st.integers(0, 30)))
def test_whenever_one_looks_the_state_is_that_of_folding_each_action(
    actions: list[Object], looks: set[int]
) -> None:
    running = RunningFold(BEGUN)
    for place, action in enumerate(actions):
        running.add(action)
        if place in looks:
            assert running.state == fold(BEGUN, actions[: place + 1])
    assert running.state == fold(BEGUN, actions)
