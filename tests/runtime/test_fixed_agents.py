"""In a group and in a chat session the agent is fixed, whatever dialect asks for another."""

import pytest

from dispatch.core.commands import TurnBody
from dispatch.core.identity import LOCAL, ConversationId
from dispatch.errors import AgentFixed
from dispatch.protocol.groups.requests import GroupCreate
from dispatch.protocol.sessions.requests import Create
from dispatch.storage.memory import MemoryStore
from dispatch.testing import Harness, ScriptedAgent, broker_on


def agents() -> list[ScriptedAgent]:
    return [ScriptedAgent("yes", name="ann"), ScriptedAgent("no", name="bob")]


async def fixed(broker: Harness, kind: str) -> ConversationId:
    """A conversation with bob, who is not the default."""
    if kind == "group":
        view = await broker.groups.groups.create(LOCAL, GroupCreate(members=("bob",)))
        return view.group.members[0].conversation
    session = await broker.chats.chats.create(LOCAL, Create(agent_key="bob"))
    return ConversationId(session.id)


@pytest.mark.parametrize("kind", ["group", "chat"])
async def test_a_message_for_another_agent_is_refused_and_changes_nothing(kind: str) -> None:
    async with broker_on(MemoryStore(), agents=agents()) as broker:
        conversation = await fixed(broker, kind)
        with pytest.raises(AgentFixed):
            await broker.send("hi", conversation, model="ann")
        with pytest.raises(AgentFixed):
            await broker.catalog.set_details(
                LOCAL, conversation, TurnBody(message="", model="ann/large")
            )
        assert await broker.texts(conversation) == []
        await broker.send("hi", conversation, model="bob/large")
        await broker.until_idle()
        assert await broker.texts(conversation) == [("user", "hi"), ("assistant", "no")]
