"""Logging in to an MCP server: a URL for a person, and a socket of ours for the way back.

    show(url) ─► the person's browser ─► authorization server ─► 127.0.0.1:PORT/callback?code=…
                                                                   └─► the code, for the token

The socket listens on 127.0.0.1 only, for as long as the login takes. `state` and `iss` are
checked by the package.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from mcp.client.auth import OAuthFlowError
from mcp.shared.auth import AuthorizationCodeResult

from orchestrator.mcp.oauth import Person

PATIENCE_S = 300.0
_PAGE = "<!doctype html><meta charset=utf-8><title>Warmloop</title><p>{}</p>"


@asynccontextmanager
async def loopback(
    show: Callable[[str], Awaitable[None]], patience_s: float = PATIENCE_S
) -> AsyncIterator[Person]:
    """A person who is shown the URL by `show`, and whose answer comes to a port of ours."""
    came: asyncio.Queue[dict[str, str]] = asyncio.Queue(1)

    async def ask(url: str) -> None:
        # A server may want more rights later: then the person is asked again.
        while not came.empty():
            came.get_nowait()
        await show(url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                line = (await reader.readline()).decode("ascii", "replace").split(" ")
                while (await reader.readline()).strip():
                    pass
            target = urlsplit(line[1] if len(line) > 1 else "")
            if line[0] != "GET" or target.path != "/callback":
                await _answer(writer, "404 Not Found", "There is nothing here.")
                return
            found = {key: values[0] for key, values in parse_qs(target.query).items()}
            said = "You can close this window." if "code" in found else "The login was refused."
            await _answer(writer, "200 OK", said)
            if not came.full():
                came.put_nowait(found)
        except (TimeoutError, ConnectionError, ValueError):
            pass
        finally:
            writer.close()

    async def answer() -> AuthorizationCodeResult:
        try:
            async with asyncio.timeout(patience_s):
                found = await came.get()
        except TimeoutError:
            raise OAuthFlowError(f"nobody answered within {patience_s:g} s") from None
        if "code" not in found:
            said = found.get("error_description") or found.get("error") or "no code came back"
            raise OAuthFlowError(f"the login was refused: {said[:200]}")
        return AuthorizationCodeResult(
            code=found["code"], state=found.get("state"), iss=found.get("iss")
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=16_384)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Person(f"http://127.0.0.1:{port}/callback", ask, answer)
    finally:
        server.close()
        await server.wait_closed()


async def _answer(writer: asyncio.StreamWriter, status: str, said: str) -> None:
    body = _PAGE.format(said).encode()
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
