"""MCP servers' tools as tools of agents: which ones a conversation gets, under which names.

A conversation keeps the listing that it began with: tools stand at the head of every prompt, and
one that changed under way would cost the whole cache. Where the prompt is rewritten anyway, the
newest known listing takes its place. A call is checked against the conversation's listing and goes
to the server as it is now; a tool that is gone is the server's to refuse.

Names are the server's own, without characters that engines do not take. Where one is taken, the
server's name goes before it: `docs_search`. Tools that came first keep theirs: the agent's own,
those of its servers, those of a request's servers.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from orchestrator.agents import Agent
from orchestrator.clock import Clock
from orchestrator.loop.events import ResponseAccepted, ToolsListed, ToolsOffered
from orchestrator.loop.state import State
from orchestrator.mcp import asked
from orchestrator.mcp.asked import Asked
from orchestrator.mcp.calls import asks_person, audit, tool_of
from orchestrator.mcp.offer import ListedTool, Listing
from orchestrator.mcp.server import McpServer
from orchestrator.mcp.servers import McpServers
from orchestrator.tools.base import Tool
from orchestrator.tools.toolbox import READ_RESULT
from serving import reply
from serving.config.mcp import McpServerConfig, mcp_server
from serving.errors import Unavailable

MAX_BOUND = 256
MAX_NAME = 64
Names = dict[tuple[str, str], str]
"""A server and its own name of a tool → what the model calls it."""
NOTHING: Mapping[str, ToolsOffered] = {}
log = logging.getLogger("warmloop.mcp")


class McpTools:
    """`Offers` of the configured servers."""

    def __init__(self, servers: McpServers, clock: Clock) -> None:
        self._servers = servers
        self._clock = clock
        self._bound: OrderedDict[tuple[Any, ...], Agent] = OrderedDict()

    async def begin(
        self, agent: Agent, state: State, accepted: ResponseAccepted
    ) -> Sequence[ToolsListed | ToolsOffered]:
        """The listings that this conversation does not have yet, and what the request asks for."""
        wanted = asked.wanted(accepted.request, agent, self._configured)
        needed = [*servers_of(agent.mcp), *(each.server for each in wanted)]
        listed = [
            await self._first(name) for name in dict.fromkeys(needed) if name not in state.offers
        ]
        listings = {**state.offers, **{each.server: each.listing for each in listed}}
        for each in wanted:
            asked.check(each, listings[each.server])
        awaited = asked.awaited(state, accepted)
        tools: dict[str, Asked] = {offered.server: offered.asked for offered, _ in awaited}
        tools |= {each.server: each.asked for each in wanted}
        held = {(offered.server, offered.names[name]): name for offered, name in awaited}
        offered = self._offered(agent, listings, tools, held)
        asked.check_choice(accepted.request, {each.server: each for each in offered})
        return [*listed, *offered]

    def newer(self, agent: Agent, state: State) -> Sequence[ToolsListed]:
        """The listings that have changed since, as far as they are known now."""
        known = {**state.offers, **state.offers_next}
        asked_for = state.run.offered if state.run is not None else NOTHING
        names = dict.fromkeys([*servers_of(agent.mcp), *asked_for])
        found = ((name, self._servers.get(name)) for name in names if name in known)
        now = self._clock.now()
        return [
            ToolsListed(name, now, server.listing)
            for name, server in found
            if server is not None and server.listing not in (None, known[name])
        ]

    def again(self, agent: Agent, state: State) -> Sequence[ToolsOffered]:
        """What the request in progress has of listings that have changed."""
        before = state.run.offered if state.run is not None else NOTHING
        if not before:
            return ()
        tools = {name: each.asked for name, each in before.items()}
        offered = self._offered(agent, state.offers, tools, {})
        return [each for each in offered if not _same(each, before[each.server])]

    def bind(
        self,
        agent: Agent,
        listings: Mapping[str, Listing],
        offered: Mapping[str, ToolsOffered] = NOTHING,
    ) -> Agent:
        """The agent with its tools of all servers; the same object for the same listings."""
        named = dict.fromkeys([*servers_of(agent.mcp), *offered])
        offers = {name: listings[name] for name in named if name in listings}
        if not offers:
            return agent
        key = (
            agent.key,
            *((name, audit(listing)) for name, listing in offers.items()),
            *((name, *each.names.items(), *each.approvals) for name, each in offered.items()),
        )
        found = self._bound.get(key)
        if found is None:
            asks = {name for each in offered.values() for name in each.approvals}
            asks.update(self._servers_asks(agent, offers, offered))
            found = agent.with_tools(self._tools(agent, offers, offered), asks)
            self._bound[key] = found
            if len(self._bound) > MAX_BOUND:
                self._bound.popitem(last=False)
        else:
            self._bound.move_to_end(key)
        return found

    async def _first(self, name: str) -> ToolsListed:
        """What a server lists, if it is known in time."""
        server = self._servers[name]
        listing = await server.listed(self._servers.first_list_wait_s)
        if listing is None:
            raise Unavailable(
                f"the tools of the MCP server {name!r} are not known yet, and it is {server.state}",
                code="mcp_server_unavailable",
                retry_after_s=5,
            )
        return ToolsListed(name, self._clock.now(), listing)

    def _offered(
        self, agent: Agent, listings: Mapping[str, Listing], tools: Mapping[str, Asked], held: Names
    ) -> list[ToolsOffered]:
        """What the request's servers come to; `held` are names that calls have already."""
        if not tools:
            return []
        names = {**names_of(agent, listings), **held}
        taken = {*_reserved(agent), *names.values()}
        made = {}
        for server, wanted in tools.items():
            given = {}
            for listed in listings[server].tools:
                # Each gets its name, wanted or not: it shall not depend on what else is wanted.
                place = server, listed.name
                visible = names.get(place) or visible_name(server, listed.name, taken)
                taken.add(visible)
                if place in held or asked.is_allowed(wanted, listed):
                    given[visible] = listed.name
            made[server] = ToolsOffered(server, self._clock.now(), dict(wanted), given)
        whole = self.bind(agent, listings, made).tools.need_approval
        return [
            msgspec.structs.replace(each, approvals=_approvals(each, listings[server], whole))
            for server, each in made.items()
        ]

    def _tools(
        self, agent: Agent, offers: Mapping[str, Listing], offered: Mapping[str, ToolsOffered]
    ) -> Iterable[Tool]:
        names = names_of(agent, offers)
        for name, listing in offers.items():
            server = self._servers.get(name)
            wanted: Iterable[tuple[str, ListedTool]]
            if name in offered:
                if server is not None and not asked.is_open(server.config, agent):
                    server = None
                listed = {tool.name: tool for tool in listing.tools}
                given = offered[name].names.items()
                wanted = ((visible, listed[tool]) for visible, tool in given if tool in listed)
            else:
                tools = chosen(name, listing, agent.mcp)
                wanted = ((names[name, tool.name], tool) for tool in tools)
            for visible, tool in wanted:
                yield tool_of(name, server, listing, tool, visible)

    def _servers_asks(
        self, agent: Agent, offers: Mapping[str, Listing], offered: Mapping[str, ToolsOffered]
    ) -> Iterable[str]:
        """What waits by the word of its server alone: `tool_settings` may take that from a tool of
        the agent's own, and not from one of its name that only a request brings."""
        own = names_of(agent, offers)
        for name, each in offered.items():
            if (config := self._configured(name)) is not None:
                for visible, tool in each.names.items():
                    if (name, tool) not in own and asks_person(config, tool):
                        yield visible

    def _configured(self, name: str) -> McpServerConfig | None:
        server: McpServer | None = self._servers.get(name)
        return server.config if server is not None else None


