"""A real MCP server for tests, made with the `mcp` package: over stdio, or HTTP on a port.

    python tests/mcp_world.py FOLDER [--port N] [--slow-start S] [--hang] [--json]

Every effect is a line in FOLDER/ledger; FOLDER/extra.json may hold tools that it lists besides its
own, and FOLDER/hold keeps the tool `wait` waiting for as long as it exists.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged

TEXT = {"type": "string", "maxLength": 200}


def schema(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


TOOLS: list[dict[str, Any]] = [
    {
        "name": "add",
        "description": "Add two numbers.",
        "inputSchema": schema(a={"type": "integer"}, b={"type": "integer"}),
        "outputSchema": schema(sum={"type": "integer"}),
        "annotations": {"readOnlyHint": True},
    },
    {"name": "note", "description": "Write a line down.", "inputSchema": schema(text=TEXT)},
    {
        "name": "put",
        "description": "Write a line down, once.",
        "inputSchema": schema(text=TEXT),
        "annotations": {"idempotentHint": True},
    },
    {"name": "wait", "description": "Write a line down, then wait.", "inputSchema": schema()},
    {"name": "die", "description": "Write, then die.", "inputSchema": schema(text=TEXT)},
    {"name": "fail", "description": "Fails.", "inputSchema": schema()},
    {"name": "mixed", "description": "Text, an image and a resource.", "inputSchema": schema()},
    {"name": "large", "description": "Much.", "inputSchema": schema(size={"type": "integer"})},
    {"name": "wrong", "description": "Breaks its promise.", "inputSchema": schema(),
     "outputSchema": schema(sum={"type": "integer"})},
    {"name": "environment", "description": "Its environment.", "inputSchema": schema()},
    {"name": "meta", "description": "What came with the call.", "inputSchema": schema()},
    {"name": "change", "description": "Say that the tools have changed.", "inputSchema": schema()},
    {"name": "bad", "description": "No grammar can hold it.",
     "inputSchema": schema(x={"type": "string", "pattern": "(a)\\1"})},
]  # fmt: skip


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bus = InMemorySubscriptionBus()

    def note(self, line: str) -> None:
        with (self.folder / "ledger").open("a") as ledger:
            ledger.write(line + "\n")

    async def list_tools(self, ctx: Any, params: Any) -> types.ListToolsResult:
        extra = self.folder / "extra.json"
        more = json.loads(extra.read_text()) if extra.exists() else []
        tools = [types.Tool.model_validate(each) for each in [*TOOLS, *more]]
        # Two pages, so that clients must turn them.
        if params is not None and params.cursor == "rest":
            return types.ListToolsResult(tools=tools[3:])
        return types.ListToolsResult(tools=tools[:3], next_cursor="rest")

    async def call_tool(self, ctx: Any, params: Any) -> types.CallToolResult:
        arguments = params.arguments or {}
        try:
            known = getattr(self, f"do_{params.name}")
        except AttributeError:
            return types.CallToolResult(content=[text(f"no tool {params.name}")], is_error=True)
        result = await known(ctx, **arguments)
        if isinstance(result, str):
            return types.CallToolResult(content=[text(result)])
        assert isinstance(result, types.CallToolResult)
        return result

    async def do_add(self, ctx: Any, a: int, b: int) -> types.CallToolResult:
        return types.CallToolResult(content=[text(str(a + b))], structured_content={"sum": a + b})

    async def do_note(self, ctx: Any, text: str) -> str:
        self.note(text)
        return "noted"

    async def do_put(self, ctx: Any, text: str) -> str:
        ledger = self.folder / "ledger"
        before = ledger.read_text().splitlines() if ledger.exists() else []
        self.note(f"try {text}")
        if text not in before:
            self.note(text)
        if (self.folder / "die-once").exists():
            (self.folder / "die-once").unlink()
            os.kill(os.getpid(), 9)
        return "put"

    async def do_wait(self, ctx: Any) -> str:
        self.note("wait")
        hold = self.folder / "hold"
        done = 0
        try:
            while hold.exists():
                done += 1
                await ctx.session.report_progress(done, None, f"round {done}")
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            self.note("cancelled")
            raise
        return "waited"

    async def do_die(self, ctx: Any, text: str) -> str:
        self.note(text)
        os.kill(os.getpid(), 9)
        return "never"

    async def do_fail(self, ctx: Any) -> types.CallToolResult:
        return types.CallToolResult(content=[text("the printer is on fire")], is_error=True)

    async def do_mixed(self, ctx: Any) -> types.CallToolResult:
        image = base64.b64encode(b"x" * 3000).decode()
        inside = types.TextResourceContents(
            uri="file:///a.txt", text="inside", mime_type="text/plain"
        )
        return types.CallToolResult(
            content=[
                text("before"),
                types.ImageContent(data=image, mime_type="image/png"),
                types.EmbeddedResource(resource=inside),
                types.ResourceLink(
                    name="report", uri="file:///report.pdf", description="the whole"
                ),
            ]
        )

    async def do_large(self, ctx: Any, size: int) -> str:
        return "x" * size

    async def do_wrong(self, ctx: Any) -> types.CallToolResult:
        return types.CallToolResult(content=[text("hm")], structured_content={"sum": "three"})

    async def do_environment(self, ctx: Any) -> str:
        return json.dumps(dict(os.environ))

    async def do_meta(self, ctx: Any) -> str:
        return json.dumps(ctx.params.get("_meta") or {}, default=str)

    async def do_change(self, ctx: Any) -> str:
        await self.bus.publish(ToolsListChanged())
        if ctx.protocol_version < "2026":
            await ctx.session.send_tool_list_changed()
        return "said"


def text(content: str) -> types.TextContent:
    return types.TextContent(text=content)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--slow-start", type=float, default=0.0)
    parser.add_argument("--hang", action="store_true", help="say nothing, ever")
    parser.add_argument("--json", action="store_true", help="answers over HTTP are no streams")
    given = parser.parse_args()
    (given.folder / "pid").write_text(str(os.getpid()))
    await asyncio.sleep(3600 if given.hang else given.slow_start)
    world = World(given.folder)
    server: Server[Any] = Server(
        "world",
        version="1.2",
        on_list_tools=world.list_tools,
        on_call_tool=world.call_tool,
        on_subscriptions_listen=ListenHandler(world.bus),
    )
    if given.port:
        app = server.streamable_http_app(json_response=given.json)
        config = uvicorn.Config(app, host="127.0.0.1", port=given.port, log_level="warning")
        await uvicorn.Server(config).serve()
        return
    print("hello from the world", file=sys.stderr, flush=True)
    options = server.create_initialization_options(NotificationOptions(tools_changed=True))
    async with stdio_server() as (read, write):
        await server.run(read, write, options)


if __name__ == "__main__":
    asyncio.run(main())
