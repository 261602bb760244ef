"""The HTTP surface: which paths there are, and what each says.

    POST /v1/chat/completions  /v1/completions  /v1/messages     wire.py, below ASGI
    GET  /v1/models  /v1/models/{id}                             what clients can ask for
    GET  /health     this process runs; the engines as it sees them
    GET  /ready      200 when some engine takes turns, else 503
    GET  /metrics    Prometheus
    GET  /openapi.json           all that is not forwarded, described
    POST /v1/tools/check                                         calls/check.py
    POST /v1/warmloop/outcomes                                   tiers/outcomes.py
    POST /v1/load_lora_adapter  /v1/unload_lora_adapter      adapters/routes.py, an extra route
    and whatever else `extra_routes` (FastAPI) and `extra_asgi` (by exact path) bring

`build()` makes the application; it starts nothing. Whoever builds it starts the router and the
table, in `lifespan` or around the server.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp

from router.calls import check as tool_check
from router.calls import plan as tool_plan
from router.dispatch import Router
from router.http.asgi import Gate
from router.http.described import Told, answers
from router.http.refusals import MethodNotAllowed, error_body, internal
from router.http.wire import Forwarding
from router.tenancy.access import Access, may_look, tenant_of, visible
from router.tiers import outcomes
from router.tiers.auto import AutoTurns
from router.tiers.turn_types import AUTO
from router.turn import Turns
from serving.config.sections import nearest
from serving.errors import BadRequest, NotFound, RequestError, Unavailable


class ModelBody(Told):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Told):
    object: Literal["list"]
    data: list[ModelBody]


class Status(Told):
    status: str
    """What else is in it is for the operator's eyes."""


Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


def build(
    router: Router,
    *,
    auto: AutoTurns | None = None,
    turns: Turns | None = None,
    extra_routes: Sequence[APIRouter] = (),
    extra_asgi: Mapping[str, ASGIApp] | None = None,
    lifespan: Lifespan | None = None,
    access: Access | None = None,
) -> Gate:
    """The application, for `server.server`.

    `auto` decides `model: auto`; default: one that forgets at a restart. `turns` serves the
    forwarding routes; default: `auto`. Hand in another `Turns` to take some turns before it does
    (agents as models), and an `access` that somebody starts, so that changes of the keys are
    noticed.
    """
    auto = auto or AutoTurns(router)
    access = access or Access(router.config)
    app = FastAPI(
        title="Warmloop",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        lifespan=lifespan or _nothing,
    )
    _answer_errors(app)
    app.include_router(_model_routes(router))
    app.include_router(_operator_routes(router))
    tools = router.config.tools
    app.include_router(outcomes.routes(auto.ledger, lambda request: tenant_of(request.scope)))
    bounds, largest = tool_plan.bounds_of(tools), router.config.front.max_body_bytes
    app.include_router(tool_check.routes(bounds, tools.max_tools, largest))
    for routes in extra_routes:
        app.include_router(routes)
    forwarding = Forwarding(turns or auto, router.config, router.report, access, router.clock)
    return Gate(forwarding, extra_asgi or {}, app)


def _model_routes(router: Router) -> APIRouter:
    routes = APIRouter()
    created = int(time.time())

    def describe(name: str) -> dict[str, Any]:
        model: dict[str, Any] = {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "warmloop",
        }
        parent = None if name in router.config.models else router.catalogue.parent(name)
        config = router.config.models.get(parent or name)
        if parent is not None:
            model["parent"] = parent
        if config is not None:
            model["tier"] = config.tier
            model["engine"] = config.engine
            model["context_tokens"] = config.context_tokens
            model["ready_replicas"] = len(router.catalogue.fleet().ready(name))
        elif name == AUTO:
            model["tier"] = "auto"
        elif name in router.catalogue.also_models():
            model["owned_by"] = "warmloop-agent"
        return model

    def names(request: Request) -> list[str]:
        return visible(tenant_of(request.scope), router.catalogue.names(), router.catalogue.parent)

    @routes.get("/v1/models", responses=answers(ModelList))
    async def list_models(request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [*map(describe, names(request))]})

    @routes.get("/v1/models/{name:path}", responses=answers(ModelBody, 404))
    async def one_model(name: str, request: Request) -> JSONResponse:
        known = names(request)
        if name not in known:
            raise NotFound(
                f"model: {name[:80]!r} is not known; {nearest(name, known)}",
                param="model",
                code="model_not_found",
            )
        return JSONResponse(describe(name))

    return routes


