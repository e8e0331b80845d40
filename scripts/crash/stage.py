"""How it is shown: two devices side by side on a terminal, prefixed lines in a pipe.

Neighbours: `__main__` tells what happens, `cast.Device` has what each device shows.
Invariant: both show the same facts; only the first one moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from scripts.crash.cast import Device
from scripts.crash.proof import Proof

STYLES: Final = ("cyan", "magenta")
# Often enough for words to flow.
_FRAMES_PER_SECOND: Final = 15
# Both answers of the longest story, so that nothing jumps.
_PANEL_LINES: Final = 9


class Stage(Protocol):
    """Where the story is told."""

    is_terminal: bool

    def say(self, text: str, *, is_drastic: bool = False) -> None:
        """Something happens."""
        ...

    def devices(self) -> None:
        """Something worth showing has happened to the devices."""
        ...


class Terminal:
    """For people: the devices side by side, what happens above them."""

    is_terminal = True

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = devices
        self._told: list[Text] = []

    def say(self, text: str, *, is_drastic: bool = False) -> None:
        """Something happens."""
        self._told.append(Text(text, style="bold red" if is_drastic else ""))

    def devices(self) -> None:
        """They are drawn all the time."""

    def draw(self) -> RenderableType:
        """One picture."""
        screens = Table.grid(expand=True, padding=(0, 1))
        for _ in self._devices:
            screens.add_column(ratio=1)
        panels = [_screen(d, style) for d, style in zip(self._devices, STYLES, strict=True)]
        screens.add_row(*panels)
        return Group(*self._told, screens)


class Lines:
    """For a pipe: a line for each thing that happens, and for what each device shows then."""

    is_terminal = False

    def __init__(self, devices: Sequence[Device], console: Console) -> None:
        self._devices = devices
        self._console = console
        self._shown: dict[tuple[str, str], int] = {}

    def say(self, text: str, *, is_drastic: bool = False) -> None:
        """Something happens."""
        self._line("demo", text)

    def devices(self) -> None:
        """What each has shown since the last time, and how it is."""
        for device in self._devices:
            for turn, text in device.texts.items():
                already = self._shown.get((device.name, turn), 0)
                if more := text[already:].strip():
                    self._line(device.name, ("... " if already else "") + more)
                self._shown[device.name, turn] = len(text)
            self._line(device.name, f"({device.status})")

    def _line(self, who: str, text: str) -> None:
        self._console.print(f"{who:<7}| {text}", soft_wrap=True, markup=False, highlight=False)


@contextmanager
def stage(devices: Sequence[Device], console: Console) -> Iterator[Stage]:
    """The one that suits where the output goes."""
    if not console.is_terminal:
        yield Lines(devices, console)
        return
    terminal = Terminal(devices)
    with Live(get_renderable=terminal.draw, console=console, refresh_per_second=_FRAMES_PER_SECOND):
        yield terminal


def show(proof: Proof, milliseconds: Sequence[tuple[str, float]], console: Console) -> None:
    """The end: what holds, with its figures."""
    console.print()
    for sentence, is_so in proof.checks:
        mark = Text("proven  " if is_so else "NOT SO  ", style="green" if is_so else "bold red")
        console.print(mark + Text(sentence))
    console.print()
    times = [(what, f"{took:,.0f} ms") for what, took in milliseconds]
    for what, value in (*proof.figures, *times):
        console.print(Text(f"{what:<48}") + Text(value, style="bold"))


def _screen(device: Device, style: str) -> Panel:
    text = Text()
    for turn, answer in device.texts.items():
        text.append(answer.strip() or "...")
        reason = device.reasons.get(turn)
        text.append("" if reason in (None, "stop") else f"  ({reason})", style="yellow")
        text.append("\n\n")
    return Panel(
        text, title=device.name, subtitle=device.status, border_style=style, height=_PANEL_LINES + 2
    )
