"""Processes of ACP agents between turns: kept, reaped, and what the next one is told."""

import json
import os
from pathlib import Path

import anyio
import msgspec
import pytest

from dispatch.agents.acp.records import RECORDS_MAX, Record, Records
from dispatch.agents.port import AgentFailure
from dispatch.core.content import (
    ErrorChunk,
    ImageChunk,
    StoredLine,
    System,
    Text,
    Thinking,
    ToolCallChunk,
    ToolResultChunk,
)
from dispatch.core.identity import AccountId, ConversationId, TurnId
from tests.agents.acp_hosting import (
    POLL_SECONDS,
    Conversation,
    build,
    hosted,
    is_alive,
    until_gone,
)
from tests.contract.agent import GUARD_SECONDS, Listener, is_text, run_turn

BRIEFLY = 0.1

HISTORY = [StoredLine("user", Text("what was asked")), StoredLine("assistant", Text("answered"))]


async def pid_of(talk: Conversation, **fields: object) -> int:
    return int(await talk.say("pid", **fields))


async def test_a_process_is_kept_for_its_conversation(tmp_path: Path) -> None:
    async with hosted(build(tmp_path)) as agent:
        talk = Conversation(agent)
        assert await pid_of(talk) == await pid_of(talk)
        assert await pid_of(Conversation(agent, "another")) != await pid_of(talk)


async def test_accounts_share_no_process(tmp_path: Path) -> None:
    """The id of a conversation is unique in its account alone."""
    async with hosted(build(tmp_path)) as agent:
        ours = Conversation(agent, account=AccountId("ours"))
        theirs = Conversation(agent, account=AccountId("theirs"))
        assert await pid_of(ours) != await pid_of(theirs)
        await ours.say("secret")
        assert "secret" not in await theirs.say("recall")


async def test_accounts_share_no_session_that_is_loaded(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, store=tmp_path, idle_seconds=0)) as agent:
        await Conversation(agent, account=AccountId("ours")).say("secret")
        theirs = Conversation(agent, account=AccountId("theirs"))
        theirs.last = TurnId("conversation-1-turn-1")
        assert json.loads(await theirs.say("recall")) == []


async def test_turns_of_one_conversation_wait_for_each_other(tmp_path: Path) -> None:
    async with hosted(build(tmp_path)) as agent:
        talk = Conversation(agent)
        requests = [talk.turn(f"m{number}") for number in range(5)]
        heard = {}

        async def one(number: int) -> None:
            heard[number] = (await run_turn(agent, requests[number])).text

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(one, number)
        assert heard == {number: f"m{number}" for number in range(5)}
        assert len(json.loads(await talk.say("recall"))) == 5


async def test_an_idle_process_is_ended_after_its_time(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, idle_seconds=BRIEFLY)) as agent:
        talk = Conversation(agent)
        pid = await pid_of(talk)
        await until_gone(pid)
        assert await pid_of(talk) != pid


async def test_a_process_at_work_is_not_idle(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, idle_seconds=BRIEFLY)) as agent:
        talk, listener = Conversation(agent), Listener()
        await talk.say("one")
        request = talk.turn("wait")
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(agent.run, request, listener)
                await listener.until(is_text)
                pid = int(listener.text.split()[1])
                # Several times as long as it would be kept.
                await anyio.sleep(5 * BRIEFLY)
                assert is_alive(pid)
                tasks.cancel_scope.cancel()


async def test_nothing_is_kept_where_the_time_is_nothing(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, idle_seconds=0)) as agent:
        assert not is_alive(await pid_of(Conversation(agent)))


async def test_the_one_that_was_idle_longest_makes_room(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, processes_max=2)) as agent:
        first, second, third = (Conversation(agent, name) for name in "abc")
        pids = [await pid_of(first), await pid_of(second)]
        assert await pid_of(first) == pids[0]
        await pid_of(third)
        await until_gone(pids[1])
        assert await pid_of(first) == pids[0]


