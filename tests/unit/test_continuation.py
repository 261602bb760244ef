"""How a stream that was cut goes on: the request for the rest, and what the client sees of it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from router.streams.continuation import Continuation, NotText, Rest, ways_on
from router.streams.messages_rest import MessagesRest, named
from router.streams.sent import Sent, Told
from router.streams.sent_messages import SentMessages
from serving.protocol import CHAT, COMPLETIONS, MESSAGES
from tests.unit.test_sent import ROLE, after, delta, event


def told(text: str = "Hello wor", pieces: int = 3) -> Told:
    said = after(ROLE, delta(content=text)).told()
    said.pieces = pieces
    return said


def chat(**fields: Any) -> bytes:
    base = {"model": "big", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    return msgspec.json.encode(base | fields)


def completion(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "big", "stream": True, "prompt": "Say:"} | fields)


def way(body: bytes, said: Told | None = None, path: str = CHAT) -> Continuation:
    how = ways_on(path, body, said or told())
    assert isinstance(how, Continuation), how
    return how


def request(how: Continuation, kind: Any = "vllm", sent: int = 3) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads(how.body(kind, sent))
    return asked


# The request


def test_a_chat_goes_on_behind_the_assistants_unfinished_message() -> None:
    asked = request(way(chat(temperature=0)))
    assert asked["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello wor"},
    ]
    assert asked["continue_final_message"] is True
    assert asked["add_generation_prompt"] is False
    assert asked["temperature"] == 0


def test_sglang_opens_the_assistants_turn_itself() -> None:
    assert "add_generation_prompt" not in request(way(chat(add_generation_prompt=True)), "sglang")


def test_a_message_that_the_client_had_begun_grows() -> None:
    begun = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Oh. "}]
    how = way(chat(messages=begun, continue_final_message=True))
    assert request(how)["messages"][1] == {"role": "assistant", "content": "Oh. Hello wor"}


@pytest.mark.parametrize("prompt", ["Say:", ["Say:"]])
def test_a_completion_goes_on_behind_prompt_and_text(prompt: Any) -> None:
    asked = request(way(completion(prompt=prompt), path=COMPLETIONS))
    assert asked["prompt"] == "Say:Hello wor"
    assert asked["max_tokens"] == 13, "of the 16 that are the default"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_what_was_sent_counts_against_the_limits(name: str) -> None:
    asked = request(way(chat(**{name: 10, "min_tokens": 5})), sent=4)
    assert (asked[name], asked["min_tokens"]) == (6, 1)
    assert request(way(chat(min_tokens=5)), sent=9)["min_tokens"] == 0


def test_a_stream_that_had_only_begun_is_asked_again_as_it_was() -> None:
    body = chat(max_tokens=10)
    said = after(ROLE).told()
    assert request(way(body, said)) == json.loads(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "logprobs": False, "response_format": {"type": "text"}, "tools": []},
        {"stop": ["\n"], "temperature": 0.7, "top_p": 0.9, "user": "u", "presence_penalty": 0},
        {"seed": 7, "temperature": 0},
        {"stream_options": {"include_usage": True}},
    ],
)
def test_requests_for_plain_text_can_be_continued(fields: dict[str, Any]) -> None:
    way(chat(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"top_logprobs": 2},
        {"seed": 7},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "a+"}},
        {"presence_penalty": 0.5},
        {"echo": True},
        {"add_generation_prompt": False},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"some_field_of_tomorrow": 1},
        {"truncate_prompt_tokens": 10},
        {"messages": [{"role": "assistant", "content": []}], "continue_final_message": True},
    ],
)
def test_requests_for_more_than_that_cannot(fields: dict[str, Any]) -> None:
    why = ways_on(CHAT, chat(**fields), told())
    assert isinstance(why, str)
    assert why
    assert "tomorrow" not in why, "what a client may write freely is content"


def test_neither_can_other_routes_other_answers_and_prompts_of_token_ids() -> None:
    assert isinstance(ways_on(COMPLETIONS, completion(prompt=[1, 2]), told()), str)
    assert isinstance(ways_on(COMPLETIONS, completion(suffix="end"), told()), str)
    assert isinstance(ways_on(CHAT, chat(), told("<think>well")), str)
    calls = after(ROLE, delta(tool_calls=[{"index": 0}])).told()
    assert isinstance(ways_on(CHAT, chat(), calls), str)


def test_a_server_that_is_nothing_we_know_gets_completions_only() -> None:
    assert way(completion(), path=COMPLETIONS).can_go_to("external")
    assert way(chat(), after(ROLE).told()).can_go_to("external")
    assert not way(chat()).can_go_to("external")
    assert way(chat()).can_go_to("sglang")


# The rest


def read(rest: Rest, *events: bytes) -> list[dict[str, Any]]:
    """What the client gets of the next replica's events."""
    out = [rest.event(each.removeprefix(b"data: ").strip()) for each in events]
    return [json.loads(each.removeprefix(b"data: ")) for each in out if each]


def other(**fields: Any) -> bytes:
    return event(**{"id": "chatcmpl-2", "created": 99, "model": "/weights", **fields})


