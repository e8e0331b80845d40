"""The published files: found, read, and refused by name if they are not of the format."""

from pathlib import Path

import pytest

from dispatch.conformance.transcripts import FIXTURES, published, read_transcript
from dispatch.errors import ConfigError

PROTOCOL = Path(__file__).resolve().parents[2] / "protocol"


def test_the_published_directory_is_the_one_in_the_package() -> None:
    assert (PROTOCOL / "fixtures").resolve() == FIXTURES


def test_a_part_of_a_name_chooses() -> None:
    assert list(published(["groups/003"])) == ["groups/003-a-member-fails-alone"]
    assert published(["chat/", "sessions/"]).keys() < published().keys()
    assert published(["no such name"]) == {}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"claim": "c", "agents": []}',
        '{"claim": "c", "agents": [], "steps": [{"do": "dance"}]}',
        '{"claim": "c", "agents": [], "steps": [{"do": "close", "on": "a", "cod": 1}]}',
    ],
)
def test_a_file_that_is_no_transcript_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "001-x.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"001-x\.json: not a transcript"):
        read_transcript(file)