async def test_those_at_work_are_not_ended_to_make_room(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, processes_max=1)) as agent:
        listener = Listener()
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(agent.run, Conversation(agent, "a").turn("wait"), listener)
                await listener.until(is_text)
                busy = int(listener.text.split()[1])
                other = await pid_of(Conversation(agent, "b"))
                await until_gone(other)
                assert is_alive(busy)
                tasks.cancel_scope.cancel()


async def test_a_process_that_ended_by_itself_is_started_anew(tmp_path: Path) -> None:
    source = """
        import threading, time
        def prompt(text, blocks):
            say(str(os.getpid()))
            if text == "leave": threading.Thread(target=lambda: os._exit(3)).start()
    """
    async with hosted(build(tmp_path, source)) as agent:
        talk = Conversation(agent)
        pid = int((await run_until_text(talk, "leave")).text)
        await until_gone(pid)
        assert int(await talk.say("x")) != pid


async def run_until_text(talk: Conversation, message: str) -> Listener:
    """Run a turn whose agent may be gone before its answer."""
    listener = Listener()
    try:
        await talk.run(message, listener)
    except AgentFailure:
        assert listener.text
    return listener


# ---------------------------------------------------------------- what the next one is told


async def test_a_new_session_is_given_the_transcript_once(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, processes_max=1)) as agent:
        talk = Conversation(agent)
        pid = await pid_of(talk)
        talk.lines = HISTORY
        assert [block["text"] for block in await talk.told()] == ["blocks"]
        await Conversation(agent, "that makes it go").say("x")
        await until_gone(pid)
        before, message = await talk.told()
        assert message == {"type": "text", "text": "blocks"}
        assert "User: what was asked\n\nAssistant: answered" in before["text"]
        assert [block["text"] for block in await talk.told()] == ["blocks"]


async def test_a_transcript_tells_everything_that_is_kept(tmp_path: Path) -> None:
    async with hosted(build(tmp_path)) as agent:
        talk = Conversation(agent)
        talk.lines = [
            StoredLine("system", System("be kind")),
            StoredLine("user", Text("find it\n\nnow")),
            StoredLine("user", ImageChunk("data:image/png;base64,AAAA")),
            StoredLine("user", ImageChunk("https://x.example/a.png")),
            StoredLine("assistant", Thinking("secretly")),
            StoredLine("assistant", ToolCallChunk("1", "find", b'{"name":"x"}')),
            StoredLine("tool", ToolResultChunk("1", "find", "none", is_error=True)),
            StoredLine("assistant", ErrorChunk("came apart", "agent_failed")),
        ]
        before, _ = await talk.told()
    said = before["text"].split("\n\n")
    assert said[1:-1] == [
        "System: be kind",
        "User: find it",
        "now",
        "User: (a picture)",
        "User: (see https://x.example/a.png)",
        'Assistant used a tool: find {"name":"x"}',
        "find failed: none",
        "The turn failed: came apart",
    ]


async def test_a_reaped_process_is_resumed_by_the_agents_own_session(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, store=tmp_path, idle_seconds=0)) as agent:
        talk = Conversation(agent)
        await talk.say("one")
        talk.lines = HISTORY
        heard = await talk.run("recall")
        assert heard.text == '["one"]', "and nothing of what was replayed"
        assert len(await talk.told()) == 1, "and no transcript"


async def test_a_crashed_process_is_resumed_by_the_agents_own_session(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, store=tmp_path)) as agent:
        talk = Conversation(agent)
        await talk.say("one")
        with pytest.raises(AgentFailure):
            await talk.say("crash")
        assert await talk.say("recall") == '["one"]'


async def test_a_session_outlives_a_restart(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, store=tmp_path)) as agent:
        talk = Conversation(agent)
        await talk.say("one")
    async with hosted(build(tmp_path, store=tmp_path)) as agent:
        talk.agent = agent
        assert await talk.say("recall") == '["one"]'


