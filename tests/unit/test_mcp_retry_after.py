"""What an MCP server says over HTTP about when to come back."""

from __future__ import annotations

import json

import httpx2
import pytest
from mcp import MCPError

from orchestrator.mcp.failures import NotSent
from orchestrator.mcp.http import NOT_SENT, OURS, Candid
from orchestrator.mcp.link import Link


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("9" * 400, 3600), ("9" * 5000, 3600), ("\u00b2", None), ("soon", None)],
)
async def test_a_retry_after_is_a_number_of_seconds_or_nothing(
    header: str, seconds: float | None
) -> None:
    def busy(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(503, headers=[(b"retry-after", header.encode("latin-1"))])

    request = httpx2.Request("POST", "http://docs/mcp", json={})
    transport = Candid(httpx2.MockTransport(busy), answer_s=1.0, max_message_bytes=4096)
    response = await transport.handle_async_request(request)
    data = json.loads(await response.aread())["error"]["data"]
    assert data.get("retry_after_s") == seconds


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, None), (1.5, 1.5), (10**400, 3600), (float("nan"), None), ("5", None), ([], None)],
)
def test_what_a_server_itself_says_is_taken_only_as_a_time(
    said: object, seconds: float | None
) -> None:
    link = object.__new__(Link)
    failure = link._failure(MCPError(NOT_SENT, "busy", {"made_by": OURS, "retry_after_s": said}))
    assert isinstance(failure, NotSent)
    assert failure.retry_after_s == seconds
