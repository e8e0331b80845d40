"""Names of channels."""

from base64 import urlsafe_b64decode

import pytest

from dispatch.errors import PeerError
from dispatch.protocol.ahp.uris import (
    ROOT,
    URI_CHARACTERS_MAX,
    chat_uri,
    parse_minted,
    parse_uri,
    session_uri,
)


def test_the_default_chat_names_its_session_in_the_form_that_clients_take_apart() -> None:
    session = session_uri("echo", "0b7d3c1e")
    assert session == "echo:/0b7d3c1e"
    scheme, _, rest = chat_uri(session).partition("://")
    name, _, encoded = rest.partition("/")
    assert (scheme, name) == ("ahp-chat", "default")
    padded = encoded + "=" * (-len(encoded) % 4)
    assert urlsafe_b64decode(padded).decode() == session


@pytest.mark.parametrize("chat", ["default", "c-0a.b_c", "A:b", "ä"])
def test_the_session_is_found_in_a_minted_name_which_clients_that_normalise_leave_alone(
    chat: str,
) -> None:
    session = session_uri("echo", "s:1 B")
    assert session == "echo:/s%3A1%20B"
    name = chat_uri(session, chat)
    assert parse_minted(session) == parse_minted(name) == "s:1 B"
    authority = name.removeprefix("ahp-chat://").partition("/")[0]
    assert authority == authority.lower()
    assert authority.isascii()


@pytest.mark.parametrize("name", ["ahp-chat://x/%%%", "ahp-chat://x/_w", "plain", "http://h/x"])
def test_a_name_that_was_not_minted_here_is_of_no_session(name: str) -> None:
    assert parse_minted(name) == ""


@pytest.mark.parametrize("name", [ROOT, "ahp-session:/x", "echo:/y", "ahp-chat://default/ZWNo"])
def test_any_form_of_a_name_is_a_key(name: str) -> None:
    assert parse_uri(name) == name


@pytest.mark.parametrize("name", ["", "no-scheme", None, 7, "x:" + "y" * URI_CHARACTERS_MAX])
def test_what_cannot_be_a_name_is_refused(name: object) -> None:
    with pytest.raises(PeerError):
        parse_uri(name)