async def test_a_session_that_cannot_be_loaded_is_replaced_with_the_transcript(
    tmp_path: Path,
) -> None:
    async with hosted(build(tmp_path, store=tmp_path, idle_seconds=0)) as agent:
        talk = Conversation(agent)
        await talk.say("one")
        for path in tmp_path.glob("session-*"):
            path.unlink()
        talk.lines = HISTORY
        assert len(await talk.told()) == 2


@pytest.mark.parametrize("how", ["sys.exit('cannot load')", "wait_for_cancel()"])
async def test_an_agent_that_comes_apart_while_it_loads_is_begun_anew(
    tmp_path: Path, how: str
) -> None:
    source = f"""
        def load_session(params): {how}
        def prompt(text, blocks): say(json.dumps(blocks))
    """
    options = {"store": tmp_path, "start_seconds": 1, "stop_grace_seconds": 0.2}
    async with hosted(build(tmp_path, source, idle_seconds=0, **options)) as agent:
        talk = Conversation(agent)
        await talk.say("one")
        talk.lines = HISTORY
        assert len(await talk.told()) == 2


async def test_a_session_that_never_took_the_transcript_is_not_loaded(tmp_path: Path) -> None:
    source = """
        def prompt(text, blocks):
            if text == "fail": raise LookupError("no")
            say(json.dumps(blocks))
    """
    async with hosted(build(tmp_path, source, store=tmp_path, idle_seconds=0)) as agent:
        talk = Conversation(agent)
        talk.lines = HISTORY
        with pytest.raises(AgentFailure):
            await talk.say("fail")
        assert len(await talk.told()) == 2


@pytest.mark.parametrize("idle_seconds", [0, 600])
async def test_a_turn_that_only_failed_costs_no_session(
    tmp_path: Path, idle_seconds: float
) -> None:
    """It is no part of the conversation; the turn before it is the one to follow."""
    source = """
        known = prompt
        def prompt(text, blocks):
            if text == "fail": raise LookupError("no")
            return known(text, blocks)
    """
    options = {"store": tmp_path, "idle_seconds": idle_seconds}
    async with hosted(build(tmp_path, source, **options)) as agent:
        talk = Conversation(agent)
        await talk.say("one")
        last = talk.last
        for fields in ({}, {"model": "none"}):
            with pytest.raises(AgentFailure):
                await talk.run("fail", **fields)
            talk.last = last
        assert await talk.say("recall") == '["one"]'


async def test_a_process_that_ends_while_its_turn_is_prepared_is_told_as_such(
    tmp_path: Path,
) -> None:
    async with hosted(build(tmp_path)) as agent:
        talk = Conversation(agent, "a")
        listener = Listener()
        request = talk.turn("x")

        async def history() -> list[StoredLine]:
            (pid,) = agents_processes(tmp_path)
            os.kill(pid, 9)
            await until_gone(pid)
            # What follows from it happens in other tasks.
            while agents_processes(tmp_path):
                await anyio.sleep(POLL_SECONDS)
            return []

        with pytest.raises(AgentFailure, match="was ended by signal 9"):
            await run_turn(agent, msgspec.structs.replace(request, history=history), listener)
        assert await talk.say("on") == "on"


def agents_processes(folder: Path) -> list[int]:
    """The processes that the ledger holds."""
    return [json.loads(path.read_bytes())["pid"] for path in (folder / "processes").glob("*.json")]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"session":1}', None])
async def test_a_damaged_record_costs_a_transcript(tmp_path: Path, damage: bytes | None) -> None:
    async with hosted(build(tmp_path, store=tmp_path, idle_seconds=0)) as agent:
        talk = Conversation(agent)
        await talk.say("one")
        (record,) = (tmp_path / "sessions").iterdir()
        record.unlink()
        if damage is not None:
            record.write_bytes(damage)
        talk.lines = HISTORY
        assert len(await talk.told()) == 2


