"""Tools: schemas, checks, limits, results."""

from __future__ import annotations

import asyncio
import enum
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest
from typing_extensions import TypedDict

from orchestrator.loop.events import Call
from orchestrator.tools.base import Ready, Refused, ToolContext, tool
from orchestrator.tools.functions import from_function
from orchestrator.tools.loader import load
from orchestrator.tools.toolbox import Ran, Toolbox, as_text, clip
from serving.config.agent import AgentLimits
from serving.errors import ConfigError

SHORT: dict[str, Any] = {"tool_timeout_s": 5, "tool_result_bytes": 1000}


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Size:
    width: int
    height: int = 1


class Address(TypedDict):
    street: str
    title: str


def everything(  # noqa: PLR0917
    text: Annotated[str, "what to say"],
    count: int,
    share: float = 0.5,
    loud: bool = False,
    mode: Literal["a", "b"] = "a",
    note: str | None = None,
    tags: list[str] = [],  # noqa: B006 - a default as people write them
    numbers: dict[str, int] = {},  # noqa: B006
    colour: Colour = Colour.RED,
    size: Size | None = None,
    address: Address | None = None,
) -> dict[str, Any]:
    """Take everything.

    More about it that the model does not need.
    """
    return {"count": count, "colour": colour.value, "width": size.width if size else 0}


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


async def wait_for_ever() -> str:
    """Never."""
    await asyncio.Event().wait()
    return ""


def boom() -> str:
    """Fail."""
    raise LookupError("no such thing")


@tool(kind="idempotent", timeout_s=7)
def pay(amount: int, *, idempotency_key: str) -> str:
    """Pay."""
    return f"{amount} with {idempotency_key}"


def box(*functions: Any) -> Toolbox:
    return Toolbox(from_function(each) for each in functions)


def refusal(arguments: str, function: Any = add, name: str = "") -> str:
    found = box(function).prepare(Call("c", name or function.__name__, arguments))
    assert isinstance(found, Refused)
    said: dict[str, str] = json.loads(found.message)
    return said["human"]


async def run(function: Any, arguments: Any = None, **limits: Any) -> Ran:
    tools = box(function)
    ready = tools.prepare(Call("c", function.__name__, json.dumps(arguments or {})))
    assert isinstance(ready, Ready), ready
    try:
        return await tools.run(ready, ToolContext("the-key"), AgentLimits(**{**SHORT, **limits}))
    finally:
        tools.close()


def failed(said: str) -> Ran:
    return Ran("error", f'{{"error_code":"tool_failed","human":"{said}"}}', "tool_failed")


def test_the_schema_comes_from_the_type_hints() -> None:
    definition = from_function(everything).definition()["function"]
    schema = definition["parameters"]
    assert definition["description"] == "Take everything."
    assert definition["strict"] is True
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["text", "count"]
    assert schema["properties"]["text"] == {"type": "string", "description": "what to say"}
    assert schema["properties"]["mode"]["enum"] == ["a", "b"]
    # A made-up title is dropped; a property that is called title is not.
    assert "title" not in schema
    assert "title" in schema["$defs"]["Address"]["properties"]


async def test_arguments_reach_the_function_as_its_types() -> None:
    ran = await run(everything, {"text": "x", "count": 2, "colour": "blue", "size": {"width": 3}})
    assert ran == Ran("ok", '{"colour":"blue","count":2,"width":3}')


def test_an_unmarked_function_is_unsafe_and_a_marked_one_what_it_says() -> None:
    assert from_function(add).kind == "unsafe"
    assert (from_function(pay).kind, from_function(pay).limits.timeout_s) == ("idempotent", 7)


async def test_the_idempotency_key_is_hidden_from_the_model_and_given_to_the_function() -> None:
    assert list(from_function(pay).parameters["properties"]) == ["amount"]
    assert (await run(pay, {"amount": 5})).output == "5 with the-key"


def test_an_unknown_tool_is_answered_with_the_nearest() -> None:
    assert refusal("{}", name="ad") == "there is no tool 'ad'; did you mean 'add'?"
    assert "valid: add" in refusal("{}", name="zzz")


def test_arguments_that_are_not_json_are_answered_so() -> None:
    assert "not valid JSON" in refusal('{"a": 1')


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"a": "1"}', "a: '1' is not of type 'integer'"),
        ("{}", "'a' is a required property"),
        ('{"a": 1, "c": 2}', "'c' was unexpected"),
        ("[]", "is not of type 'object'"),
        ('{"a": true}', "a: True is not of type 'integer'"),
    ],
)
def test_arguments_that_do_not_fit_are_answered_with_field_and_fix(
    arguments: str, said: str
) -> None:
    message = refusal(arguments)
    assert said in message
    assert message.endswith("Its arguments: a, b")


async def test_sync_functions_run_beside_the_loop_and_async_ones_on_it() -> None:
    def where() -> bool:
        """Where am I?"""
        return threading.current_thread() is threading.main_thread()

    async def where_async() -> bool:
        """Where am I?"""
        return threading.current_thread() is threading.main_thread()

    assert (await run(where)).output == "false"
    assert (await run(where_async)).output == "true"


