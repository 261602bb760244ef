"""The OpenAI Responses API over the journal.

    POST /v1/responses                  accept durably, then: wait | stream | return (background)
    GET  /v1/responses/{id}             as the log stands; ?stream=true&starting_after=N: replay
                                        from the log, then live
    POST /v1/responses/{id}/cancel
    GET  /v1/responses/{id}/input_items
    POST /v1/conversations, GET /v1/conversations/{id}

Everything here reads and writes the journal; the run itself goes on in the worker, whoever
listens. So a client that hangs up stops nothing, background or not: it comes back with the id, or
cancels. docs/decisions/ has the choices where OpenAI's semantics left one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute

from orchestrator import trace_context
from orchestrator.clock import Clock
from orchestrator.conversations import Conversations
from orchestrator.events import ResponseAccepted
from orchestrator.inbound import validate
from orchestrator.intake import Acceptor, Caller, Intake
from orchestrator.journal import Journal, JournalFull, ResponseRef
from orchestrator.projection import Projection
from orchestrator.response_request import CreateRequest
from orchestrator.response_stream import at_end, now, sse
from router import deadlines
from router.access import tenant_of
from serving.config import StackConfig
from serving.errors import BadRequest, NotFound, TooLarge, Unavailable

MAX_KEY = 255
"""Characters of an Idempotency-Key."""


class Runs(Acceptor, Protocol):
    """What these routes need of the worker."""

    async def cancel(self, response_id: str) -> ResponseRef:
        """End a response; returns when it has ended."""


def build_routes(
    journal: Journal, worker: Runs, intake: Intake, config: StackConfig, clock: Clock
) -> APIRouter:
    """The routes; whoever builds them starts and ends journal and worker."""
    api = ResponsesApi(journal, worker, intake)
    conversations = Conversations(journal, clock)
    limit = config.front.max_body_bytes
    routes = APIRouter(route_class=JournalRoute)

    @routes.post("/v1/responses")
    async def create(request: Request) -> Response:
        caller = caller_of(request)
        return await api.create(await body_of(request, limit), key_of(request), caller)

    @routes.get("/v1/responses/{response_id}")
    async def retrieve(response_id: str, request: Request) -> Response:
        return await api.retrieve(response_id, request)

    @routes.post("/v1/responses/{response_id}/cancel")
    async def cancel(response_id: str, request: Request) -> Response:
        return await api.cancel(response_id, tenant_of(request.scope).name)

    @routes.get("/v1/responses/{response_id}/input_items")
    async def input_items(response_id: str, request: Request) -> Response:
        return await api.input_items(response_id, request)

    @routes.post("/v1/conversations")
    async def create_conversation(request: Request) -> Response:
        tenant = tenant_of(request.scope).name
        return as_json(await conversations.create(await body_of(request, limit), tenant))

    @routes.get("/v1/conversations/{conversation_id}")
    async def retrieve_conversation(conversation_id: str, request: Request) -> Response:
        tenant = tenant_of(request.scope).name
        return as_json(await conversations.retrieve(conversation_id, tenant))

    return routes


class JournalRoute(APIRoute):
    """A route whose answer is 503, with Retry-After, when the journal fails."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return _answering(super().get_route_handler())


