"""Streams whose engine is killed: plain text goes on elsewhere, all else ends in an error event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from serving.tables.base import Engine
from tests.integration.engines_behaving_badly import Exchange, Front, LocalEngine, front_door, until
from tests.integration.simulators import SimulatedProcess, simulators
from tests.unit.fakes import engine

TEXT = "".join(f"Line {i}: five wörds are said here.\n" for i in range(40))
SLOW = {"decode_tokens_per_s": 200.0}


def script(**step: Any) -> str:
    return "SIMULATE: " + json.dumps({"text": TEXT} | step)


def chat(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": script()}]
    return {"model": "big", "stream": True, "messages": messages} | fields


def events(body: bytes) -> list[dict[str, Any]]:
    """The events' data, without comments and the end's mark."""
    blocks = [block for block in body.split(b"\n\n") if block.startswith(b"data: ")]
    return [json.loads(block[6:]) for block in blocks if block != b"data: [DONE]"]


def text_of(body: bytes) -> str:
    return "".join(
        choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        for event in events(body)
        for choice in event.get("choices", ())
    )


async def read_and_kill(
    front: Front,
    engines: list[SimulatedProcess],
    request: dict[str, Any],
    path: str = "/v1/chat/completions",
    *,
    after_bytes: int = 6000,
    kill: Callable[[SimulatedProcess], Any] = SimulatedProcess.kill,
) -> bytes:
    """The whole body of an answer whose engine is killed in the middle of it."""
    async with front.post(request, path) as response:
        assert response.status == 200, await response.text()
        body = await response.content.readexactly(after_bytes)
        assert b"[DONE]" not in body
        replica = response.headers["x-warmloop-replica"]
        kill(next(each for each in engines if each.replica == replica))
        return body + bytes(await response.read())


def heads(body: bytes) -> set[tuple[str, int, str]]:
    """Which ids, dates and models the events have."""
    return {(event["id"], event["created"], event["model"]) for event in events(body)}


def roles(body: bytes) -> int:
    """How often a role was announced."""
    return sum("role" in choice["delta"] for event in events(body) for choice in event["choices"])


@pytest.mark.parametrize("limit", [None, 120])
async def test_a_chat_whose_engine_is_killed_is_the_one_that_was_not(limit: int | None) -> None:
    request = chat(stream_options={"include_usage": True})
    if limit:
        request["max_tokens"] = limit
    async with simulators(2, **SLOW) as engines, front_door(*(e.entry for e in engines)) as front:
        async with front.post(request) as response:
            whole = await response.read()
        cut = await read_and_kill(front, engines, request)
        assert text_of(cut) == text_of(whole)
        assert len(text_of(cut)) > 400
        assert len(heads(cut)) == 1
        assert roles(cut) == 1
        ends = [events(body)[-2]["choices"][0]["finish_reason"] for body in (whole, cut)]
        assert ends == ["length" if limit else "stop"] * 2
        usages = [events(body)[-1]["usage"] for body in (whole, cut)]
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert usages[1][name] == usages[0][name], name
        assert cut.count(b": warmloop continued on big-") == 1
        assert cut.endswith(b"data: [DONE]\n\n")
        await until(lambda: len(front.log) == 2)
        assert (front.log[1]["continued"], front.log[1]["status"]) == (1, 200)
        assert front.log[1]["output_tokens"] == usages[1]["completion_tokens"]
        async with front.get("/metrics") as response:
            said = await response.text()
        assert 'warmloop_continuations_total{model="big",outcome="continued"} 1.0' in said
        assert front.router.admission.total == 0


async def test_a_completion_goes_on_too() -> None:
    request = {"model": "big", "stream": True, "prompt": script(), "max_tokens": 300}
    async with simulators(2, **SLOW) as engines, front_door(*(e.entry for e in engines)) as front:
        async with front.post(request, "/v1/completions") as response:
            whole = await response.read()
        cut = await read_and_kill(front, engines, request, "/v1/completions")
        assert text_of(cut) == text_of(whole)
        assert len({event["id"] for event in events(cut)}) == 1


async def test_openais_client_sees_one_answer() -> None:
    async with (
        simulators(2, **SLOW) as engines,
        front_door(*(e.entry for e in engines)) as front,
        openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as client,
    ):
        said, killed = "", False
        messages: Any = [{"role": "user", "content": script()}]
        stream = await client.chat.completions.create(model="big", messages=messages, stream=True)
        replica = stream.response.headers["x-warmloop-replica"]
        async for chunk in stream:
            said += chunk.choices[0].delta.content or ""
            if len(said) > 100 and not killed:
                killed = True
                next(each for each in engines if each.replica == replica).kill()
        assert said == TEXT


async def test_it_goes_on_twice_where_the_second_engine_dies_too() -> None:
    async with simulators(3, **SLOW) as engines, front_door(*(e.entry for e in engines)) as front:
        async with front.post(chat()) as response:
            body = await response.content.readexactly(4000)
            replica = response.headers["x-warmloop-replica"]
            next(each for each in engines if each.replica == replica).kill()
            while b"continued on" not in body:
                body += await response.content.readany()
            replica = body.split(b"continued on ")[1].split(b"\n")[0].decode()
            body += await response.content.readexactly(2000)
            next(each for each in engines if each.replica == replica).kill()
            body += await response.read()
        assert text_of(body) == TEXT
        assert body.count(b"continued on") == 2


async def test_a_lone_engine_that_is_restarted_goes_on_where_it_was() -> None:
    knobs = {"router": {"eject_s": 0.5}}
    async with simulators(1, **SLOW) as [only], front_door(only.entry, **knobs) as front:
        async with front.post(chat()) as response:
            body = await response.content.readexactly(6000)
            only.kill()
            await only.restart()
            body += await response.read()
        assert text_of(body) == TEXT


def not_continued(body: bytes, why: str, text: str = TEXT) -> None:
    last = events(body)[-1]
    assert last["error"]["code"] == "engine_failed"
    assert why in last["error"]["message"]
    assert b"continued on" not in body
    said = text_of(body)
    assert said
    assert text.startswith(said)
    assert b"[DONE]" not in body


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"seed": 1}, "the request has 'seed'"),
        ({"logprobs": True}, "the request has 'logprobs'"),
        ({"of_tomorrow": 1}, "a field whose meaning for a part of an answer is not known"),
    ],
)
async def test_a_request_that_cannot_be_continued_ends_with_an_error_event(
    fields: dict[str, Any], why: str
) -> None:
    async with simulators(2, **SLOW) as engines, front_door(*(e.entry for e in engines)) as front:
        not_continued(await read_and_kill(front, engines, chat(**fields)), why)
        await until(lambda: len(front.log) == 1)
        assert why in front.log[0]["not_continued"]
        assert front.log[0]["error"] == "engine_failed"


async def test_without_another_engine_it_ends_with_an_error_event_in_bounded_time() -> None:
    knobs = {"router": {"failure": {"continue_wait_s": 0.3}}}
    async with simulators(1, **SLOW) as engines, front_door(engines[0].entry, **knobs) as front:
        not_continued(await read_and_kill(front, engines, chat()), "not continued elsewhere")
        assert front.router.admission.total == 0


async def test_continuing_can_be_switched_off() -> None:
    knobs = {"router": {"failure": {"continuations": 0}}}
    async with (
        simulators(2, **SLOW) as engines,
        front_door(*(e.entry for e in engines), **knobs) as front,
    ):
        body = await read_and_kill(front, engines, chat())
        assert events(body)[-1]["error"]["code"] == "engine_failed"


# Messages


MESSAGES = "/v1/messages"


def message(**fields: Any) -> dict[str, Any]:
    # Of one byte a character: of others, a simulated engine's pieces and its tokens differ.
    asked = [{"role": "user", "content": script(text=TEXT.replace("ö", "o"))}]
    return chat(max_tokens=1000, system="You count lines.", messages=asked) | fields


def said_of(body: bytes) -> str:
    return "".join(
        event["delta"]["text"] for event in parts(body) if event["type"] == "content_block_delta"
    )


def parts(body: bytes) -> list[dict[str, Any]]:
    """Anthropic's events, each of whose data lies under the line with its name."""
    found = []
    for block in body.split(b"\n\n"):
        name, _, data = block.partition(b"\ndata: ")
        if data:
            found.append(json.loads(data))
            assert name == b"event: " + found[-1]["type"].encode()
    return found