def piece(text: str, finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text, **fields}, "finish_reason": finish}
    return other(choices=[choice])


def test_the_rest_has_the_streams_id_and_says_nothing_twice() -> None:
    rest = Rest(way(chat()), 3)
    seen = read(rest, piece("", role="assistant"), piece("ld"), piece("", "stop"))
    assert {(e["id"], e["created"], e["model"]) for e in seen} == {("chatcmpl-1", 7, "big")}
    assert [e["choices"][0]["delta"].get("content") for e in seen] == ["ld", ""]
    assert seen[1]["choices"][0]["finish_reason"] == "stop"


def test_done_ends_it() -> None:
    rest = Rest(way(chat()), 3)
    assert not rest.done
    assert rest.event(b"[DONE]") == b"data: [DONE]\n\n"
    assert rest.done


def test_a_stream_whose_role_was_not_sent_gets_it() -> None:
    rest = Rest(way(chat(), Sent(100).told()), 0)
    [first] = read(rest, piece("", role="assistant"))
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert first["id"] == "chatcmpl-2", "the client has seen no other"


def test_usage_counts_what_was_sent_as_output() -> None:
    rest = Rest(way(chat(stream_options={"include_usage": True})), 3)
    usage = {
        "prompt_tokens": 13,
        "completion_tokens": 5,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 12},
    }
    [last] = read(rest, other(usage=usage))
    assert last["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 8,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 10},
    }


def test_a_limit_that_was_reached_before_the_cut_ends_it_at_once() -> None:
    how = way(chat(max_tokens=3, stream_options={"include_usage": True}))
    assert request(how)["max_tokens"] == 1, "an engine generates at least one"
    rest = Rest(how, 3)
    usage = {"prompt_tokens": 13, "completion_tokens": 1, "total_tokens": 14}
    end, last = read(rest, piece("ld"), piece("", "stop"), other(usage=usage))
    assert end["choices"][0]["finish_reason"] == "length"
    assert end["choices"][0]["delta"]["content"] == ""
    assert last["usage"] == {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}


def test_white_space_that_a_template_trimmed_is_not_said_twice() -> None:
    def after_newline(*pieces: str) -> str:
        rest = Rest(way(chat(), told("Hello\n\n")), 3, drop="\n\n")
        seen = read(rest, *(piece(text) for text in pieces))
        return "".join(e["choices"][0]["delta"]["content"] for e in seen)

    assert after_newline("\n\nWorld") == "World"
    assert after_newline("\n", "\n", "\nWorld") == "\nWorld"
    assert after_newline("World\n\n", "\n\n") == "World\n\n\n\n"


def test_completions_go_on_as_completions() -> None:
    rest = Rest(way(completion(), path=COMPLETIONS), 3)
    seen = read(
        rest,
        other(choices=[{"index": 0, "text": "ld", "finish_reason": None}]),
        other(choices=[{"index": 0, "text": "", "finish_reason": "length"}]),
    )
    assert [c["text"] for e in seen for c in e["choices"]] == ["ld", ""]


@pytest.mark.parametrize(
    "said",
    [
        piece("", reasoning_content="hm"),
        piece("", tool_calls=[{"index": 0}]),
        b"data: nonsense",
        b'data: {"error":{"message":"no"}}',
    ],
)
def test_what_is_no_text_is_refused(said: bytes) -> None:
    with pytest.raises(NotText):
        read(Rest(way(chat()), 3), said)


# Messages


def message(**fields: Any) -> bytes:
    base = {"model": "big", "stream": True, "max_tokens": 10, "system": "Be brief."}
    return msgspec.json.encode(base | {"messages": [{"role": "user", "content": "hi"}]} | fields)


def begun(text: str = "Hello wor") -> Told:
    """What a client has of a Messages stream that was cut in its text."""
    head = {"id": "msg_1", "model": "big", "usage": {"input_tokens": 9, "output_tokens": 0}}
    said = SentMessages(1 << 20)
    said.feed(named("message_start", message=head))
    if text:
        said.feed(named("content_block_start", index=0, content_block={"type": "text"}))
        delta = {"type": "text_delta", "text": text}
        said.feed(named("content_block_delta", index=0, delta=delta))
    return said.told()


def said_by(rest: Rest, *chunks: bytes) -> list[dict[str, Any]]:
    out = b"".join(rest.event(each.removeprefix(b"data: ").strip()) for each in chunks)
    return [json.loads(block.partition(b"\ndata: ")[2]) for block in out.split(b"\n\n") if block]


