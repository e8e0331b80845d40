"""The generated pages of protocol/: that they are current, and that one which is not is found."""

import pytest

from scripts import protocol

CHECK = ["--check"]


def test_every_generated_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert protocol.main(CHECK) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("maker", "made", "page"),
    [
        ("schema_pages", {}, "schemas/native.json"),
        ("openapi_page", "{}", "openapi.json"),
        ("asyncapi_page", "{}", "asyncapi.json"),
        ("typescript_page", "", "dispatch.d.ts"),
    ],
)
def test_a_page_that_is_not_current_is_found(
    maker: str,
    made: object,
    page: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (protocol.ROOT / "protocol" / page).read_bytes()
    monkeypatch.setattr(protocol, maker, lambda: made)
    assert protocol.main(CHECK) == 1
    assert page in capsys.readouterr().err
    assert (protocol.ROOT / "protocol" / page).read_bytes() == before
