"""Tools that an agent has besides its own: found when a conversation begins, and kept by it.

    begin(agent, what it has, request) ─► events: what it gets from now on      may wait, may refuse
    newer(agent, what it has)          ─► events: what it may get instead       from a Compacted on
    bind(agent, listings)              ─► the agent with all of them            pure

`orchestrator/mcp` is the one that asks MCP servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestrator.agents import Agent
from orchestrator.loop.events import ResponseAccepted, ToolsListed
from orchestrator.mcp.offer import Listing


class Offers(Protocol):
    """Where further tools come from."""

    async def begin(
        self, agent: Agent, known: Mapping[str, Listing], accepted: ResponseAccepted
    ) -> Sequence[ToolsListed]:
        """What a conversation must know before this response. Raises Unavailable."""

    def newer(self, agent: Agent, known: Mapping[str, Listing]) -> Sequence[ToolsListed]:
        """What is offered now in place of what a conversation knows; does not wait for anybody."""

    def bind(self, agent: Agent, listings: Mapping[str, Listing]) -> Agent:
        """The agent with the tools that its conversation has, by what they come from."""


class NoOffers:
    """Agents have their own tools, and no others."""

    async def begin(
        self, agent: Agent, known: Mapping[str, Listing], accepted: ResponseAccepted
    ) -> Sequence[ToolsListed]:
        return ()

    def newer(self, agent: Agent, known: Mapping[str, Listing]) -> Sequence[ToolsListed]:
        return ()

    def bind(self, agent: Agent, listings: Mapping[str, Listing]) -> Agent:
        return agent
