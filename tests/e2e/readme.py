"""The code blocks of README.md, so that the tests run what stands there and no copy of it.

Neighbours: every `test_readme_*` claims its blocks when it is imported; `test_readme` asks whether
a block is left that nobody claimed. `checkout` is the directory that they are typed in.
Invariant: a claim is for one block exactly, or the test cannot even be collected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
# The daemon's published address, which a test replaces by that of its own.
PLACE = "127.0.0.1:8765"


@dataclass(frozen=True)
class Block:
    """A fenced block: its section, its language, the line of the page it begins on, its code."""

    section: str
    language: str
    line: int
    code: str

    def at(self, url: str) -> str:
        """The code with another daemon's address (`http://HOST:PORT`) in place of the usual."""
        return self.code.replace(PLACE, url.removeprefix("http://"))

    @property
    def file_name(self) -> str:
        """Of a program whose first line says where it belongs."""
        named = re.match(r"# ([\w./-]+)\n", self.code)
        assert named, f"README.md:{self.line} does not say which file it is"
        return named[1]


def read_blocks(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    found: list[Block] = []
    section, opened, language, code = "", 0, "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            if opened:
                found.append(Block(section, language, opened, code))
            opened, language, code = (0 if opened else number), line[3:], ""
        elif opened:
            code += line + "\n"
        elif line.startswith("## "):
            section = line[3:]
    assert not opened, f"the block of line {opened} has no end"
    return found


BLOCKS = read_blocks(README.read_text("utf-8"))
CLAIMED: set[Block] = set()


def claim(section: str, language: str, words: str) -> Block:
    """The one block of a section that has these words in it."""
    found = [
        block
        for block in BLOCKS
        if (block.section, block.language) == (section, language) and words in block.code
    ]
    assert len(found) == 1, f"{len(found)} {language} blocks of {section!r} have {words!r}"
    CLAIMED.add(found[0])
    return found[0]