@pytest.mark.parametrize("limit", [1000, 120])
async def test_a_message_whose_engine_is_killed_is_the_one_that_was_not(limit: int) -> None:
    request = message(max_tokens=limit)
    async with simulators(2, **SLOW) as engines, front_door(*(e.entry for e in engines)) as front:
        async with front.post(request, MESSAGES) as response:
            whole = await response.read()
        cut = await read_and_kill(front, engines, request, MESSAGES)
        assert said_of(cut) == said_of(whole)
        assert [e["type"] for e in parts(cut)] == [e["type"] for e in parts(whole)]
        assert cut.count(b": warmloop continued on big-") == 1
        ends = [parts(body)[-2] for body in (whole, cut)]
        assert ends[0]["delta"] == ends[1]["delta"]
        assert ends[0]["delta"]["stop_reason"] == ("end_turn" if limit == 1000 else "max_tokens")
        totals = [
            (u["input_tokens"] + u["cache_read_input_tokens"], u["output_tokens"])
            for u in (end["usage"] for end in ends)
        ]
        assert totals[0] == totals[1]
        await until(lambda: len(front.log) == 2)
        assert (front.log[1]["continued"], front.log[1]["status"]) == (1, 200)
        assert front.log[1]["output_tokens"] == totals[1][1]
        assert front.router.admission.total == 0


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "the request has 'thinking'"),
        ({"of_tomorrow": 1}, "a field whose meaning for a part of an answer is not known"),
    ],
)
async def test_a_message_that_cannot_be_continued_ends_with_its_own_error_event(
    fields: dict[str, Any], why: str
) -> None:
    async with simulators(2, **SLOW) as engines, front_door(*(e.entry for e in engines)) as front:
        body = await read_and_kill(front, engines, message(**fields), MESSAGES)
        last = parts(body)[-1]
        assert last["type"] == "error"
        assert last["error"]["code"] == "engine_failed"
        assert why in last["error"]["message"]
        assert b"message_stop" not in body


