"""What a configuration says about single tools, over what their authors said."""

from __future__ import annotations

import pytest

from orchestrator.agents import resolve
from orchestrator.tools.base import tool
from orchestrator.tools.functions import from_function
from serving.config.agent import AgentConfig
from serving.errors import ConfigError


@tool(kind="unsafe", timeout_s=3, at_once=2)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


def agent_with(**settings: object) -> AgentConfig:
    return AgentConfig.model_validate({"tool_settings": settings})


def test_a_configuration_holds_a_tool_tighter_than_its_author() -> None:
    config = agent_with(pay={"requires_approval": True, "timeout_s": 1, "per_minute": 6})
    agent = resolve("desk", config, [from_function(pay)])
    held = agent.tools.get("pay")
    assert held is not None
    assert held.requires_approval
    assert agent.tools.need_approval == {"pay"}
    assert (held.limits.timeout_s, held.limits.at_once, held.limits.per_minute) == (1, 2, 6)


def test_settings_of_a_tool_that_is_not_there_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"agents.desk.tool_settings.pai: .* mean 'pay'"):
        resolve("desk", agent_with(pai={"timeout_s": 1}), [from_function(pay)])


def test_settings_do_not_touch_the_schema_that_the_model_reads() -> None:
    plain = resolve("desk", AgentConfig(), [from_function(pay)])
    held = resolve("desk", agent_with(pay={"requires_approval": True}), [from_function(pay)])
    assert plain.settings == held.settings
