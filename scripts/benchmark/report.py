"""What is printed and what is kept: tables in Markdown, all figures as JSON.

Neighbours: `__main__` hands over what the rounds gave, `aims` judges it.
Invariant: no figure is printed that is not in the JSON, with every single run it is the median of.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from scripts.benchmark import alone, rows
from scripts.benchmark.aims import Verdict, judge
from scripts.benchmark.generator import Figures

SERVERS: Final = ("dispatch", "naive", "Socket.IO", "C floor")
# Above this share of its time in the run queue, a process was kept from its core by others.
WAIT_SHARE_MAX: Final = 0.05


@dataclass(slots=True)
class Result:
    """Everything one run of the bench has found."""

    machine: dict[str, object]
    options: dict[str, object]
    skipped: list[str] = field(default_factory=list)
    runs: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, row: str, server: str, figures: Figures) -> None:
        """One more run."""
        self.runs.setdefault(row, {}).setdefault(server, []).append(figures)

    @property
    def medians(self) -> dict[str, dict[str, dict[str, float]]]:
        """Row, server, figure: the median over the rounds."""
        return {
            row: {server: _medians(runs) for server, runs in servers.items()}
            for row, servers in self.runs.items()
        }

    @property
    def ceilings(self) -> dict[str, float]:
        """What the generator could take in each row's shape, measured against the C floor."""
        medians = self.medians
        return {
            row.name: rows.ceiling(floor)
            for row in rows.ROWS
            if (floor := medians.get(row.name, {}).get("C floor"))
        }

    @property
    def invalid(self) -> set[tuple[str, str]]:
        """Rows and servers where the generator may be what was measured."""
        medians, ceilings = self.medians, self.ceilings
        return {
            (row.name, server)
            for row in rows.ROWS
            for server, figures in medians.get(row.name, {}).items()
            if rows.is_at_ceiling(row, figures, ceilings.get(row.name, 0.0))
        }

    def as_json(self) -> str:
        """All of it."""
        verdicts = [
            {**v.aim._asdict(), "measured": v.measured, "met": v.met, "valid": v.is_valid}
            for v in judge(self.medians, self.invalid)
        ]
        whole = {
            "machine": self.machine,
            "options": self.options,
            "skipped": self.skipped,
            "failures": self.failures,
            "aims": verdicts,
            "medians": self.medians,
            "generator_ceilings_per_s": self.ceilings,
            "invalid": sorted(map(list, self.invalid)),
            "runs": self.runs,
        }
        return json.dumps(whole, indent=1)


