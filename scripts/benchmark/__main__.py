"""The bench itself: options, rounds, order, and where the results go.

Neighbours: `rows` and `alone` are what is measured, `report` what is made of it.
Invariant: rounds are interleaved (every server of a row, then again), so that a busy minute of the
machine falls on all of them alike.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from scripts.benchmark import alone, machine, report, rivals, rows
from scripts.benchmark.generator import Failed, Figures, Generator, Missing
from scripts.benchmark.report import Result

RESULTS: Final = machine.ROOT / "bench-results"
# What 10,000 connections and a daemon's own files need.
OPEN_FILES_MIN: Final = 10_500

Made = TypeVar("Made")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure dispatch beside a naive broker, Socket.IO and a C server.",
    )
    parser.add_argument("--quick", action="store_true", help="dispatch alone, in three minutes")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="compare with these results")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--only", metavar="PATTERN", help="rows whose name matches, e.g. 'late-*'")
    parser.add_argument("--servers", metavar="NAMES", help="comma list, e.g. 'dispatch,C floor'")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR", help="for results")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    """One run of everything that was asked for."""

    def __init__(self, options: argparse.Namespace, scratch: Path, files: int) -> None:
        """Find out what can be had here."""
        self._options = options
        self._scratch = scratch
        wanted = {name.strip() for name in (options.servers or "").split(",") if name.strip()}
        self._wanted = wanted or ({"dispatch"} if options.quick else set(report.SERVERS))
        self.result = Result(
            machine=machine.describe(scratch, files),
            options={"rounds": options.rounds, "quick": options.quick, "only": options.only},
        )
        if machine.SERVER_CORE is None:
            self._skip("pinning: server and generator share what cores there are")
        if files < OPEN_FILES_MIN:
            self._skip(f"rows of 10,000 connections may fail: only {files} files may be open")
        self._generator = self._have(Generator)
        self._servers: dict[str, rivals.Start | None] = {}
        if self._generator is None:
            self._skip("every row beside other servers, and broker-turns: they need wsload")
        else:
            self._find_servers()

    def _find_servers(self) -> None:
        makers: dict[str, Callable[[], rivals.Start]] = {
            "naive": rivals.naive,
            "Socket.IO": rivals.socket_io,
            "C floor": rivals.c_floor,
        }
        for name in report.SERVERS:
            if name not in self._wanted:
                continue
            if name == "dispatch":
                self._servers[name] = None
            elif (start := self._have(makers[name])) is not None:
                self._servers[name] = start

    def _have(self, make: Callable[[], Made]) -> Made | None:
        try:
            return make()
        except Missing as missing:
            self._skip(str(missing))
            return None

    def _skip(self, text: str) -> None:
        self.result.skipped.append(text)
        _say(f"skipped: {text}")

    def run(self) -> None:
        """All rows, row by row, so that what is compared was measured within minutes."""
        for row in rows.ROWS:
            if self._generator is not None and self._is_wanted(row.name, quick=row.quick):
                self._row(row, self._generator)
        if "dispatch" in self._wanted:
            for own in alone.ROWS:
                if self._is_wanted(own.name, quick=own.rounds_quick > 0):
                    self._alone(own)

    def _is_wanted(self, name: str, *, quick: bool) -> bool:
        if self._options.only is not None:
            return any(fnmatch(name, pattern) for pattern in self._options.only.split(","))
        return quick or not self._options.quick

    def _row(self, row: rows.Row, generator: Generator) -> None:
        shape = rows.quick(row) if self._options.quick else row
        for round_number in range(1, self._options.rounds + 1):
            for name, start in self._servers.items():
                if rows.is_for(row, name):
                    self._measure(
                        row.name,
                        name,
                        f"{round_number}/{self._options.rounds}",
                        partial(rows.measure, shape, generator, start, self._scratch),
                        row.figure,
                    )

    def _alone(self, own: alone.AloneRow) -> None:
        most = own.rounds_quick if self._options.quick else own.rounds
        rounds = max(1, min(most, self._options.rounds))
        for round_number in range(1, rounds + 1):
            self._measure(
                own.name,
                "dispatch",
                f"{round_number}/{rounds}",
                partial(own.measure, self._scratch),
                own.figure,
            )

    def _measure(
        self, row: str, server: str, turn: str, measure: Callable[[], Figures], figure: str
    ) -> None:
        began = time.monotonic()
        try:
            figures = measure()
        except (Failed, OSError) as failure:
            self.result.failures.append(f"{row} on {server}: {failure}")
            _say(f"{row:>18} {server:>10} {turn}: FAILED: {failure}")
            return
        self.result.add(row, server, figures)
        if figures.get("seqerr"):
            # A gap or a duplicate is no figure, it is a defect.
            self.result.failures.append(f"{row} on {server}: {figures['complaint']}")
        told = figures.get(figure)
        _say(f"{row:>18} {server:>10} {turn}: {figure} {told} ({time.monotonic() - began:.1f} s)")


def main() -> int:
    """Measure, print, keep."""
    options = _options()
    # So that `finally` removes what was made; the servers die with this process in any case.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.list:
        named = [(row.name, row.what) for row in rows.ROWS]
        named += [(own.name, own.what) for own in alone.ROWS]
        for name, what in named:
            print(f"{name:>18}  {what}")
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    # Results are of one machine and one minute: they are not part of the tree.
    (options.output / ".gitignore").write_text("*\n")
    files = machine.raise_file_limit()
    machine.pin_this(machine.GENERATOR_CORE)
    scratch = machine.scratch(options.output)
    began = time.monotonic()
    try:
        bench = Bench(options, scratch, files)
        bench.run()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    result = bench.result
    result.machine["load_after"] = round(os.getloadavg()[0], 2)
    result.options["took_seconds"] = round(time.monotonic() - began, 1)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    text = report.as_text(result)
    is_whole = not (options.quick or options.only or options.servers)
    # `last` is what the README shows: only a whole run may replace it.
    for name in (f"bench-{stamp}", *(("last",) if is_whole else ())):
        (options.output / f"{name}.json").write_text(result.as_json())
        (options.output / f"{name}.md").write_text(text)
    print(text)
    if options.baseline is not None:
        print(report.compare(result, options.baseline))
    print(
        f"All runs: {options.output / f'bench-{stamp}.json'} ({result.options['took_seconds']} s)"
    )
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