async def test_an_exception_is_told_without_a_trace() -> None:
    assert await run(boom) == failed("LookupError: no such thing")


async def test_a_tool_that_takes_too_long_is_cut_and_may_have_acted() -> None:
    ran = await run(wait_for_ever, tool_timeout_s=0.01)
    assert ran.outcome == "timeout"
    assert "may still have taken effect" in ran.output


async def test_a_timeout_inside_a_tool_is_its_own_error() -> None:
    async def gives_up() -> str:
        """Give up."""
        raise TimeoutError("upstream")

    assert await run(gives_up) == failed("TimeoutError: upstream")


async def lost_task() -> str:
    """Await a task that was cancelled meanwhile."""
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task
    return ""


async def leaves() -> str:
    """Leave the process."""
    raise SystemExit(3)


def leaves_from_a_thread() -> str:
    """Leave the process."""
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("function", "said"),
    [(lost_task, "CancelledError()"), (leaves, "SystemExit: 3"), (leaves_from_a_thread, "Sys")],
)
async def test_a_tool_that_cancels_itself_or_leaves_has_failed_and_no_more(
    function: Any, said: str
) -> None:
    ran = await run(function)
    assert (ran.outcome, ran.code, ran.transient) == ("error", "tool_failed", False)
    assert said in ran.output


async def test_a_call_that_is_cancelled_from_outside_ends_as_cancelled() -> None:
    running = asyncio.ensure_future(run(wait_for_ever))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_long_result_is_cut_at_a_character_and_says_so() -> None:
    def shout() -> str:
        """Shout."""
        return "é" * 1000

    ran = await run(shout, tool_result_bytes=300)
    assert len(ran.output.encode()) <= 300
    assert ran.output.endswith("[cut: the result has 2000 bytes, 300 are shown]")
    assert clip("short", 300) == "short"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as is", "as is"),
        (None, "null"),
        ({"b": 1, "a": [1.5, True]}, '{"a":[1.5,true],"b":1}'),
        (Size(2, 3), '{"height":3,"width":2}'),
        ("\ud800", "?"),
    ],
)
def test_results_become_text(value: Any, text: str) -> None:
    assert as_text(value) == text


async def test_a_result_that_is_not_data_is_an_error() -> None:
    def thing() -> object:
        """Thing."""
        return object()

    assert (await run(thing)).outcome == "error"


def test_functions_without_a_schema_are_refused_when_they_are_registered() -> None:
    def no_hint(a):  # type: ignore[no-untyped-def]
        """No hint."""

    def variadic(*args: int) -> None:
        """Many."""

    def reply(text: str) -> None:
        """Taken."""

    for function, said in (
        (no_hint, "needs a type hint"),
        (variadic, "no schema"),
        (reply, "built-in"),
    ):
        with pytest.raises(ConfigError, match=said):
            from_function(function)


async def test_tools_are_loaded_from_their_folder_and_see_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_tools.py").write_text("RATE = 3\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('must not shadow')\n")
    (tmp_path / "my_tools.py").write_text(
        "from __future__ import annotations\n"
        "import json\n"
        "from neighbour_of_tools import RATE\n"
        "def convert(amount: int) -> int:\n"
        '    """Convert."""\n'
        "    return amount * RATE\n"
    )
    loaded = load("my_tools:convert", tmp_path)
    ready = Toolbox([loaded]).prepare(Call("c", "convert", '{"amount": 2}'))
    assert isinstance(ready, Ready)
    assert await loaded.invoke(ready.arguments, ToolContext("k")) == 6
    loaded.close()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nonsense", "write module:function"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("my_tools:covnert", "did you mean 'convert'"),
        ("my_tools:VALUE", "is not a function"),
        ("broken:f", "importing broken failed: ValueError: oh"),
        ("leaver:f", "importing leaver failed: SystemExit: 3"),
        ("my_tools:bare", "'my_tools:bare': tool 'bare': parameter 'x' needs a type hint"),
        ("needy:f", "needs No module named 'not_installed'"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_the_fix(
    tmp_path: Path, spec: str, said: str
) -> None:
    (tmp_path / "my_tools.py").write_text("VALUE = 1\ndef convert(): pass\ndef bare(x): pass\n")
    (tmp_path / "leaver.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "broken.py").write_text("raise ValueError('oh')\n")
    (tmp_path / "needy.py").write_text("import not_installed\n")
    with pytest.raises(ConfigError, match=said) as caught:
        load(spec, tmp_path, where="agents.x.tools")
    assert str(caught.value).startswith("agents.x.tools: ")


def test_parameters_that_no_grammar_can_promise_are_refused_when_the_agent_is_loaded() -> None:
    pattern = {"type": "string", "pattern": "^(?=[A-F])[A-F][0-9]$"}
    hint: Any = Annotated[str, pydantic.WithJsonSchema(pattern)]

    def book(seat: Any) -> str:
        """Book a seat."""
        return str(seat)

    book.__annotations__["seat"] = hint

    with pytest.raises(ConfigError, match=r"tool 'book': its parameters/properties/seat/pattern"):
        from_function(book)
