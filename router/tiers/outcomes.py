"""What clients say of answers: `POST /v1/warmloop/outcomes {"request_id": ..., "success": ...}`.

Only a client knows whether an answer was right. What it reports is what `model: auto` learns from;
`request_id` is the answer's `x-request-id`, or an agent's response id for all of its turns.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from router.http.body import body_of
from router.http.described import Told, answers, body
from router.tenancy.tenants import OPEN, Tenant
from router.tiers.case import Ledger
from serving.errors import BadRequest, NotFound

ROUTE = "/v1/warmloop/outcomes"
_MAX_BODY_BYTES = 4096
_MAX_ID = 200


class _Outcome(msgspec.Struct, forbid_unknown_fields=True):
    request_id: str
    success: bool


class Reported(Told):
    request_id: str
    turns: int
    """Of how many turns it was said."""


def routes(ledger: Ledger, tenant_of: Callable[[Request], Tenant] = lambda _: OPEN) -> APIRouter:
    found = APIRouter()

    @found.post(
        ROUTE,
        responses=answers(Reported, 400, 404, 413),
        openapi_extra=body(msgspec.json.schema(_Outcome)),
    )
    async def report(request: Request) -> JSONResponse:
        tenant = tenant_of(request)
        outcome = _read(await body_of(request, _MAX_BODY_BYTES, "send one outcome"))
        count = ledger.report(tenant.name, outcome.request_id, success=outcome.success)
        if not count:
            raise NotFound(
                f"request_id: {outcome.request_id[:80]!r} is not an answer of model auto that can "
                "still be reported; send the x-request-id of a recent one, once",
                param="request_id",
                code="request_not_found",
            )
        return JSONResponse({"request_id": outcome.request_id, "turns": count})

    return found


def _read(raw: bytes) -> _Outcome:
    try:
        outcome = msgspec.json.decode(raw, type=_Outcome)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"{error}; send an object with request_id (a string) and success (true or false)"
        ) from None
    except (ValueError, RecursionError):
        raise BadRequest(
            "the body is not valid JSON; send an object with request_id and success",
            code="invalid_json",
        ) from None
    if not 0 < len(outcome.request_id) <= _MAX_ID:
        raise BadRequest(
            f"request_id: must have 1 to {_MAX_ID} characters; send an x-request-id",
            param="request_id",
        )
    return outcome
