"""The AsyncAPI document and the TypeScript declarations, read by the tools that people use.

The tools come from npm, as `tools/package-lock.json` has them (see `tests/packages`); without them
these tests are skipped, and say so. Each is shown to fail, too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.asyncapi import CHANNELS
from scripts.schemas import DIALECTS
from tests.packages import Missing, installed

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = ROOT / "protocol"
TOOLS = Path(__file__).with_name("tools")
RUN_SECONDS_MAX = 60


@pytest.fixture(scope="session")
def tools() -> Path:
    """The directory where the tools are."""
    if shutil.which("node") is None:
        pytest.skip("there is no node: AsyncAPI and TypeScript are not checked")
    try:
        return installed(TOOLS).parent
    except Missing as reason:
        pytest.skip(f"AsyncAPI and TypeScript are not checked: {reason}")


def run(
    command: list[str], folder: Path, seconds: float = RUN_SECONDS_MAX
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def parsed(tools: Path, document: Path) -> subprocess.CompletedProcess[str]:
    """What the parser of AsyncAPI makes of a document."""
    shutil.copy(TOOLS / "asyncapi.mjs", tools)
    return run(["node", "asyncapi.mjs", str(document)], tools)


def compiled(tools: Path, folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    """What the compiler makes of some files, with everything of a browser at hand."""
    options = ["--strict", "--noEmit", "--allowJs", "--checkJs", "--target", "es2022"]
    options += ["--module", "esnext", "--moduleResolution", "bundler"]
    options += ["--allowImportingTsExtensions"]
    return run([str(tools / "node_modules" / ".bin" / "tsc"), *options, *files], folder)


@pytest.fixture
def use(tmp_path: Path) -> Path:
    """A folder with the declarations and a use of them."""
    shutil.copy(PROTOCOL / "dispatch.d.ts", tmp_path)
    shutil.copy(TOOLS / "use.ts", tmp_path)
    return tmp_path


def test_the_parser_of_asyncapi_finds_nothing_wrong(tools: Path) -> None:
    done = parsed(tools, PROTOCOL / "asyncapi.json")
    assert done.returncode == 0, done.stdout + done.stderr
    operations = sum(1 + bool(one.receives) for one in CHANNELS)
    assert done.stdout.startswith(f"{operations} operations")


@pytest.mark.parametrize("wrong", ["a reference", "a channel", "a payload"])
def test_the_parser_of_asyncapi_finds_what_is_wrong(
    tools: Path, tmp_path: Path, wrong: str
) -> None:
    document: dict[str, Any] = json.loads((PROTOCOL / "asyncapi.json").read_text("utf-8"))
    match wrong:
        case "a reference":
            document["channels"]["v1"]["messages"]["x"] = {"$ref": "#/components/messages/None"}
        case "a channel":
            document["operations"]["v1_tells"]["action"] = "shout"
        case _:
            document["components"]["schemas"]["PongFrame"]["type"] = "text"
    path = tmp_path / "asyncapi.json"
    path.write_text(json.dumps(document), "utf-8")
    assert parsed(tools, path).returncode == 1


def test_every_frame_is_a_message() -> None:
    document = json.loads((PROTOCOL / "asyncapi.json").read_text("utf-8"))
    frames = {
        kind.__name__
        for dialect in DIALECTS
        for name, union in dialect.unions.items()
        if name.endswith(("Frame", "StreamEvent", "Part1Event"))
        for kind in union.types
    }
    assert document["components"]["messages"].keys() == frames


def test_the_compiler_takes_the_declarations_and_a_use_of_them(tools: Path, use: Path) -> None:
    done = compiled(tools, use, "use.ts", "dispatch.d.ts")
    assert done.returncode == 0, done.stdout


WRONG_USES = (
    ('case "hello":', 'case "hullo":', "is not comparable"),
    ("frame.position + shown", "frame.offset + shown", "'offset' does not exist"),
    ('type: "chat.send", message', 'type: "chat.send"', "not assignable"),
    ("return event.delta;", "return event.content;", "'content' does not exist"),
    ("String(frame.results.completed)", "frame.outcome", "'outcome' does not exist"),
    ("event.data.seq", "event.data.text", "'text' does not exist"),
    ('=== "turn-sealed"', '=== "steering"', "no overlap"),
)


def test_the_compiler_finds_each_wrong_use(tools: Path, use: Path) -> None:
    text = (use / "use.ts").read_text("utf-8")
    names = []
    for index, (right, wrong, _) in enumerate(WRONG_USES):
        assert text.count(right) == 1
        names.append(f"wrong{index}.ts")
        (use / names[-1]).write_text(text.replace(right, wrong), "utf-8")
    errors = compiled(tools, use, *names).stdout.splitlines()
    for name, (_, _, told) in zip(names, WRONG_USES, strict=True):
        assert [line for line in errors if line.startswith(name) and told in line], errors


def test_the_page_can_use_the_declarations(tools: Path, tmp_path: Path) -> None:
    """Modules with JSDoc beside the page's own, checked as those are: one right, one wrong."""
    web = tmp_path / "dispatch" / "web"
    web.mkdir(parents=True)
    (tmp_path / "protocol").mkdir()
    shutil.copy(PROTOCOL / "dispatch.d.ts", tmp_path / "protocol")
    shutil.copy(ROOT / "dispatch" / "web" / "frames.d.ts", web)
    text = (
        '/** @param {import("./frames.d.ts").ServerFrame} frame */\n'
        'export const id = (frame) => (frame.type === "hello" ? frame.connectionId : "");\n'
    )
    (web / "right.js").write_text(text, "utf-8")
    (web / "wrong.js").write_text(text.replace("connectionId", "id"), "utf-8")
    errors = compiled(tools, web, "right.js", "wrong.js").stdout
    assert "wrong.js" in errors
    assert "right.js" not in errors