# To the byte


def said(**fields: Any) -> bytes:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "big"}
    return b"data: " + json.dumps(base | fields).encode() + b"\n\n"


def word(text: str, **fields: Any) -> bytes:
    return said(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}], **fields)


END = said(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]) + b"data: [DONE]\n\n"


def scripted(*answers: list[bytes | None]) -> tuple[LocalEngine, LocalEngine, list[bytes]]:
    """Two engines that share a list of answers, whoever is asked; None is a cut. And the bodies
    that they were sent."""
    left = list(answers)
    asked: list[bytes] = []

    async def behave(exchange: Exchange) -> None:
        if "post /tokenize" in exchange.head:
            await exchange.answer(b"{}", 404)
            return
        asked.append(exchange.body)
        await exchange.begin_stream()
        for chunk in left.pop(0):
            if chunk is None:
                await asyncio.sleep(0.05)
                exchange.cut()
                return
            await exchange.chunk(chunk)
            await asyncio.sleep(0)
        await exchange.end_stream()

    return LocalEngine(behave), LocalEngine(behave), asked


async def answer(front: Front, request: dict[str, Any]) -> bytes:
    async with front.post(request) as response:
        return bytes(await response.read())


async def test_a_half_sent_event_never_reaches_the_client() -> None:
    half = word(" wörld")[:-20]
    one, two, asked = scripted([word("Hello"), half, None], [word(" wörld"), END])
    async with front_door(one, two) as front:
        body = await answer(front, chat())
        assert [e["choices"][0]["delta"].get("content") for e in events(body)] == [
            "Hello",
            " wörld",
            None,
        ]
        assert body.startswith(word("Hello") + b": warmloop continued on ")
        assert json.loads(asked[1])["messages"][-1] == {"role": "assistant", "content": "Hello"}
        assert [front.router.health.ejected(f"big-{i}") for i in range(2)].count(True) == 1


async def test_an_engine_that_reports_its_own_death_is_left_and_ejected() -> None:
    died = b'data: {"error":{"message":"EngineCore encountered an issue","code":500}}\n\n'
    one, two, _ = scripted([word("Hello"), died], [word(" world"), END])
    async with front_door(one, two) as front:
        body = await answer(front, chat())
        assert text_of(body) == "Hello world"
        assert b"EngineCore" not in body
        assert [front.router.health.ejected(f"big-{i}") for i in range(2)].count(True) == 1


async def test_a_stream_that_ends_before_its_answer_does_is_a_cut() -> None:
    one, two, _ = scripted([word("Hello")], [word(" world"), END])
    async with front_door(one, two) as front:
        assert text_of(await answer(front, chat())) == "Hello world"


async def test_a_stream_that_had_all_but_its_last_mark_is_ended_without_an_engine() -> None:
    one, two, asked = scripted([word("Hello"), END.partition(b"data: [DONE]")[0], None])
    async with front_door(one, two) as front:
        body = await answer(front, chat())
        assert body == word("Hello") + END
        assert len(asked) == 1


async def test_a_refusal_by_the_next_engine_is_the_error_of_the_cut() -> None:
    calls = 0

    async def behave(exchange: Exchange) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            await exchange.answer(b'{"error":{"message":"no such field"}}', 400)
            return
        await exchange.begin_stream()
        await exchange.chunk(word("Hello"))
        await asyncio.sleep(0.05)
        exchange.cut()

    async with front_door(LocalEngine(behave), LocalEngine(behave)) as front:
        not_continued(await answer(front, chat()), "answered 400", "Hello")
        assert calls == 2


async def test_an_engine_that_is_nothing_we_know_is_not_asked_to_continue_a_chat() -> None:
    one, two, asked = scripted([word("Hello"), None])
    async with one.running(), two.running():
        external: list[Engine] = [
            engine(f"big-{i}", url=each.url, kind="external") for i, each in enumerate((one, two))
        ]
        async with front_door(*external) as front:  # and the client does not wait for one
            why = "a stream of /v1/chat/completions does not go on at external engines"
            not_continued(await answer(front, chat()), why, "Hello")
            assert len(asked) == 1


async def test_a_client_that_leaves_while_it_waits_for_an_engine_frees_all() -> None:
    one, _, _ = scripted([word("Hello"), None])
    async with front_door(one) as front:
        response = await front.post(chat())
        assert await response.content.readexactly(len(word("Hello"))) == word("Hello")
        await until(lambda: front.router.health.ejected("big-0"))
        response.close()
        await until(lambda: front.router.admission.total == 0)
        assert front.log[0]["error"] == "hung_up"
