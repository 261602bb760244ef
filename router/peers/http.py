"""Peers over HTTP: a front door's own port, two internal paths, a signature on every message.

Whoever cannot sign gets 401 and nothing else; where no secret is set the paths do not exist.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping

import aiohttp
import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from router.peers.news import HEADER, MIN_SECRET_CHARS, SECRET_VARIABLE, Signer, Untrusted
from router.peers.peers import LOOK_S, NEWS, TABLE, PeerAway, Peers
from router.placing.outside import Outside
from serving.errors import ConfigError

MAX_BODY_BYTES = 32 * 2**20
TIMEOUT = aiohttp.ClientTimeout(total=5, connect=2)

Clock = Callable[[], float]
_log = logging.getLogger("warmloop.peers")


def signer(environ: Mapping[str, str] = os.environ) -> Signer | None:
    """Of the secret in the environment, None where there is none; raises ConfigError."""
    secret = environ.get(SECRET_VARIABLE, "")
    if not secret:
        return None
    if len(secret) < MIN_SECRET_CHARS:
        raise ConfigError(
            f"{SECRET_VARIABLE}: it has {len(secret)} characters; take at least "
            f"{MIN_SECRET_CHARS} that nobody can guess, e.g. from `openssl rand -hex 32`"
        )
    return Signer(secret)


def join(
    outside: Outside,
    urls: Callable[[], Collection[str]],
    *,
    needed: bool,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, ASGIApp]:
    """Be one of several front doors, where there is a secret; returns what peers ask of this one.

    Raises ConfigError when it is `needed` and there is none.
    """
    sign = signer(environ)
    if sign is None:
        if needed:
            raise ConfigError(
                f"front.peers: {SECRET_VARIABLE} is not set; give all front doors the same secret, "
                "e.g. from `openssl rand -hex 32`"
            )
        return {}
    return routes(outside.join(urls, HttpTransport(sign)), sign)


async def warn_when_not_alone(others: Callable[[], Collection[str]]) -> None:
    """Of a front door without a secret: say, once, that there are others and what that costs."""
    while not (found := others()):  # noqa: ASYNC110 the table has no event for it
        await asyncio.sleep(LOOK_S)
    _log.warning(
        "%s is not set, and there are other front doors (%s): they and this one do not tell each "
        "other where sessions are warm, so that one which changes doors is computed again; give "
        "all of them the same secret, e.g. from `openssl rand -hex 32`",
        SECRET_VARIABLE,
        ", ".join(sorted(found)),
    )


class HttpTransport:
    """The real Transport."""

    def __init__(self, signer: Signer, clock: Clock = time.time) -> None:
        self._signer = signer
        self._clock = clock
        self._http: aiohttp.ClientSession | None = None

    async def post(self, url: str, path: str, body: bytes) -> bytes:
        """The peer's answer. Raises PeerAway."""
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=TIMEOUT)
        headers = self._signer.sign(path, body, self._clock())
        try:
            async with self._http.post(url + path, data=body, headers=headers) as answer:
                said = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise PeerAway(str(error) or type(error).__name__) from None
        if answer.status != 200:
            words = said[:200].decode(errors="replace")
            raise PeerAway(f"it answered {answer.status}: {words}")
        return said

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None


def routes(peers: Peers, signer: Signer, clock: Clock = time.time) -> dict[str, ASGIApp]:
    """What peers ask this front door, as plain ASGI."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        if body is None:
            return
        said = dict(scope["headers"]).get(HEADER.encode(), b"").decode("latin-1")
        status, answer = 200, b""
        try:
            signer.check(scope["path"], body, said, clock())
            answer = peers.table() if scope["path"] == TABLE else peers.receive(body)
        except Untrusted as error:
            status, answer = 401, str(error).encode()
        except msgspec.DecodeError as error:
            status, answer = 400, str(error).encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return {NEWS: handle, TABLE: handle}


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None when the sender hung up, or sends more than any peer does."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        more = message.get("more_body", False)
    return bytes(body)
