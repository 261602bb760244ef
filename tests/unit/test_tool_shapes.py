"""What a function may be, say and return as a tool, and what its gate lets through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Annotated, Any

import pytest

from orchestrator.clock import FakeClock
from orchestrator.loop.events import Call
from orchestrator.tools.base import (
    NOT_DONE,
    UNKNOWN,
    Ready,
    ToolContext,
    ToolError,
    ToolLimits,
    ToolOutput,
    tool,
)
from orchestrator.tools.functions import from_function
from orchestrator.tools.gate import ToolGate
from orchestrator.tools.toolbox import Ran, Toolbox, pause_s
from serving.config.agent import AgentLimits
from serving.errors import ConfigError

LIMITS = AgentLimits(tool_timeout_s=5)


class Called:
    """One function as a tool, called once."""

    def __init__(self, function: Any, **arguments: Any) -> None:
        self.box = Toolbox([from_function(function)])
        ready = self.box.prepare(Call("c", function.__name__, json.dumps(arguments)))
        assert isinstance(ready, Ready), ready
        self.ready = ready
        self.shown: list[Any] = []
        self.context = ToolContext("the-key", call_id="call_1_0", report=self.shown.append)

    async def run(self, limits: AgentLimits = LIMITS) -> Ran:
        try:
            ran = await self.box.run(self.ready, self.context, limits)
        finally:
            self.box.close()
        assert isinstance(ran, Ran)
        return ran


# -- generators --


async def count_async(n: int) -> AsyncIterator[int]:
    """Count."""
    for number in range(n):
        yield number


def count(n: int) -> Iterator[int]:
    """Count."""
    yield from range(n)


def count_and_tell(n: int) -> Generator[int, None, str]:
    """Count."""
    yield from range(n)
    return "counted"


@pytest.mark.parametrize(
    ("function", "output"), [(count_async, "2"), (count, "2"), (count_and_tell, "counted")]
)
async def test_what_a_generator_yields_is_progress_and_its_last_word_the_result(
    function: Any, output: str
) -> None:
    called = Called(function, n=3)
    assert (await called.run()).output == output
    assert called.shown == [0, 1, 2]


async def test_a_generator_that_takes_too_long_is_left_at_its_next_value() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        """Never end."""
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    called = Called(endless)
    assert (await called.run(AgentLimits(tool_timeout_s=0.01))).outcome == "timeout"
    assert closed.is_set()
    assert called.shown == [1]


# -- descriptions --


def google(city: str, days: Annotated[int, "from the hint"] = 1) -> str:
    """Look the weather up.

    Args:
        city: where to look,
            in two lines
        days: from the docstring
    """
    return city


def numpy(city: str) -> str:
    """Look the weather up.

    Parameters
    ----------
    city : str
        where to look
    """
    return city


def rest(city: str) -> str:
    """Look the weather up.

    :param city: where to look
    """
    return city


@pytest.mark.parametrize("function", [google, numpy, rest])
def test_parameters_are_described_by_the_docstring_in_each_of_its_styles(function: Any) -> None:
    made = from_function(function)
    assert made.description == "Look the weather up."
    assert made.parameters["properties"]["city"]["description"].startswith("where to look")


def test_a_hint_s_own_description_wins_over_the_docstring() -> None:
    days = from_function(google).parameters["properties"]["days"]
    assert days["description"] == "from the hint"


async def test_the_context_is_hidden_from_the_model_and_given_to_the_function() -> None:
    def trace(context: ToolContext) -> str:
        """Trace."""
        return context.key

    called = Called(trace)
    assert called.ready.tool.parameters["properties"] == {}
    assert (await called.run()).output == "the-key"


# -- results --


async def test_a_result_that_does_not_fit_its_annotation_never_reaches_the_model_as_one() -> None:
    def prices() -> dict[str, float]:
        """Prices."""
        return {"bell": "dear"}  # type: ignore[dict-item]

    called = Called(prices)
    schema = called.ready.tool.output_schema
    assert schema == {"type": "object", "additionalProperties": {"type": "number"}}
    ran = await called.run()
    assert (ran.outcome, ran.code) == ("error", "invalid_result")
    assert "dear" not in ran.output


async def test_text_fits_an_annotation_that_also_allows_others() -> None:
    def maybe(there: bool) -> str | None:
        """Maybe."""
        return "here" if there else None

    assert (await Called(maybe, there=True).run()).output == "here"
    assert (await Called(maybe, there=False).run()).output == "null"


async def test_cost_and_quota_come_beside_the_result_and_not_in_it() -> None:
    def search() -> ToolOutput:
        """Search."""
        return ToolOutput("found", cost_usd=0.01, quota={"searches": 99})

    ran = await Called(search).run()
    assert (ran.output, ran.cost_usd, ran.quota) == ("found", 0.01, {"searches": 99})


async def test_a_partial_result_says_what_failed() -> None:
    def send() -> ToolOutput:
        """Send."""
        return ToolOutput({"sent": 2}, failed=["to b@example.org"])

    ran = await Called(send).run()
    assert ran.partial
    assert json.loads(ran.output) == {
        "failed": ["to b@example.org"],
        "partial": True,
        "result": {"sent": 2},
    }


async def test_a_long_result_is_kept_whole_beside_what_is_shown() -> None:
    def long() -> str:
        """Long."""
        return "x" * 5000

    ran = await Called(long).run(AgentLimits(tool_result_bytes=300))
    assert len(ran.output) <= 300
    assert ran.whole == "x" * 5000


# -- errors --


async def test_a_tool_s_error_is_told_by_code_sentence_and_time() -> None:
    def book() -> str:
        """Book."""
        raise ToolError("busy", "upstream 503", retry_after_ms=1500, human="Come back later.")

    ran = await Called(book).run()
    assert ran.output == ('{"error_code":"busy","human":"Come back later.","retry_after_ms":1500}')
    assert (ran.outcome, ran.transient, ran.retry_after_s) == ("error", False, 1.5)


@pytest.mark.parametrize(
    ("said_ms", "ms"),
    [
        (10**400, 3_600_000),
        (7_200_000, 3_600_000),
        (-5, 0),
        (float("inf"), None),
        (float("nan"), None),
        ("1500", None),
        (True, None),
    ],
)
async def test_a_time_that_is_none_is_left_out_and_a_long_one_is_an_hour(
    said_ms: Any, ms: int | None
) -> None:
    def book() -> str:
        """Book."""
        raise ToolError("busy", retry_after_ms=said_ms, transient=True)

    ran = await Called(book).run()
    assert json.loads(ran.output).get("retry_after_ms") == ms
    assert ran.retry_after_s == (None if ms is None else ms / 1000)


def test_pauses_between_tries_grow_and_are_the_tool_s_own_if_it_says() -> None:
    assert [pause_s(n, None) for n in (1, 2, 3, 20)] == [0.5, 1.0, 2.0, 60.0]
    assert pause_s(3, 7.0) == 7.0


# -- lookups --


@pytest.mark.parametrize(
    ("said", "expected"), [("done", "done"), (NOT_DONE, False), (UNKNOWN, None)]
)
async def test_a_lookup_tells_a_result_nothing_or_that_it_cannot_tell(
    said: Any, expected: Any
) -> None:
    @tool(kind="queryable", lookup=lambda key: said)
    def pay() -> str:
        """Pay."""
        return "paid"

    called = Called(pay)
    found = await called.box.lookup(called.ready, called.context, LIMITS)
    called.box.close()
    assert (found.output if isinstance(found, Ran) else found) == expected


async def test_a_lookup_that_fails_has_not_said_that_nothing_happened() -> None:
    async def broken(key: str) -> str:
        raise ConnectionError("down")

    @tool(kind="queryable", lookup=broken)
    def pay() -> str:
        """Pay."""
        return "paid"

    called = Called(pay)
    assert await called.box.lookup(called.ready, called.context, LIMITS) is None


def test_a_queryable_tool_needs_its_lookup() -> None:
    @tool(kind="queryable")
    def pay() -> str:
        """Pay."""
        return "paid"

    with pytest.raises(ConfigError, match="lookup=function go together"):
        from_function(pay)


# -- the gate --


async def test_a_breaker_opens_lets_one_call_try_and_closes_when_that_one_works() -> None:
    clock = FakeClock()
    gate = ToolGate("pay", ToolLimits(breaker_failures=2, breaker_open_s=30), clock)
    for _ in range(2):
        async with gate:
            gate.failed()
    with pytest.raises(ToolError) as caught:
        async with gate:
            raise AssertionError("it is open")
    assert (caught.value.error_code, caught.value.retry_after_ms) == ("tool_unavailable", 30_000)
    clock.advance(30)
    async with gate:
        with pytest.raises(ToolError):  # half open: one at a time
            async with gate:
                raise AssertionError("one tries already")
        gate.worked()
    async with gate:
        pass


async def test_a_probe_that_fails_opens_the_breaker_again() -> None:
    clock = FakeClock()
    gate = ToolGate("pay", ToolLimits(breaker_failures=1, breaker_open_s=30), clock)
    async with gate:
        gate.failed()
    clock.advance(30)
    async with gate:
        gate.failed()
    with pytest.raises(ToolError):
        async with gate:
            raise AssertionError("it is open")


async def test_no_more_calls_run_at_once_than_allowed() -> None:
    gate = ToolGate("pay", ToolLimits(at_once=1), FakeClock())
    order: list[str] = []

    async def second() -> None:
        async with gate:
            order.append("second")

    async with gate:
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        order.append("first")
    await waiting
    assert order == ["first", "second"]


async def test_calls_over_the_rate_wait_for_their_minute() -> None:
    clock = FakeClock()
    gate = ToolGate("pay", ToolLimits(per_minute=6), clock)
    began: list[float] = []

    async def call() -> None:
        async with gate:
            began.append(clock.now())

    first = clock.now()
    calls = [asyncio.create_task(call()) for _ in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
        clock.advance(10)
    await asyncio.gather(*calls)
    assert [at - first for at in began] == [0, 10, 20]
