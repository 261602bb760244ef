"""`model: auto` through the front door: which model is asked, and what the client sees of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from serving.protocol import SseSplitter
from tests.integration.engines_behaving_badly import Exchange, Front, LocalEngine, front_door, until
from tests.unit.fakes import engine

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {
                "type": "object",
                "properties": {"word": {"type": "string", "minLength": 2}},
                "required": ["word"],
                "additionalProperties": False,
            },
        },
    }
]
PRICES = {"fresh": 1000.0, "cached": 100.0, "output": 5000.0}
"""Large enough that a turn's cost shows in six digits."""
CHEAP = {"fresh": 100.0, "cached": 10.0, "output": 500.0}
SMALL_ONLY = {"policy": "small"}


def usage(prompt: int, output: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output}


def completion(**message: Any) -> dict[str, Any]:
    calls = message.get("tool_calls")
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, **message},
        "finish_reason": "tool_calls" if calls else "stop",
    }
    return {
        "id": "c",
        "object": "chat.completion",
        "choices": [choice],
        "usage": usage(100, 10),
    }


def call(word: str, logprob: float | None = None) -> dict[str, Any]:
    arguments = json.dumps({"word": word})
    function = {"name": "look_up", "arguments": arguments}
    said = completion(tool_calls=[{"id": "call_1", "type": "function", "function": function}])
    if logprob is not None:
        begin = '<tool_call>{"name": "look_up", "arguments": {"word": "'
        content = [
            {"token": token, "logprob": each, "bytes": list(token.encode())}
            for token, each in ((begin, 0.0), (word, logprob), ('"}}</tool_call>', 0.0))
        ]
        said["choices"][0]["logprobs"] = {"content": content}
    return said


def says(answer: dict[str, Any]) -> Any:
    """Answers whole, or as a stream where that is asked."""

    async def behave(exchange: Exchange) -> None:
        if not json.loads(exchange.body).get("stream"):
            await exchange.answer(json.dumps(answer).encode())
            return
        await exchange.begin_stream()
        [choice] = answer["choices"]
        delta = choice["message"]
        calls = delta.get("tool_calls") or []
        for index, each in enumerate(calls):
            each["index"] = index
        for chunk in (
            {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]},
            {"choices": [], "usage": answer["usage"]},
        ):
            await exchange.chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.end_stream()

    return behave


