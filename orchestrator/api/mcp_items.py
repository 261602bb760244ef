"""Output items of MCP servers that a request named, and the streaming events that tell of them.

    mcp_list_tools  added, mcp_list_tools.in_progress, .completed, done
    mcp_call        added, mcp_call.in_progress, mcp_call_arguments.delta*, .done,
                    then, when it has run, mcp_call.completed | .failed, done

A call is one item from the model's first byte of it to what it gave. One that waits for a person is
an `mcp_approval_request` instead, and becomes a call in the response that brings the decision. A
server that no request named makes no such items: an agent's own calls are `function_call`s.

`mcp_list_tools.failed` is never sent: without its list a response does not begin (503).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.api.output_items import Emitted, OpenItem
from orchestrator.loop import mcp_calls
from orchestrator.loop.events import Call, Item, ToolResult, ToolsListed, ToolsOffered
from orchestrator.mcp.offer import ListedTool, Listing

CALLING = "calling"
"""The model has written the call, and its result is not there yet."""


class McpListTools(OpenItem):
    """What a server listed, as far as the request wanted it; whole from the start."""

    def __init__(
        self, item_id: str, output_index: int, server: str, tools: Sequence[ListedTool]
    ) -> None:
        super().__init__(item_id, output_index)
        self._server = server
        self._tools = tools

    def as_item(self) -> Item:
        return {
            "id": self.item_id,
            "type": "mcp_list_tools",
            "server_label": self._server,
            "tools": [] if self.is_open else [_listed(tool) for tool in self._tools],
            "error": None,
        }

    def show(self) -> list[Emitted]:
        begun = [self._whole("added"), self._event("mcp_list_tools.in_progress")]
        self.status = "completed"
        return [*begun, self._event("mcp_list_tools.completed"), self._whole("done")]


def _listed(tool: ListedTool) -> Item:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.parameters or {"type": "object", "properties": {}},
        "annotations": {"read_only": tool.read_only},
    }


class McpCall(OpenItem):
    """A call of such a server's tool; open while the model writes it, then `calling`."""

    def __init__(  # noqa: PLR0917 - what the item shows
        self,
        item_id: str,
        output_index: int,
        call_id: str,
        server: str,
        name: str,
        approval_id: str = "",
    ) -> None:
        super().__init__(item_id, output_index)
        self.call_id = call_id
        self._told = {"server_label": server, "name": name}
        self._approval_id = approval_id
        self._output: str | None = None
        self._error: Item | None = None

    @property
    def awaits_result(self) -> bool:
        return self.status == CALLING

    def as_item(self) -> Item:
        return {
            "id": self.item_id,
            "type": mcp_calls.MCP_CALL,
            "status": self.status,
            **self._told,
            "arguments": self.text,
            "output": self._output,
            "error": self._error,
            "approval_request_id": self._approval_id or None,
        }

    def open(self) -> list[Emitted]:
        return [self._whole("added"), self._event("mcp_call.in_progress")]

    def grow(self, text: str) -> list[Emitted]:
        self._pieces.append(text)
        return [self._event("mcp_call_arguments.delta", delta=text)]

    def close(self, status: str) -> list[Emitted]:
        """The model has ended it (`completed`): it runs. Or it comes to nothing."""
        if status == "completed":
            self.status = CALLING
            return [self._event("mcp_call_arguments.done", arguments=self.text)]
        self.status = status
        return [self._whole("done")]

    def result(self, event: ToolResult) -> list[Emitted]:
        """What it gave."""
        if event.outcome == "ok":
            self.status, self._output = "completed", event.output
        else:
            self.status, self._error = "failed", mcp_calls.error(event.output)
        return [self._event(f"mcp_call.{self.status}"), self._whole("done")]

    def show(self, arguments: str, event: ToolResult) -> list[Emitted]:
        """All of it at once."""
        written = [*self.open(), *(self.grow(arguments) if arguments else [])]
        return [*written, *self.close("completed"), *self.result(event)]


class McpNames:
    """Which calls of a response are of its request's servers, as the log says it."""

    def __init__(self) -> None:
        self._listings: dict[str, Listing] = {}
        self._tools: dict[str, tuple[str, str]] = {}
        self._approvals: dict[str, Sequence[str]] = {}
        self.unseen: dict[str, Call] = {}
        """Calls that wait for a person's word, before they are shown."""

    def listed(self, event: ToolsListed) -> None:
        self._listings[event.server] = event.listing

    def offered(self, event: ToolsOffered) -> Sequence[ListedTool] | None:
        """Takes the names in; the tools, if the server has listed them in this response."""
        self._tools = {name: at for name, at in self._tools.items() if at[0] != event.server}
        self._tools |= {name: (event.server, tool) for name, tool in event.names.items()}
        self._approvals[event.server] = event.approvals
        listing = self._listings.pop(event.server, None)
        if listing is None:
            return None
        wanted = set(event.names.values())
        return [tool for tool in listing.tools if tool.name in wanted]

    def find(self, name: str) -> tuple[str, str] | None:
        """The server and its own name of what the model calls so."""
        return self._tools.get(name)

    def asks(self, name: str) -> bool:
        """Does a call of it wait for a person before it is shown?"""
        found = self._tools.get(name)
        return found is not None and name in self._approvals[found[0]]

    def hold(self, calls: Iterable[Call]) -> None:
        self.unseen |= {call.call_id: call for call in calls if self.asks(call.name)}
