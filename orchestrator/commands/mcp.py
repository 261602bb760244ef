"""`warmloop mcp list | login`: a stack's MCP servers, and the way in to those behind OAuth."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator.mcp.failures import ServerLost
from orchestrator.mcp.servers import McpServers, opener, token_file
from serving.config import stack_file
from serving.config.sections import nearest
from serving.config.stack import StackConfig
from serving.errors import ConfigError, EngineError

app = typer.Typer(help="MCP servers: their state and tools, and logging in.", no_args_is_help=True)
ConfigOption = Annotated[Path, typer.Option("-c", "--config", help="A stack file.")]
out = Console(highlight=False, markup=False, soft_wrap=True)


@app.command("list")
def list_servers(config: ConfigOption) -> None:
    """Connect to each server once; print its state, its tools, and what went wrong."""
    asyncio.run(_list(stack_file.load(config)))


async def _list(stack: StackConfig) -> None:
    servers = McpServers(stack.mcp, stack.folder)
    if not servers.names():
        out.print("no mcp.servers in this stack")
    servers.start()
    try:
        for name in servers.names():
            server = servers[name]
            await server.settled()
            out.print(f"{name}: {server.state}{f', {server.last_error}' * bool(server.last_error)}")
            for tool in server.listing.tools if server.listing else ():
                out.print(f"    {tool.name}  {tool.description.partition(chr(10))[0][:80]}")
    finally:
        await servers.stop()


@app.command()
def login(name: Annotated[str, typer.Argument(help="The server.")], config: ConfigOption) -> None:
    """Print the URL at which a person allows this stack to use the server; keep the tokens."""
    stack = stack_file.load(config)
    servers = stack.mcp.servers
    if name not in servers:
        hint = nearest(name, [*servers]) if servers else "this stack has none"
        raise ConfigError(f"mcp.servers.{name}: there is no such server; {hint}")
    if servers[name].oauth is None:
        raise ConfigError(f"mcp.servers.{name}.oauth: is not set; there is nothing to log in to")
    asyncio.run(_login(name, stack))


async def _login(name: str, stack: StackConfig) -> None:
    from orchestrator.mcp.login import loopback
    from orchestrator.mcp.oauth import register_given

    McpServers(stack.mcp, stack.folder)  # says which variables are missing
    server = stack.mcp.servers[name]

    async def show(url: str) -> None:
        out.print(f"open this in a browser on this machine:\n\n{url}\n")

    async with loopback(show) as person:
        if server.oauth is not None and server.oauth.grant == "authorization_code":
            store = token_file(stack.folder, name, server)
            await register_given(server.oauth, os.environ, store, person.redirect_uri)
        try:
            async with opener(name, server, stack.folder, os.environ, person)(lambda: None) as link:
                out.print(f"{name}: logged in, {len(await link.tools())} tools")
        except ServerLost as lost:
            raise EngineError(f"mcp.servers.{name}: {lost}") from None