async def hangs(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def breaks(exchange: Exchange) -> None:
    await exchange.answer(b'{"error":{"message":"broken"}}', 500)


@dataclass
class Both:
    """A front door over one engine of each tier."""

    front: Front
    big: LocalEngine
    tiny: LocalEngine

    async def ask(self, **fields: Any) -> tuple[Mapping[str, str], bytes, int]:
        """(headers, body, status)."""
        headers = fields.pop("headers", {})
        body = {"model": "auto", "messages": [{"role": "user", "content": "x"}], **fields}
        async with self.front.post(body, headers=headers) as response:
            return response.headers, await response.read(), response.status

    @property
    def asked(self) -> tuple[int, int]:
        """(questions to the frontier, to small)."""
        return len(self.big.seen), len(self.tiny.seen)

    async def metric(self, name: str) -> float:
        async with self.front.get("/metrics") as response:
            text = await response.text()
        found = [line for line in text.splitlines() if line.startswith(name + "_total")]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@asynccontextmanager
async def both(big: Any, tiny: Any, **knobs: Any) -> AsyncIterator[Both]:
    models = {
        name: {"engine": "external", "tier": tier, "urls": ["http://127.0.0.1:9"], "prices": usd}
        for name, tier, usd in (("big", "frontier", PRICES), ("tiny", "small", CHEAP))
    }
    large, little = LocalEngine(big), LocalEngine(tiny)
    sections = {"models": models, "router": {"tiers": {"explore": 0.0, **knobs}}}
    async with little.running(), front_door(large, **sections) as front:
        front.table.set(*front.table.snapshot(), engine("tiny-0", "tiny", url=little.url))
        yield Both(front, large, little)


TEXT = completion(content="words")
GOOD = call("right", -0.1)
UNSURE = call("maybe", -2.0)
INVALID = call("x", -0.1)
FROM_BIG = call("frontier")


# A small answer that may be asked again


async def test_a_sure_and_valid_call_of_the_small_model_is_the_answer() -> None:
    async with both(says(FROM_BIG), says(GOOD), **SMALL_ONLY) as stack:
        headers, body, _ = await stack.ask(tools=TOOLS)
        [choice] = json.loads(body)["choices"]
        assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {
            "word": "right"
        }
        assert stack.asked == (0, 1)
        assert headers["x-warmloop-model"] == "tiny"
        assert headers["x-warmloop-decision"] == "auto:tool-call->small:policy; hash"
        assert "x-warmloop-spent-usd" not in headers
        asked = json.loads(stack.tiny.seen[0].body)
        assert asked["logprobs"] is True
        assert choice["logprobs"] is None


@pytest.mark.parametrize(("answer", "cause"), [(UNSURE, "unsure"), (INVALID, "invalid")])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_unsure_or_invalid_call_is_asked_again_of_the_frontier(
    answer: dict[str, Any], cause: str, stream: bool
) -> None:
    async with both(says(FROM_BIG), says(answer), **SMALL_ONLY) as stack:
        headers, body, status = await stack.ask(tools=TOOLS, stream=stream)
        assert status == 200
        assert b"frontier" in body
        assert b"maybe" not in body
        assert len(stack.big.seen) == 1
        assert headers["x-warmloop-model"] == "big"
        assert f"auto:tool-call->frontier:escalated-{cause}; " in headers["x-warmloop-decision"]
        # 100 prompt tokens and 10 of output, of the small model.
        paid = (100 * 100 + 10 * 500) / 1e6
        assert float(headers["x-warmloop-spent-usd"]) == pytest.approx(paid)
        await until(lambda: len(stack.front.log) >= 2)
        small, frontier = stack.front.log[-2:]
        assert (small["tier"], frontier["tier"]) == ("small", "frontier")
        assert frontier["spent_usd"] == pytest.approx(paid)
        assert set(frontier["tier_prices_usd"]) == {"big", "tiny"}
        assert await stack.metric("warmloop_tier_escalations") == 1
        assert "logprobs" not in json.loads(stack.big.seen[0].body)


async def test_a_held_call_comes_as_the_stream_that_was_asked_for() -> None:
    async with both(says(FROM_BIG), says(GOOD), **SMALL_ONLY) as stack:
        options = {"include_usage": True}
        headers, body, _ = await stack.ask(tools=TOOLS, stream=True, stream_options=options)
        assert headers["content-type"].startswith("text/event-stream")
        *events, done = [event.data for event in SseSplitter().feed(body)]
        assert done == b"[DONE]"
        assert json.loads(events[-1])["usage"]["prompt_tokens"] == 100
        assert b"logprob" not in body
        assert json.loads(stack.tiny.seen[0].body)["stream"] is False


async def test_an_engine_without_log_probabilities_is_judged_by_validity() -> None:
    async with both(says(FROM_BIG), says(call("plain")), **SMALL_ONLY) as stack:
        headers, _, _ = await stack.ask(tools=TOOLS)
        assert headers["x-warmloop-model"] == "tiny"


async def test_an_engine_that_refuses_log_probabilities_is_not_asked_for_them_again() -> None:
    async def behave(exchange: Exchange) -> None:
        if "logprobs" in json.loads(exchange.body):
            await exchange.answer(b'{"error":{"message":"logprobs: unknown field"}}', 400)
        else:
            await exchange.answer(json.dumps(call("plain")).encode())

    async with both(says(FROM_BIG), behave, **SMALL_ONLY) as stack:
        first, _, _ = await stack.ask(tools=TOOLS)
        second, _, _ = await stack.ask(tools=TOOLS, user="another")
        assert (first["x-warmloop-model"], second["x-warmloop-model"]) == ("big", "tiny")


async def test_a_client_that_asks_for_log_probabilities_gets_them() -> None:
    async with both(says(FROM_BIG), says(GOOD), **SMALL_ONLY) as stack:
        _, body, _ = await stack.ask(tools=TOOLS, logprobs=True)
        assert json.loads(body)["choices"][0]["logprobs"]["content"]


async def test_an_unsure_answer_is_better_than_none_when_the_frontier_fails() -> None:
    async with both(breaks, says(UNSURE), **SMALL_ONLY) as stack:
        headers, body, status = await stack.ask(tools=TOOLS)
        assert status == 200
        assert b"maybe" in body
        assert headers["x-warmloop-model"] == "tiny"


async def test_the_frontier_answers_when_the_small_engine_breaks() -> None:
    async with both(says(TEXT), breaks, **SMALL_ONLY) as stack:
        headers, body, _ = await stack.ask()
        assert b"words" in body
        assert headers["x-warmloop-model"] == "big"
        assert "escalated-failed" in headers["x-warmloop-decision"]


async def test_what_is_asked_again_is_asked_once() -> None:
    async with both(says(INVALID), says(INVALID), **SMALL_ONLY) as stack:
        _, body, status = await stack.ask(tools=TOOLS)
        assert status == 502
        assert json.loads(body)["error"]["code"] == "invalid_tool_call"
        per_model = 2  # each is asked for the call once more by the check of its schema
        assert stack.asked == (per_model, per_model)


async def test_without_escalation_the_small_answer_stands() -> None:
    async with both(says(FROM_BIG), says(UNSURE), escalate=False, **SMALL_ONLY) as stack:
        headers, _, _ = await stack.ask(tools=TOOLS)
        assert headers["x-warmloop-model"] == "tiny"
        assert stack.asked == (0, 1)


async def test_json_that_is_none_is_asked_again() -> None:
    wanted = {"response_format": {"type": "json_object"}}
    async with both(says(completion(content='{"a":1}')), says(TEXT)) as stack:
        headers, body, _ = await stack.ask(**wanted)
        assert json.loads(body)["choices"][0]["message"]["content"] == '{"a":1}'
        assert "escalated-no-json" in headers["x-warmloop-decision"]


# Text


async def test_text_that_streams_commits_at_its_first_byte() -> None:
    """The small model's words arrive before its engine has finished: nothing was held back."""
    seen = asyncio.Event()

    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.chunk(b'data: {"choices":[{"delta":{"content":"one"}}]}\n\n')
        await seen.wait()
        exchange.cut()

    async with both(says(TEXT), behave, **SMALL_ONLY) as stack:
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        async with stack.front.post(body) as response:
            assert b"one" in await response.content.readany()
            seen.set()
            assert b'"error"' in await response.content.read()
        assert stack.asked == (0, 1)


async def test_streamed_text_is_held_where_the_stack_says_so() -> None:
    empty = completion(content="")
    async with both(says(TEXT), says(empty), hold_text=True, **SMALL_ONLY) as stack:
        headers, body, _ = await stack.ask(stream=True)
        assert b"words" in body
        assert "escalated-empty" in headers["x-warmloop-decision"]


# Sessions


async def test_a_session_keeps_its_model_and_a_side_turn_does_not_move_it() -> None:
    session = {"x-session-id": "s1"}
    async with both(says(TEXT), says(TEXT)) as stack:
        first, _, _ = await stack.ask(headers=session)
        side, _, _ = await stack.ask(headers={**session, "x-warmloop-turn": "summarise"})
        second, _, _ = await stack.ask(headers=session)
        models = [each["x-warmloop-model"] for each in (first, side, second)]
        assert models == ["big", "tiny", "big"]
        assert second["x-warmloop-decision"].startswith("auto:unknown->frontier:stays; ")
        assert await stack.metric("warmloop_tier_changes") == 0


async def test_a_session_without_an_id_is_known_by_its_prefix() -> None:
    messages = [{"role": "user", "content": "first"}]
    async with both(says(TEXT), says(TEXT)) as stack:
        await stack.ask(messages=messages)
        messages += [{"role": "assistant", "content": "ok"}, {"role": "user", "content": "second"}]
        grown, _, _ = await stack.ask(messages=messages)
        other, _, _ = await stack.ask(messages=[{"role": "user", "content": "another"}])
        assert grown["x-warmloop-decision"].startswith("auto:unknown->frontier:stays; ")
        assert not other["x-warmloop-decision"].startswith("auto:unknown->frontier:stays; ")


async def test_a_turn_that_only_looks_like_a_side_turn_stays_with_its_session() -> None:
    session = {"headers": {"x-session-id": "s1"}}
    wanted = {"response_format": {"type": "json_object"}}
    said = completion(content="{}")
    async with both(says(said), says(said)) as stack:
        await stack.ask(**session)
        carried, _, _ = await stack.ask(**session, **wanted)
        alone, _, _ = await stack.ask(**wanted)
        assert carried["x-warmloop-model"] == "big"
        assert alone["x-warmloop-model"] == "tiny"


async def test_another_model_stands_in_for_a_session_and_gives_it_back() -> None:
    session = {"headers": {"x-session-id": "s1"}}
    async with both(says(TEXT), says(TEXT)) as stack:
        await stack.ask(**session)
        table = stack.front.table.snapshot()
        stack.front.table.set(*(e for e in table if e.model == "tiny"))
        away, _, _ = await stack.ask(**session)
        stack.front.table.set(*table)
        back, _, _ = await stack.ask(**session)
        assert away["x-warmloop-decision"].startswith("auto:unknown->small:frontier-not-ready")
        assert back["x-warmloop-model"] == "big"
        assert await stack.metric("warmloop_tier_changes") == 0


async def test_a_session_that_escalated_and_stays_says_so_with_its_gain() -> None:
    """The frontier is warm after it; a small model that always fails is paid for in vain."""
    session = {"headers": {"x-session-id": "s1"}}
    async with both(says(FROM_BIG), says(GOOD), **SMALL_ONLY) as stack:
        await stack.ask(tools=TOOLS, **session)
        stack.tiny.behave = says(UNSURE)
        for _ in range(40):
            await stack.ask(tools=TOOLS, **session)
        await until(lambda: any("tier_change" in line for line in stack.front.log))
        changes = [line for line in stack.front.log if "tier_change" in line]
        assert all("tier_gain_usd" in line for line in changes)
        assert changes[0]["tier_change"] == "small->frontier"


async def test_two_tenants_sessions_of_one_name_are_two() -> None:
    # One tenant's spending does not use up another's budget; keys are the edge's business.
    session = {"headers": {"x-session-id": "s1"}}
    async with both(says(TEXT), says(TEXT), budget_usd=0.0001, when_spent="refuse") as stack:
        await stack.ask(**session)
        _, body, status = await stack.ask(**session)
        error = json.loads(body)["error"]
        assert status == 429
        assert error["code"] == "session_budget_used"
        assert "budget_usd" in error["message"]
        _, _, other = await stack.ask(headers={"x-session-id": "s2"})
        assert other == 200
        await until(lambda: len(stack.front.log) >= 3)
        assert stack.front.log[1]["error"] == "session_budget_used"


async def test_a_session_whose_budget_is_used_up_has_the_small_model_only() -> None:
    session = {"headers": {"x-session-id": "s1"}}
    async with both(says(TEXT), says(TEXT), budget_usd=0.0001) as stack:
        models = [(await stack.ask(**session))[0]["x-warmloop-model"] for _ in range(3)]
        assert models == ["big", "tiny", "tiny"]
        await until(lambda: len(stack.front.log) >= 3)
        assert stack.front.log[1]["tier_change"] == "frontier->small"
        assert "tier_gain_usd" in stack.front.log[1]


# Racing


async def test_in_a_race_the_first_good_answer_wins_and_the_other_is_cancelled() -> None:
    async with both(hangs, says(TEXT), policy="race") as stack:
        headers, body, _ = await stack.ask()
        assert b"words" in body
        assert headers["x-warmloop-model"] == "tiny"
        assert float(headers["x-warmloop-spent-usd"]) > 0
        await until(lambda: stack.big.active == 0)
        await until(lambda: stack.front.router.admission.total == 0)


async def test_a_race_is_not_won_by_an_unsure_answer() -> None:
    async with both(says(FROM_BIG), says(UNSURE), policy="race") as stack:
        headers, body, _ = await stack.ask(tools=TOOLS, stream=True)
        assert b"frontier" in body
        assert headers["x-warmloop-model"] == "big"


async def test_a_race_that_nobody_wins_is_answered_all_the_same() -> None:
    async with both(breaks, breaks, policy="race") as stack:
        _, body, status = await stack.ask()
        assert status == 502
        assert json.loads(body)["error"]["code"] == "engine_failed"


async def test_a_client_that_leaves_a_race_frees_both_engines() -> None:
    async with both(hangs, hangs, policy="race") as stack:
        asking = asyncio.ensure_future(stack.ask())
        await until(lambda: stack.big.active + stack.tiny.active == 2)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: stack.big.active + stack.tiny.active == 0)


