"""Tokens on disk, and the way back from a login."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import httpx2
import pytest
from mcp.client.auth import OAuthFlowError
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from orchestrator.mcp.login import loopback
from orchestrator.mcp.oauth import LoginNeeded, provider
from orchestrator.mcp.tokens import TokenFile
from serving.config.mcp import OAuthConfig

URL = "http://h/mcp"


async def test_tokens_are_readable_by_their_owner_only_and_keep_what_was_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tokens" / "docs.json"
    store = TokenFile(path, URL)
    await store.set_client_info(OAuthClientInformationFull(client_id="us"))
    await store.set_tokens(OAuthToken(access_token="a", refresh_token="r", expires_in=60))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = TokenFile(path, URL)
    tokens, client = await again.get_tokens(), await again.get_client_info()
    assert tokens is not None
    assert client is not None
    assert (tokens.refresh_token, client.client_id) == ("r", "us")
    assert [each.name for each in path.parent.iterdir()] == ["docs.json"]


async def test_a_file_that_is_torn_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "docs.json"
    path.write_text('{"tokens": {')
    assert await TokenFile(path, URL).get_tokens() is None


async def test_tokens_go_only_to_the_server_and_client_that_they_were_made_for(
    tmp_path: Path,
) -> None:
    path = tmp_path / "docs.json"
    store = TokenFile(path, URL, "us")
    await store.set_client_info(OAuthClientInformationFull(client_id="us"))
    await store.set_tokens(OAuthToken(access_token="a"))
    assert await TokenFile(path, URL, "us").get_tokens() is not None
    for other in (TokenFile(path, "http://evil/mcp", "us"), TokenFile(path, URL, "them")):
        assert await other.get_tokens() is None
        assert await other.get_client_info() is None
    other = TokenFile(path, "http://evil/mcp", "us")
    await other.set_client_info(OAuthClientInformationFull(client_id="new"))
    assert await other.get_tokens() is None


async def test_tokens_of_which_nobody_knows_whose_they_are_count_as_none(tmp_path: Path) -> None:
    path = tmp_path / "docs.json"
    path.write_text('{"tokens": {"access_token": "a", "token_type": "Bearer"}}')
    assert await TokenFile(path, URL).get_tokens() is None


def test_a_front_door_where_nobody_has_logged_in_says_which_command_helps(tmp_path: Path) -> None:
    with pytest.raises(LoginNeeded, match="run: warmloop mcp login docs"):
        provider("docs", URL, OAuthConfig(), {}, TokenFile(tmp_path / "none", URL))


async def visit(address: str) -> httpx2.Response:
    async with httpx2.AsyncClient() as browser:
        return await browser.get(address)


async def test_the_code_comes_back_to_a_port_of_ours_each_time_that_a_person_is_asked() -> None:
    shown: list[str] = []

    async def show(url: str) -> None:
        shown.append(url)

    async with loopback(show) as person:
        assert person.redirect_uri.startswith("http://127.0.0.1:")
        for code in ("first", "second"):
            await person.show("https://login")
            assert (await visit(person.redirect_uri.replace("/callback", "/x"))).status_code == 404
            answer = await visit(f"{person.redirect_uri}?code={code}&state=s&iss=i")
            assert answer.status_code == 200
            came = await person.answer()
            assert (came.code, came.state, came.iss) == (code, "s", "i")
    assert shown == ["https://login"] * 2


async def test_a_refused_login_and_one_that_nobody_answers_end_with_a_sentence() -> None:
    async def show(url: str) -> None:
        await asyncio.sleep(0)

    async with loopback(show, patience_s=0.05) as person:
        await visit(f"{person.redirect_uri}?error=access_denied")
        with pytest.raises(OAuthFlowError, match="the login was refused: access_denied"):
            await person.answer()
        with pytest.raises(OAuthFlowError, match="nobody answered within"):
            await person.answer()