def test_a_message_goes_on_as_the_chat_that_the_engine_made_of_it() -> None:
    blocks = [{"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}}]
    blocks_of_two = [*blocks, {"type": "text", "text": "two"}]
    body = message(
        stop_sequences=["\n"],
        top_k=5,
        metadata={"user_id": "u"},
        system=[{"type": "text", "text": "x-anthropic-billing-header: 1"}, *blocks_of_two],
        messages=[
            {"role": "user", "content": blocks},
            {"role": "assistant", "content": "so"},
            {"role": "user", "content": blocks_of_two},
        ],
    )
    how = way(body, begun(), MESSAGES)
    assert how.path == CHAT
    assert request(how, sent=4) == {
        "model": "big",
        "max_tokens": 6,
        "top_k": 5,
        "stop": ["\n"],
        "messages": [
            {"role": "system", "content": "onetwo"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "so"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
            },
            {"role": "assistant", "content": "Hello wor"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"name": "f", "input_schema": {}}]},
        {"thinking": {"type": "adaptive"}},
        {"output_config": {"effort": "low"}},
        {"seed": 1},
        {"kv_transfer_params": {}},
        {"messages": [{"role": "system", "content": "again"}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
        {"system": [{"type": "text", "text": 1}]},
    ],
)
def test_messages_of_more_than_plain_text_cannot_go_on(fields: dict[str, Any]) -> None:
    assert isinstance(ways_on(MESSAGES, message(**fields), begun()), str)


def test_unknown_servers_are_not_asked_to_go_on_with_a_message() -> None:
    for told_ in (begun(), begun("")):
        how = way(message(), told_, MESSAGES)
        assert how.can_go_to("vllm")
        assert how.can_go_to("sglang")
        assert not how.can_go_to("external")


def test_sglang_makes_another_chat_of_a_message() -> None:
    texts = [{"type": "text", "text": each} for each in ("one", "", "two")]
    body = message(system=texts, messages=[{"role": "assistant", "content": texts}])
    asked = request(way(body, begun(), MESSAGES), "sglang")
    assert asked["messages"] == [
        {"role": "system", "content": "one\ntwo"},
        {"role": "assistant", "content": texts},
        {"role": "assistant", "content": "Hello wor"},
    ]
    blank = request(way(message(system=" \n"), begun(), MESSAGES), "sglang")
    assert [each["role"] for each in blank["messages"]] == ["user", "assistant"]


def test_sglang_took_an_assistants_last_word_for_the_users() -> None:
    begun_ = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Oh."}]
    asked = request(way(chat(messages=begun_)), "sglang")
    assert [each["role"] for each in asked["messages"]] == ["user", "user", "assistant"]
    asked = request(way(chat(messages=begun_, continue_final_message=True)), "sglang")
    assert [each["role"] for each in asked["messages"]] == ["user", "assistant"]


def usage_of(prompt: int, output: int, cached: int, created: int) -> bytes:
    details = {"cached_tokens": cached, "created_cache_tokens": created}
    counts = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return other(choices=[], usage={**counts, "prompt_tokens_details": details})


def test_its_rest_goes_on_in_the_block_that_was_open_and_ends_the_message() -> None:
    rest = MessagesRest(way(message(), begun(), MESSAGES), 3)
    seen = said_by(
        rest,
        piece("", role="assistant"),
        piece("ld"),
        piece("", "stop"),
        usage_of(23, 5, 16, 7),
        b"[DONE]",
    )
    assert seen == [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ld"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 0,
                "output_tokens": 8,
                "cache_read_input_tokens": 16,
                "cache_creation_input_tokens": 4,
            },
        },
        {"type": "message_stop"},
    ]
    assert rest.done


def test_what_was_not_said_of_a_message_is_said_by_its_rest() -> None:
    for told_, first in ((SentMessages(9).told(), ["message_start"]), (begun(""), [])):
        rest = MessagesRest(way(message(), told_, MESSAGES), 0)
        seen = said_by(
            rest, piece("", role="assistant"), piece("Hi"), piece("", "length"), b"[DONE]"
        )
        assert [event["type"] for event in seen] == [
            *first,
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]


def test_a_stop_sequence_is_named_in_the_message_too() -> None:
    end = other(
        choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "\n\n"}],
    )
    rest = MessagesRest(way(message(), begun(), MESSAGES), 3)
    assert said_by(rest, end, b"[DONE]")[1]["delta"] == {
        "stop_reason": "stop_sequence",
        "stop_sequence": "\n\n",
    }


def test_a_message_whose_block_was_closed_ends_or_goes_on_in_another_one() -> None:
    said = SentMessages(1 << 20)
    said.feed(named("message_start", message={"id": "msg_1", "model": "big"}))
    said.feed(named("content_block_start", index=0, content_block={"type": "text"}))
    delta = {"type": "text_delta", "text": "Hello"}
    said.feed(named("content_block_delta", index=0, delta=delta))
    said.feed(named("content_block_stop", index=0))
    end = (piece("", "stop"), b"[DONE]")
    ends = said_by(MessagesRest(way(message(), said.told(), MESSAGES), 3), *end)
    assert [event["type"] for event in ends] == ["message_delta", "message_stop"]
    goes_on = said_by(MessagesRest(way(message(), said.told(), MESSAGES), 3), piece("!"), *end)
    assert [event.get("index") for event in goes_on] == [1, 1, 1, None, None]


def test_a_message_that_lacks_only_its_mark_needs_no_engine() -> None:
    said = SentMessages(1 << 20)
    said.feed(named("message_start", message={"id": "msg_1", "model": "big"}))
    said.feed(named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 1}))
    assert way(message(), said.told(), MESSAGES).lacks_only_its_mark
    assert not way(message(), begun(), MESSAGES).lacks_only_its_mark