# Outcomes


async def report(stack: Both, body: Any) -> tuple[int, dict[str, Any]]:
    async with stack.front.post(body, "/v1/warmloop/outcomes") as response:
        return response.status, await response.json()


async def test_reported_outcomes_move_a_task_to_the_small_model_and_back() -> None:
    async with both(says(TEXT), says(TEXT), explore=0.0, half_life_turns=100.0) as stack:
        table = stack.front.table
        everything = table.snapshot()
        count = 0

        async def one(*, success: bool) -> str:
            """A session of its own; which model answered it."""
            nonlocal count
            count += 1
            headers = {"x-warmloop-task": "shipping", "x-session-id": f"s{count}"}
            answered, _, _ = await stack.ask(headers=headers)
            said = {"request_id": answered["x-request-id"], "success": success}
            assert (await report(stack, said))[0] == 200
            return answered["x-warmloop-model"]

        assert await one(success=True) == "big"
        for alone in ("big", "tiny"):  # while the other is away
            table.set(*(e for e in everything if e.model == alone))
            for _ in range(150):
                assert await one(success=True) == alone
        table.set(*everything)
        assert await one(success=True) == "tiny"
        models = [await one(success=False) for _ in range(100)]
        assert models[0] == "tiny"
        assert models[-1] == "big"


