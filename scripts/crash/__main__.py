"""The story of `scripts/demo-crash`, from the first word to the proof.

Neighbours: `cast` has the processes, `stage` shows them, `proof` counts what came of it.
Invariant: however it ends, its processes are gone and so is its scratch directory.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
from rich.console import Console

from dispatch.client import Client
from dispatch.errors import DispatchError
from scripts.crash.cast import CONVERSATION, Changes, DaemonProcess, Device, Failed
from scripts.crash.proof import Proof, prove
from scripts.crash.stage import Stage, show, stage

FIRST: Final = (
    "This sentence is said slowly, one word after the other, so that you can watch it on two "
    "devices at once, and so that the daemon can be killed in the middle of it, without any "
    "warning, long before it has come to its end, which you will therefore never see."
)
SECOND: Final = (
    "And this message was waiting in the queue when the daemon died: it is answered now, once, "
    "though whoever sent it has long gone."
)
WORDS_BEFORE_KILL: Final = 24
# On a terminal alone: what happens has to be seen before the next thing does.
_LOOK_SECONDS: Final = 2.0


async def tell(
    stage: Stage, daemon: DaemonProcess, devices: Sequence[Device], changes: Changes
) -> tuple[Proof, list[tuple[str, float]]]:
    """Tell it once; the proof, and what took how many milliseconds."""
    first_ready = await daemon.start()
    stage.say(f"A daemon is up (pid {daemon.pid}).")
    async with anyio.create_task_group() as tasks:
        for device in devices:
            tasks.start_soon(device.watch, daemon.url)
        await changes.until(
            "both devices watch", lambda: all(d.status == "watching" for d in devices)
        )
        stage.say("Two devices watch one conversation. A third sends a message, queues another,")
        async with Client(daemon.url) as sender:
            await sender.send(FIRST, conversation_id=CONVERSATION)
            await sender.send(SECOND, conversation_id=CONVERSATION, on_busy="queue")
        stage.say("and leaves.")
        await changes.until(
            "both devices show the answer",
            lambda: all(d.words >= WORDS_BEFORE_KILL for d in devices),
        )
        daemon.kill()
        stage.say(f"kill -9 {daemon.pid}, in the middle of the answer.", is_drastic=True)
        await changes.until("both devices notice", lambda: all(d.reconnects_total for d in devices))
        # What was under way to a device when the daemon died has arrived: its stream has ended.
        shown_before = [list(device.shown) for device in devices]
        stage.devices()
        await _look(stage)
        restarted = time.monotonic()
        again_ready = await daemon.start()
        stage.say(f"The daemon is started again (pid {daemon.pid}), ready in {again_ready:.0f} ms.")
        await changes.until(
            "the interrupted turn is sealed", lambda: all(d.sealed for d in devices)
        )
        healed = (time.monotonic() - restarted) * 1000
        stage.say("Both devices are back; the message from the queue is answered.")
        await changes.until(
            "the queued message is answered", lambda: all(len(d.sealed) > 1 for d in devices)
        )
        stage.devices()
        proof = await prove(daemon.url, devices, shown_before, SECOND)
        tasks.cancel_scope.cancel()
    return proof, [
        ("ready at the first start", first_ready),
        ("ready again, recovery included", again_ready),
        ("and until both devices had the end of the turn", healed),
    ]


async def _look(stage: Stage) -> None:
    if stage.is_terminal:
        await anyio.sleep(_LOOK_SECONDS)


@asynccontextmanager
async def _interruptible() -> AsyncIterator[None]:
    """A signal ends the block as a failure does, so that it is left in good order."""

    async def listen() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                raise Failed(f"ended by {number.name}")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        yield
        tasks.cancel_scope.cancel()


async def main(console: Console) -> bool:
    """Whether all was proven."""
    changes = Changes()
    devices = [Device(name, changes) for name in ("laptop", "phone")]
    with tempfile.TemporaryDirectory(prefix="dispatch-demo-") as folder:
        daemon = DaemonProcess(Path(folder))
        try:
            async with _interruptible():
                with stage(devices, console) as shown:
                    proof, milliseconds = await tell(shown, daemon, devices, changes)
        finally:
            daemon.kill()
    show(proof, milliseconds, console)
    console.print(
        "\nNothing was lost and nothing came twice."
        if proof.holds
        else "\nThis did not hold. That is a defect of dispatch; please report it.",
        style="bold",
    )
    return proof.holds


def _failure(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """What one task of a group failed with is the failure."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="scripts/demo-crash", description="Two watchers, a kill -9, nothing lost."
    ).parse_args()
    try:
        sys.exit(0 if anyio.run(main, Console(highlight=False)) else 1)
    except BaseExceptionGroup as errors:
        failure = _failure(errors)
        if not isinstance(failure, Failed | DispatchError):
            raise
        print(f"demo-crash: {failure}", file=sys.stderr)
        sys.exit(1)