def _answering(
    handler: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except JournalFull as error:
            raise Unavailable(
                f"the journal cannot be used, nothing was accepted: {error}",
                code="journal_unavailable",
                retry_after_s=5,
            ) from error

    return answer


class ResponsesApi:
    """What each route does."""

    def __init__(self, journal: Journal, worker: Runs, intake: Intake) -> None:
        self._journal = journal
        self._worker = worker
        self._intake = intake

    async def create(self, body: bytes, key: str, caller: Caller) -> Response:
        request = validate(CreateRequest, body)
        fingerprint = hashlib.sha256(body).hexdigest()[:32]
        ref = await self._intake.accept(request, key, fingerprint, caller, len(body))
        if request.stream:
            return self._stream(ref, -1)
        if request.background:
            return as_json((await now(self._journal, ref)).response())
        return as_json(await at_end(self._journal, ref))

    async def retrieve(self, response_id: str, request: Request) -> Response:
        ref, projection = await self._find(response_id, tenant_of(request.scope).name)
        query = request.query_params
        if query.get("stream", "").lower() not in ("true", "1"):
            return as_json(projection.response())
        seen = query.get("starting_after", request.headers.get("last-event-id", "-1"))
        return self._stream(ref, integer("starting_after", seen, -1))

    async def cancel(self, response_id: str, tenant: str) -> Response:
        """The response as it is after its end, or, when a tool will not let go, in progress.

        Cancelling what has ended changes nothing, as often as it is done.
        """
        ref, projection = await self._find(response_id, tenant)
        if not projection.finished:
            with suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_PATIENCE_S):
                    await self._worker.cancel(response_id)
            projection = await now(self._journal, ref)
        return as_json(projection.response())

    async def input_items(self, response_id: str, request: Request) -> Response:
        _, projection = await self._find(response_id, tenant_of(request.scope).name)
        accepted = projection.accepted
        items = input_items_of(accepted) if accepted else []
        query = request.query_params
        if query.get("order", "desc") == "desc":
            items.reverse()
        if after := query.get("after"):
            ids = [item["id"] for item in items]
            if after not in ids:
                raise BadRequest(f"after: no item {after!r} in this list", param="after")
            items = items[ids.index(after) + 1 :]
        limit = min(integer("limit", query.get("limit", "20"), 1), 100)
        shown = items[:limit]
        return as_json(
            {
                "object": "list",
                "data": shown,
                "first_id": shown[0]["id"] if shown else None,
                "last_id": shown[-1]["id"] if shown else None,
                "has_more": len(items) > len(shown),
            }
        )

    def _stream(self, ref: ResponseRef, starting_after: int) -> Response:
        return StreamingResponse(
            sse(self._journal, ref, starting_after),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    async def _find(self, response_id: str, tenant: str) -> tuple[ResponseRef, Projection]:
        """Raises NotFound, also for a response of another tenant."""
        ref = await self._journal.find_response(response_id)
        projection = await now(self._journal, ref) if ref else None
        accepted = projection.accepted if projection else None
        if ref is None or projection is None or accepted is None:
            raise _unknown(response_id)
        if accepted.tenant != tenant or accepted.request.get("store") is False:
            raise _unknown(response_id)
        return ref, projection


CANCEL_PATIENCE_S = 5.0
"""How long a cancel waits for a tool that cannot be stopped."""


def _unknown(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:80]}' not found.", param="response_id")


def input_items_of(accepted: ResponseAccepted) -> list[dict[str, Any]]:
    """The input of a response with ids; the same ids each time."""
    stem = accepted.response_id.removeprefix("resp_")
    prefixes = {
        "message": "msg",
        "function_call": "fc",
        "function_call_output": "fco",
        "reasoning": "rs",
        "mcp_approval_response": "mcprr",
    }
    return [
        {"id": f"{prefixes[item['type']]}_{stem}_in_{index}", "status": "completed", **item}
        for index, item in enumerate(accepted.input)
    ]


def as_json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def integer(param: str, text: str, lowest: int) -> int:
    """A whole number of the query. Raises BadRequest."""
    try:
        value = int(text)
    except ValueError:
        value = lowest - 1
    if value < lowest:
        raise BadRequest(f"{param}: {text[:40]!r} is not a number from {lowest} up", param=param)
    return value


def caller_of(request: Request) -> Caller:
    """Who asks, and how urgently. Raises BadRequest."""
    tenant, headers = tenant_of(request.scope), request.headers
    urgency = deadlines.urgency_of(headers, tenant)
    trace = trace_context.valid(headers.get("traceparent", ""))
    return Caller(tenant, urgency, deadlines.seconds_of(headers, None), trace)


def key_of(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    if len(key) > MAX_KEY:
        raise BadRequest(f"Idempotency-Key: is longer than {MAX_KEY} characters")
    return key


async def body_of(request: Request, limit: int) -> bytes:
    """The whole body. Raises TooLarge, and BadRequest for one that is compressed."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise BadRequest("content-encoding: send the body as plain JSON")
    declared = int(request.headers.get("content-length", "0"))
    if declared > 2 * limit:  # not worth waiting for
        raise _too_large(limit)
    size = 0
    chunks: list[bytes] = []
    async for chunk in request.stream():
        # An excess is read and dropped: most clients read no answer before they have sent all.
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > 2 * limit:
            break
    if size > limit:
        raise _too_large(limit)
    return b"".join(chunks)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {limit} bytes; shorten it, or raise front.max_body_bytes"
    )
