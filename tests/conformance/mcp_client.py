"""What the public MCP conformance suite drives: our connection code as its client under test.

    MCP_CONFORMANCE_SCENARIO=NAME python tests/conformance/mcp_client.py URL

The suite starts a server for each scenario, appends its URL, and judges what it saw of us. Each
scenario does what an agent does: connect, list, call what is listed. Where a person is needed, the
one here follows the link at once, so that the loopback port of `warmloop mcp login` is tested too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types

from orchestrator.mcp.failures import McpFailure, ServerLost
from orchestrator.mcp.link import Link, open_link
from orchestrator.mcp.login import loopback
from orchestrator.mcp.oauth import register_given
from orchestrator.mcp.servers import token_file, transport_of
from serving.config.mcp import McpServerConfig

SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
VERSION = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "")
CONTEXT = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
CLIENT_METADATA = "https://conformance-test.local/client-metadata.json"
SECRETS = {
    "SECRET": CONTEXT.get("client_secret", ""),
    "KEY": CONTEXT.get("private_key_pem", ""),
}


async def config(url: str) -> McpServerConfig:
    """The server as a stack's file would name it."""
    said: dict[str, Any] = {"url": url, "timeout_s": 20}
    if VERSION and VERSION < "2026":
        said["protocol"] = "handshake"
    if SCENARIO.startswith("auth/"):
        said["oauth"] = await oauth(url)
    return McpServerConfig.model_validate(said)


async def oauth(url: str) -> dict[str, Any]:
    client = {"client_id": CONTEXT["client_id"]} if "client_id" in CONTEXT else {}
    secret = {"client_secret": "$SECRET"} if "client_secret" in CONTEXT else {}
    issuer = {"issuer": CONTEXT["issuer"]} if "issuer" in CONTEXT else {}
    if client and not issuer:
        issuer = {"issuer": await issuer_of(url)}
    if SCENARIO.startswith("auth/client-credentials"):
        key = {"private_key": "$KEY", "private_key_algorithm": CONTEXT.get("signing_algorithm")}
        by = key if "private_key_pem" in CONTEXT else secret
        return {"grant": "client_credentials", **client, **by, **issuer}
    return {**client, **secret, **issuer, "client_metadata_url": CLIENT_METADATA}


async def issuer_of(url: str) -> str:
    """What an operator knows of the server beforehand, and the suite does not tell."""
    base, path = url.rsplit("/", 1)
    async with httpx2.AsyncClient() as client:
        for place in (
            f"/.well-known/oauth-protected-resource/{path}",
            "/.well-known/oauth-protected-resource",
        ):
            answer = await client.get(base + place)
            if answer.status_code == 200:
                return str(answer.json()["authorization_servers"][0])
    raise SystemExit("the server names no authorization server")


async def follow(url: str) -> None:
    """The person: opens the link, is sent back to our port."""
    async with httpx2.AsyncClient(follow_redirects=True) as browser:
        (await browser.get(url)).raise_for_status()


async def accept_defaults(context: Any, params: Any) -> types.ElicitResult:
    """Fills a form with nothing but its defaults."""
    fields = getattr(params, "requested_schema", {}).get("properties", {})
    content = {name: field["default"] for name, field in fields.items() if "default" in field}
    if SCENARIO == "sep-2322-client-request-state":
        content = content or {name: _anything(field) for name, field in fields.items()}
    return types.ElicitResult(action="accept", content=content)


def _anything(field: dict[str, Any]) -> Any:
    if "enum" in field:
        return field["enum"][0]
    return {"string": "x", "integer": 1, "number": 1, "boolean": True}.get(field.get("type", ""))


def arguments(schema: dict[str, Any]) -> dict[str, Any]:
    """Something that fits: the values that the scenario gives, else the smallest."""
    return {
        name: field.get("default", field.get("const", _anything(field)))
        for name, field in schema.get("properties", {}).items()
    }


async def use(link: Link) -> None:
    """List the tools, call each."""
    wanted = CONTEXT.get("toolCalls")
    tools = {tool["name"]: tool for tool in await link.tools()}
    if wanted:
        for each in wanted:
            with contextlib.suppress(McpFailure):
                await link.call(each["name"], each.get("arguments") or {})
        return
    for name, tool in tools.items():
        given = {"a": 5, "b": 3} if SCENARIO == "tools_call" else arguments(tool["inputSchema"])
        try:
            await link.call(name, given)
        except McpFailure as failure:
            print(f"{name}: {failure}", file=sys.stderr)


async def main(url: str) -> int:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        server = await config(url)
        async with loopback(follow, patience_s=10) as person:
            if server.oauth is not None and server.oauth.grant == "authorization_code":
                store = token_file(folder, "suite", server)
                await register_given(server.oauth, SECRETS, store, person.redirect_uri)
            transport = transport_of("suite", server, folder, SECRETS, person)
            try:
                async with open_link(
                    transport,
                    timeout_s=25,
                    protocol=server.protocol,
                    elicitation=accept_defaults,
                ) as link:
                    await use(link)
            except ServerLost as lost:
                print(f"lost: {lost}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[-1])))
