"""The salt in the body, and nothing that reaches around it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from router.http import rewrites
from router.tenancy import isolation
from router.tenancy.tenants import OPEN, Tenant
from serving.errors import BadRequest
from serving.protocol import CHAT, COMPLETIONS, MESSAGES, parse
from tests.unit.fakes import engine

SALT = "0123456789abcdef0123456789abcdef"
ACME = Tenant("acme", salt=SALT)
BOLT = Tenant("bolt", salt="f" * 32)


def body(**fields: Any) -> bytes:
    return json.dumps(
        {"model": "big", "messages": [{"role": "user", "content": "é"}], **fields}
    ).encode()


def sent(raw: bytes, tenant: Tenant = ACME, path: str = CHAT, **engine_fields: Any) -> bytes:
    target = engine("big-0", **engine_fields)
    return isolation.apart(raw, path, parse(path, raw), tenant, target)


def salt_of(raw: bytes, tenant: Tenant = ACME) -> str:
    found: str = json.loads(sent(raw, tenant))["cache_salt"]
    return found


def test_every_byte_stays_and_the_salt_comes_last() -> None:
    raw = b'{ "messages":[ {"role":"user","content":"\\u00e9}" } ],\n "model":"big","z":1.0 } \n'
    assert sent(raw) == raw.replace(b"1.0 }", b'1.0 ,"cache_salt":"%b"}' % SALT.encode())


def test_an_open_stack_changes_nothing() -> None:
    raw = body(cache_salt="own")
    assert sent(raw, OPEN) is raw


def test_a_clients_own_salt_separates_within_its_tenant() -> None:
    plain, own, other = (
        salt_of(body()),
        salt_of(body(cache_salt="a")),
        salt_of(body(cache_salt="b")),
    )
    theirs = salt_of(body(cache_salt="a"), BOLT)
    assert len({plain, own, other, theirs}) == 4
    assert salt_of(body(cache_salt="a")) == own
    assert len(own) <= 128


def test_a_tenant_cannot_take_anothers_salt() -> None:
    assert salt_of(body(cache_salt=BOLT.salt)) != BOLT.salt
    assert salt_of(body(cache_salt=SALT)) != SALT


@pytest.mark.parametrize(
    "written",
    [
        b'"cache_salt":"x",',
        b'"cache\\u005fsalt":"x",',
        b'"cache_salt":"y","cache_salt":"x",',
        b'"cache_salt":"x","cache\\u005fsalt":"x",',
    ],
)
def test_however_the_field_is_written_there_is_one_and_it_is_ours(written: bytes) -> None:
    raw = b"{" + written + b'"model":"big","messages":[{"role":"user","content":"hi"}]}'
    pairs = json.loads(sent(raw), object_pairs_hook=list)
    assert [value for key, value in pairs if key == "cache_salt"] == [salt_of(body(cache_salt="x"))]


def test_a_nested_field_of_that_name_is_left_alone() -> None:
    raw = body(metadata={"cache_salt": "mine"})
    found = json.loads(sent(raw))
    assert found["metadata"] == {"cache_salt": "mine"}
    assert found["cache_salt"] == SALT


def test_null_is_no_salt() -> None:
    assert salt_of(body(cache_salt=None)) == SALT
    raw = body()[:-1] + b',"cache_salt":"x","cache_salt":null}'
    assert salt_of(raw) == SALT


@pytest.mark.parametrize("value", ["", 7, ["a"], {"a": 1}, True])
def test_a_salt_that_is_no_text_is_refused_by_name(value: Any) -> None:
    with pytest.raises(BadRequest, match="cache_salt") as refused:
        sent(body(cache_salt=value))
    assert refused.value.param == "cache_salt"


def test_the_messages_keep_their_bytes_beside_a_salt() -> None:
    raw = b'{"cache_salt":"x", "model":"big","messages":[ {"role":"user","content":"\\u00e9"} ]}'
    assert b'[ {"role":"user","content":"\\u00e9"} ]' in sent(raw)


def test_sglang_has_no_way_to_keep_messages_apart() -> None:
    raw = body(max_tokens=5)
    with pytest.raises(BadRequest, match="SGLang"):
        sent(raw, path=MESSAGES, kind="sglang")
    with pytest.raises(BadRequest, match="SGLang"):
        sent(raw, path=MESSAGES, kind="external", found_kind="sglang")
    assert sent(raw, OPEN, path=MESSAGES, kind="sglang") is raw
    assert b"cache_salt" in sent(raw, path=MESSAGES, kind="vllm")
    assert b"cache_salt" in sent(raw, path=CHAT, kind="sglang")


@pytest.mark.parametrize("field", ["lora_path", "priority", "kv_transfer_params", "session_params"])
def test_fields_that_reach_around_the_tenant_are_refused(field: str) -> None:
    for path, raw in (
        (CHAT, body(**{field: "x"})),
        (MESSAGES, body(**{field: {"a": 1}})),
        (COMPLETIONS, json.dumps({"model": "big", "prompt": "hi", field: -1}).encode()),
    ):
        with pytest.raises(BadRequest, match=field) as refused:
            isolation.check_fields(parse(path, raw))
        assert refused.value.param == field
    isolation.check_fields(parse(CHAT, body(**{field: None})))


def test_the_rewrite_agrees_with_a_parser_on_odd_bodies() -> None:
    odd = [
        body(stop="}"),
        body(user='"cache_salt":"x"'),
        body(metadata={"a": "\\"}),
        body() + b"\n\t ",
    ]
    for raw in odd:
        after = json.loads(rewrites.salted(raw, b"", SALT))
        assert after.pop("cache_salt") == SALT
        assert after == msgspec.json.decode(raw)
