"""Attacks over AHP: doors, other people's names and sessions, frames that are none.

A frame that is no message gets its error, the connection goes on, and nobody else notices.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.clients.ahp.ahp_client.client import ROOT, Client, client
from tests.clients.ahp.ahp_client.copies import Copy
from tests.clients.ahp.ahp_client.rpc import RpcError
from tests.clients.ahp.ahp_client.words import Json
from tests.clients.ahp.vscode.driver import vscode
from tests.e2e.ahp import created, seated, serving, turn_started
from tests.e2e.attackers import (
    GUARD_SECONDS,
    MEBIBYTE,
    auth,
    bystander,
    forget_peak,
    peak_mebibytes,
    token,
)
from tests.e2e.process import DaemonProcess

pytestmark = pytest.mark.timeout(60)

ALICE = token("a", "ann")
BOB = token("b", "bob")
# Far over what a connection may have waiting.
FLOOD_MEBIBYTES = 8
SLEEPERS = 30
PEOPLE = auth(("a", "ann", "watch send"), ("b", "bob", "watch send"))


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    async with serving(tmp_path_factory.mktemp("guarded"), PEOPLE) as one:
        yield one


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    async with serving(tmp_path_factory.mktemp("daemon")) as one:
        yield one


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[ClientConnection]:
    address = url.replace("http", "ws", 1) + "/ahp"
    async with connect(address, max_size=None, max_queue=None, compression=None) as socket:
        yield socket


async def answer(socket: ClientConnection) -> Any:
    with anyio.fail_after(GUARD_SECONDS):
        return json.loads(await socket.recv())


def hello(number: object = 1, **more: Any) -> dict[str, Any]:
    params = {"channel": ROOT, "protocolVersions": ["0.9.0"], "clientId": "window-1", **more}
    return {"jsonrpc": "2.0", "id": number, "method": "initialize", "params": params}


async def test_a_token_in_the_address_opens_the_door(guarded: DaemonProcess) -> None:
    async with client(guarded.url, token=ALICE) as window:
        await (await created(window, "alice")).ask("hello")
        await window.check()
    for wrong in (None, "wrong"):
        with pytest.raises(BaseExceptionGroup) as caught:
            async with client(guarded.url, token=wrong):
                pass
        (refused,) = caught.value.exceptions
        assert isinstance(refused, InvalidStatus)
        assert refused.response.status_code in (401, 403)
    assert ALICE not in guarded.log


async def test_vscode_comes_in_with_its_token(guarded: DaemonProcess) -> None:
    async with vscode("0.9") as one:
        await one.connect(guarded.url, token=ALICE)
        assert "alice" in [agent["provider"] for agent in (await one.do("root"))["agents"]]


async def test_a_session_of_somebody_else_is_not_there(guarded: DaemonProcess) -> None:
    async with client(guarded.url, token=ALICE) as ann, client(guarded.url, token=BOB) as bob:
        seat = await created(ann, "alice")
        turn = await seat.ask("mine")
        for channel in (seat.session.uri, seat.chat.uri):
            with pytest.raises(RpcError) as caught:
                await bob.request("subscribe", channel)
            assert caught.value.code == -32001
        for method, channel in (
            ("fetchTurns", seat.chat.uri),
            ("disposeChat", seat.chat.uri),
            ("disposeSession", seat.session.uri),
        ):
            with pytest.raises(RpcError):
                await bob.request(method, channel)
        await bob.send_action(seat.chat.uri, 1, turn_started("stolen", "not yours"))
        await bob.send_action(seat.chat.uri, 2, {"type": "chat/truncated"})
        assert (await bob.request("listSessions", ROOT))["items"] == []
        await ann.check()
        assert [one["id"] for one in seat.chat.confirmed["turns"]] == [turn["id"]]
        assert bob.notifications == []


async def test_a_name_belongs_to_the_credential_that_took_it(guarded: DaemonProcess) -> None:
    async with client(guarded.url, token=ALICE) as ann:
        seat = await created(ann, "alice")
        await seat.ask("mine")
        async with anyio.create_task_group() as tasks:
            bob = Client(tasks, guarded.url, "0.9.0", BOB)
            bob.client_id = ann.client_id
            await bob.open()
            params = {
                "clientId": ann.client_id,
                "lastSeenServerSeq": 0,
                "subscriptions": [seat.session.uri, seat.chat.uri],
            }
            with pytest.raises(RpcError) as caught:
                await bob.rpc.request("reconnect", params)
            assert caught.value.code == -32008
            await bob.rpc.socket.close()
        await seat.ask("still mine")
        await ann.check()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", -32700),
        ("", -32700),
        ("nonsense", -32700),
        ("[" * 1000 + "]" * 1000, -32700),
        ("[]", -32600),
        (json.dumps([{"jsonrpc": "2.0", "id": 1, "method": "ping"}] * 3), -32600),
        ("7", -32600),
        ('"ping"', -32600),
        ("null", -32600),
        ("{}", -32600),
        ('{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        ('{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        ('{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        ('{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600),
        ('{"jsonrpc":"2.0","id":99999999999999999999,"method":"ping"}', -32600),
        ('{"jsonrpc":"2.0","id":"%s","method":"ping"}' % ("x" * 200), -32600),
        ('{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', -32602),
        ('{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}', -32602),
    ],
    ids=lambda value: None if isinstance(value, int) else value[:40],
)
async def test_what_is_no_message_gets_its_error(
    daemon: DaemonProcess, text: str, code: int
) -> None:
    async with raw(daemon.url) as socket:
        await socket.send(text)
        told = await answer(socket)
        assert told["error"]["code"] == code
        assert told["jsonrpc"] == "2.0"
        await socket.send(json.dumps(hello()))
        assert (await answer(socket))["result"]["protocolVersion"] == "0.9.0"


async def test_ids_come_back_as_they_were(daemon: DaemonProcess) -> None:
    async with raw(daemon.url) as socket:
        for number in (0, -1, 2**53 - 1, "x", "x" * 128):
            ping = {"jsonrpc": "2.0", "id": number, "method": "ping", "params": {"channel": ROOT}}
            await socket.send(json.dumps(ping))
            assert await answer(socket) == {"jsonrpc": "2.0", "id": number, "result": None}


async def test_nothing_is_served_before_a_beginning_or_begun_twice(
    daemon: DaemonProcess,
) -> None:
    async with raw(daemon.url) as socket:
        early = {"jsonrpc": "2.0", "id": 1, "method": "listSessions", "params": {"channel": ROOT}}
        await socket.send(json.dumps(early))
        assert (await answer(socket))["error"]["code"] == -32601
        for number, is_refused in ((2, False), (3, True)):
            await socket.send(json.dumps(hello(number)))
            assert ("error" in await answer(socket)) == is_refused


async def test_a_version_that_is_not_served_is_told_what_is(daemon: DaemonProcess) -> None:
    for offered in (["0.4.0"], ["2.0.0"], ["nonsense"], []):
        async with raw(daemon.url) as socket:
            await socket.send(json.dumps(hello(protocolVersions=offered)))
            error = (await answer(socket))["error"]
            assert error["code"] == -32005
            assert error["data"]["supportedVersions"]
            with anyio.fail_after(GUARD_SECONDS), pytest.raises(ConnectionClosed):
                await socket.recv()


async def test_the_highest_served_offer_is_taken(daemon: DaemonProcess) -> None:
    for offered, taken in (
        (["0.5.1", "0.9.0", "0.7.0"], "0.9.0"),
        (["0.9.7", "0.6.0"], "0.9.7"),
        (["1.0.3", "0.9.0", "9.9.9"], "1.0.3"),
        (["0.8.0", "0.7.0", "0.6.0", "0.5.2", "0.5.1"], "0.7.0"),
    ):
        async with raw(daemon.url) as socket:
            await socket.send(json.dumps(hello(protocolVersions=offered)))
            assert (await answer(socket))["result"]["protocolVersion"] == taken


async def test_what_is_not_served_says_so(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        for method in ("createTerminal", "resourceRead", "moveChat", "runAutomation", "bogus"):
            with pytest.raises(RpcError) as caught:
                await window.request(method, ROOT)
            assert caught.value.code == -32601
        for method in ("resolveSessionConfig", "sessionConfigCompletions"):
            await window.request(method, ROOT, provider="alice", property="x")
        # What VS Code says on its own is no error.
        await window.rpc.notify("setClientManagedSettingsPermissions", {"permissions": {}})
        assert await window.request("ping", ROOT) is None


async def test_unknown_channels_are_passed_over(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        strange = ("", "x", "ahp-terminal:/1", "ahp-chat:/none", "alice:/none", "x" * 3000)
        for channel in strange:
            await window.send_action(channel, 1, turn_started("t", "hello"))
            await window.rpc.notify("unsubscribe", {"channel": channel})
            with pytest.raises(RpcError) as caught:
                await window.request("subscribe", channel)
            assert caught.value.code in (-32001, -32602)
        await seat.ask("hello")
        await window.check()


@pytest.mark.parametrize(
    "action",
    [
        None,
        7,
        [],
        {},
        {"type": 7},
        {"type": "chat/turnStarted"},
        {"type": "chat/turnStarted", "turnId": 1, "startedAt": "now", "message": "x"},
        {"type": "chat/turnStarted", "turnId": "t", "startedAt": None, "message": None},
        {"type": "chat/draftChanged", "draft": {"text": "\ud800", "origin": {"kind": "user"}}},
        {"type": "chat/pendingMessageSet", "kind": "other", "id": "q", "message": {}},
        {"type": "chat/queuedMessagesReordered", "order": [1, None, {}]},
        {"type": "session/titleChanged", "title": "x"},
        {"type": "root/agentsChanged", "agents": []},
    ],
    ids=lambda value: json.dumps(value)[:40],
)
async def test_an_action_that_is_none_changes_nothing(
    daemon: DaemonProcess, action: object
) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        before = seat.chat.confirmed
        params = {"channel": seat.chat.uri, "clientSeq": 1, "action": action}
        await window.rpc.send({"jsonrpc": "2.0", "method": "dispatchAction", "params": params})
        await window.check()
        assert seat.chat.confirmed == before
        await seat.ask("hello")
        await window.check()


@asynccontextmanager
async def sleeper(url: str, chat: str, name: str) -> AsyncIterator[tuple[int, Json]]:
    """Somebody who follows a chat and reads nothing more; the position and the first snapshot."""
    address = url.replace("http", "ws", 1) + "/ahp"
    # A queue of one: behind it the client's library leaves the rest to the connection.
    async with connect(address, max_size=None, max_queue=1, compression=None) as socket:
        await socket.send(json.dumps(hello(clientId=name)))
        begun = (await answer(socket))["result"]
        wish = {"jsonrpc": "2.0", "id": 2, "method": "subscribe", "params": {"channel": chat}}
        await socket.send(json.dumps(wish))
        yield begun["serverSeq"], (await answer(socket))["result"]["snapshot"]
        socket.transport.abort()


async def test_who_reads_nothing_costs_no_memory_and_comes_back(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "flood")
        async with AsyncExitStack() as stack:
            for number in range(SLEEPERS):
                one = sleeper(daemon.url, seat.chat.uri, f"sleeper-{number}")
                position, snapshot = await stack.enter_async_context(one)
            before = forget_peak(daemon)
            turn = await seat.ask(str(FLOOD_MEBIBYTES))
            grown = peak_mebibytes(daemon) - before
        await window.check()
        assert turn["state"] == "complete"
        assert len(seat.chat.text(turn["id"])) == FLOOD_MEBIBYTES * MEBIBYTE
        # Kept for each of them alone it would be all of it, and more.
        assert grown < 0.75 * SLEEPERS * FLOOD_MEBIBYTES
        async with anyio.create_task_group() as tasks:
            again = Client(tasks, daemon.url, "0.9.0", None)
            again.client_id, again.server_seq = f"sleeper-{SLEEPERS - 1}", position
            copy = again.copies[seat.chat.uri] = Copy(seat.chat.uri, (0, 9, 0), again.client_id)
            copy.begin(snapshot)
            await again.reconnect()
            await again.check()
            assert copy.confirmed == seat.chat.confirmed
            await again.rpc.socket.close()


async def test_ten_thousand_subscriptions_are_bounded_and_harm_nobody(
    daemon: DaemonProcess,
) -> None:
    async with client(daemon.url) as honest, bystander(daemon.url) as watch:
        seat = await created(honest, "alice")
        async with raw(daemon.url) as socket:
            await socket.send(json.dumps(hello()))
            await answer(socket)
            told = 0

            async def read() -> None:
                nonlocal told
                try:
                    async for _ in socket:
                        told += 1
                except ConnectionClosed:
                    pass

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                for number in range(10_000):
                    params = {"channel": seat.chat.uri if number % 2 else f"ahp-chat:/{number}"}
                    wish = {"jsonrpc": "2.0", "id": number, "method": "subscribe", "params": params}
                    try:
                        await socket.send(json.dumps(wish))
                    except ConnectionClosed:
                        break
                await seat.ask("hello")
                await honest.check()
                await socket.close()
        again = await seated(honest, seat.session.uri)
        await again.ask("again")
        await honest.check()
    # What a person would notice; a shared machine stalls for less.
    assert watch.worst < 5.0
    assert "Traceback" not in daemon.log
