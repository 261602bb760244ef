"""The worker over a journal in memory: runs, limits, interruptions, leases."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import msgspec
import pytest

from orchestrator.agents import Agents, resolve
from orchestrator.clock import FakeClock
from orchestrator.journal.base import Account, JournalFull, Lease, Purgeable, Recorded
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import (
    AnyEvent,
    Compacted,
    ConversationStarted,
    LimitReached,
    ModelFailed,
    ModelIntent,
    ModelResult,
    ModelRouted,
    OutputDelta,
    ResponseAccepted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
)
from orchestrator.loop.machine import fold_all
from orchestrator.model import Done, ModelError, ModelTurn, TextDelta
from orchestrator.model_scripted import (
    ROUTED,
    Script,
    Scripted,
    ScriptedModel,
    calls,
    in_order,
    replies,
    says,
)
from orchestrator.tools.base import tool
from orchestrator.tools.functions import from_function
from orchestrator.worker.tool_runner import ToolRunner
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig
from serving.config.model import Prices
from serving.errors import Conflict, NotFound

E = TypeVar("E")


class Shop:
    """Tools that count what they did."""

    def __init__(self) -> None:
        self.bought: list[str] = []
        self.gate = asyncio.Event()
        self.started = asyncio.Event()

        async def buy(item: str) -> str:
            """Buy."""
            self.bought.append(item)
            return f"bought {item}"

        @tool(kind="pure")
        async def wait(n: int) -> str:
            """Wait for the gate."""
            self.started.set()
            await self.gate.wait()
            return f"waited {n}"

        async def pay(item: str) -> str:
            """Pay, once the gate is open."""
            self.started.set()
            await self.gate.wait()
            return f"paid {item}"

        self.tools = [from_function(buy), from_function(wait), from_function(pay)]


class Flaky(MemoryJournal):
    """Cannot store while `full`."""

    full = False
    unreadable = ""
    """A conversation whose log cannot be decoded."""
    takes_s = 0.0
    appends: list[tuple[list[str], bool]]

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.clock = clock
        self.appends = []

    async def append(
        self,
        lease: Lease,
        events: Sequence[AnyEvent],
        *,
        durable: bool = True,
        account: Account | None = None,
    ) -> int:
        if self.full:
            raise JournalFull("no space left")
        self.clock.advance(self.takes_s)
        self.appends.append(([type(event).__name__ for event in events], durable))
        return await super().append(lease, events, durable=durable, account=account)

    async def read(self, conversation: str, after: int = 0) -> list[Recorded]:
        if conversation == self.unreadable:
            raise msgspec.ValidationError("Invalid value 'of_a_later_release' - at `$.type`")
        return await super().read(conversation, after)


class Desk:
    """A worker with everything around it, and time that the test moves."""

    def __init__(self, script: Script, *, park_s: float = 5.0, **agent: Any) -> None:
        self.park_s = park_s
        self.clock = FakeClock()
        self.journal = Flaky(self.clock)
        self.shop = Shop()
        self.model = ScriptedModel(script)
        self.outcomes: list[tuple[str, str, bool]] = []
        config = AgentConfig.model_validate({"reply_tool": False, **agent})
        self.agents = Agents([resolve("desk", config, self.shop.tools)])
        self.stack = AsyncExitStack()
        self.worker = self.build()

    def build(self, owner: str = "w1") -> Worker:
        return Worker(
            journal=self.journal,
            agents=self.agents,
            models=self.model,
            prices={"scripted": Prices(fresh=1e6, cached=1e5, output=2e6)},
            outcomes=lambda *said: self.outcomes.append(said),
            clock=self.clock,
            owner=owner,
            lease_s=9,
            park_s=self.park_s,
            stop_grace_s=0.05,
            retention_s=1000,
        )

    async def __aenter__(self) -> Desk:
        await self.stack.enter_async_context(self.worker)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.shop.gate.set()
        await self.stack.aclose()

    async def ask(self, response_id: str = "r", conversation: str = "c", key: str = "") -> bool:
        items = [{"role": "user", "content": "go"}]
        accepted = ResponseAccepted(response_id, self.clock.now(), items, idempotency_key=key)
        start = ConversationStarted("desk@1", self.clock.now())
        return (await self.worker.accept(conversation, accepted, start=start)).created

    async def ended(self) -> ResponseFinished:
        await self.worker.run("c")
        return (await self.found(ResponseFinished))[-1]

    async def log(self) -> list[AnyEvent]:
        return [each.event for each in await self.journal.read("c")]

    async def found(self, kind: type[E]) -> list[E]:
        return [event for event in await self.log() if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError("it never came to pass")


async def test_a_run_of_two_turns_is_journaled_step_by_step() -> None:
    async with Desk(in_order(calls(("buy", {"item": "bell"})), says("done"))) as desk:
        assert await desk.ask()
        assert (await desk.ended()).status == "completed"
        assert desk.shop.bought == ["bell"]
        assert [type(event) for event in await desk.log()] == [
            ConversationStarted,
            ResponseAccepted,
            ModelIntent,
            ModelRouted,
            ModelResult,
            ToolIntent,
            ToolResult,
            ModelIntent,
            ModelRouted,
            ModelResult,
            ResponseFinished,
        ]


async def test_a_step_takes_two_durable_appends() -> None:
    async with Desk(in_order(calls(("buy", {"item": "bell"})), says("done"))) as desk:
        await desk.ask()
        await desk.ended()
        assert desk.journal.appends == [
            (["ConversationStarted", "ResponseAccepted"], True),
            (["ModelIntent"], True),
            (["ModelRouted", "ModelResult", "ToolIntent"], True),
            (["ToolResult", "ModelIntent"], True),
            (["ModelRouted", "ModelResult", "ResponseFinished"], True),
        ]


async def test_costs_are_those_of_the_model_that_served() -> None:
    async with Desk(in_order(says("done"))) as desk:
        await desk.ask()
        await desk.ended()
        result = (await desk.found(ModelResult))[0]
        assert result.cost_usd == pytest.approx(20 + 8 + 20)
        assert result.uncached_cost_usd == pytest.approx(100 + 20)


async def test_a_reply_ends_the_response_with_its_text() -> None:
    async with Desk(in_order(replies("It is 3 €.")), reply_tool=True) as desk:
        await desk.ask()
        assert (await desk.ended()).status == "completed"
        assert (await desk.found(ModelResult))[0].text == "It is 3 €."


async def test_unknown_tools_and_bad_arguments_are_answered_and_never_run() -> None:
    script = in_order(
        calls(("by", {"item": "x"}), ("buy", {"items": "x"}), ("buy", '{"item"')), says("sorry")
    )
    async with Desk(script) as desk:
        await desk.ask()
        assert (await desk.ended()).status == "completed"
        assert desk.shop.bought == []
        assert desk.outcomes == [("", "r-1-1", False)]
        assert await desk.found(ToolIntent) == []
        results = await desk.found(ToolResult)
        assert [each.outcome for each in results] == ["refused"] * 3
        assert "did you mean 'buy'" in results[0].output
        assert "did you mean 'buy'" in desk.model.turns[1].body.decode()


async def test_a_truncated_call_is_a_failure_not_a_call() -> None:
    async with Desk(in_order(calls(("buy", '{"item": "be'), finish="length"))) as desk:
        await desk.ask()
        ended = await desk.ended()
        assert (ended.status, ended.code) == ("incomplete", "max_output_tokens")
        assert desk.shop.bought == []


async def test_parallel_calls_run_together_and_are_stored_as_they_come() -> None:
    script = in_order(calls(("wait", {"n": 1}), ("buy", {"item": "bell"})), says("done"))
    async with Desk(script) as desk:
        await desk.ask()
        await desk.until(lambda: (["ToolResult"], True) in desk.journal.appends)
        assert [each.call_id for each in await desk.found(ToolResult)] == ["call_1_1"]
        desk.shop.gate.set()
        assert (await desk.ended()).status == "completed"
        messages = desk.model.turns[1].body.decode()
        assert messages.index("waited 1") < messages.index("bought bell")


async def test_the_same_call_three_times_in_a_row_ends_the_response() -> None:
    async with Desk(lambda turn: calls(("buy", {"item": "bell"}))) as desk:
        await desk.ask()
        ended = await desk.ended()
        assert (ended.status, ended.code) == ("incomplete", "same_call")
        assert desk.shop.bought == ["bell", "bell"]


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_turns": 2}, "max_turns"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"max_tokens": 150}, "max_tokens"),
        ({"max_cost_usd": 50}, "max_cost_usd"),
    ],
)
async def test_every_hard_limit_ends_the_response_as_incomplete(
    limits: dict[str, Any], code: str
) -> None:
    numbers = iter(range(99))
    script: Script = lambda turn: calls(("buy", {"item": str(next(numbers))}))  # noqa: E731
    async with Desk(script, limits=limits) as desk:
        await desk.ask()
        ended = await desk.ended()
        assert (ended.status, ended.code) == ("incomplete", code)
        assert len(await desk.found(LimitReached)) == 1


async def test_near_a_limit_the_model_answers_once_more_without_tools() -> None:
    async with Desk(
        in_order(calls(("buy", {"item": "bell"})), says("one bell")), limits={"max_turns": 2}
    ) as desk:
        await desk.ask()
        assert (await desk.ended()).status == "completed"
        bodies = [json.loads(turn.body) for turn in desk.model.turns]
        assert [body["tool_choice"] for body in bodies] == ["auto", "none"]
        assert bodies[0]["tools"] == bodies[1]["tools"]
        assert bodies[1]["messages"][:-3] == bodies[0]["messages"]
        assert "Answer now" in bodies[1]["messages"][-1]["content"]
        assert (["ToolResult", "Notice", "ModelIntent"], True) in desk.journal.appends
        (limit,) = await desk.found(LimitReached)
        assert limit.answered


async def test_a_summary_by_a_side_turn_takes_the_place_of_old_turns() -> None:
    def script(turn: ModelTurn) -> Iterable[Scripted]:
        if turn.turn_type == "summarise":
            return says("they bought bells")
        return [ROUTED, TextDelta("fine " + "x" * 400), Done("stop", 5000, 4000, 10)]

    context = {"strategy": "summary", "keep_turns": 1, "summary_tokens": 20, "margin": 0}
    async with Desk(script, context=context) as desk:
        for number in range(15):
            await desk.ask(f"r{number}")
            assert (await desk.ended()).status == "completed"
        rewritten = await desk.found(Compacted)
        assert rewritten
        assert rewritten[0].text == "they bought bells"
        assert rewritten[0].summary_tokens == 110
        side = [turn for turn in desk.model.turns if turn.turn_type == "summarise"]
        assert len(side) == len(rewritten)
        assert "they bought bells" in desk.model.turns[-1].body.decode()
        log = await desk.log()
        first = log.index(rewritten[0])
        assert isinstance(log[first + 1], ModelIntent), "in the journal before the turn it is for"
        # Another process, which has only the log, makes the same prompt of it.
        history = fold_all(await desk.journal.read("c")).history[:-1]
        prompt = desk.agents.get("desk").prompt()
        prompt.extend(history)
        assert prompt.messages in desk.model.turns[-1].body


async def test_notes_are_read_from_the_log_whoever_runs_the_conversation() -> None:
    script = in_order(
        calls(("note", {"text": "bells cost 5"})),
        says("ok"),
        calls(("recall", {})),
        says("they cost 5"),
    )
    async with Desk(script, tools=["builtin:note", "builtin:recall"]) as desk:
        for response_id in ("r1", "r2"):
            await desk.ask(response_id)
            assert (await desk.ended()).status == "completed"
        results = await desk.found(ToolResult)
        assert [each.output for each in results] == ["noted", "1. bells cost 5"]


async def test_time_runs_out_in_the_middle_of_a_tool() -> None:
    async with Desk(in_order(calls(("wait", {"n": 1}))), limits={"max_seconds": 60}) as desk:
        await desk.ask()
        await desk.shop.started.wait()
        desk.clock.advance(60)
        ended = await desk.ended()
        assert (ended.status, ended.code) == ("incomplete", "max_seconds")


def stuck(*before: Scripted) -> list[Scripted]:
    """A stream that never goes on."""
    return [ROUTED, *before, asyncio.get_running_loop().create_future()]


async def test_streamed_text_is_journaled_in_batches_while_it_comes() -> None:
    gate = asyncio.Event()

    def script(turn: object) -> Iterable[Scripted]:
        return [ROUTED, TextDelta("Hel"), TextDelta("lo "), gate.wait(), *says("you")[1:]]

    async with Desk(script) as desk:
        await desk.ask()
        await desk.until(lambda: len(desk.model.turns) == 1 and desk.clock.waiting > 1)
        desk.clock.advance(0.05)
        await desk.until(lambda: (["ModelRouted", "OutputDelta"], False) in desk.journal.appends)
        gate.set()
        await desk.ended()
        assert [each.text for each in await desk.found(OutputDelta)] == ["Hello "]
        assert (await desk.found(ModelResult))[0].text == "Hello you"


@pytest.mark.parametrize("where", ["stream", "tool"])
async def test_cancelling_ends_what_is_in_flight(where: str) -> None:
    def script(turn: object) -> Iterable[Scripted]:
        return calls(("wait", {"n": 1})) if where == "tool" else stuck(TextDelta("Hel"))

    async with Desk(script) as desk:
        await desk.ask()
        if where == "tool":
            await desk.shop.started.wait()
        else:
            await desk.until(lambda: len(desk.model.turns) == 1)
        await desk.worker.cancel("r")
        assert (await desk.found(ResponseFinished))[-1].status == "cancelled"
        assert desk.worker.active == 0
        await desk.worker.cancel("r")  # again: nothing happens
        assert len(await desk.found(ResponseFinished)) == 1


async def test_a_conversation_goes_on_after_a_cancelled_tool() -> None:
    script = in_order(calls(("wait", {"n": 1})), says("fine"))
    async with Desk(script) as desk:
        await desk.ask()
        await desk.shop.started.wait()
        await desk.worker.cancel("r")
        await desk.ask("r2")
        assert (await desk.ended()).status == "completed"
        assert "not run: the response ended" in desk.model.turns[-1].body.decode()


@pytest.mark.parametrize("how", ["cancelled", "out of time", "broken"])
async def test_a_call_that_was_cut_may_have_taken_effect_and_later_prompts_say_so(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = in_order(calls(("pay", {"item": "tea"})), says("fine"))
    async with Desk(script, limits={"max_seconds": 60}) as desk:
        if how == "broken":
            monkeypatch.setattr(ToolRunner, "_ended", None)
        await desk.ask()
        await desk.shop.started.wait()
        if how == "cancelled":
            await desk.worker.cancel("r")
        elif how == "out of time":
            desk.clock.advance(60)
        else:
            desk.shop.gate.set()
        assert (await desk.ended()).status != "completed"
        assert [each.outcome for each in await desk.found(ToolResult)] == ["outcome_unknown"]
        await desk.ask("r2")
        await desk.ended()
        prompt = desk.model.turns[-1].body.decode()
        assert "whether it took effect is unknown" in prompt
        assert "not run" not in prompt


async def test_cancelling_what_does_not_exist_is_not_found() -> None:
    async with Desk(in_order()) as desk:
        with pytest.raises(NotFound):
            await desk.worker.cancel("nobody")


async def test_a_failed_turn_is_tried_again_after_a_while() -> None:
    gone = ModelError("engine gone", code="engine_failed", retry=True)
    async with Desk(in_order([ROUTED, TextDelta("Hel"), gone], says("Hello"))) as desk:
        await desk.ask()
        await desk.until(lambda: any("ModelFailed" in kinds for kinds, _ in desk.journal.appends))
        assert len(desk.model.turns) == 1
        desk.clock.advance(1)
        assert (await desk.ended()).status == "completed"
        assert desk.model.turns[0].body == desk.model.turns[1].body


async def test_what_asking_again_cannot_help_fails_the_response() -> None:
    refused = ModelError("too long", code="context_length_exceeded", retry=False)
    async with Desk(in_order([refused])) as desk:
        await desk.ask()
        ended = await desk.ended()
        assert (ended.status, ended.code) == ("failed", "context_length_exceeded")


async def test_a_defect_in_a_model_client_fails_one_response_and_nothing_else() -> None:
    async with Desk(in_order([ZeroDivisionError("oh")], says("fine"))) as desk:
        await desk.ask()
        ended = await desk.ended()
        assert (ended.status, ended.code) == ("failed", "internal_error")
        await desk.ask("r2")
        assert (await desk.ended()).status == "completed"


async def test_nothing_is_done_while_the_journal_is_full_and_all_goes_on_after() -> None:
    gate = asyncio.Event()

    def first(turn: object) -> Iterable[Scripted]:
        return [gate.wait(), *calls(("buy", {"item": "bell"}))]

    def script(turn: object) -> Iterable[Scripted]:
        return first(turn) if len(desk.model.turns) == 1 else says("done")

    async with Desk(script) as desk:
        await desk.ask()
        await desk.until(lambda: len(desk.model.turns) == 1)
        desk.journal.full = True
        waiting = desk.clock.waiting
        gate.set()
        await desk.until(lambda: desk.clock.waiting > waiting)
        assert desk.shop.bought == []
        desk.journal.full = False
        desk.clock.advance(0.5)
        assert (await desk.ended()).status == "completed"
        assert desk.shop.bought == ["bell"]


async def test_a_turn_says_how_much_of_it_was_storing_that_it_begins() -> None:
    async with Desk(lambda turn: says("done")) as desk:
        desk.journal.takes_s = 0.25
        await desk.ask()
        await desk.ended()
        (result,) = await desk.found(ModelResult)
        assert result.stored_s == pytest.approx(0.25)
        assert result.stored_s <= result.first_token_s <= result.seconds


async def test_one_response_at_a_time_in_a_conversation() -> None:
    async with Desk(lambda turn: stuck()) as desk:
        await desk.ask("r1")
        with pytest.raises(Conflict) as caught:
            await desk.ask("r2")
        assert caught.value.code == "conversation_locked"


async def test_the_next_request_may_come_the_moment_the_last_one_ends() -> None:
    async with Desk(lambda turn: says("done")) as desk:
        for number in range(5):
            await desk.ask(f"r{number}")
            seq = 0
            while not any(
                isinstance(each.event, ResponseFinished) and each.event.response_id == f"r{number}"
                for each in await desk.journal.read("c", seq)
            ):
                await desk.journal.wait("c", len(await desk.journal.read("c")), 5)


async def test_an_idempotency_key_makes_one_response() -> None:
    async with Desk(lambda turn: says("done")) as desk:
        assert await desk.ask("r1", key="k") is True
        assert await desk.ask("r2", "c2", key="k") is False
        await desk.ended()
        assert await desk.journal.read("c2") == []


async def test_a_client_that_hangs_up_while_it_is_accepted_leaves_a_run_that_runs() -> None:
    async with Desk(in_order(says("done"))) as desk:
        asking = asyncio.create_task(desk.ask())
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await desk.ended()).status == "completed"


async def test_a_stopped_worker_leaves_runs_that_the_next_one_continues() -> None:
    first = in_order(stuck(TextDelta("Hel")))
    desk = Desk(first)
    async with desk.worker:
        await desk.ask()
        await desk.until(lambda: len(desk.model.turns) == 1)
    assert await desk.found(ResponseFinished) == []
    desk.model = ScriptedModel(in_order(says("Hello")))
    async with desk.build("w2") as worker:
        await worker.run("c")
        assert [each.superseded for each in await desk.found(ModelFailed)] == [True]
        assert (await desk.found(ResponseFinished))[-1].status == "completed"


async def test_stopping_lets_a_running_tool_end_and_journals_its_result() -> None:
    desk = Desk(in_order(calls(("wait", {"n": 1}))))
    async with desk.worker:
        await desk.ask()
        await desk.shop.started.wait()
        asyncio.get_running_loop().call_soon(desk.shop.gate.set)
    assert [each.outcome for each in await desk.found(ToolResult)] == ["ok"]
    assert await desk.found(ResponseFinished) == []


async def test_a_worker_that_lost_its_lease_stops_at_once_and_stores_nothing() -> None:
    async with Desk(in_order(calls(("wait", {"n": 1})))) as desk:
        await desk.ask()
        await desk.shop.started.wait()
        # The process was frozen for longer than its lease; another one took over meanwhile.
        log = desk.journal._logs["c"]
        log.expires_at = 0.0
        assert await desk.journal.lease("c", "thief", 100) is not None
        before = await desk.log()
        desk.clock.advance(3)
        await desk.until(lambda: desk.worker.active == 0)
        assert await desk.log() == before


async def test_leases_are_renewed_while_a_run_lasts() -> None:
    async with Desk(in_order(calls(("wait", {"n": 1})), says("done"))) as desk:
        await desk.ask()
        await desk.shop.started.wait()
        for _ in range(10):
            desk.clock.advance(3)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert await desk.journal.lease("c", "thief", 9) is None


async def test_a_run_that_another_process_holds_is_taken_over_when_its_lease_runs_out() -> None:
    desk = Desk(in_order(says("done")))
    other = await desk.journal.lease("c", "other", 9)
    assert other is not None
    accepted = ResponseAccepted("r", desk.clock.now(), [{"role": "user", "content": "go"}])
    await desk.journal.append(other, [ConversationStarted("desk@1", 0.0), accepted])
    async with desk:
        await desk.until(lambda: desk.clock.waiting > 1)
        assert desk.model.turns == []
        for _ in range(5):
            desk.clock.advance(2.5)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert (await desk.ended()).status == "completed"


async def test_an_agent_that_is_gone_fails_the_response_instead_of_leaving_it_open() -> None:
    desk = Desk(in_order())
    lease = await desk.journal.lease("c", "other", 9)
    assert lease is not None
    accepted = ResponseAccepted("r", desk.clock.now(), [])
    await desk.journal.append(lease, [ConversationStarted("desk@9", 0.0), accepted])
    await desk.journal.release(lease)
    async with desk:
        ended = await desk.ended()
        assert (ended.status, ended.code) == ("failed", "agent_version_not_found")


async def test_a_log_that_cannot_be_read_stops_nothing_else_and_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk(in_order(says("done"), says("well again")))
    lease = await desk.journal.lease("odd", "other", 9)
    assert lease is not None
    accepted = ResponseAccepted("r0", desk.clock.now(), [])
    await desk.journal.append(lease, [ConversationStarted("desk@1", 0.0), accepted])
    await desk.journal.release(lease)
    desk.journal.unreadable = "odd"
    async with desk:
        for _ in range(3):
            await desk.worker.run("odd")
        told = [each for each in caplog.records if "odd" in each.getMessage()]
        assert [each.getMessage() for each in told] == [
            "odd: the run failed in an unforeseen way",
            "odd: left unfinished",
        ]
        await desk.ask()
        assert (await desk.ended()).status == "completed"
        desk.journal.unreadable = ""
        await desk.worker.run("odd")
        last = (await desk.journal.read("odd"))[-1].event
        assert isinstance(last, ResponseFinished)
        assert last.status == "completed"


async def test_a_log_that_cannot_be_read_does_not_end_the_sweep() -> None:
    desk = Desk(in_order(says("done")))
    lease = await desk.journal.lease("odd", "other", 9)
    assert lease is not None
    accepted = ResponseAccepted("r0", 0.0, [], {"store": False})
    await desk.journal.append(lease, [ConversationStarted("desk@1", 0.0), accepted])
    await desk.journal.append(lease, [ResponseFinished("r0", 0.0, "completed")])
    await desk.journal.release(lease)
    desk.journal.unreadable = "odd"
    async with desk:
        desk.clock.advance(100)
        assert await desk.worker.sweep() == 0


BROKEN = ModelError("engine gone", code="engine_failed", retry=True)


async def parked(desk: Desk) -> None:
    """A run that waits for its next attempt, without anybody who holds it."""
    await desk.ask()
    await desk.until(lambda: desk.worker.active == 0)
    assert await desk.found(ResponseFinished) == []


async def test_a_run_that_only_waits_has_no_task_and_no_lease_and_wakes_in_time() -> None:
    async with Desk(in_order([BROKEN], says("done")), park_s=0.2) as desk:
        await parked(desk)
        assert await desk.journal.due(desk.clock.now() + 0.2, 9) == []
        assert len(await desk.journal.due(desk.clock.now() + 0.25, 9)) == 1
        desk.clock.advance(0.2)
        await asyncio.sleep(0)
        assert len(desk.model.turns) == 1
        desk.clock.advance(0.1)
        await desk.until(lambda: len(desk.model.turns) == 2)
        assert (await desk.ended()).status == "completed"


async def test_a_parked_run_wakes_after_a_restart_too() -> None:
    desk = Desk(in_order([BROKEN]), park_s=0.2)
    async with desk.worker:
        await parked(desk)
    desk.model = ScriptedModel(in_order(says("done")))
    async with desk.build("w2") as worker:
        assert worker.active == 0
        desk.clock.advance(0.3)
        await desk.until(lambda: len(desk.model.turns) == 1)
        await worker.run("c")
        assert (await desk.found(ResponseFinished))[-1].status == "completed"


async def test_a_parked_run_is_cancelled_at_once() -> None:
    async with Desk(in_order([BROKEN]), park_s=0.2) as desk:
        await parked(desk)
        await desk.worker.cancel("r")
        assert (await desk.found(ResponseFinished))[-1].status == "cancelled"


async def test_a_cancel_that_comes_while_a_run_parks_is_not_lost() -> None:
    async with Desk(in_order([BROKEN]), park_s=0.2) as desk:
        letting_go, go = asyncio.Event(), asyncio.Event()
        release = desk.journal.release

        async def slow(lease: Lease, *, wake_at: float = 0.0) -> None:
            letting_go.set()
            await go.wait()
            await release(lease, wake_at=wake_at)

        desk.journal.release = slow  # type: ignore[method-assign]
        await desk.ask()
        await letting_go.wait()
        cancelling = asyncio.create_task(desk.worker.cancel("r"))
        await desk.until(lambda: desk.worker._claims.get("c").again)  # type: ignore[union-attr]
        go.set()
        await cancelling
        assert [each.status for each in await desk.found(ResponseFinished)] == ["cancelled"]


async def test_a_parked_run_wakes_for_its_deadline() -> None:
    limits = {"max_seconds": 0.21}
    async with Desk(in_order([BROKEN]), park_s=0.2, limits=limits) as desk:
        await parked(desk)
        desk.clock.advance(0.22)
        await desk.until(lambda: "ResponseFinished" in desk.journal.appends[-1][0])
        assert [each.kind for each in await desk.found(LimitReached)] == ["seconds"]
        assert len(desk.model.turns) == 1


async def test_a_conversation_that_is_used_while_a_sweep_looks_is_kept() -> None:
    async with Desk(in_order(says("one"))) as desk:

        async def idle_till_now(**_: object) -> Purgeable:
            return Purgeable([], ["c"])

        desk.journal.purgeable = idle_till_now  # type: ignore[method-assign]
        await desk.ask()
        await desk.ended()
        assert await desk.worker.sweep() == 0
        assert await desk.journal.find_response("r") is not None
        desk.clock.advance(1001)
        await desk.worker.sweep()
        assert await desk.journal.find_response("r") is None


async def test_a_run_of_another_process_is_cancelled_through_that_process() -> None:
    async with Desk(in_order(stuck(TextDelta("Hel")))) as desk:
        await desk.ask()
        await desk.until(lambda: len(desk.model.turns) == 1)
        async with desk.build("w2") as other:
            ending = asyncio.create_task(other.cancel("r"))
            while not ending.done():
                desk.clock.advance(0.1)
                await asyncio.sleep(0)
            await ending
        assert (await desk.found(ResponseFinished))[-1].status == "cancelled"
