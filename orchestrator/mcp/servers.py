"""All MCP servers of a stack, from its configuration to connections that are kept.

What needs the `mcp` package is imported with the first connection: it takes a second, which a front
door without servers, and the command line, shall not pay.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.mcp.listing import ListingFile
from orchestrator.mcp.server import McpServer, Opener
from serving.config.mcp import McpConfig, McpServerConfig, substitute
from serving.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.mcp.link import Link, Transport
    from orchestrator.mcp.oauth import Person
    from orchestrator.mcp.tokens import TokenFile


class McpServers:
    """The servers by name; they live between `start` and `stop`."""

    def __init__(
        self, config: McpConfig, folder: Path, environment: Mapping[str, str] = os.environ
    ) -> None:
        """`folder` is the stack's. Raises ConfigError for a variable that is not set."""
        self.first_list_wait_s = config.first_list_wait_s
        for name, server in config.servers.items():
            for variable in sorted(server.variables):
                if variable not in environment:
                    raise ConfigError(
                        f"mcp.servers.{name}: ${variable} is not set; export it where the stack "
                        "is started"
                    )
        self._servers = {
            name: McpServer(
                name,
                server,
                opener(name, server, folder, environment),
                ListingFile(folder / "mcp" / "lists" / f"{name}.json"),
            )
            for name, server in config.servers.items()
        }

    def start(self) -> None:
        """Begin to connect to all of them, and return at once."""
        for server in self._servers.values():
            server.start()

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop() for server in self._servers.values()))

    def __getitem__(self, name: str) -> McpServer:
        return self._servers[name]

    def get(self, name: str) -> McpServer | None:
        """None: it is not configured, or not any more."""
        return self._servers.get(name)

    def names(self) -> list[str]:
        return list(self._servers)


def opener(
    name: str,
    config: McpServerConfig,
    folder: Path,
    environment: Mapping[str, str],
    person: Person | None = None,
) -> Opener:
    """How to connect to that server once; `person` is whoever can be asked to log in."""

    @asynccontextmanager
    async def open_once(changed: Callable[[], None]) -> AsyncIterator[Link]:
        await asyncio.to_thread(_import_package)
        from orchestrator.mcp.link import open_link

        async with open_link(
            transport_of(name, config, folder, environment, person),
            # A person takes longer than a server.
            timeout_s=config.connect_timeout_s if person is None else 3600,
            protocol=config.protocol,
            changed=changed,
        ) as link:
            yield link

    return open_once


def transport_of(
    name: str,
    config: McpServerConfig,
    folder: Path,
    environment: Mapping[str, str],
    person: Person | None,
) -> Transport:
    """The way to that server, with its credentials. Raises LoginNeeded."""
    if config.url is None:
        from orchestrator.mcp.stdio import Command, stdio_transport

        env = {key: substitute(value, environment) for key, value in config.env.items()}
        log = folder / "logs" / f"mcp-{name}.log"
        return stdio_transport(
            Command(config.command, env, config.cwd, log, config.max_message_bytes)
        )
    from orchestrator.mcp.http import http_transport

    auth = None
    if config.oauth is not None:
        from orchestrator.mcp.oauth import provider

        store = token_file(folder, name, config)
        auth = provider(name, config.url, config.oauth, environment, store, person=person)
    return http_transport(
        config.url,
        {key: substitute(value, environment) for key, value in config.headers.items()},
        auth,
        connect_timeout_s=config.connect_timeout_s,
        max_message_bytes=config.max_message_bytes,
    )


def token_file(folder: Path, name: str, config: McpServerConfig) -> TokenFile:
    """Where the tokens of that server lie."""
    from orchestrator.mcp.tokens import TokenFile

    client_id = config.oauth.client_id if config.oauth is not None else None
    return TokenFile(folder / "mcp" / "tokens" / f"{name}.json", config.url or "", client_id)


def _import_package() -> None:
    import mcp.client  # noqa: F401
