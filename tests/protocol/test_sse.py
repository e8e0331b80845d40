"""Line forms: one JSON text is one line, for every reader's idea of a line."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dispatch.protocol.sse import ndjson, one_line
from tests.properties.strategies import json_values

SEPARATORS = "\u0085\u2028\u2029"


@given(st.recursive(json_values, lambda inner: st.lists(inner, max_size=3)))
def test_a_line_holds_one_json_text_whatever_is_in_it(value: object) -> None:
    line = ndjson(msgspec.json.encode(value))
    assert line.endswith(b"\n")
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == value


@given(st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from(SEPARATORS)))
def test_every_separator_is_escaped_and_nothing_else_is_touched(said: str) -> None:
    text = msgspec.json.encode({"text": said})
    line = one_line(text)
    assert not set(SEPARATORS) & set(line.decode())
    assert json.loads(line) == {"text": said}
    if not set(SEPARATORS) & set(said):
        assert line == text
