"""Tools that an agent has besides its own: found when a response begins, kept by its conversation.

    begin(agent, state, request)       ─► events: what it gets from now on      may wait, may refuse
    newer(agent, state)                ─► events: what it may get instead       from a Compacted on
    again(agent, state)                ─► events: what its request has of that  after the Compacted
    bind(agent, listings, offered)     ─► the agent with all of them            pure

`orchestrator/mcp` is the one that asks MCP servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestrator.agents import Agent
from orchestrator.loop.events import ResponseAccepted, ToolsListed, ToolsOffered
from orchestrator.loop.state import State
from orchestrator.mcp import asked
from orchestrator.mcp.offer import Listing


class Offers(Protocol):
    """Where further tools come from."""

    async def begin(
        self, agent: Agent, state: State, accepted: ResponseAccepted
    ) -> Sequence[ToolsListed | ToolsOffered]:
        """What a conversation must know before this response runs. Raises BadRequest for what the
        request may not ask for, Unavailable."""

    def newer(self, agent: Agent, state: State) -> Sequence[ToolsListed]:
        """What is offered now in place of what a conversation knows; does not wait for anybody."""

    def again(self, agent: Agent, state: State) -> Sequence[ToolsOffered]:
        """What the request in progress gets of what is offered now."""

    def bind(
        self, agent: Agent, listings: Mapping[str, Listing], offered: Mapping[str, ToolsOffered]
    ) -> Agent:
        """The agent with the tools that its conversation has and its request asked for, by what
        they come from."""


class NoOffers:
    """Agents have their own tools, and no others."""

    async def begin(
        self, agent: Agent, state: State, accepted: ResponseAccepted
    ) -> Sequence[ToolsListed | ToolsOffered]:
        asked.wanted(accepted.request, agent, lambda _: None)
        return ()

    def newer(self, agent: Agent, state: State) -> Sequence[ToolsListed]:
        return ()

    def again(self, agent: Agent, state: State) -> Sequence[ToolsOffered]:
        return ()

    def bind(
        self, agent: Agent, listings: Mapping[str, Listing], offered: Mapping[str, ToolsOffered]
    ) -> Agent:
        return agent