async def test_an_outcome_is_taken_once_and_of_known_requests_only() -> None:
    async with both(says(TEXT), says(TEXT)) as stack:
        answered, _, _ = await stack.ask()
        said = {"request_id": answered["x-request-id"], "success": True}
        assert await report(stack, said) == (200, {"request_id": said["request_id"], "turns": 1})
        assert (await report(stack, said))[0] == 404
        assert (await report(stack, {"request_id": "never", "success": True}))[0] == 404


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", {"request_id": "x"}, {"request_id": 7, "success": True},
     {"request_id": "x", "success": "yes"}, {"request_id": "", "success": True},
     {"request_id": "x" * 201, "success": True},
     {"request_id": "x", "success": True, "more": 1}],
)  # fmt: skip
async def test_an_outcome_that_cannot_be_read_is_refused(body: Any) -> None:
    async with both(says(TEXT), says(TEXT)) as stack:
        status, answer = await report(stack, body)
        assert status == 400
        assert "success" in answer["error"]["message"] or "request_id" in answer["error"]["message"]


# What passes


@pytest.mark.parametrize(
    ("headers", "said"),
    [({"x-warmloop-turn": "clasify"}, "classify"), ({"x-warmloop-task": "a b"}, "task")],
)
async def test_a_header_that_says_nothing_is_refused(headers: dict[str, str], said: str) -> None:
    async with both(says(TEXT), says(TEXT)) as stack:
        _, body, status = await stack.ask(headers=headers)
        assert status == 400
        assert said in json.loads(body)["error"]["message"]
        await until(lambda: bool(stack.front.log))
        assert stack.front.log[0]["status"] == 400


async def test_a_named_model_is_asked_as_it_is_also_when_something_inside_is_called_auto() -> None:
    async with both(says(TEXT), says(TEXT)) as stack:
        raw = (
            b'{"metadata":{"model": "auto"},"messages":[{"role":"user","content":"x"}],'
            b'"model":"big"}'
        )
        async with stack.front.post(raw) as response:
            assert response.headers["x-warmloop-decision"] == "hash"
        assert stack.big.seen[0].body == raw


@pytest.mark.parametrize("raw", [b'{"model": "auto"', b'{"model": "auto", "messages": []}'])
async def test_a_bad_request_for_auto_is_told_what_is_wrong(raw: bytes) -> None:
    async with both(says(TEXT), says(TEXT)) as stack, stack.front.post(raw) as response:
        assert response.status == 400
        await until(lambda: bool(stack.front.log))
        assert stack.asked == (0, 0)
