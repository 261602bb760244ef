"""Peers over real HTTP: signed messages between front doors, and strangers who get nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from router.peers.http import HttpTransport, routes, signer
from router.peers.news import SECRET_VARIABLE, Signer, Turned
from router.peers.peers import NEWS, TABLE, Peers
from serving.config.router import PeersConfig
from serving.errors import ConfigError
from tests.integration.engines_behaving_badly import until

SECRET = "of all front doors, and of nobody else"


class Beliefs:
    def __init__(self) -> None:
        self.learnt: list[Turned] = []

    def learn(self, news: Iterable[Turned]) -> None:
        self.learnt.extend(news)

    def table(self, limit: int) -> list[Turned]:
        return [Turned("big", "big-0", b"k", [b"known"], [5])]

    def ready(self) -> bool:
        return True

    def loads(self) -> Mapping[str, int]:
        return {}


@asynccontextmanager
async def door(urls: list[str], secret: str = SECRET) -> AsyncIterator[tuple[str, Peers, Beliefs]]:
    """A front door's internal paths at a URL of their own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        sign = Signer(secret)
        transport, beliefs = HttpTransport(sign), Beliefs()
        peers = Peers(url, lambda: urls, transport, beliefs, PeersConfig(batch_s=0.001))
        async with serving(routes(peers, sign), listener):
            await peers.start()
            try:
                yield url, peers, beliefs
            finally:
                await peers.stop()


@asynccontextmanager
async def serving(paths: Mapping[str, ASGIApp], listener: socket.socket) -> AsyncIterator[None]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await paths[scope["path"]](scope, receive, send)

    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield
    finally:
        server.should_exit = True
        await task


async def test_front_doors_with_one_secret_learn_from_each_other() -> None:
    urls: list[str] = []
    async with door(urls) as (first, one, _), door(urls) as (second, _, two):
        urls += [first, second]
        await until(lambda: one.present == 1)
        one.tell(Turned("big", "big-0", b"k", [b"new"], [7]))
        await until(lambda: any(n.hashes == [b"new"] for n in two.learnt))
        assert Turned("big", "big-0", b"k", [b"known"], [5]) in two.learnt


async def test_one_with_another_secret_is_refused_and_learns_nothing() -> None:
    urls: list[str] = []
    async with (
        door(urls) as (first, one, us),
        door([], "some other secret, as long") as (
            second,
            them,
            strangers,
        ),
    ):
        urls.append(second)
        await until(lambda: second in one._peers and one._peers[second].away)
        assert (us.learnt, strangers.learnt) == ([], [])
        assert first != second
        assert them.present == 0


@pytest.mark.parametrize("path", [NEWS, TABLE])
async def test_who_cannot_sign_hears_only_that(path: str) -> None:
    async with door([]) as (url, _, beliefs), aiohttp.ClientSession() as http:
        for headers in ({}, {"x-warmloop-peer": "1 00"}, {"x-warmloop-peer": "é"}):
            async with http.post(url + path, data=b"anything", headers=headers) as answer:
                assert answer.status == 401
                assert b"known" not in await answer.read()
        assert beliefs.learnt == []


def test_a_secret_that_can_be_guessed_is_refused() -> None:
    assert signer({}) is None
    assert signer({SECRET_VARIABLE: "x" * 16}) is not None
    with pytest.raises(ConfigError, match=SECRET_VARIABLE) as error:
        signer({SECRET_VARIABLE: "hunter2"})
    assert "hunter2" not in str(error.value)
