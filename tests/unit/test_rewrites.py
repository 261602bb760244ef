"""The only changes that a request suffers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.rewrites import alias, may_ask_for

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("model"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.just("model"), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"auto","a":1}', b'{"model":"M","a":1}'),
        (b' { "model" : "auto" , "a" : 1 } ', b' { "model" : "M" , "a" : 1 } '),
        (b'{"a":{"model":"auto"},"model":"auto"}', b'{"a":{"model":"auto"},"model":"M"}'),
        (b'{"a":["model"],"model":"auto"}', b'{"a":["model"],"model":"M"}'),
        (b'{"a":"model","model":"auto"}', b'{"a":"model","model":"M"}'),
        (b'{"model":"model","x":{"model":"y"}}', b'{"model":"M","x":{"model":"y"}}'),
        (rb'{"a":"\"model\":\"auto\"","model":"q\"}"}', rb'{"a":"\"model\":\"auto\"","model":"M"}'),
        (rb'{"mod\u0065l":"auto","b":[{}]}', rb'{"mod\u0065l":"M","b":[{}]}'),
    ],
)
def test_only_the_top_level_model_s_value_changes(before: bytes, after: bytes) -> None:
    assert alias(before, "M") == after


def test_a_name_that_needs_escaping_is_escaped() -> None:
    assert json.loads(alias(b'{"model":"auto"}', 'a"b\\ü')) == {"model": 'a"b\\ü'}


@given(
    before=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    after=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    model=st.text(max_size=6),
    spaced=st.booleans(),
    ascii_only=st.booleans(),
)
def test_whatever_else_is_in_the_body_stays_byte_for_byte(
    before: dict[str, object],
    after: dict[str, object],
    model: str,
    spaced: bool,
    ascii_only: bool,
) -> None:
    comma, colon = (", ", " : ") if spaced else (",", ":")

    def dump(value: object) -> str:
        return json.dumps(value, separators=(comma, colon), ensure_ascii=ascii_only)

    def body(name: str) -> bytes:
        fields = {**before, "model": name, **{k: v for k, v in after.items() if k != "model"}}
        pairs = (dump(key) + colon + dump(value) for key, value in fields.items())
        return ("{" + comma.join(pairs) + "}").encode()

    assert alias(body(model), "NEW") == body("NEW")


@pytest.mark.parametrize(
    ("body", "may"),
    [
        ('{"model":"auto","messages":[]}', True),
        ('{"model" : "big", "messages": ["auto"], "tool_choice": "auto"}', False),
        ('{"messages":[LONG],"model":"auto"}', True),
        ('{"messages":[LONG],"model":"big","tool_choice":"auto"}', False),
        ('{"messages":[LONG],"model":"auto","metadata":{"model":"big"}}', True),
        ('{"metadata":{"model":"big"},"messages":[LONG],"model":"auto"}', True),
        ('{"metadata":{"model":"big"},"model":"auto","messages":[LONG]}', True),
        ('{"messages":[LONG],"metadata":{"model":"big"}}', False),
        ('{"messages":[LONG, "\\"model\\":\\"auto\\""],"model":"big"}', False),
    ],
)
def test_whether_a_model_may_be_asked_for_is_seen_at_the_ends(body: str, may: bool) -> None:
    raw = body.replace("LONG", '"' + "x" * 5000 + '"').encode()
    assert may_ask_for(raw, "auto") is may
