"""The front door over real sockets, before engines that misbehave on purpose."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import aiohttp
import pytest
from fastapi import APIRouter

from router.turn import TurnRequest
from serving.errors import UpstreamError
from tests.integration.engines_behaving_badly import Exchange, LocalEngine, front_door, until
from tests.unit.fakes import engine

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "choices": [{"message": {"role": "assistant", "content": "the secret answer"}}],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 16},
        },
    }
).encode()
EVENT = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\ndata: [DONE]\n\n'


def chat(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "big", "messages": [{"role": "user", "content": text}], **fields}


async def answers(exchange: Exchange) -> None:
    await exchange.answer(ANSWER)


async def hangs(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def streams(exchange: Exchange) -> None:
    await exchange.begin_stream()
    for _ in range(10):
        await exchange.chunk(EVENT)
        await asyncio.sleep(0)
    await exchange.chunk(LAST)
    await exchange.end_stream()


def fails(status: int) -> Any:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(b'{"error":{"message":"broken"}}', status)

    return behave


def nobody_listens(replica: str) -> Any:
    """An engine in the table whose port refuses."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return engine(replica, url=f"http://127.0.0.1:{port}")


async def error_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The OpenAI envelope; every refusal has one, and a request id."""
    body = await response.json()
    assert response.headers["x-request-id"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error


# What passes


async def test_bytes_pass_untouched_in_both_directions() -> None:
    raw = (
        b'{ "messages":[ {"role":"user","content":"\\u00e9 \xc3\xa9"} ],\n "model":"big","z":1.0 }'
    )
    reply = b'{ "usage" : null,"odd":"\\u0041 \xc3\xa9" }\n'

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(reply, x_engine="yes", set_cookie="a=b")

    local = LocalEngine(behave)
    async with front_door(local) as front:
        headers = {
            "authorization": "Bearer client-key",
            "cookie": "a=b",
            "x-request-id": "my-id-1",
            "traceparent": "00-aa-bb-01",
        }
        async with front.post(raw, headers=headers) as response:
            assert await response.read() == reply
            assert response.headers["x-request-id"] == "my-id-1"
            assert response.headers["x-engine"] == "yes"
            assert response.headers["x-warmloop-model"] == "big"
            assert response.headers["x-warmloop-replica"] == "big-0"
            assert response.headers["x-warmloop-decision"] == "hash"
            assert response.headers["x-warmloop-predicted-cached-tokens"] == "0"
            assert 0 <= int(response.headers["x-warmloop-estimated-ttft-ms"]) < 100
            assert "set-cookie" not in response.headers
        [seen] = local.seen
        assert seen.body == raw
        assert "client-key" not in seen.head
        assert "cookie" not in seen.head
        assert "x-request-id: my-id-1" in seen.head
        assert "traceparent: 00-aa-bb-01" in seen.head


async def test_auto_asks_the_engine_for_its_own_name_and_changes_nothing_else() -> None:
    local = LocalEngine(answers)
    async with front_door(local, served_name="/weights/big") as front:
        raw = b'{"messages":[{"role":"user","content":"model: \\"auto\\""}], "model" : "auto"}'
        async with front.post(raw) as response:
            assert response.headers["x-warmloop-decision"] == "auto:unknown->frontier; hash"
        assert local.seen[0].body == raw.replace(b' : "auto"', b' : "/weights/big"')


async def test_a_declared_side_turn_goes_to_the_small_model() -> None:
    big, tiny = LocalEngine(answers), LocalEngine(answers)
    async with tiny.running(), front_door(big) as front:
        front.table.set(*front.table.snapshot(), engine("tiny-0", "tiny", url=tiny.url))
        headers = {"x-warmloop-turn": "classify"}
        async with front.post(chat(model="auto"), headers=headers) as response:
            assert response.headers["x-warmloop-decision"] == "auto:classify->small; hash"
        assert (len(big.seen), len(tiny.seen)) == (0, 1)


async def test_a_chunk_of_a_stream_arrives_before_the_next_one_is_made() -> None:
    taken = asyncio.Event()

    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for _ in range(5):
            await exchange.chunk(EVENT)
            await taken.wait()
            taken.clear()
        await exchange.end_stream()

    asked = chat(stream=True)
    async with front_door(LocalEngine(behave)) as front, front.post(asked) as response:
        assert response.headers["content-type"] == "text/event-stream"
        for _ in range(5):
            assert await response.content.readexactly(len(EVENT)) == EVENT
            taken.set()
        assert await response.content.read() == b""


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages"])
async def test_the_other_engine_routes_are_forwarded_too(path: str) -> None:
    local = LocalEngine(answers)
    async with front_door(local) as front:
        async with front.post(chat(prompt="x"), path) as response:
            assert await response.read() == ANSWER
        assert f"post {path} " in local.seen[0].head


async def test_no_engine_sees_a_request_for_what_it_may_not_fetch() -> None:
    def picture(url: str) -> dict[str, Any]:
        part = {"type": "image_url", "image_url": {"url": url}}
        return chat(messages=[{"role": "user", "content": [part]}])

    big, small = LocalEngine(answers), LocalEngine(answers)
    section = {"port": 0, "media_hosts": ["pictures.example"]}
    async with front_door(big, small, front=section) as front:
        async with front.post(picture("http://10.0.0.1/admin")) as response:
            assert response.status == 400
            error = await error_of(response)
        assert error["param"] == "messages[0].content[0].image_url"
        assert error["code"] == "unsupported_value"
        assert "'10.0.0.1'" in error["message"]
        assert "front.media_hosts" in error["message"]
        assert not big.seen
        for url in ("data:image/png;base64,AA==", "https://pictures.example/a.png"):
            async with front.post(picture(url)) as response:
                assert response.status == 200


async def test_one_connection_to_the_engine_serves_one_request_after_the_other() -> None:
    local = LocalEngine(answers)
    async with front_door(local) as front:
        for i in range(10):
            local.behave = streams if i % 2 else answers
            async with front.post(chat(stream=bool(i % 2))) as response:
                await response.read()
        assert len(local.seen) == 10
        assert len({exchange.writer for exchange in local.seen}) == 1


async def test_sixty_four_streams_at_once_all_come_through_whole() -> None:
    one, two = LocalEngine(streams), LocalEngine(streams)
    async with front_door(one, two) as front:

        async def ask(i: int) -> bytes:
            async with front.post(chat(f"stream {i}", stream=True)) as response:
                body: bytes = await response.read()
                return body

        bodies = await asyncio.gather(*(ask(i) for i in range(64)))
        assert set(bodies) == {EVENT * 10 + LAST}
        assert len(one.seen) + len(two.seen) == 64
        assert min(len(one.seen), len(two.seen)) >= 16
        await until(lambda: front.router.admission.total == 0)


async def test_a_conversation_stays_with_its_replica_and_others_spread() -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(ANSWER)

    engines = [LocalEngine(behave) for _ in range(4)]
    async with front_door(*engines) as front:
        used = set()
        for conversation in range(12):
            messages = [{"role": "system", "content": "shared by all " * 100}]
            replicas, reasons = set(), []
            for turn in range(4):
                messages.append({"role": "user", "content": f"{conversation}.{turn}"})
                async with front.post({"model": "big", "messages": messages}) as response:
                    replicas.add(response.headers["x-warmloop-replica"])
                    reasons.append(response.headers["x-warmloop-decision"])
                messages.append({"role": "assistant", "content": "ok"})
            assert len(replicas) == 1
            assert reasons[0] in ("hash", "spread", "warm")
            assert reasons[1:] == ["home", "home", "home"]
            used |= replicas
        assert len(used) >= 3


# What fails before the first byte


async def test_a_replica_that_refuses_is_replaced_and_not_asked_again() -> None:
    local = LocalEngine(answers)
    async with front_door(nobody_listens("dead"), local) as front:
        for i in range(12):
            async with front.post(chat(f"session {i}")) as response:
                assert response.status == 200
        retried = [line for line in front.log if line["attempts"] > 1]
        assert len(retried) == 1
        assert retried[0]["reason"] == "retry:connect"
        assert front.router.health.ejected("dead")


async def test_a_replica_that_is_silent_is_replaced() -> None:
    silent, fine = LocalEngine(hangs), LocalEngine(answers)
    async with front_door(silent, fine, front={"port": 0, "first_byte_timeout_s": 0.2}) as front:
        for i in range(8):
            async with front.post(chat(f"session {i}")) as response:
                assert response.status == 200
        assert len(silent.seen) == 1
        await until(lambda: silent.active == 0)


async def test_a_replica_that_dies_between_its_headers_and_its_first_byte_is_replaced() -> None:
    async def dies(exchange: Exchange) -> None:
        await exchange.begin_stream()
        exchange.cut()

    dying, fine = LocalEngine(dies), LocalEngine(streams)
    async with front_door(dying, fine) as front:
        for i in range(8):
            async with front.post(chat(f"session {i}", stream=True)) as response:
                assert await response.read() == EVENT * 10 + LAST
        assert len(dying.seen) == 1
        assert front.router.health.ejected("big-0")


async def test_a_whole_answer_that_is_cut_is_asked_again_elsewhere() -> None:
    async def cuts(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
        exchange.cut()

    cutting, fine = LocalEngine(cuts), LocalEngine(answers)
    async with front_door(cutting, fine) as front:
        for i in range(8):
            async with front.post(chat(f"session {i}")) as response:
                assert await response.read() == ANSWER
        assert len(cutting.seen) == 1


async def test_a_500_is_asked_again_elsewhere_and_its_replica_ejected() -> None:
    broken, fine = LocalEngine(fails(500)), LocalEngine(answers)
    async with front_door(broken, fine) as front:
        for i in range(8):
            async with front.post(chat(f"session {i}")) as response:
                assert response.status == 200
        assert len(broken.seen) == 1
        assert front.router.health.ejected("big-0")


async def test_a_request_that_breaks_every_engine_is_a_502_and_ejects_nobody() -> None:
    engines = [LocalEngine(fails(500)) for _ in range(5)]
    async with front_door(*engines, router={"attempts": 3}) as front:
        async with front.post(chat()) as response:
            assert response.status == 502
            error = await error_of(response)
        assert error["code"] == "engine_failed"
        assert "3 replicas" in error["message"]
        assert sum(len(local.seen) for local in engines) == 3
        assert not any(front.router.health.ejected(f"big-{i}") for i in range(5))


async def test_a_full_engine_is_passed_by_and_stays_in_the_fleet() -> None:
    full, fine = LocalEngine(fails(503)), LocalEngine(answers)
    async with front_door(full, fine) as front:
        for i in range(8):
            async with front.post(chat(f"session {i}")) as response:
                assert response.status == 200
        assert not front.router.health.ejected("big-0")
        fine.behave = fails(503)
        async with front.post(chat()) as response:
            assert response.status == 503
            assert response.headers["retry-after"] == "1"
            assert (await error_of(response))["code"] == "engine_busy"


async def test_retries_end_where_their_budget_does_and_the_first_failure_is_the_answer() -> None:
    engines = [LocalEngine(fails(500)) for _ in range(3)]
    tight = {"failure": {"retry_share": 0.1, "retry_floor": 2}}
    async with front_door(*engines, router=tight) as front:
        for i in range(20):
            async with front.post(chat(f"session {i}")) as response:
                assert response.status == 502
                assert "retry-after" in response.headers
                said = (await error_of(response))["message"]
        assert "too many turns failed just now" in said
        assert sum(len(local.seen) for local in engines) == 24, "20 turns, a tenth, and two more"
        async with front.get("/metrics") as response:
            text = await response.text()
        assert 'warmloop_retries_refused_total{cause="status",model="big"}' in text


async def test_a_death_moves_each_of_its_turns_whatever_the_budget() -> None:
    death = asyncio.Event()

    async def dies(exchange: Exchange) -> None:
        await death.wait()
        exchange.cut()

    dying, fine = LocalEngine(dies), LocalEngine(answers)
    none = {"failure": {"retry_share": 0, "retry_floor": 0}}
    async with fine.running(), front_door(dying, router=none) as front:

        async def ask(i: int) -> int:
            async with front.post(chat(f"session {i}")) as response:
                return int(response.status)

        asking = [asyncio.create_task(ask(i)) for i in range(20)]
        await until(lambda: dying.active == 20)
        front.table.set(*front.table.snapshot(), engine("big-1", url=fine.url))
        death.set()
        assert set(await asyncio.gather(*asking)) == {200}


async def test_health_and_metrics_show_the_breakers() -> None:
    local = LocalEngine(answers)
    async with front_door(nobody_listens("dead"), local) as front:
        for i in range(8):
            async with front.post(chat(f"session {i}")) as response:
                assert response.status == 200
        async with front.get("/health") as response:
            found = {e["replica"]: e for e in (await response.json())["engines"]}
        assert found["dead"]["breaker"] == "open"
        assert found["dead"]["breaker_reason"].startswith("failed once, at last: connect; tried")
        assert (found["big-1"]["breaker"], found["big-1"]["breaker_reason"]) == ("closed", "")
        async with front.get("/metrics") as response:
            text = await response.text()
        assert 'warmloop_breakers{condition="open",model="big"} 1.0' in text
        assert 'warmloop_ejections_total{cause="connect",model="big"} 1.0' in text


async def test_a_lone_engine_that_comes_back_is_used_at_once() -> None:
    local = LocalEngine(answers)
    async with front_door(local) as front:
        front.table.set(nobody_listens("big-0"))
        async with front.post(chat()) as response:
            assert response.status == 503
            assert "retry-after" in response.headers
        assert front.router.health.ejected("big-0")
        front.table.set(engine("big-0", url=local.url))
        async with front.post(chat()) as response:
            assert response.status == 200
        assert not front.router.health.ejected("big-0")


async def test_a_pooled_connection_that_the_engine_closed_is_nobody_s_failure() -> None:
    local = LocalEngine(answers, close_after=True)
    async with front_door(local) as front:
        for _ in range(20):
            async with front.post(chat()) as response:
                assert response.status == 200
        assert len(local.seen) == 20
        assert {line["attempts"] for line in front.log} == {1}
        assert not front.router.health.ejected("big-0")


async def test_nothing_is_kept_of_the_connections_that_an_engine_closed() -> None:
    local = LocalEngine(answers, close_after=True)
    async with front_door(local) as front:
        for _ in range(5):
            async with front.post(chat()) as response:
                assert response.status == 200
        pool = front.router._forwarder.pool
        await until(lambda: not pool._idle and not pool._open)


# What fails after the first byte


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_a_stream_that_is_cut_ends_with_an_error_event(path: str) -> None:
    async def cuts(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.chunk(EVENT)
        exchange.cut()

    async with front_door(LocalEngine(cuts)) as front:
        async with front.post(chat(stream=True), path) as response:
            assert response.status == 200
            body = await response.read()
        assert body.startswith(EVENT)
        last = body[len(EVENT) :].strip().split(b"data: ")
        assert (last[0] == b"event: error\n") == (path == "/v1/messages")
        assert json.loads(last[1])["error"]["code"] == "engine_failed"
        assert front.router.health.ejected("big-0")
        assert front.log[0]["error"] == "engine_failed"


async def test_a_stream_that_falls_silent_ends_with_an_error_event() -> None:
    async def stops(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.chunk(EVENT)
        await exchange.gone.wait()

    local = LocalEngine(stops)
    async with front_door(local, front={"port": 0, "idle_timeout_s": 0.2}) as front:
        async with front.post(chat(stream=True)) as response:
            body = await response.read()
        assert json.loads(body.split(b"data: ")[-1])["error"]["code"] == "engine_timeout"
        await until(lambda: local.active == 0)


async def test_a_half_sent_event_is_closed_before_the_error() -> None:
    async def cuts(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.chunk(EVENT)
        await exchange.chunk(b'data: {"half')
        await asyncio.sleep(0.05)
        exchange.cut()

    knobs = {"router": {"failure": {"continuations": 0}}}  # else half an event is withheld
    async with front_door(LocalEngine(cuts), **knobs) as front:
        async with front.post(chat(stream=True), "/v1/messages") as response:
            body = await response.read()
        assert b'data: {"half\n\nevent: error\ndata: {"type":"error"' in body


# Clients that leave


async def test_a_client_that_leaves_before_the_answer_frees_the_engine() -> None:
    local = LocalEngine(hangs)
    async with front_door(local) as front:
        asking = asyncio.ensure_future(front.post(chat()).__aenter__())
        await until(lambda: local.active == 1)
        assert front.router.admission.by_replica == {"big-0": 1}
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.wait_for(local.seen[0].gone.wait(), 20)
        await until(lambda: front.router.admission.total == 0)
        assert (front.log[0]["status"], front.log[0]["error"]) == (499, "hung_up")
        assert not front.router.health.ejected("big-0")


async def test_a_client_that_leaves_in_mid_stream_frees_the_engine() -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.chunk(EVENT)
        await exchange.gone.wait()

    local = LocalEngine(behave)
    async with front_door(local) as front:
        response = await front.post(chat(stream=True))
        assert await response.content.readexactly(len(EVENT)) == EVENT
        response.close()
        await asyncio.wait_for(local.seen[0].gone.wait(), 20)
        await until(lambda: front.router.admission.total == 0)
        assert front.log[0]["error"] == "hung_up"


async def test_leaving_the_context_early_frees_the_engine_for_callers_in_the_process() -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream()
        while not exchange.gone.is_set():
            await exchange.chunk(EVENT)
            await asyncio.sleep(0)

    local = LocalEngine(behave)
    async with front_door(local) as front:
        turn = TurnRequest("/v1/chat/completions", json.dumps(chat()).encode(), "r1", session="c1")
        async with front.router.open(turn) as answer:
            async for chunk in answer.chunks():
                assert chunk.startswith(EVENT)
                break
        await asyncio.wait_for(local.seen[0].gone.wait(), 20)
        assert front.router.admission.total == 0
        assert front.log[0]["identity"] == "caller"


async def test_callers_in_the_process_hear_of_a_cut_as_an_exception() -> None:
    async def cuts(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.chunk(EVENT)
        exchange.cut()

    async with front_door(LocalEngine(cuts)) as front:
        turn = TurnRequest("/v1/chat/completions", json.dumps(chat()).encode(), "r1")
        async with front.router.open(turn) as answer:
            with pytest.raises(UpstreamError, match="big-0 failed in mid-answer"):
                _ = [chunk async for chunk in answer.chunks()]


# What is refused


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b'{"model":', {}, 400, "not valid JSON"),
        (b"", {}, 400, "empty"),
        (chat(messages=[]), {}, 400, "messages"),
        (chat(model="bog"), {}, 404, "did you mean 'big'"),
        (chat(model="auto"), {"x-warmloop-turn": "formatt"}, 400, "'format'"),
        (chat("x" * 5000), {}, 413, "max_body_bytes"),
        (chat(), {"content-encoding": "gzip"}, 400, "plain JSON"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(
    body: Any, headers: dict[str, str], status: int, says: str
) -> None:
    local = LocalEngine(answers)
    async with front_door(local, front={"port": 0, "max_body_bytes": 4096}) as front:
        async with front.post(body, headers=headers) as response:
            assert response.status == status
            assert says in (await error_of(response))["message"]
        assert not local.seen
        assert front.log[-1]["status"] == status


async def test_a_body_of_any_size_is_refused_without_being_kept() -> None:
    async with front_door(front={"port": 0, "max_body_bytes": 4096}) as front:

        async def endless() -> Any:
            for _ in range(64):
                yield b"x" * 65536

        try:
            async with front.http.post(front.url + "/v1/completions", data=endless()) as response:
                assert response.status == 413
        except aiohttp.ClientConnectionError:
            pass  # the connection was closed under a client that went on sending
        async with front.get("/health") as response:
            assert response.status == 200


async def test_unknown_routes_and_wrong_methods_are_said_in_the_envelope() -> None:
    async with front_door() as front:
        for method, path, status in (
            ("GET", "/v1/chat/completions", 405),
            ("DELETE", "/v1/models", 405),
            ("GET", "/nope", 404),
            ("POST", "/v1/nope", 404),
            ("GET", "/v1/models/nope", 404),
        ):
            async with front.http.request(method, front.url + path) as response:
                assert response.status == status, path
                await error_of(response)
                assert (status != 405) or response.headers["allow"]


async def test_errors_on_anthropic_s_route_are_also_in_its_form() -> None:
    async with front_door() as front, front.post(b"{}", "/v1/messages") as response:
        body = await response.json()
        assert body["type"] == "error"
        assert body["error"]["type"] == "invalid_request_error"


async def test_without_a_ready_engine_the_client_hears_why_and_when_to_come_back() -> None:
    loading = engine("big-7", state="starting", reason="loading weights")
    async with front_door(loading) as front:
        async with front.post(chat()) as response:
            assert response.status == 503
            assert response.headers["retry-after"] == "5"
            message = (await error_of(response))["message"]
        assert "big-7 is starting (loading weights)" in message
        async with front.get("/ready") as response:
            assert response.status == 503
            assert "big-7 is starting" in (await error_of(response))["message"]
        async with front.get("/health") as response:
            assert response.status == 200


async def test_one_request_too_many_gets_429() -> None:
    local = LocalEngine(hangs)
    async with front_door(local, front={"port": 0, "max_inflight": 1}) as front:
        first = asyncio.ensure_future(front.post(chat()).__aenter__())
        await until(lambda: local.active == 1)
        async with front.post(chat()) as response:
            assert response.status == 429
            assert response.headers["retry-after"] == "1"
            assert (await error_of(response))["type"] == "rate_limit_error"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_an_engine_s_4xx_reaches_the_client_as_it_is() -> None:
    said = b'{"error":{"message":"too long", "type":"BadRequestError","param":null,"code":400}}'

    async def refuses(exchange: Exchange) -> None:
        await exchange.answer(said, 400)

    local = LocalEngine(refuses)
    async with front_door(local, LocalEngine(refuses)) as front:
        async with front.post(chat()) as response:
            assert response.status == 400
            assert await response.read() == said
        assert not front.router.health.ejected("big-0")
        assert front.log[0]["attempts"] == 1


@pytest.mark.parametrize(
    "said",
    [b'{"object":"error","message":"too long","code":400}', b'{"detail":"too long"}', b"too long"],
)
async def test_an_engine_s_4xx_in_another_form_is_put_into_the_envelope(said: bytes) -> None:
    async def refuses(exchange: Exchange) -> None:
        await exchange.answer(said, 422)

    async with front_door(LocalEngine(refuses)) as front, front.post(chat()) as response:
        assert response.status == 422
        assert (await error_of(response))["message"] == "too long"


# What is ours


async def test_a_defect_of_ours_is_a_500_with_a_request_id_and_no_trace() -> None:
    class Broken:
        def open(self, turn: TurnRequest) -> Any:
            raise ZeroDivisionError("prompt: secret")

    routes = APIRouter()

    @routes.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("prompt: secret")

    async with front_door(turns=Broken(), extra_routes=(routes,)) as front:
        for response in (await front.post(chat()), await front.get("/broken")):
            assert response.status == 500
            error = await error_of(response)
            assert response.headers["x-request-id"] in error["message"]
            assert "secret" not in error["message"]


async def test_what_is_no_http_is_refused_in_the_envelope() -> None:
    async with front_door(LocalEngine(answers)) as front:
        host, port = front.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"NONSENSE / HTTP/1.1\r\nhost: x\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 400 Bad Request")
        assert json.loads(body)["error"]["code"] == "invalid_http"


async def test_a_path_with_a_slash_too_many_is_no_route_and_no_redirect() -> None:
    async with front_door(LocalEngine(answers)) as front, front.get("/v1/models/") as response:
        assert response.status == 404
        assert (await error_of(response))["code"] in ("not_found", "model_not_found")


async def test_models_are_listed_with_auto_and_their_tier() -> None:
    async with front_door(LocalEngine(answers)) as front:
        async with front.get("/v1/models") as response:
            listed = {model["id"]: model for model in (await response.json())["data"]}
        assert set(listed) == {"big", "tiny", "auto"}
        assert (listed["big"]["tier"], listed["tiny"]["tier"]) == ("frontier", "small")
        assert (listed["big"]["ready_replicas"], listed["tiny"]["ready_replicas"]) == (1, 0)
        async with front.get("/v1/models/big") as response:
            assert await response.json() == listed["big"]


async def test_health_shows_each_engine() -> None:
    async with front_door(LocalEngine(answers), nobody_listens("dead")) as front:
        front.router.health.eject("dead")
        async with front.get("/health") as response:
            engines = {e["replica"]: e for e in (await response.json())["engines"]}
        assert engines["dead"]["ejected"] is True
        assert engines["big-0"]["ejected"] is False


async def test_the_log_and_the_metrics_say_what_a_turn_cost_and_never_what_it_said() -> None:
    one = LocalEngine(answers)
    async with front_door(one) as front:
        async with front.post(chat("the secret question")):
            pass
        one.behave = streams
        async with front.post(chat("the secret question", stream=True)) as response:
            await response.read()
        await until(lambda: len(front.log) == 2)
        whole, streamed = front.log
        assert (whole["prompt_tokens"], whole["cached_tokens"], whole["output_tokens"]) == (
            20,
            16,
            5,
        )
        assert (streamed["prompt_tokens"], streamed["output_tokens"]) == (7, 3)
        assert 0 < whole["first_byte_s"] <= whole["total_s"]
        assert "secret" not in json.dumps(front.log)
        async with front.get("/metrics") as response:
            text = await response.text()
        assert 'warmloop_requests_total{model="big",status="200"} 2.0' in text
        assert 'warmloop_tokens_total{kind="cached",model="big"} 16.0' in text
        assert 'warmloop_engines{model="big",state="ready"} 1.0' in text
        assert "warmloop_inflight 0.0" in text
        assert "warmloop_queued 0.0" in text
        assert 'warmloop_queue_seconds_count{model="big"} 2.0' in text
        predicted = whole["predicted_cached_tokens"] + streamed["predicted_cached_tokens"]
        assert f'warmloop_tokens_total{{kind="predicted",model="big"}} {float(predicted)}' in text
        assert "secret" not in text
