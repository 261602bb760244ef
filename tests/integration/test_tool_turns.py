"""Turns with tools through the front door, before engines that answer whatever a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import openai
import pytest

from serving.protocol import CHAT, MESSAGES
from tests.integration.engines_behaving_badly import Exchange, Front, LocalEngine, front_door, until
from tests.unit.tool_fakes import GUARDED, REPLIES, body, chat_tools

Json = dict[str, Any]
ROME = '{"city": "Rome"}'
TWICE = '{"numbers": [1, 1]}'
FITS = '{"numbers": [1, 2]}'
FORMS = pytest.mark.parametrize("path", [CHAT, MESSAGES])
FREE: Json = {}


def door(engine: LocalEngine, of: Json = FREE, **sections: Any) -> Any:
    """A front door whose one model is described by `of`."""
    big = {"engine": "external", "tier": "frontier", "urls": ["http://127.0.0.1:9"], **of}
    return front_door(engine, models={"big": big}, **sections)


# What engines say


def call(name: str, arguments: str, call_id: str | None = "c1") -> Json:
    found: Json = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return found if call_id is None else {"id": call_id, **found}


def chat_answer(
    *calls: Json, content: str | None = None, reason: str = "tool_calls", tokens: int = 5
) -> bytes:
    message = {"role": "assistant", "content": content, "tool_calls": [*calls]}
    answer = {
        "id": "x",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens},
    }
    return json.dumps(answer).encode()


def message_answer(*blocks: Json, reason: str = "tool_use", tokens: int = 5) -> bytes:
    answer = {
        "type": "message",
        "content": [*blocks],
        "stop_reason": reason,
        "usage": {"input_tokens": 20, "output_tokens": tokens},
    }
    return json.dumps(answer).encode()


def whole_answer(path: str, name: str, arguments: str, **more: Any) -> bytes:
    if path == CHAT:
        return chat_answer(call(name, arguments), **more)
    block = {"type": "tool_use", "id": "c1", "name": name, "input": json.loads(arguments)}
    return message_answer(block, **more)


def data(*events: Any) -> bytes:
    lines = [e if isinstance(e, str) else json.dumps(e, ensure_ascii=False) for e in events]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def deltas(*parts: Json, reason: str = "tool_calls", choice: int = 0) -> list[Json]:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "big"}
    ends = [(part, None) for part in parts] + [({}, reason)]
    return [
        {**head, "choices": [{"index": choice, "delta": part, "finish_reason": end}]}
        for part, end in ends
    ]


def called(name: str, *pieces: str, at: int = 0) -> list[Json]:
    first = {"index": at, "id": f"c{at}", "type": "function"}
    head = {"tool_calls": [{**first, "function": {"name": name, "arguments": ""}}]}
    return [head, *[{"tool_calls": [{"index": at, "function": {"arguments": p}}]} for p in pieces]]


def typed(*events: Json) -> bytes:
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()


def blocks(*parts: tuple[str, Json, Sequence[Json]], reason: str = "tool_use") -> bytes:
    """A Messages stream of blocks: kind, the block's fields, its deltas."""
    events: list[Json] = [{"type": "message_start", "message": {"usage": {"input_tokens": 20}}}]
    for i, (kind, fields, grown) in enumerate(parts):
        block = {"type": kind, **fields}
        events.append({"type": "content_block_start", "index": i, "content_block": block})
        events += [{"type": "content_block_delta", "index": i, "delta": d} for d in grown]
        events.append({"type": "content_block_stop", "index": i})
    ended = {"delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}}
    return typed(*events, {"type": "message_delta", **ended}, {"type": "message_stop"})


def tool_use(name: str, *pieces: str) -> tuple[str, Json, list[Json]]:
    grown = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return "tool_use", {"id": "c1", "name": name, "input": {}}, grown


def text_block(*pieces: str) -> tuple[str, Json, list[Json]]:
    return "text", {"text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]


def stream_answer(path: str, name: str, *pieces: str) -> bytes:
    if path == CHAT:
        return data(*deltas(*called(name, *pieces)), "[DONE]")
    return blocks(tool_use(name, *pieces))


Behaviour = Callable[[Exchange], Awaitable[None]]


def says(*answers: bytes | Behaviour) -> LocalEngine:
    """An engine that gives these answers in turn; the last one for ever."""
    left = [*answers]

    async def behave(exchange: Exchange) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if callable(answer):
            await answer(exchange)
        elif answer.startswith((b"data:", b"event:")):
            await streams([answer])(exchange)
        else:
            await exchange.answer(answer)

    return LocalEngine(behave)


def streams(pieces: Sequence[bytes]) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for piece in pieces:
            await exchange.chunk(piece)
        await exchange.end_stream()

    return behave


# What clients see


async def events(response: aiohttp.ClientResponse) -> list[Any]:
    """The data of a stream's events; every one must be JSON, or the mark of the end."""
    raw = (await response.read()).decode()
    assert raw.endswith("\n\n")
    found = [line.removeprefix("data: ") for line in raw.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in found]


class Told:
    """What a stream of either form adds up to; fails where it breaks the form's rules."""

    def __init__(self, seen: list[Any]) -> None:
        self.text, self.calls, self.reason = "", list[list[str]](), ""
        self.error: Json | None = None
        self.order = ""
        self._open: int | None = None
        for event in seen:
            if event == "[DONE]":
                continue
            if "error" in event:
                self.error = event["error"]
            elif "choices" in event:
                self._chunk(event)
            else:
                self._event(event)
        assert self.error or self._open is None

    def _chunk(self, event: Json) -> None:
        for choice in event["choices"]:
            assert not self.reason
            self.reason = choice["finish_reason"] or ""
            if text := choice["delta"].get("content"):
                self._text(text)
            for each in choice["delta"].get("tool_calls") or ():
                if each["function"].get("name"):
                    assert each["index"] == len(self.calls)
                    assert each["id"]
                    self._call(each["function"]["name"])
                self.calls[each["index"]][1] += each["function"].get("arguments") or ""

    def _event(self, event: Json) -> None:
        match event["type"]:
            case "content_block_start":
                assert self._open is None
                self._open, self._kind = event["index"], event["content_block"]["type"]
                if self._kind == "tool_use":
                    self._call(event["content_block"]["name"])
            case "content_block_delta":
                assert event["index"] == self._open
                match event["delta"]:
                    case {"type": "text_delta", "text": text}:
                        assert self._kind == "text"
                        self._text(text)
                    case {"type": "input_json_delta", "partial_json": piece}:
                        assert self._kind == "tool_use"
                        self.calls[-1][1] += piece
            case "content_block_stop":
                assert event["index"] == self._open
                self._open = None
            case "message_delta":
                self.reason = event["delta"]["stop_reason"]

    def _text(self, text: str) -> None:
        self.text += text
        self.order = self.order if self.order.endswith("t") else self.order + "t"

    def _call(self, name: str) -> None:
        self.calls.append([name, ""])
        self.order += "c"


def told_whole(answer: Json) -> Told:
    """The same of a whole answer."""
    told = Told([])
    if "choices" in answer:
        [choice] = answer["choices"]
        told.text, told.reason = choice["message"]["content"] or "", choice["finish_reason"]
        for each in choice["message"].get("tool_calls") or ():
            assert each["id"]
            told.calls.append([each["function"]["name"], each["function"]["arguments"]])
    else:
        told.reason = answer["stop_reason"]
        for block in answer["content"]:
            if block["type"] == "text":
                told.text += block["text"]
            elif block["type"] == "tool_use":
                told.calls.append([block["name"], json.dumps(block["input"])])
    return told


async def ask(front: Front, path: str, **fields: Any) -> Told:
    async with front.post(body(path, **fields), path) as response:
        assert response.status == 200, await response.text()
        if fields.get("stream"):
            return Told(await events(response))
        return told_whole(await response.json())


async def refused(front: Front, path: str, status: int, **fields: Any) -> Json:
    async with front.post(body(path, **fields), path) as response:
        assert response.status == status, await response.text()
        error: Json = (await response.json())["error"]
        return error


CALLED = {CHAT: "tool_calls", MESSAGES: "tool_use"}
ENDED = {CHAT: "stop", MESSAGES: "end_turn"}
CUT = {CHAT: "length", MESSAGES: "max_tokens"}


# Calls


@FORMS
@pytest.mark.parametrize("of", [FREE, GUARDED, REPLIES])
async def test_a_call_passes_in_both_forms_whole_and_streamed(path: str, of: Json) -> None:
    engine = says(
        whole_answer(path, "weather", ROME), stream_answer(path, "weather", '{"city"', ': "Rome"}')
    )
    async with door(engine, of) as front:
        for stream in (False, True):
            told = await ask(front, path, stream=stream)
            [[name, arguments]] = told.calls
            assert (name, json.loads(arguments)) == ("weather", {"city": "Rome"})
            assert (told.text, told.reason) == ("", CALLED[path])


@FORMS
async def test_a_call_that_does_not_fit_is_asked_for_again_unseen(path: str) -> None:
    again = whole_answer(path, "pick", FITS, tokens=7)
    whole = says(whole_answer(path, "pick", TWICE), again)
    async with door(whole, GUARDED) as front:
        async with front.post(body(path), path) as response:
            answer = await response.json()
        assert json.loads(told_whole(answer).calls[0][1]) == {"numbers": [1, 2]}
        tokens = {CHAT: "completion_tokens", MESSAGES: "output_tokens"}[path]
        assert answer["usage"][tokens] == 12
        await until(lambda: bool(front.log))
        assert front.log[0]["calls_again"] == 1
    first, second = (json.loads(exchange.body) for exchange in whole.seen)
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert "pick" in json.dumps(second["tool_choice"])
    assert second["tools"] == first["tools"]
    assert not second.get("stream")

    streamed = says(stream_answer(path, "pick", '{"numbers": ', "[1, 1]}"), again)
    async with door(streamed, GUARDED) as front:
        told = await ask(front, path, stream=True)
        assert [told.calls, told.reason] == [[["pick", FITS]], CALLED[path]] or (
            json.loads(told.calls[0][1]) == {"numbers": [1, 2]}
        )


async def hangs(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def cuts(exchange: Exchange) -> None:
    exchange.cut()


async def breaks(exchange: Exchange) -> None:
    await exchange.answer(b'{"error": {"message": "broken"}}', 500)


BAD_AGAIN: dict[str, Any] = {
    "still wrong": lambda path: whole_answer(path, "pick", TWICE),
    "another tool": lambda path: whole_answer(path, "weather", ROME),
    "no call": lambda path: chat_answer(content="no") if path == CHAT else message_answer(),
    "no JSON": lambda _: b'{"choices": [',
    "a list": lambda _: b"[]",
    "hangs": lambda _: hangs,
    "cut": lambda _: cuts,
    "500": lambda _: breaks,
}


@FORMS
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("bad", BAD_AGAIN)
async def test_one_that_cannot_be_made_again_is_a_typed_failure(
    path: str, stream: bool, bad: str
) -> None:
    first = stream_answer(path, "pick", TWICE) if stream else whole_answer(path, "pick", TWICE)
    engine = says(first, BAD_AGAIN[bad](path))
    front_section = {"port": 0, "first_byte_timeout_s": 1.0 if bad == "hangs" else 20.0}
    async with door(engine, GUARDED, front=front_section) as front:
        if stream:
            told = await ask(front, path, stream=True)
            assert told.error is not None
            assert told.error["code"] == "invalid_tool_call"
            assert all(not arguments for _, arguments in told.calls)
        else:
            error = await refused(front, path, 502)
            assert error["code"] == "invalid_tool_call"
            await until(lambda: bool(front.log))
            assert front.log[0]["status"] == 502
        assert len(engine.seen) == 2
        await until(lambda: engine.active == 0)


async def test_arguments_that_are_no_json_are_not_sent_back_as_history() -> None:
    engine = says(chat_answer(call("pick", '{"numbers": [1')), chat_answer(call("pick", FITS)))
    async with door(engine) as front:
        assert (await ask(front, CHAT)).calls == [["pick", FITS]]
    made = json.loads(engine.seen[1].body)["messages"][-2]["tool_calls"][0]
    json.loads(made["function"]["arguments"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_in_mid_retry_frees_the_engine(stream: bool) -> None:
    first = stream_answer(CHAT, "pick", TWICE) if stream else whole_answer(CHAT, "pick", TWICE)
    engine = says(first, hangs)
    async with door(engine, GUARDED) as front:
        request = asyncio.ensure_future(ask(front, CHAT, stream=stream))
        await until(lambda: len(engine.seen) == 2)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await until(engine.seen[1].gone.is_set)
        await until(lambda: engine.active == 0 and front.router.admission.total == 0)


@FORMS
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_cut_off_is_never_a_call(path: str, stream: bool) -> None:
    if path == CHAT:
        whole = chat_answer(call("pick", '{"numb'), reason="length")
        streamed = data(*deltas(*called("pick", '{"numb'), reason="length"), "[DONE]")
    else:
        whole = message_answer(
            {"type": "tool_use", "id": "c", "name": "pick", "input": {}}, reason="max_tokens"
        )
        streamed = blocks(tool_use("pick", '{"numb'), reason="max_tokens")
    engine = says(streamed if stream else whole)
    async with door(engine, GUARDED) as front:
        told = await ask(front, path, stream=stream)
        assert told.reason == CUT[path]
        assert all(not arguments for _, arguments in told.calls)
        assert stream or not told.calls
    assert len(engine.seen) == 1


async def test_calls_without_ids_get_one_and_ten_become_eight() -> None:
    engine = says(
        chat_answer(*[call("weather", ROME, None) for _ in range(10)]),
        data(*deltas(*[d for i in range(10) for d in called("weather", ROME, at=i)]), "[DONE]"),
    )
    async with door(engine) as front:
        for stream in (False, True):
            assert (await ask(front, CHAT, stream=stream)).calls == [["weather", ROME]] * 8


@pytest.mark.parametrize("of", [FREE, GUARDED])
async def test_a_name_in_each_piece_or_one_number_for_all_calls_is_understood(of: Json) -> None:
    def piece(call_id: str, arguments: str) -> Json:
        function = {"name": "weather", "arguments": arguments}
        return {"tool_calls": [{"index": 0, "id": call_id, "function": function}]}

    parts = [piece("a", '{"city": '), piece("a", '"Rome"}'), piece("b", ROME)]
    engine = says(data(*deltas(*parts), "[DONE]"))
    async with door(engine, of) as front:
        assert (await ask(front, CHAT, stream=True)).calls == [["weather", ROME]] * 2


async def test_two_calls_written_at_once_are_a_failure_and_not_a_mixture() -> None:
    parts = [*called("weather", '{"ci'), *called("pick", '{"nu', at=1)]
    parts.append({"tool_calls": [{"index": 0, "function": {"arguments": 'ty": "Rome"}'}}]})
    async with door(says(data(*deltas(*parts), "[DONE]"))) as front:
        told = await ask(front, CHAT, stream=True)
        assert told.error is not None


async def test_choices_are_read_apart() -> None:
    one, two = (
        deltas(*called("weather", '{"city":', ' "A"}')),
        deltas(*called("weather", '{"city":', ' "B"}'), choice=1),
    )
    mixed = [event for pair in zip(one, two, strict=True) for event in pair]
    async with (
        door(says(data(*mixed, "[DONE]")), GUARDED) as front,
        front.post(body(CHAT, stream=True, n=2)) as response,
    ):
        seen = await events(response)
    for index, city in enumerate("AB"):
        mine = [
            {**e, "choices": [c]}
            for e in seen
            if e != "[DONE]"
            for c in e["choices"]
            if c["index"] == index
        ]
        assert Told(mine).calls == [["weather", f'{{"city": "{city}"}}']]


async def test_an_argument_of_a_megabyte_and_unicode_in_pieces() -> None:
    text = 'é "☂" \\ 😀\n' * 40_000
    schema = {"type": "object", "properties": {"text": {"type": "string", "maxLength": 2_000_000}}}
    tools = [{"type": "function", "function": {"name": "note", "parameters": schema}}]
    arguments = json.dumps({"text": text}, ensure_ascii=False)
    pieces = [arguments[i : i + 997] for i in range(0, len(arguments), 997)]
    engine = says(
        data(*deltas(*called("note", *pieces)), "[DONE]"), chat_answer(call("note", arguments))
    )
    knobs = {"max_string": 2_000_000}
    async with door(engine, GUARDED, tools=knobs) as front:
        for stream in (True, False):
            told = await ask(front, CHAT, tools=tools, stream=stream)
            assert told.error is None
            assert json.loads(told.calls[0][1]) == {"text": text}


# Text


@FORMS
@pytest.mark.parametrize("stream", [False, True])
async def test_pseudo_calls_in_text_are_calls(path: str, stream: bool) -> None:
    written = f'So:\n```json\n{{"name": "weather", "arguments": {ROME}}}\n```'
    if path == CHAT:
        whole = chat_answer(content=written, reason="stop")
        streamed = data(*deltas(*[{"content": c} for c in written], reason="stop"), "[DONE]")
    else:
        whole = message_answer({"type": "text", "text": written}, reason="end_turn")
        streamed = blocks(text_block(*written), reason="end_turn")
    async with door(says(streamed if stream else whole)) as front:
        told = await ask(front, path, stream=stream)
        assert (told.text, told.reason) == ("So:\n", CALLED[path])
        assert [[n, json.loads(a)] for n, a in told.calls] == [["weather", {"city": "Rome"}]]


@FORMS
@pytest.mark.parametrize("choice", ["auto", "none"])
async def test_replies_are_text_and_the_history_is_what_the_model_wrote(
    path: str, choice: str
) -> None:
    streamed = stream_answer(path, "reply", '{"text": "Hel', 'lo \\u2602"}')
    whole = whole_answer(path, "reply", '{"text": "Hello ☂"}')
    engine = says(streamed, whole, whole)
    given: Any = choice if path == CHAT else {"type": choice}
    first = [{"role": "user", "content": "hi"}]
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": " ☂"}]
    second = [*first, {"role": "assistant", "content": parts}, {"role": "user", "content": "and?"}]
    third = [*second[:1], {"role": "assistant", "content": "Hello ☂"}, *second[2:]]
    async with door(engine, REPLIES) as front:
        for messages, stream in ((first, True), (second, False), (third, False)):
            told = await ask(front, path, messages=messages, stream=stream, tool_choice=given)
            assert (told.text, told.calls, told.reason) == ("Hello ☂", [], ENDED[path])
    sent = [json.loads(exchange.body) for exchange in engine.seen]
    assert sent[1]["messages"] == sent[2]["messages"]
    assert '"reply"' in json.dumps(sent[1]["messages"][1])
    assert "text" not in {type(sent[1]["messages"][1]["content"])}
    assert sent[0]["tools"] == sent[1]["tools"]
    if choice == "none":
        assert "reply" in json.dumps(sent[0]["tool_choice"])
    else:
        assert sent[0]["tool_choice"] in ("required", {"type": "any"})


async def test_a_beginning_that_the_model_is_to_continue_stays_as_it_is() -> None:
    engine = says(whole_answer(MESSAGES, "reply", '{"text": "x"}'))
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Well,"}]
    async with door(engine, REPLIES) as front:
        await ask(front, MESSAGES, messages=messages, system="Be brief.")
    sent = json.loads(engine.seen[0].body)
    assert sent["messages"] == messages
    assert sent["system"] == "Be brief."


async def test_reasoning_and_other_fields_pass_beside_what_is_held_back() -> None:
    parts = [
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
        {"content": "`", "reasoning_content": "so"},
        {"content": "x` {1}"},
    ]
    async with (
        door(says(data(*deltas(*parts, reason="stop"), "[DONE]"))) as front,
        front.post(body(CHAT, stream=True)) as response,
    ):
        seen = await events(response)
    thoughts = [c["delta"].get("reasoning_content") for e in seen[:-1] for c in e["choices"]]
    assert "".join(filter(None, thoughts)) == "hmso"
    assert Told(seen).text == "`x` {1}"
    assert seen[0]["choices"][0]["delta"]["role"] == "assistant"


async def test_blocks_keep_their_order_and_their_places() -> None:
    thinking = ("thinking", {"thinking": ""}, [{"type": "thinking_delta", "thinking": "hm"}])
    answer = blocks(
        thinking, text_block("Look `"), tool_use("pick", FITS), text_block("and"), thinking
    )
    async with (
        door(says(answer)) as front,
        front.post(body(MESSAGES, stream=True), MESSAGES) as response,
    ):
        seen = await events(response)
    told = Told(seen)
    assert (told.order, told.text, told.calls) == ("tct", "Look `and", [["pick", FITS]])
    kinds = [e["content_block"]["type"] for e in seen if e["type"] == "content_block_start"]
    assert kinds == ["thinking", "text", "tool_use", "text", "thinking"]
    assert [e["index"] for e in seen if e["type"] == "content_block_start"] == [*range(5)]


# Streams cut anywhere


def _long(path: str) -> bytes:
    if path == CHAT:
        words = [{"role": "assistant", "content": ""}, {"content": "é☂ {1} "}]
        return data(*deltas(*words, *called("weather", '{"city": "☂', ' \\"x"}')), "[DONE]")
    return blocks(text_block("é☂ {1} "), tool_use("weather", '{"city": "☂', ' \\"x"}'))


@FORMS
async def test_every_byte_boundary_gives_the_same_stream(path: str) -> None:
    answer = _long(path)
    cuts_at = [*range(1, len(answer), 7)]
    engine = says(*[streams([answer[:at], answer[at:]]) for at in cuts_at], answer)
    async with door(engine) as front:
        for _ in cuts_at:
            told = await ask(front, path, stream=True)
            assert told.text == "é☂ {1} "
            assert told.calls == [["weather", '{"city": "☂ \\"x"}']]


@FORMS
async def test_a_stream_of_single_bytes_is_read(path: str) -> None:
    answer = _long(path)
    async with door(says(streams([bytes([b]) for b in answer]))) as front:
        assert (await ask(front, path, stream=True)).reason == CALLED[path]


@FORMS
async def test_a_stream_without_an_end_is_a_failure(path: str) -> None:
    answer = _long(path)
    pieces = answer.split(b"\n\n")
    half = b"\n\n".join(pieces[: len(pieces) - 4]) + b"\n\n"
    async with door(says(streams([half]))) as front:
        told = await ask(front, path, stream=True)
        assert told.error is not None
        assert told.error["code"] == "engine_failed"


async def test_what_came_before_a_failure_is_not_lost_with_it() -> None:
    answer = data(*deltas({"content": "Look: "}, *called("launch", "{}")), "[DONE]")
    async with door(says(answer)) as front:
        told = await ask(front, CHAT, stream=True)
        assert told.text == "Look: "
        assert told.error is not None
        assert told.error["code"] == "invalid_tool_call"


@pytest.mark.parametrize(
    "answer",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"choices": 5}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {"tool_calls": [{}]}}]}',
        b'{"choices": [{"message": {"content": ["x"]}}]}',
        b'{"choices": [{"message": {"content": "\xff"}}]}',
        b'{"choices":' + b"[" * 5000,
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_engines_nonsense_is_an_engine_failure(answer: bytes, stream: bool) -> None:
    if stream:
        answer = answer.replace(b'"message"', b'"delta"').replace(b"[{}]}}", b"[5]}}")
        if answer in (b"{}", b'{"choices": [{}]}'):
            return  # events that say nothing
        answer = b"data: " + answer + b"\n\n"
    async with door(says(streams([answer]) if stream else answer)) as front:
        if stream:
            told = await ask(front, CHAT, stream=True)
            assert told.error is not None
            assert told.error["code"] == "engine_failed"
        else:
            assert (await refused(front, CHAT, 502))["code"] == "engine_failed"


# Requests


@pytest.mark.parametrize("tools", [[], None])
async def test_no_tools_is_a_turn_without_tools(tools: Any) -> None:
    answer = chat_answer(content='{"name": "weather"}', reason="stop")
    engine = says(answer)
    async with door(engine, REPLIES) as front, front.post(body(CHAT, tools=tools)) as response:
        assert await response.read() == answer
    assert "tool_choice" not in json.loads(engine.seen[0].body)


def _tool(**fields: Any) -> Json:
    return {"type": "function", "function": {"name": "x", **fields}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": "weather"}, "tools"),
        ({"tools": ["weather"]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [_tool(name="")]}, "tools[0]"),
        ({"tools": [_tool(name=5)]}, "tools[0]"),
        ({"tools": [_tool(), _tool()]}, "tools[1]"),
        ({"tools": [_tool(name=f"t{i}") for i in range(500)]}, "tools"),
        ({"tools": [_tool(parameters={"type": "nonsense"})]}, "tools[0].function.parameters"),
        ({"tools": [_tool(parameters="x")]}, "tools[0].function.parameters"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": {}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": "x"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_its_place(fields: Json, param: str) -> None:
    engine = says(chat_answer())
    async with door(engine, GUARDED) as front:
        error = await refused(front, CHAT, 400, **fields)
        assert error["param"] == param
        assert error["message"].startswith(param)
    assert engine.seen == []


@pytest.mark.parametrize(
    "choice", ["any", {"type": ["any"]}, {"type": "tool"}, {"type": "tool", "name": "x"}]
)
async def test_a_choice_that_cannot_be_meant_is_refused_in_messages_too(choice: Any) -> None:
    async with door(says(message_answer())) as front:
        assert (await refused(front, MESSAGES, 400, tool_choice=choice))["param"] == "tool_choice"


@pytest.mark.parametrize("where", [b'"tools":', b'"content": '])
async def test_bytes_that_are_no_utf8_are_the_clients_error(where: bytes) -> None:
    raw = body(CHAT, tools=["weather"]) if where == b'"tools":' else body(CHAT)
    raw = raw.replace(b"weather" if where == b'"tools":' else b"hello", b"\xff\xfe")
    engine = says(chat_answer(content="x", reason="stop"))
    async with door(engine, REPLIES) as front, front.post(raw) as response:
        assert response.status < 500


async def test_a_response_format_beside_tools_leaves_the_engine_its_way() -> None:
    engine = says(chat_answer(content='{"a": 1}', reason="stop"))
    wanted = {"type": "json_object"}
    async with door(engine, REPLIES) as front:
        assert (await ask(front, CHAT, response_format=wanted)).text == '{"a": 1}'
    assert json.loads(engine.seen[0].body)["response_format"] == wanted


# The official client


async def test_the_openai_client_reads_calls_and_text_from_streams() -> None:
    engine = says(
        data(*deltas(*called("weather", '{"city": ', '"Rome"}')), "[DONE]"),
        data(*deltas(*called("reply", '{"text": "Hel', 'lo"}')), "[DONE]"),
    )
    async with door(engine, REPLIES) as front:
        client = openai.AsyncOpenAI(base_url=front.url + "/v1", api_key="none", max_retries=0)
        async with client:
            for expected in ("call", "text"):
                async with client.chat.completions.stream(
                    model="big",
                    messages=[{"role": "user", "content": "hello"}],
                    tools=chat_tools("weather"),  # type: ignore[arg-type]
                ) as stream:
                    final = (await stream.get_final_completion()).choices[0]
                if expected == "call":
                    assert final.finish_reason == "tool_calls"
                    assert final.message.tool_calls is not None
                    [made] = final.message.tool_calls
                    assert made.function.arguments == ROME
                else:
                    assert final.finish_reason == "stop"
                    assert final.message.content == "Hello"
                    assert not final.message.tool_calls
