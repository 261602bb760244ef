"""What `warmloop lint` finds in agents that would not keep their cache, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.commands.lint import Finding, differences, lint, texts
from serving.errors import ConfigError

STACK = """
models: {{frontier: {{engine: simulated}}}}
agents:
  desk:
    model: frontier
    tool_path: {folder}
    tools: [{tools}]
    instructions: |
      {instructions}
"""


def stack(
    folder: Path, *, instructions: str = "Be brief.", tools: str = "", code: str = ""
) -> Path:
    (folder / "linted_tools.py").write_text(code)
    path = folder / "stack.yaml"
    said = instructions.replace("\n", "\n      ")
    path.write_text(STACK.format(folder=folder, tools=tools, instructions=said))
    return path


GOOD = '''
def search(query: str) -> str:
    """Search the catalogue."""
    return query
'''
UNSORTED = '''
from typing import Annotated

WORDS = {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"}


def search(query: Annotated[str, "one of " + " ".join(WORDS)]) -> str:
    """Search the catalogue."""
    return query
'''


def test_an_agent_whose_head_stays_has_no_findings(tmp_path: Path) -> None:
    assert lint(stack(tmp_path, tools='"linted_tools:search"', code=GOOD), "desk") == []


def test_a_date_in_the_instructions_is_found_with_its_line(tmp_path: Path) -> None:
    (found,) = lint(stack(tmp_path, instructions="Be brief.\nIt is 2026-11-28."), "desk")
    assert found.where == "agents.desk.instructions:2"
    assert "2026-11-28" in found.what
    assert "at the end of the prompt" in found.todo


def test_a_set_in_a_tool_s_schema_differs_between_two_loads(tmp_path: Path) -> None:
    (found,) = lint(stack(tmp_path, tools='"linted_tools:search"', code=UNSORTED), "desk")
    assert found.where == (
        "agents.desk.tools.search.function.parameters.properties.query.description"
    )
    assert "differs between two loads" in found.what


def test_an_agent_that_is_not_there_or_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'dusk' is not in"):
        lint(stack(tmp_path), "dusk")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        lint(stack(tmp_path, tools='"linted_tools:none"'), "desk")


@pytest.mark.parametrize(
    "text",
    [
        "Today is Monday.",
        "Started 12:30:05.",
        "Session 9f1c2b3a-0000-4000-8000-1234567890ab.",
        "Now: {now}",
        "{{ current_time }} {{date}}",
        "%Y-%m-%d",
        "since 1764300000",
        "<Store object at 0x7f3a2b1c>",
        "one of {'red', 'green'}",
    ],
)
def test_what_changes_is_found_in_texts(text: str) -> None:
    (found, *_) = texts({"a": [text]}, "x")
    assert found.where == "x.a.0"
    assert str(found) == f"{found.where}: {found.what}; {found.todo}"


@pytest.mark.parametrize(
    "text",
    ["Answer in 3 to 5 words.", 'Write {"name": "x"}.', "Dates are written YYYY-MM-DD.", "at 9:30"],
)
def test_what_stays_is_left_alone(text: str) -> None:
    assert list(texts(text, "x")) == []


def test_differences_are_said_as_deep_down_as_can_be() -> None:
    found = list(differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "x"))
    assert found == [("x.a.1.b", "2", "3")]
    assert list(differences({"a": [1]}, {"a": [1, 2]}, "x")) == [("x.a", "[1]", "[1,2]")]
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert list(differences(one, other, "x")) == [("x (order)", '["a","b"]', '["b","a"]')]
    assert Finding("x", "y", "z") == Finding("x", "y", "z")
