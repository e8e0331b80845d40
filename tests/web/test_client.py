"""The browser client: its own suite in Node, its types, its size, and the daemon's fold beside its.

Neighbours: `*.test.js` here are the suite, `daemon.js` starts real daemons for it, `toolchain`
brings Node and the rest from npm. The client is `dispatch/web/client.js`.
Invariant: where Node cannot be had everything here is skipped with the reason; nothing else skips.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatch.core.content import Fold
from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    Image,
    ReasoningDelta,
    Steering,
    StepComplete,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolOutput,
    ToolResult,
    TurnStart,
    Usage,
    UserMessage,
    encode_event,
)
from tests.packages import Missing
from tests.web.toolchain import Toolchain, toolchain

ROOT = Path(__file__).resolve().parent.parent.parent
WEB = ROOT / "dispatch" / "web"
SUITES = ("fold", "thread", "session", "conversation", "group_list", "storage", "tabs", "live")

# What a page has to load before it shows anything: unminified, without the comments, gzip -9.
CORE_BYTES_MAX = 12 * 1024
OPTIONAL = frozenset({"storage", "tabs", "tab_hub", "directory", "group_list", "groups", "chats"})
HISTORIES = 600
# A test of the suite, and all of one file: guards around waits, on a machine under load.
TEST_SECONDS_MAX = 120
SUITE_SECONDS_MAX = 400


@pytest.fixture(scope="module")
def tools() -> Toolchain:
    """Node 22 or newer and the packages of `package.json`."""
    try:
        return toolchain()
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random turns with the chunks that the daemon keeps of them."""
    dice = random.Random(5)
    found = [_history(dice) for _ in range(HISTORIES)]
    path = tmp_path_factory.mktemp("histories") / "histories.json"
    path.write_bytes(b"[%b]" % b",".join(found))
    return path


@pytest.mark.timeout(SUITE_SECONDS_MAX + 60)
@pytest.mark.parametrize("suite", SUITES)
def test_the_suite_in_node_passes(tools: Toolchain, histories: Path, suite: str) -> None:
    environment = os.environ | {
        "DISPATCH_TEST_PYTHON": sys.executable,
        "DISPATCH_TEST_HISTORIES": str(histories),
    }
    timeout = f"--test-timeout={TEST_SECONDS_MAX * 1000}"
    done = subprocess.run(
        [tools.node, "--test", "--test-reporter=spec", timeout, f"{suite}.test.js"],
        cwd=tools.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SUITE_SECONDS_MAX,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "pass 0" not in done.stdout


def test_every_file_is_run_or_is_no_suite() -> None:
    assert {path.name for path in Path(__file__).parent.glob("*.test.js")} == {
        f"{suite}.test.js" for suite in SUITES
    }


def test_the_types_hold(tools: Toolchain) -> None:
    done = tools.tsc("--project", "tsconfig.json")
    assert (done.stdout, done.returncode) == ("", 0)


def test_a_wrong_type_would_be_found(tools: Toolchain, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.js"
    load = f'import {{ createClient }} from "{WEB}/client.js";\n'
    wrong.write_text(load + 'createClient({ pageRows: "many" });\n')
    flags = ("--ignoreConfig", "--checkJs", "--strict", "--noEmit", "--types", "")
    done = tools.tsc(*flags, str(wrong))
    assert "wrong.js(2,16): error TS2322" in done.stdout
    assert done.returncode != 0


def test_the_core_is_small(tools: Toolchain, tmp_path: Path) -> None:
    flags = ("--ignoreConfig", "--allowJs", "--removeComments", "--noCheck", "--target", "esnext")
    done = tools.tsc(*flags, "--types", "", "--outDir", str(tmp_path), str(WEB / "client.js"))
    assert done.returncode == 0, done.stdout
    parts = [path for path in sorted(tmp_path.rglob("*.js")) if path.stem not in OPTIONAL]
    assert len(parts) >= 10
    size = len(gzip.compress(b"".join(path.read_bytes() for path in parts), 9))
    print(f"{len(parts)} modules, {size} bytes")
    assert size <= CORE_BYTES_MAX


def test_the_client_needs_no_package_and_no_other_host() -> None:
    paths = [WEB / "client.js", *sorted((WEB / "client").glob("*.js"))]
    assert len(paths) > len(OPTIONAL)
    for path in paths:
        for line in path.read_text("utf-8").splitlines():
            if line.startswith(("import ", "} from", "export * from")):
                assert '"./' in line or '"../' in line, f"{path}: {line}"
            assert "http://" not in line, f"{path}: {line}"
            assert "https://" not in line, f"{path}: {line}"


def _history(dice: random.Random) -> bytes:
    """A turn as events and as lines, both JSON."""
    events: list[AnyEvent] = [_message(dice), TurnStart()]
    if dice.random() < 0.2:
        events = [TurnStart("t0")]
    events += [_event(dice) for _ in range(dice.randrange(20))]
    fold = Fold()
    for event in events:
        fold.add(event, encode_event(event))
    fold.finish()
    lines = b",".join(b"{%b}" % line for line in fold.take()[1].split(b"\n")[:-1])
    told = b",".join(encode_event(event) for event in events)
    return b'{"events":[%b],"lines":[%b]}' % (told, lines)


def _text(dice: random.Random) -> str:
    return "".join(dice.choices('ab \n"\\\u2028\x7fé漢🙂', k=dice.randrange(4)))


def _message(dice: random.Random) -> UserMessage:
    mime_type = dice.choice(("image/png", None))
    images = tuple(Image("data:,", mime_type) for _ in range(dice.randrange(3)))
    return UserMessage(_text(dice), images)


def _event(dice: random.Random) -> AnyEvent:
    call, step, text = dice.choice("xy"), dice.choice(("", "s1", "s2")), _text(dice)
    given: Any = dice.choice(({"a": [1, None]}, [], "x", 7, None))
    code = dice.choice((None, "timeout"))
    makers = (
        lambda: TextDelta(text),
        lambda: TextDelta(text),
        lambda: ReasoningDelta(text),
        lambda: ToolCall(call, text, msgspec.Raw(json.dumps(given).encode()), step),
        lambda: ToolOutput(call, text, "stdout"),
        lambda: ToolResult(call, "dig", text, dice.random() < 0.5, step, 1.5),
        lambda: Usage(TokenUsage(1, 2)),
        lambda: StepComplete(step),
        lambda: ErrorEvent(text, code),
        lambda: Steering(text),
        lambda: Done("stop"),
    )
    return dice.choice(makers)()
