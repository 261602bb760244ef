"""Where the tokens of one MCP server lie: a file that only its owner can read, replaced as a whole.

Beside the tokens stand when they expire, the client that was registered for us, and the
authorization server's metadata: all that a later process needs to refresh them without a person.
The server's URL and the configured client id say for whom all that is: a stack's file may come to
mean another server by the same name, which must not get it. Nothing of it is ever logged.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mcp.shared.auth import OAuthClientInformationFull, OAuthToken


class TokenFile:
    """The `TokenStorage` that the mcp package asks for, of the server at `url`."""

    def __init__(self, path: Path, url: str, client_id: str | None = None) -> None:
        """`client_id`: the one that the configuration names, if it does."""
        self._path = path
        self._whose = {"url": url, "client_id": client_id}
        self.beside: Callable[[], dict[str, Any]] = dict
        """What the provider wants to find again, asked for whenever tokens are stored."""

    def read(self) -> dict[str, Any]:
        """Empty without a file that can be read, and is of this server and client."""
        with suppress(OSError, ValueError):
            found = json.loads(self._path.read_text())
            if isinstance(found, dict) and found.items() >= self._whose.items():
                return found
        return {}

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)

    async def get_tokens(self) -> OAuthToken | None:
        tokens = self.read().get("tokens")
        return OAuthToken.model_validate(tokens) if tokens else None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        expires_at = None if tokens.expires_in is None else time.time() + tokens.expires_in
        said = tokens.model_dump(mode="json", exclude_none=True)
        self._write(tokens=said, expires_at=expires_at, **self.beside())

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        client = self.read().get("client")
        return OAuthClientInformationFull.model_validate(client) if client else None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._write(client=client_info.model_dump(mode="json", exclude_none=True))

    def _write(self, **changed: Any) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        beside.unlink(missing_ok=True)
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as out:
            json.dump({**self.read(), **changed, **self._whose}, out)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(self._path)
