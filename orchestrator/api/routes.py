"""The routes of the Responses and Conversations API, and their OpenAPI description.

    POST   /v1/responses                  accept durably, then: wait | stream | return (background)
    POST   /v1/responses/compact          a window in place of a long conversation
    POST   /v1/responses/input_tokens     how long a request's prompt would be
    GET    /v1/responses/{id}             as the log stands; ?stream=true&starting_after=N: replay
                                          from the log, then live
    DELETE /v1/responses/{id}
    POST   /v1/responses/{id}/cancel
    GET    /v1/responses/{id}/input_items
    POST   /v1/conversations              GET, POST, DELETE /v1/conversations/{id}
    GET, POST /v1/conversations/{id}/items      GET, DELETE .../items/{item_id}
    GET    /v1/warmloop/approvals         what waits for a person
    POST   /v1/warmloop/journal/purge     the operator: what is older than so many seconds

Another tenant's response or conversation is 404 on every one of them. `GET /openapi.json` has the
schema, and a test fuzzes the API from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BeforeValidator
from starlette.convertors import Convertor, register_url_convertor

from orchestrator.api import waiting
from orchestrator.api.compact import Compaction, CompactRequest
from orchestrator.api.conversations import (
    Conversations,
    CreateConversation,
    CreateItems,
    UpdateConversation,
)
from orchestrator.api.inbound import Reader
from orchestrator.api.input_tokens import Count, CountRequest, InputTokens
from orchestrator.api.intake import Caller, Intake
from orchestrator.api.listing import Order, Page
from orchestrator.api.response_request import CreateRequest
from orchestrator.api.responses import ResponsesApi, Runs
from orchestrator.api.schema import (
    ApprovalList,
    CompactedBody,
    ConversationBody,
    DeletedConversation,
    DeletedResponse,
    ItemList,
    OutputItem,
    PurgedCount,
    ResponseBody,
    TokenCount,
    body,
)
from orchestrator.api.sealing import KeyOf, open_to_all
from orchestrator.clock import Clock
from orchestrator.journal.base import Fenced, Journal, JournalFull
from orchestrator.tools import trace_context
from router.http.body import body_of
from router.http.described import answers
from router.tenancy import deadlines
from router.tenancy.access import PURGE, tenant_of
from serving.config.stack import StackConfig
from serving.errors import Conflict, Unavailable

MAX_KEY = 255
"""Characters of an Idempotency-Key."""


class _ResponseId(Convertor[str]):
    """Whatever is not the name of a route of its own: that one says which methods it takes."""

    regex = "(?!(?:compact|input_tokens)(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("response_id", _ResponseId())


def _flag(value: Any) -> Any:
    return {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower(), value)


Flag = Annotated[bool, BeforeValidator(_flag, json_schema_input_type=bool), Query(strict=True)]
Number = Annotated[int | None, Query(ge=-1, le=2**53)]
"""A `sequence_number` that was seen; -1: none."""
LastEventId = Annotated[int | None, Header(ge=-1, le=2**53)]
Key = Annotated[str, Header(max_length=MAX_KEY)]
After = Annotated[str | None, Query()]
Limit = Annotated[int, Query(ge=1, le=100)]
Sorted = Annotated[Order, Query()]


def build_routes(
    journal: Journal,
    worker: Runs,
    intake: Intake,
    config: StackConfig,
    clock: Clock,
    *,
    key_of: KeyOf = open_to_all,
    context_tokens: Callable[[str], int] = lambda _: 0,
    count: Count,
) -> APIRouter:
    """The routes; whoever builds them starts and ends journal and worker.

    `key_of` gives a tenant's key for what clients carry for us, `context_tokens` a model's context,
    `count` the tokens of a prompt.
    """
    routes = APIRouter(route_class=JournalRoute)
    limit = config.front.max_body_bytes
    reader = Reader(config.front.media_hosts, key_of)
    compaction = Compaction(journal, intake, clock, reader, context_tokens)
    _beside(routes, compaction, InputTokens(intake, reader, count), limit)
    _responses(routes, ResponsesApi(journal, worker, intake, reader), limit)
    _conversations(routes, Conversations(journal, worker, clock, reader), limit)
    _of_warmloop(routes, journal, worker)
    return routes


def _beside(routes: APIRouter, compaction: Compaction, tokens: InputTokens, limit: int) -> None:
    """What is asked about responses, and makes none."""

    @routes.post(
        "/v1/responses/compact",
        responses=answers(CompactedBody, 400, 404, 409, 413, 502),
        openapi_extra=body(CompactRequest),
    )
    async def compact_response(request: Request) -> Response:
        asked = await body_of(request, limit)
        return answer(await compaction.compact(asked, caller_of(request)))

    @routes.post(
        "/v1/responses/input_tokens",
        responses=answers(TokenCount, 400, 404, 409, 413),
        openapi_extra=body(CountRequest),
    )
    async def count_input_tokens(request: Request) -> Response:
        return answer(await tokens.count(await body_of(request, limit), caller_of(request)))


def _responses(routes: APIRouter, api: ResponsesApi, limit: int) -> None:
    path = "/v1/responses"
    one = path + "/{response_id:response_id}"

    @routes.post(
        path,
        responses=answers(ResponseBody, 400, 404, 409, 413, stream=True),
        openapi_extra=body(CreateRequest),
    )
    async def create_response(request: Request, idempotency_key: Key = "") -> Response:
        asked = await body_of(request, limit)
        return answer(await api.create(asked, idempotency_key, caller_of(request)))

    @routes.get(one, responses=answers(ResponseBody, 400, 404, stream=True))
    async def retrieve_response(
        response_id: str,
        request: Request,
        stream: Flag = False,
        starting_after: Number = None,
        last_event_id: LastEventId = None,
    ) -> Response:
        tenant = tenant_of(request.scope).name
        if not stream:
            return answer(await api.retrieve(response_id, tenant))
        seen = starting_after if starting_after is not None else last_event_id
        return await api.stream(response_id, tenant, -1 if seen is None else seen)

    @routes.delete(one, responses=answers(DeletedResponse, 404, 409))
    async def delete_response(response_id: str, request: Request) -> Response:
        return answer(await api.delete(response_id, tenant_of(request.scope).name))

    @routes.post(one + "/cancel", responses=answers(ResponseBody, 404))
    async def cancel_response(response_id: str, request: Request) -> Response:
        return answer(await api.cancel(response_id, tenant_of(request.scope).name))

    @routes.get(one + "/input_items", responses=answers(ItemList, 400, 404))
    async def list_input_items(
        response_id: str,
        request: Request,
        after: After = None,
        limit: Limit = 20,
        order: Sorted = "desc",
    ) -> Response:
        page = Page(after, limit, order)
        return answer(await api.input_items(response_id, page, tenant_of(request.scope).name))


def _conversations(routes: APIRouter, api: Conversations, limit: int) -> None:
    path = "/v1/conversations"
    one = path + "/{conversation_id}"
    items, item = one + "/items", one + "/items/{item_id}"

    @routes.post(
        path,
        responses=answers(ConversationBody, 400, 413),
        openapi_extra=body(CreateConversation, required=False),
    )
    async def create_conversation(request: Request) -> Response:
        tenant = tenant_of(request.scope).name
        return answer(await api.create(await body_of(request, limit), tenant))

    @routes.get(one, responses=answers(ConversationBody, 404))
    async def retrieve_conversation(conversation_id: str, request: Request) -> Response:
        return answer(await api.retrieve(conversation_id, tenant_of(request.scope).name))

    @routes.post(
        one,
        responses=answers(ConversationBody, 400, 404, 409, 413),
        openapi_extra=body(UpdateConversation),
    )
    async def update_conversation(conversation_id: str, request: Request) -> Response:
        tenant = tenant_of(request.scope).name
        return answer(await api.update(conversation_id, await body_of(request, limit), tenant))

    @routes.delete(one, responses=answers(DeletedConversation, 404, 409))
    async def delete_conversation(conversation_id: str, request: Request) -> Response:
        return answer(await api.delete(conversation_id, tenant_of(request.scope).name))

    @routes.get(items, responses=answers(ItemList, 400, 404))
    async def list_items(
        conversation_id: str,
        request: Request,
        after: After = None,
        limit: Limit = 20,
        order: Sorted = "desc",
    ) -> Response:
        page, tenant = Page(after, limit, order), tenant_of(request.scope).name
        return answer(await api.list_items(conversation_id, page, tenant))

    @routes.post(
        items,
        responses=answers(ItemList, 400, 404, 409, 413),
        openapi_extra=body(CreateItems),
    )
    async def create_items(conversation_id: str, request: Request) -> Response:
        tenant = tenant_of(request.scope).name
        return answer(await api.add_items(conversation_id, await body_of(request, limit), tenant))

    @routes.get(item, responses=answers(OutputItem, 404))
    async def retrieve_item(conversation_id: str, item_id: str, request: Request) -> Response:
        return answer(await api.item(conversation_id, item_id, tenant_of(request.scope).name))

    @routes.delete(item, responses=answers(ConversationBody, 404, 409))
    async def delete_item(conversation_id: str, item_id: str, request: Request) -> Response:
        tenant = tenant_of(request.scope).name
        return answer(await api.delete_item(conversation_id, item_id, tenant))


def _of_warmloop(routes: APIRouter, journal: Journal, worker: Runs) -> None:
    """What OpenAI's API has no word for, for `warmloop approvals` and `warmloop journal purge`."""

    @routes.get("/v1/warmloop/approvals", responses=answers(ApprovalList))
    async def list_approvals(request: Request, after: str = "") -> Response:
        return answer(await waiting.page(journal, tenant_of(request.scope), after))

    @routes.post(PURGE, responses=answers(PurgedCount, 400))
    async def purge_older(older_than_s: Annotated[float, Query(gt=0)]) -> Response:
        return answer({"purged": await worker.purge_older(older_than_s)})


class JournalRoute(APIRoute):
    """A route whose answer is 503, with Retry-After, when the journal fails."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return _answering(super().get_route_handler())


def _answering(
    handler: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except JournalFull as error:
            raise Unavailable(
                f"the journal cannot be used, nothing was accepted: {error}",
                code="journal_unavailable",
                retry_after_s=5,
            ) from error
        except Fenced as error:
            raise Conflict(
                f"{error}; try again", code="conversation_locked", retry_after_s=1
            ) from error

    return handle


def answer(value: Response | dict[str, Any]) -> Response:
    if isinstance(value, Response):
        return value
    return Response(msgspec.json.encode(value), media_type="application/json")


def caller_of(request: Request) -> Caller:
    """Who asks, and how urgently. Raises BadRequest."""
    tenant, headers = tenant_of(request.scope), request.headers
    urgency = deadlines.urgency_of(headers, tenant)
    trace = trace_context.valid(headers.get("traceparent", ""))
    return Caller(tenant, urgency, deadlines.seconds_of(headers, None), trace)