def _medians(runs: Sequence[Figures]) -> dict[str, float]:
    names = {name for figures in runs for name, value in figures.items() if _is_number(value)}
    return {
        name: statistics.median(f[name] for f in runs if _is_number(f.get(name)))
        for name in sorted(names)
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_text(result: Result) -> str:
    """The tables."""
    parts = [
        _machine(result),
        _beside(result),
        _alone(result),
        _verdicts(result),
        _notes(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(result: Result) -> str:
    told = result.machine
    return (
        f"{told['processor']}, {told['cores']} cores (server on one, generator on another), "
        f"kernel {told['kernel']}, Python {told['python']}, SQLite {told['sqlite']}, "
        f"node {told['node'] or 'absent'}; {told['filesystem']}, a small write and fdatasync "
        f"{told['fdatasync_us']} µs; commit {told['commit'] or 'unknown'}"
        f"{' with changes' if told['changed'] else ''}, {told['when']}; load average "
        f"{told['load_before']} before and {told['load_after']} after. "
        f"Medians of {result.options['rounds']} interleaved rounds, a fresh server each."
    )


def _beside(result: Result) -> str:
    medians, invalid = result.medians, result.invalid
    present = [s for s in SERVERS if any(s in servers for servers in medians.values())]
    header = ["row", *present, *(f"{s} ÷ ours" for s in present[1:]), "ours/s", "p50 / p99 ms"]
    lines = []
    for row in rows.ROWS:
        servers = medians.get(row.name)
        if not servers or row.alone:
            continue
        ours = servers.get("dispatch", {})
        cells = [f"{row.what} ({row.unit})"]
        for server in present:
            cells.append(
                _cell(servers.get(server, {}).get(row.figure), (row.name, server), invalid)
            )
        for server in present[1:]:
            theirs, own = servers.get(server, {}).get(row.figure), ours.get(row.figure)
            cells.append(f"{theirs / own:.2f}" if theirs and own else "-")
        cells += [_rate(ours), _latency(ours)]
        lines.append(cells)
    return _table(header, lines) if lines else ""


def _rate(figures: Mapping[str, float]) -> str:
    for name in ("deliv_s", "conn_per_s", "joins_s"):
        if name in figures:
            return f"{figures[name]:,.0f}"
    return "-"


def _latency(figures: Mapping[str, float]) -> str:
    for prefix in ("lat", "sub2full"):
        if f"{prefix}_p50_us" in figures:
            p50, p99 = figures[f"{prefix}_p50_us"] / 1000, figures[f"{prefix}_p99_us"] / 1000
            return f"{p50:.2f} / {p99:.2f}"
    return "-"


def _cell(value: float | None, place: tuple[str, str], invalid: set[tuple[str, str]]) -> str:
    if value is None:
        return "-"
    return f"{_number(value)}{' (invalid: generator)' if place in invalid else ''}"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


def _alone(result: Result) -> str:
    medians = result.medians
    lines = []
    for name, what, figure, unit in _own_rows():
        ours = medians.get(name, {}).get("dispatch")
        if ours and figure in ours:
            lines.append([what, f"{_number(ours[figure])} {unit}", _others(ours, figure)])
    return _table(["dispatch alone", "figure", "beside it"], lines) if lines else ""


def _own_rows() -> Iterable[tuple[str, str, str, str]]:
    for row in rows.ROWS:
        if row.alone:
            yield row.name, row.what, row.figure, row.unit
        elif row.figure == "cpu_us_per_conn":
            yield row.name, f"{row.what}: memory", "kb_per_conn", "KB each"
    for own in alone.ROWS:
        yield own.name, own.what, own.figure, own.unit


def _others(figures: Mapping[str, float], figure: str) -> str:
    told = (
        *("p99_ms", "seals_p50_ms", "turns_p50_ms", "events_per_commit", "cpu_us"),
        *("cpu_us_per_turn", "turn_p50_us", "turn_p99_us", "srv_util", "conn_per_s"),
        *("longest_cpu_ms", "longest_connecting_ms", "forced_full_ms", "kb_each", "cycles_each"),
        *("empty_ready_seconds", "first_turn_ms", "idle_cpu_pct"),
    )
    return ", ".join(
        f"{name} {_number(figures[name])}" for name in told if name in figures and name != figure
    )


def _verdicts(result: Result) -> str:
    verdicts = judge(result.medians, result.invalid)
    if result.options["quick"] or result.options["only"]:
        # What was not asked for needs no line that says so.
        verdicts = [verdict for verdict in verdicts if verdict.measured is not None]
    lines = [_judged(verdict) for verdict in verdicts]
    return _table(["aim", "measured", ""], lines) if lines else ""


def _judged(verdict: Verdict) -> list[str]:
    aim = verdict.aim
    sign = "≥" if aim.sense == "at least" else "≤"
    measured = "-" if verdict.measured is None else _number(verdict.measured)
    word = {True: "met", False: "MISSED", None: "not measured"}[verdict.met]
    if not verdict.is_valid:
        word = "invalid: the generator's ceiling"
    return [f"{aim.row}: {sign} {_number(aim.bound)} {aim.unit}", measured, word]


def _notes(result: Result) -> str:
    notes = [f"Skipped: {text}" for text in result.skipped]
    notes += [f"Failed: {text}" for text in result.failures]
    for row, servers in result.runs.items():
        for server, runs in servers.items():
            complaints = {f["complaint"] for f in runs if "complaint" in f}
            notes += [f"{row} on {server}: {text}" for text in sorted(complaints)]
    crowded = []
    for row, medians in result.medians.items():
        waited = [s for s, f in medians.items() if f.get("srv_wait", 0.0) > WAIT_SHARE_MAX]
        if waited:
            crowded.append(f"{row} ({', '.join(waited)})")
    if crowded:
        notes.append(
            f"The server waited for its core over {WAIT_SHARE_MAX:.0%} of the time, for others "
            "or for a thread of its own; rates there are too low and latencies too high, CPU "
            f"figures hold: {'; '.join(crowded)}."
        )
    return "\n".join(notes)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([row(header), rule, *(row(line) for line in lines)])


def compare(result: Result, baseline: Path) -> str:
    """Each of dispatch's figures as now / then."""
    then = json.loads(baseline.read_text("utf-8"))
    lines = []
    own = [(row.name, row.what, row.figure, row.unit) for row in rows.ROWS]
    own += [("accept", "memory of an idle connection", "kb_per_conn", "KB")]
    own += [("first-delta", "first durable delta, p99", "p99_ms", "ms")]
    own += [("broker-turns", "server CPU of a whole turn", "cpu_us_per_turn", "µs")]
    own += [(r.name, r.what, r.figure, r.unit) for r in alone.ROWS]
    for name, what, figure, unit in own:
        now = result.medians.get(name, {}).get("dispatch", {}).get(figure)
        before = then["medians"].get(name, {}).get("dispatch", {}).get(figure)
        if now is None or before is None:
            continue
        ratio = f"{now / before:.2f}" if before else "-"
        lines.append([f"{name}: {what} ({unit})", _number(before), _number(now), ratio])
    header = [f"against {baseline.name}", "then", "now", "now ÷ then"]
    return _table(header, lines) + "\nA difference under 15 % means nothing.\n"
