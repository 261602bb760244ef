"""What engines may fetch for clients."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.api.conversations import CreateItems
from orchestrator.api.inbound import validate
from router import media
from serving.config.front import FrontConfig
from serving.errors import BadRequest
from serving.protocol import CHAT, COMPLETIONS, MESSAGES, parse

HOSTS = ("images.example.com",)
DATA = "data:image/png;base64,AA=="
INSIDE = "http://169.254.169.254/latest/meta-data"


def asked(*parts: Any) -> bytes:
    return json.dumps({"model": "big", "messages": [{"role": "user", "content": parts}]}).encode()


def refused(body: bytes, path: str = CHAT, hosts: tuple[str, ...] = HOSTS) -> str | None:
    """Where the body names what may not be fetched; None where nothing is wrong."""
    if not media.may_name(body):
        return None
    try:
        media.check(parse(path, body), hosts)
    except BadRequest as error:
        return error.param
    return None


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"type": "image_url", "image_url": {"url": INSIDE}}, "image_url"),
        ({"type": "image_url", "image_url": INSIDE}, "image_url"),
        ({"image_url": INSIDE}, "image_url"),
        ({"type": "input_image", "image_url": INSIDE}, "image_url"),
        ({"type": "audio_url", "audio_url": {"url": INSIDE}}, "audio_url"),
        ({"type": "video_url", "video_url": {"url": INSIDE}}, "video_url"),
        ({"type": "image", "source": {"type": "url", "url": INSIDE}}, "source.url"),
        (
            {"type": "tool_result", "content": [{"source": {"type": "url", "url": INSIDE}}]},
            "content[0].source.url",
        ),
    ],
)
def test_an_address_is_refused_wherever_an_engine_would_read_it(part: Any, where: str) -> None:
    body = asked({"type": "text", "text": "see"}, part)
    assert refused(body) == f"messages[0].content[1].{where}"
    assert refused(body, MESSAGES) == f"messages[0].content[1].{where}"


@pytest.mark.parametrize(
    "url",
    [
        "https://images.example.com@evil.example/a.png",
        "https://images.example.com\\@evil.example/a.png",
        "https://evil.example/images.example.com",
        "https://images.example.com.evil.example/",
        "https://images.example.com:80:81/",
        "file:///etc/passwd",
        "/etc/passwd.png",
        "ftp://images.example.com/a.png",
        " data:image/png;base64,AA==",
        "",
    ],
)
def test_what_is_neither_data_nor_plainly_at_a_listed_host_is_refused(url: str) -> None:
    assert refused(asked({"type": "image_url", "image_url": {"url": url}})) is not None


@pytest.mark.parametrize(
    "url",
    [
        DATA,
        "https://images.example.com/a.png?size=2",
        "http://IMAGES.example.com:8080/a.png",
        "https://images.example.com",
    ],
)
def test_data_and_listed_hosts_pass(url: str) -> None:
    assert refused(asked({"type": "image_url", "image_url": {"url": url}})) is None


def test_without_listed_hosts_only_data_passes() -> None:
    listed = asked({"type": "image_url", "image_url": {"url": "https://images.example.com/a"}})
    assert refused(listed, hosts=()) == "messages[0].content[0].image_url"
    assert refused(asked({"type": "image_url", "image_url": {"url": DATA}}), hosts=()) is None


def test_a_key_that_is_written_in_escapes_is_found() -> None:
    body = asked({"image_url": INSIDE}).replace(b"image_url", b"image\\u005Fur\\u006c")
    assert refused(body) == "messages[0].content[0].image_url"


@pytest.mark.parametrize(
    "body",
    [
        asked({"type": "text", "text": '{"image_url": "http://10.0.0.1/"}'}),
        asked({"type": "tool_use", "input": {"image_url": INSIDE}}),
        asked("naïve"),
        json.dumps({"model": "big", "messages": [{"role": "user", "content": INSIDE}]}).encode(),
    ],
)
def test_addresses_in_texts_and_arguments_are_no_business_of_engines(body: bytes) -> None:
    assert refused(body) is None


def test_prompts_name_nothing() -> None:
    body = json.dumps({"model": "big", "prompt": "x", "image_url": INSIDE}).encode()
    assert refused(body, COMPLETIONS) is None


@pytest.mark.parametrize("host", ["https://a.example", "a.example:80", "a.example/x", "", "*"])
def test_a_listed_host_is_a_name_alone(host: str) -> None:
    with pytest.raises(ValidationError, match="media_hosts"):
        FrontConfig(media_hosts=(host,))
    assert FrontConfig(media_hosts=("A.example",)).media_hosts == ("a.example",)


def test_items_of_conversations_go_by_the_same_rule() -> None:
    def items(url: str) -> bytes:
        part = {"type": "input_image", "image_url": url}
        return json.dumps({"items": [{"role": "user", "content": [part]}]}).encode()

    validate(CreateItems, items("https://images.example.com/a.png"), HOSTS)
    validate(CreateItems, items(DATA))
    for url in (INSIDE, "https://images.example.com/a.png", "data:text/html,x"):
        with pytest.raises(BadRequest) as error:
            validate(CreateItems, items(url))
        assert error.value.param == "items[0].content[0].image_url"
