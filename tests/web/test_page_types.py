"""The page's modules hold to their types, as the browser client does.

Neighbours: `tsconfig.page.json` says what is checked and how, `toolchain` brings the compiler.
Invariant: what is vendored is checked by those who publish it; only our own files can fail here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packages import Missing
from tests.web.toolchain import Toolchain, toolchain

PAGE = Path(__file__).resolve().parent.parent.parent / "dispatch" / "web" / "page"


@pytest.fixture(scope="module")
def tools() -> Toolchain:
    """Node 22 or newer and the packages of `package.json`."""
    try:
        return toolchain()
    except Missing as reason:
        pytest.skip(str(reason))


def test_the_types_of_the_page_hold(tools: Toolchain) -> None:
    done = tools.tsc("--project", "tsconfig.page.json")
    ours = [line for line in done.stdout.splitlines() if "/web/page/" in line]
    assert ours == []
    # Minified files carry no types: their errors show that the compiler has run and read all.
    assert "/web/vendor/" in done.stdout


def test_a_wrong_type_in_the_page_would_be_found(tools: Toolchain, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.js"
    wrong.write_text(f'import {{ hueOf }} from "{PAGE}/names.js";\nhueOf(3);\n')
    flags = ("--ignoreConfig", "--allowJs", "--checkJs", "--strict", "--noEmit", "--types", "")
    done = tools.tsc(*flags, str(wrong))
    assert "wrong.js(2,7): error TS2345" in done.stdout