@pytest.mark.parametrize("idle_seconds", [0, 600])
async def test_a_session_that_missed_a_turn_is_not_continued(
    tmp_path: Path, idle_seconds: float
) -> None:
    """Another agent had a turn, or turns were taken back."""
    async with hosted(build(tmp_path, store=tmp_path, idle_seconds=idle_seconds)) as agent:
        talk = Conversation(agent)
        await talk.say("one")
        talk.last = TurnId("a-turn-of-another-agent")
        talk.lines = HISTORY
        assert len(await talk.told()) == 2
        assert len(await talk.told()) == 1


async def test_a_new_session_whose_prompt_failed_is_told_the_transcript_again(
    tmp_path: Path,
) -> None:
    source = """
        def prompt(text, blocks):
            if text == "fail": raise LookupError("no")
            say(json.dumps(blocks))
    """
    async with hosted(build(tmp_path, source)) as agent:
        talk = Conversation(agent)
        talk.lines = HISTORY
        with pytest.raises(AgentFailure):
            await talk.say("fail")
        assert len(await talk.told()) == 2
        assert len(await talk.told()) == 1


async def test_a_disk_that_takes_no_records_fails_no_turn(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("in the way")
    async with hosted(build(tmp_path)) as agent:
        assert await Conversation(agent).say("on") == "on"


# ---------------------------------------------------------------- where it works

WHERE = "def prompt(text, blocks): say(json.dumps([os.getcwd(), os.getpid(), len(blocks)]))"


async def test_a_conversation_stays_where_a_turn_put_it(tmp_path: Path) -> None:
    work, other = tmp_path / "work", tmp_path / "other"
    work.mkdir()
    other.mkdir()
    async with hosted(build(tmp_path, WHERE, cwd_roots=[str(tmp_path)])) as agent:
        talk = Conversation(agent)
        talk.lines = HISTORY
        first = await talk.told(cwd=str(work))
        assert first[0] == str(work)
        assert await talk.told() == [*first[:2], 1]
        assert await talk.told(cwd=str(work)) == [*first[:2], 1]
        moved = await talk.told(cwd=str(other))
        assert moved[0] == str(other)
        assert moved[1] != first[1]
        assert moved[2] == 2


async def test_a_conversation_stays_where_it_was_across_a_restart(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    options = {"cwd_roots": [str(tmp_path)], "store": tmp_path}
    async with hosted(build(tmp_path, WHERE, **options)) as agent:
        talk = Conversation(agent)
        await talk.told(cwd=str(work))
    async with hosted(build(tmp_path, WHERE, **options)) as agent:
        talk.agent = agent
        assert (await talk.told())[0] == str(work)
    async with hosted(build(tmp_path, WHERE, store=tmp_path, cwd=str(tmp_path))) as agent:
        # It may not be used any more.
        talk.agent = agent
        assert (await talk.told())[0] == str(tmp_path)


async def test_a_directory_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, WHERE, cwd_roots=[str(tmp_path)])) as agent:
        talk = Conversation(agent)
        for _ in range(2):
            with pytest.raises(AgentFailure) as failure:
                await talk.run("x", cwd="/")
            assert failure.value.code == "cwd_refused"
            await talk.run("x")


# ---------------------------------------------------------------- the records

OWNER = ("agent", AccountId("a"), ConversationId("c"))


async def test_records_are_told_apart_by_all_of_their_owner(tmp_path: Path) -> None:
    records = Records(tmp_path / "sessions")
    owners = [("x", "a", "c"), ("x", "a", "C"), ("x", "b", "c"), ("y", "a", "c"), ("x", "ac", "")]
    for number, owner in enumerate(owners):
        await records.write(owner, Record(str(number), TurnId("t"), "/"))
    found = [(await records.read(owner)).session for owner in owners]
    assert found == [str(number) for number in range(len(owners))]


async def test_the_newest_records_are_kept_when_there_are_too_many(tmp_path: Path) -> None:
    for number in range(RECORDS_MAX + 5):
        (tmp_path / f"{number}.json").touch()
    records = Records(tmp_path)
    await records.write(OWNER, Record("s", TurnId("t"), "/"))
    assert len(list(tmp_path.iterdir())) == RECORDS_MAX + 1
    assert await records.read(OWNER) == Record("s", TurnId("t"), "/")
