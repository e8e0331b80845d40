"""README.md as a page: every block is run by a test or named with a reason, every link leads on."""

from __future__ import annotations

import importlib
import re

import pytest

from dispatch.cli import cli
from tests.e2e import readme

# A block that no test can run here, by a word in it, and what holds it instead.
UNRUN = {
    "./scripts/test": "it is this suite, which would run itself",
    "docker build": "wants a Docker daemon; tests/test_dockerfile.py runs the image's own steps",
}


def unrun(block: readme.Block) -> bool:
    return any(words in block.code for words in UNRUN)


def test_every_block_is_run_or_named_with_a_reason() -> None:
    for folder in ("e2e", "web"):
        for path in sorted((readme.ROOT / "tests" / folder).glob("test_readme_*.py")):
            importlib.import_module(f"tests.{folder}.{path.stem}")
    left = [block for block in readme.BLOCKS if not unrun(block) and block not in readme.CLAIMED]
    assert [f"README.md:{block.line} {block.language}" for block in left] == []
    assert len(readme.CLAIMED) > 20


def test_every_reason_is_about_a_block() -> None:
    for words in UNRUN:
        assert sum(words in block.code for block in readme.BLOCKS) == 1


def test_a_claim_for_no_block_or_for_two_is_refused() -> None:
    for words in ("no such words", "dispatch"):
        with pytest.raises(AssertionError):
            readme.claim("Groups and chats", "sh", words)


def test_blocks_are_read_with_their_section_and_line() -> None:
    page = "## One\n\n```sh\na\n```\n## Two\ntext\n```\nb\nc\n```\n"
    assert readme.read_blocks(page) == [
        readme.Block("One", "sh", 3, "a\n"),
        readme.Block("Two", "", 8, "b\nc\n"),
    ]


def test_every_block_says_its_language() -> None:
    assert [block.line for block in readme.BLOCKS if not block.language] == []


def test_every_link_into_the_tree_leads_to_a_file() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", readme.README.read_text("utf-8"))
    assert links
    assert [link for link in links if not (readme.ROOT / link).exists()] == []


def test_the_command_line_that_is_listed_is_the_one_there_is() -> None:
    text = " ".join(readme.README.read_text("utf-8").split())
    [listed] = re.findall(r"The command line: `dispatch ([^`]*)`", text)
    there = {name for name, command in cli.commands.items() if not command.hidden}
    assert {words.split()[0] for words in listed.split(" | ")} == there