def servers_of(specs: Sequence[str]) -> list[str]:
    """The servers that an agent's tools name, in that order, each once."""
    return list(dict.fromkeys(name for spec in specs if (name := mcp_server(spec)) is not None))


def chosen(name: str, listing: Listing, specs: Sequence[str]) -> list[ListedTool]:
    """Those of a server's tools that an agent asks for."""
    if f"mcp:{name}" in specs:
        return listing.tools
    wanted = {spec.partition("/")[2] for spec in specs if mcp_server(spec) == name}
    for missing in sorted(wanted - {tool.name for tool in listing.tools}):
        log.warning("mcp server %s has no tool %r, which an agent names", name, missing)
    return [tool for tool in listing.tools if tool.name in wanted]


def names_of(agent: Agent, listings: Mapping[str, Listing]) -> Names:
    """What the tools of the agent's servers are called, whatever a request leaves of them."""
    taken = _reserved(agent)
    names: Names = {}
    for server in servers_of(agent.mcp):
        if server in listings:
            for tool in chosen(server, listings[server], agent.mcp):
                names[server, tool.name] = visible_name(server, tool.name, taken)
                taken.add(names[server, tool.name])
    return names


def _reserved(agent: Agent) -> set[str]:
    return {*agent.tools.names, reply.REPLY, READ_RESULT}


def visible_name(server: str, tool: str, taken: set[str]) -> str:
    """What the model calls it: unique, and of the characters that the OpenAI API takes."""
    plain = re.sub(r"[^a-zA-Z0-9_-]", "_", tool)
    for name in (plain, re.sub(r"[^a-zA-Z0-9_-]", "_", f"{server}_{tool}")):
        if len(name) <= MAX_NAME and name not in taken:
            return name
    digest = hashlib.sha256(f"{server}/{tool}".encode()).hexdigest()[:8]
    return f"{plain[: MAX_NAME - 9]}_{digest}"


def _approvals(offered: ToolsOffered, listing: Listing, operators: Iterable[str]) -> list[str]:
    """What waits for a person: what the operator says, and what the request wants besides."""
    listed = {tool.name: tool for tool in listing.tools}
    return [
        visible
        for visible, name in offered.names.items()
        if visible in operators or asked.wants_approval(offered.asked, listed[name])
    ]


def _same(one: ToolsOffered, other: ToolsOffered) -> bool:
    return one.names == other.names and one.approvals == other.approvals
