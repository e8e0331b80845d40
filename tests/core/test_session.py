"""What is stored of a chat session beside its messages."""

import msgspec
import pytest

from dispatch.core.session import Session, decode_session, encode_session


@pytest.mark.parametrize(
    "session",
    [Session(agent="ann"), Session(agent="a b", workspace="w", archived_at_ms=0)],
)
def test_a_session_is_read_as_it_was_written(session: Session) -> None:
    assert decode_session(encode_session(session)) == session


def test_what_is_usual_takes_no_room_and_what_later_versions_add_is_passed_over() -> None:
    assert encode_session(Session(agent="ann")) == b'{"agent":"ann"}'
    assert decode_session(b'{"agent":"ann","colour":1}') == Session(agent="ann")


def test_a_session_without_an_agent_is_damage() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_session(b"{}")
