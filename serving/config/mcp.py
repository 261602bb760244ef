"""MCP servers of a stack: how each is reached, and what agents may do with it: `mcp:` in its file.

    mcp:
      servers:
        files: {command: [npx, -y, "@modelcontextprotocol/server-filesystem", /srv/docs]}
        tickets:
          url: https://tickets.example.com/mcp
          headers: {Authorization: Bearer $TICKETS_TOKEN}
          allow: [search, comment]
          kinds: {search: pure}
          require_approval: [comment]

Secrets are not in the file: `$NAME` in a value of `env` or `headers` is that variable of the front
door's environment, and what looks like a secret must be written so.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from serving.config.sections import Frozen, Name

Kind = Literal["pure", "idempotent", "unsafe"]
VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_SECRET = re.compile(r"token|secret|password|passwd|credential|authorization|cookie|key$", re.I)


class RateConfig(Frozen):
    """How many calls a server gets; one more fails at once, and says when to come back."""

    per_minute: float = Field(default=600.0, gt=0)
    burst: int = Field(default=60, ge=1)
    """Calls that may come at one moment after a quiet time."""


class BreakerConfig(Frozen):
    """When calls stop: a server that fails again and again is left alone for a while."""

    failures: int = Field(default=5, ge=1)
    """In a row; then calls fail at once."""
    pause_s: float = Field(default=15.0, gt=0)
    """Before one call is let through to try; doubles while it fails."""
    max_pause_s: float = Field(default=300.0, gt=0)


class OAuthConfig(Frozen):
    """OAuth 2.1 for a server behind a URL. Tokens are kept in the stack's folder.

    Without `client_id` the server's authorization server registers us. `client_credentials` needs
    no person; otherwise `warmloop mcp login NAME` asks for one, once.
    """

    grant: Literal["authorization_code", "client_credentials"] = "authorization_code"
    client_id: str | None = None
    client_secret: str | None = None
    """`$NAME` of a variable of the environment."""
    private_key: str | None = None
    """`$NAME` of a variable that holds a PEM key: client_credentials by signed assertion."""
    private_key_algorithm: Literal["RS256", "ES256", "PS256", "EdDSA"] = "RS256"
    secret_in: Literal["header", "body"] = "header"  # noqa: S105 a place, not a secret
    """Where token requests carry the secret."""
    issuer: str | None = None
    """The authorization server that the client's credentials belong to: they go nowhere else.
    `client_id` needs it."""
    scopes: tuple[str, ...] = ()
    """Default: what the server asks for."""
    client_metadata_url: str | None = None
    """An https document that describes us, where authorization servers take one as client id."""

    @model_validator(mode="after")
    def _complete(self) -> OAuthConfig:
        for name in ("client_secret", "private_key"):
            value = getattr(self, name)
            if value is not None and not VARIABLE.fullmatch(value):
                raise ValueError(f"{name}: write $NAME, and put the secret in the environment")
        if self.grant == "client_credentials":
            if self.client_id is None or (self.client_secret is None) == (self.private_key is None):
                raise ValueError(
                    "grant: client_credentials needs client_id, and one of client_secret and "
                    "private_key"
                )
        elif self.private_key is not None:
            raise ValueError("private_key goes with grant: client_credentials")
        if self.client_id is not None and self.issuer is None:
            # Else the MCP server could name one of its own, and be sent code and secret.
            raise ValueError(
                "issuer: name the authorization server that client_id belongs to, so that the "
                "credentials are sent nowhere else"
            )
        return self


class McpServerConfig(Frozen):
    """One MCP server: a command that speaks it on stdin and stdout, or a URL."""

    command: tuple[str, ...] = ()
    """Started by the front door, and ended with it, with all that it starts."""
    cwd: Path | None = None
    env: Mapping[str, str] = Field(default_factory=dict)
    """On top of HOME, PATH and the like; nothing else of the front door's environment."""
    url: str | None = None
    """Streamable HTTP."""
    headers: Mapping[str, str] = Field(default_factory=dict)
    oauth: OAuthConfig | None = None
    protocol: Literal["auto", "handshake"] = "auto"
    """`handshake`: do not ask first for the protocol of 2026-07-28; for servers that fail on it."""
    allow: tuple[str, ...] | None = None
    """Tools that agents can have, by the server's own names; default: all that it lists."""
    kinds: Mapping[str, Kind] = Field(default_factory=dict)
    """How a tool behaves when a call is repeated; one that is not here is `unsafe`."""
    trust_annotations: bool = False
    """Believe the server's own readOnlyHint (`pure`) and idempotentHint (`idempotent`)."""
    require_approval: Literal["always", "never"] | tuple[str, ...] = "never"
    """Which calls wait until a person has allowed them: all, none, or those of these tools."""
    in_requests: bool | tuple[str, ...] = False
    """May a request to /v1/responses name this server (a tool of type `mcp`)? To all agents and
    bare models, or to those. What this section says of calls holds for it, too."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Longest wait for the result of one call."""
    timeouts_s: Mapping[str, float] = Field(default_factory=dict)
    """The same for single tools."""
    connect_timeout_s: float = Field(default=30.0, gt=0)
    """Longest start: process or connection, handshake, list of tools."""
    max_concurrent: int = Field(default=16, ge=1)
    """Calls at once; others wait for their turn within their timeout."""
    rate: RateConfig = RateConfig()
    breaker: BreakerConfig = BreakerConfig()
    max_message_bytes: int = Field(default=8 * 2**20, ge=4096)
    """A larger message ends the connection to a command; over HTTP it fails its call."""
    max_tools: int = Field(default=128, ge=1)
    """A longer list is cut, with a warning: every tool costs tokens in every turn."""

    @field_validator("command", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(shlex.split(value)) if isinstance(value, str) else value

    @field_validator("timeouts_s")
    @classmethod
    def _positive(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        for name, seconds in value.items():
            if not seconds > 0:
                raise ValueError(f"{name}: {seconds} is no time limit; write seconds above 0")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> McpServerConfig:
        if bool(self.command) == (self.url is not None):
            raise ValueError("a server has exactly one of command and url")
        if self.url is None:
            for name in ("headers", "oauth"):
                if getattr(self, name):
                    raise ValueError(f"{name}: goes with url, not with command")
            return self
        if self.env or self.cwd:
            raise ValueError("env and cwd go with command, not with url")
        check_url(self.url)
        if self.oauth and any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("headers: Authorization goes without oauth; remove one of the two")
        return self

    @model_validator(mode="after")
    def _no_secrets(self) -> McpServerConfig:
        for section in ("env", "headers"):
            for name, value in getattr(self, section).items():
                if _SECRET.search(name) and not VARIABLE.search(value):
                    raise ValueError(
                        f"{section}.{name}: looks like a secret; write $NAME here, and the secret "
                        "in the front door's environment"
                    )
        return self

    @property
    def variables(self) -> set[str]:
        """The variables of the environment that it needs."""
        values = [*self.env.values(), *self.headers.values()]
        if self.oauth is not None:
            values += [self.oauth.client_secret or "", self.oauth.private_key or ""]
        return {first or second for value in values for first, second in VARIABLE.findall(value)}


class McpConfig(Frozen):
    """MCP servers whose tools agents can have, as `mcp:SERVER` or `mcp:SERVER/TOOL`."""

    servers: Mapping[Name, McpServerConfig] = Field(default_factory=dict)
    first_list_wait_s: float = Field(default=10.0, ge=0)
    """How long a new conversation waits for a server whose tools were never seen."""


def mcp_server(tool: str) -> str | None:
    """The server that an agent's `mcp:SERVER` or `mcp:SERVER/TOOL` names; None for other tools."""
    prefix, colon, rest = tool.partition(":")
    return rest.partition("/")[0] if prefix == "mcp" and colon else None


def check_url(url: str) -> None:
    """Raises ValueError for what is no address of a server, or holds credentials."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url: {url!r} must begin with http:// or https:// and name a host")
    if parts.username or parts.password:
        raise ValueError("url: credentials do not belong into it; use headers with $NAME, or oauth")


def substitute(value: str, environment: Mapping[str, str]) -> str:
    """`$NAME` and `${NAME}` replaced; raises KeyError for one that is not set."""
    return VARIABLE.sub(lambda found: environment[found[1] or found[2]], value)
