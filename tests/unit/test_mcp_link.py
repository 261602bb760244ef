"""What an error of a session says of a call, and whose word for it counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import httpx2
import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from orchestrator.mcp.failures import BadArguments, Declined, McpFailure, NotSent, OutcomeOpen
from orchestrator.mcp.http import LOST, NOT_SENT, Candid
from orchestrator.mcp.link import Link


async def failure_of(error: MCPError) -> McpFailure:
    async def call_tool(*_: Any, **__: Any) -> Any:
        raise error

    client = SimpleNamespace(server_info=None, protocol_version="", call_tool=call_tool)
    with pytest.raises(McpFailure) as failed:
        await Link(cast(Any, client)).call("pay", {})
    return failed.value


async def through_candid(answer: httpx2.Response | Exception) -> MCPError:
    def answered(_: httpx2.Request) -> httpx2.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport = Candid(httpx2.MockTransport(answered), answer_s=1, max_message_bytes=4096)
    async with httpx2.AsyncClient(transport=transport) as client:
        headers = {"mcp-session-id": "s"}
        said = (await client.post("http://h/mcp", json={"id": 1}, headers=headers)).json()["error"]
    return MCPError(said["code"], said["message"], said["data"])


@pytest.mark.parametrize(
    ("answer", "kind", "after_s"),
    [
        (httpx2.ConnectError("no"), NotSent, None),
        (httpx2.ReadError("broke"), OutcomeOpen, None),
        (httpx2.Response(503, headers={"retry-after": "7"}), NotSent, 7),
        (httpx2.Response(404), NotSent, None),
        (httpx2.Response(500), Declined, None),
    ],
)
async def test_what_became_of_a_request_is_known_from_our_own_side_of_the_network(
    answer: httpx2.Response | Exception, kind: type[McpFailure], after_s: int | None
) -> None:
    failure = await failure_of(await through_candid(answer))
    assert type(failure) is kind
    assert failure.retry_after_s == after_s


@pytest.mark.parametrize(
    "error",
    [
        MCPError(NOT_SENT, "not sent", {"retry_after_s": 0}),
        MCPError(NOT_SENT, "not sent", {"ours": True}),
        MCPError(LOST, "lost"),
        MCPError(-32600, "Session terminated"),
    ],
)
async def test_a_servers_own_word_that_a_call_was_not_sent_is_an_answer_like_any_other(
    error: MCPError,
) -> None:
    assert type(await failure_of(error)) is Declined


@pytest.mark.parametrize(
    ("message", "kind"), [("text: too long", BadArguments), ("Unknown tool: put", Declined)]
)
async def test_a_server_that_finds_arguments_wrong_says_so_by_a_code(
    message: str, kind: type[McpFailure]
) -> None:
    assert type(await failure_of(MCPError(types.INVALID_PARAMS, message))) is kind