def _operator_routes(router: Router) -> APIRouter:
    routes = APIRouter()

    def engines() -> list[dict[str, Any]]:
        inflight = router.admission.by_replica
        return [
            {
                "replica": e.replica,
                "model": e.model,
                "kind": e.kind,
                "url": e.url,
                "state": e.state,
                "reason": e.reason,
                "adapters": e.adapters,
                "ejected": router.health.ejected(e.replica),
                "breaker": router.health.condition(e.replica),
                "breaker_reason": router.health.why(e.replica),
                "inflight": inflight.get(e.replica, 0),
                "running": e.load.running,
                "waiting": e.load.waiting,
                "kv_usage": e.load.kv_usage,
                "queried_tokens": e.load.queried_tokens,
                "hit_tokens": e.load.hit_tokens,
                "restarts": e.restarts,
                "retry_at": e.retry_at,
                "round": e.round,
            }
            for e in router.catalogue.fleet().engines
        ]

    @routes.get("/health", responses=answers(Status))
    async def health(request: Request) -> JSONResponse:
        if not may_look(request.scope):
            return JSONResponse({"status": "ok"})
        return JSONResponse(
            {
                "status": "ok",
                "stack": router.config.name,
                "inflight": router.admission.total,
                "queued": router.scheduler.queued,
                "sessions": len(router.scheduler.programs),
                "boundaries": len(router.scheduler.warmth),
                "peers": router.outside.peers.present if router.outside.peers else 0,
                "kv_events": {
                    "replicas": router.kv.replicas,
                    "blocks": router.outside.residency.blocks,
                    "gaps": router.kv.gaps,
                },
                "engines": engines(),
                "adapters": [
                    {
                        "name": name,
                        "model": router.catalogue.parent(name),
                        "ready_replicas": len(router.catalogue.fleet().ready(name)),
                        "problem": router.known.problems.get(name, ""),
                    }
                    for name in router.catalogue.adapters()
                ],
            }
        )

    @routes.get("/ready", responses=answers(Status))
    async def ready(request: Request) -> JSONResponse:
        fleet = router.catalogue.fleet()
        if not may_look(request.scope):
            if not fleet.ready_names:
                raise Unavailable("no engine is ready", retry_after_s=5)
            return JSONResponse({"status": "ready"})
        if not fleet.ready_names:
            why = "; ".join(
                f"{model}: {router.catalogue.why_not(model)}" for model in router.config.models
            )
            raise Unavailable(f"no engine is ready: {why}", retry_after_s=5)
        return JSONResponse({"status": "ready", "models": sorted(fleet.ready_names)})

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(router.metrics.render(), media_type="text/plain; version=0.0.4")

    return routes


def methods_of(request: Request) -> list[str]:
    """What a path takes, over all its routes: Starlette knows only the first one's."""
    found: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found)


def _answer_errors(app: FastAPI) -> None:
    """Whatever goes wrong in a FastAPI route is said in OpenAI's envelope."""

    def answer(
        request: Request,
        error: RequestError,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        return Response(
            error_body(error, request.url.path),
            status_code=status or error.status,
            headers={**(headers or {}), **error.headers()},
            media_type="application/json",
        )

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)  # noqa: S101  that is how it is registered
        return answer(request, error)

    async def starlettes(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        path, method = request.url.path, request.method
        if error.status_code == 404:
            return answer(request, NotFound(f"no route {path}; see GET /v1/models"))
        said: RequestError = BadRequest(str(error.detail))
        if error.status_code == 405:
            said = MethodNotAllowed(f"{path} does not take {method}")
            return answer(request, said, headers={"allow": ", ".join(methods_of(request))})
        return answer(request, said, status=error.status_code, headers=error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return answer(request, BadRequest(f"{where}: {first['msg']}", param=where))

    async def defect(request: Request, _: Exception) -> Response:
        # Starlette raises the exception again after this answer, and the Gate logs it.
        return answer(request, internal(request.scope["warmloop.request_id"]))

    app.add_exception_handler(RequestError, ours)
    app.add_exception_handler(HTTPException, starlettes)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, defect)
