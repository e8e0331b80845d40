"""Adopting: every turn once, every child in its own order, whatever the clocks said."""

import unicodedata
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.adopt import ChildTurn, MergedPrompt, adopt, alignment
from dispatch.core.identity import TurnId

Told = tuple[str, int]

keys = st.lists(st.sampled_from("abc"), max_size=7)


def turns(agent: str, *prompts: Told) -> list[ChildTurn]:
    return [
        ChildTurn(
            turn=TurnId(f"{agent}{index}"),
            prompt=text,
            prompt_at_ms=at,
            reply=f"{agent} to {text}",
            reply_at_ms=at + 1,
        )
        for index, (text, at) in enumerate(prompts)
    ]


def told(merged: list[MergedPrompt]) -> list[tuple[str, int, tuple[str, ...] | None, list[str]]]:
    return [(m.text, m.at_ms, m.targets, [r.turn.turn for r in m.replies]) for m in merged]


@st.composite
def groups(draw: st.DrawFn) -> dict[str, list[ChildTurn]]:
    agents = draw(st.lists(st.sampled_from("wxyz"), unique=True, min_size=1))
    prompt = st.tuples(st.sampled_from(["a", " a", "b", "é", "e\u0301", ""]), st.integers(0, 5))
    return {agent: turns(agent, *draw(st.lists(prompt, max_size=6))) for agent in agents}


def longest(left: list[str], right: list[str]) -> list[tuple[int, int]]:
    """By trying all: the smallest list of pairs among the longest."""
    for size in range(min(len(left), len(right)), 0, -1):
        found = [
            list(zip(of, to, strict=True))
            for of in combinations(range(len(left)), size)
            for to in combinations(range(len(right)), size)
            if all(left[i] == right[j] for i, j in zip(of, to, strict=True))
        ]
        if found:
            return min(found)
    return []


@given(keys, keys)
def test_an_alignment_is_the_earliest_of_the_longest(left: list[str], right: list[str]) -> None:
    assert alignment(left, right) == longest(left, right)


def test_a_prompt_that_all_have_becomes_one_with_the_earliest_time() -> None:
    merged = adopt(["x", "y"], {"x": turns("x", ("hi", 5)), "y": turns("y", (" hi\n", 3))})
    assert told(merged) == [("hi", 3, None, ["y0", "x0"])]


def test_copies_that_are_stamped_late_still_align() -> None:
    late = turns("y", ("one", 900), ("two", 901))
    merged = adopt(["x", "y"], {"x": turns("x", ("one", 1), ("two", 2)), "y": late})
    assert told(merged) == [("one", 1, None, ["x0", "y0"]), ("two", 2, None, ["x1", "y1"])]


def test_a_prompt_that_not_all_have_names_its_targets_in_member_order() -> None:
    children = {"x": turns("x", ("a", 1)), "y": turns("y"), "z": turns("z", ("a", 0))}
    assert told(adopt(["x", "y", "z"], children)) == [("a", 0, ("x", "z"), ["z0", "x0"])]


def test_between_anchors_the_earlier_prompt_comes_first_and_ties_go_to_the_earlier_member() -> None:
    children = {
        "x": turns("x", ("start", 0), ("x1", 5), ("x2", 7), ("end", 9)),
        "y": turns("y", ("start", 0), ("y1", 4), ("y2", 7), ("end", 9)),
    }
    texts = [m.text for m in adopt(["x", "y"], children)]
    assert texts == ["start", "y1", "x1", "x2", "y2", "end"]


def test_replies_at_one_time_are_in_member_order() -> None:
    children = {"x": turns("x", ("a", 1)), "y": turns("y", ("a", 1))}
    assert told(adopt(["y", "x"], children))[0][3] == ["y0", "x0"]


def test_children_of_five_thousand_turns_are_adopted() -> None:
    one = [(f"{index % 700}", index) for index in range(5_000)]
    other = [(f"{index % 701}", index) for index in range(5_000)]
    merged = adopt(["x", "y"], {"x": turns("x", *one), "y": turns("y", *other)})
    assert sum(len(m.replies) for m in merged) == 10_000


@given(groups())
def test_every_turn_is_in_the_result_exactly_once(children: dict[str, list[ChildTurn]]) -> None:
    merged = adopt(list(children), children)
    found = sorted(reply.turn.turn for prompt in merged for reply in prompt.replies)
    assert found == sorted(turn.turn for child in children.values() for turn in child)


@given(groups())
def test_a_turn_is_under_its_own_prompt_at_its_earliest(
    children: dict[str, list[ChildTurn]],
) -> None:
    for prompt in adopt(list(children), children):
        copies = {
            unicodedata.normalize("NFC", reply.turn.prompt).strip() for reply in prompt.replies
        }
        assert copies == {unicodedata.normalize("NFC", prompt.text).strip()}
        assert prompt.at_ms == min(reply.turn.prompt_at_ms for reply in prompt.replies)
        assert len({reply.agent for reply in prompt.replies}) == len(prompt.replies)


@given(groups())
def test_a_child_keeps_its_order(children: dict[str, list[ChildTurn]]) -> None:
    merged = adopt(list(children), children)
    for agent, child in children.items():
        kept = [r.turn for prompt in merged for r in prompt.replies if r.agent == agent]
        assert kept == child


@given(groups())
def test_the_order_of_the_given_map_changes_nothing(
    children: dict[str, list[ChildTurn]],
) -> None:
    members = sorted(children)
    turned = dict(reversed(children.items()))
    assert adopt(members, turned) == adopt(members, children)
