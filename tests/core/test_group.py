"""What a group is beside its rows: members, titles, and what changes make of them."""

from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.group import (
    FormerMember,
    Group,
    Member,
    decode_group,
    deduplicated,
    encode_group,
    with_members,
)
from dispatch.core.identity import ConversationId

NAMES = st.lists(st.sampled_from(["ann", "bob", "cy", "d e"]), min_size=1, unique=True)


def group(*agents: str, title: str | None = None) -> Group:
    members = tuple(Member(agent, ConversationId(f"c-{agent}")) for agent in agents)
    return Group(members=members, title=title, session="s")


def conversations(*agents: str) -> dict[str, ConversationId]:
    return {agent: ConversationId(f"new-{agent}") for agent in agents}


def test_a_title_spells_out_two_names() -> None:
    assert group("ann").shown_title == "ann"
    assert group("ann", "bob").shown_title == "ann & bob"
    assert group("ann", "bob", "cy").shown_title == "ann, bob +1"
    assert group("ann", "bob", "cy", "dan").shown_title == "ann, bob +2"
    assert group("ann", title="Us").shown_title == "Us"
    assert group("ann", title="").shown_title == ""


def test_who_leaves_is_a_former_member_and_comes_back_as_somebody_new() -> None:
    left = with_members(group("ann", "bob"), ["ann"], {}, 7)
    assert left.former == (FormerMember("bob", ConversationId("c-bob"), 7),)
    back = with_members(left, ["bob", "ann"], conversations("bob"), 8)
    assert [member.conversation for member in back.members] == ["new-bob", "c-ann"]
    assert back.former == left.former
    assert back.conversations() == ["new-bob", "c-ann", "c-bob"]


def test_that_a_conversation_was_adopted_is_remembered_when_its_agent_leaves() -> None:
    adopted = Group(
        members=(Member("ann", ConversationId("c"), True), Member("bob", ConversationId("d")))
    )
    (former,) = with_members(adopted, ["bob"], {}, 1).former
    assert former.is_adopted


@given(NAMES, st.lists(st.sampled_from(["ann", "bob", "cy", "d e"]), min_size=1))
def test_members_are_exactly_who_is_wanted_in_that_order_each_once(
    before: list[str], wanted: list[str]
) -> None:
    was = group(*before)
    fresh = conversations(*(agent for agent in wanted if agent not in before))
    now = with_members(was, wanted, fresh, 1)
    assert tuple(member.agent for member in now.members) == deduplicated(wanted)
    for member in now.members:
        kept = was.member(member.agent)
        assert member.conversation == (kept.conversation if kept else fresh[member.agent])
    assert {former.agent for former in now.former} == set(before) - set(wanted)
    assert decode_group(encode_group(now)) == now
