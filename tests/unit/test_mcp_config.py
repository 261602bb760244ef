"""What may stand under `mcp:` in a stack's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.mcp.servers import McpServers
from serving.config import stack_file
from serving.config.mcp import McpConfig, substitute
from serving.config.stack import StackConfig
from serving.errors import ConfigError

MINIMAL = "models: {small: {engine: simulated}}\n"


def load(folder: Path, text: str) -> StackConfig:
    file = folder / "stack.yaml"
    file.write_text(MINIMAL + text)
    return stack_file.load(file)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("{}", "exactly one of command and url"),
        ("{command: a, url: 'http://h'}", "exactly one of command and url"),
        ("{url: h}", "must begin with http"),
        ("{url: 'http://me:pw@h/mcp'}", "credentials do not belong into it"),
        ("{command: a, headers: {X: y}}", "headers: goes with url"),
        ("{url: 'http://h', env: {X: y}}", "env and cwd go with command"),
        ("{command: a, env: {GH_TOKEN: abc}}", "env.GH_TOKEN: looks like a secret; write $NAME"),
        ("{url: 'http://h', headers: {Authorization: Bearer abc}}", "looks like a secret"),
        ("{command: a, timeouts_s: {search: 0}}", "0.0 is no time limit"),
        ("{url: 'http://h', oauth: {client_secret: abc}}", "client_secret: write $NAME"),
        ("{url: 'http://h', oauth: {grant: client_credentials}}", "needs client_id"),
        ("{url: 'http://h', oauth: {client_id: us}}", "issuer: name the authorization server"),
        ("{url: 'http://h', oauth: {client_id: a, client_secret: $B}}", "issuer: name the"),
        ("{command: a, alow: [x]}", "unknown key; did you mean 'allow'?"),
    ],
)
def test_a_mistake_names_the_field_and_the_fix(tmp_path: Path, server: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"mcp\.servers\.docs") as refused:
        load(tmp_path, f"mcp: {{servers: {{docs: {server}}}}}")
    assert said in str(refused.value)


def test_a_command_may_be_one_string_and_its_folder_is_relative_to_the_file(tmp_path: Path) -> None:
    stack = load(tmp_path, "mcp: {servers: {docs: {command: \"npx -y 'a b'\", cwd: here}}}")
    server = stack.mcp.servers["docs"]
    assert server.command == ("npx", "-y", "a b")
    assert server.cwd == tmp_path / "here"


def test_an_agent_that_names_an_unknown_server_gets_the_nearest_one(tmp_path: Path) -> None:
    servers = "mcp: {servers: {docs: {command: a}}}\n"
    stack = load(tmp_path, servers + "agents: {desk: {tools: ['mcp:docs', 'mcp:docs/find']}}")
    assert stack.agents["desk"].tools == ("mcp:docs", "mcp:docs/find")
    with pytest.raises(ConfigError, match=r"no mcp\.servers\.doc; did you mean 'docs'\?"):
        load(tmp_path, servers + "agents: {desk: {tools: ['mcp:doc']}}")


def test_a_variable_that_is_not_set_is_named_before_anything_starts(tmp_path: Path) -> None:
    config = McpConfig.model_validate(
        {"servers": {"docs": {"url": "http://h", "headers": {"Authorization": "Bearer $DOCS"}}}}
    )
    with pytest.raises(ConfigError, match=r"mcp\.servers\.docs: \$DOCS is not set"):
        McpServers(config, tmp_path, {})
    McpServers(config, tmp_path, {"DOCS": "x"})
    assert substitute("Bearer $DOCS ${A}b", {"DOCS": "x", "A": "y"}) == "Bearer x yb"


def test_a_server_that_is_opened_to_an_unknown_agent_gets_the_nearest_one(tmp_path: Path) -> None:
    desk = "agents: {desk: {instructions: hi}}\n"
    servers = "mcp: {{servers: {{docs: {{command: a, in_requests: {}}}}}}}"
    opened = load(tmp_path, desk + servers.format("[desk, small]")).mcp.servers["docs"].in_requests
    assert opened == ("desk", "small")
    with pytest.raises(
        ConfigError, match=r"mcp\.servers\.docs\.in_requests.*did you mean 'desk'\?"
    ):
        load(tmp_path, desk + servers.format("[dsk]"))
