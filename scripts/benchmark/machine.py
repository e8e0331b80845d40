"""The machine under the figures: which core is whose, how many files, what the disk does.

Neighbours: `generator`, `rivals` and `dispatched` start their processes with `pinned`; `report`
prints what `describe` says.
Invariant: whatever a figure depends on and this program cannot choose is written beside it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SHARED_BENCH: Final = ROOT.parent / "shared" / "bench"

_sync: Final = getattr(os, "fdatasync", os.fsync)
_SYNC_WRITES: Final = 200
_PR_SET_PDEATHSIG: Final = 1
# Loaded here, because nothing may be loaded between fork and exec.
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None
_MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


def _available() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return []


_CORES: Final = _available()
SERVER_CORE: Final = _CORES[0] if len(_CORES) > 1 else None
GENERATOR_CORE: Final = _CORES[-1] if len(_CORES) > 1 else None


def pinned(core: int | None) -> Callable[[], None]:
    """For `preexec_fn`: run on that core alone, and (on Linux) die with the bench."""

    def pin() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return pin


def pin_this(core: int | None) -> None:
    """Keep this process off the server's core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def raise_file_limit() -> int:
    """As many open files as this user may have; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def cache() -> Path:
    """Where built and installed things are kept between runs, outside the tree."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "dispatch-bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def scratch(results: Path) -> Path:
    """A directory for data on a real disk: on one in memory, a durable write would cost nothing."""
    temporary = Path(tempfile.gettempdir())
    parent = results if filesystem(temporary) in _MEMORY_FILESYSTEMS else temporary
    return Path(tempfile.mkdtemp(prefix="dispatch-bench-", dir=parent))


def filesystem(path: Path) -> str:
    """The kind of file system a path is on, where the kernel tells."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    best, kind = "", "unknown"
    for line in mounts.read_text().splitlines():
        _, mount, name, *_ = line.split()
        inside = path.resolve().is_relative_to(mount)
        if inside and len(mount) >= len(best):
            best, kind = mount, name
    return kind


def sync_us(directory: Path) -> float:
    """The median of a small write and `fdatasync`, in microseconds: what a commit waits for."""
    path = directory / "sync-probe"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_SYNC_WRITES):
            file.write(b"x" * 512)
            began = time.perf_counter_ns()
            _sync(file.fileno())
            taken.append(time.perf_counter_ns() - began)
    path.unlink()
    return statistics.median(taken) / 1000


def cpu_seconds(pid: int) -> float:
    """CPU that a process has used so far, all its threads; to the 10 ms the kernel counts in."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _said_by(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if _CORES else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def describe(scratch_directory: Path, files: int) -> dict[str, object]:
    """Everything the figures depend on."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _said_by("git", "rev-parse", "--short", "HEAD"),
        "changed": bool(_said_by("git", "status", "--porcelain", "--", "dispatch")),
        "processor": _processor(),
        "cores": len(_CORES),
        "server_core": SERVER_CORE,
        "generator_core": GENERATOR_CORE,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "node": _said_by("node", "--version"),
        "open_files_max": files,
        "filesystem": filesystem(scratch_directory),
        "fdatasync_us": round(sync_us(scratch_directory), 1),
        "load_before": round(os.getloadavg()[0], 2),
    }
