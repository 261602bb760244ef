"""The Responses API over the journal: what each route does; `routes.py` has the routes.

Everything here reads and writes the journal; the run itself goes on in the worker, whoever
listens. So a client that hangs up stops nothing, background or not: it comes back with the id, or
cancels. docs/decisions/ has the choices where OpenAI's semantics left one.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from typing import Any, Protocol

from fastapi import Response
from fastapi.responses import StreamingResponse

from orchestrator.api.conversation_view import input_items_of
from orchestrator.api.inbound import Reader
from orchestrator.api.intake import Acceptor, Caller, Intake
from orchestrator.api.listing import Page
from orchestrator.api.projection import Projection
from orchestrator.api.response_request import CreateRequest
from orchestrator.api.response_stream import at_end, now, sse
from orchestrator.journal.base import Journal, ResponseRef
from orchestrator.loop.context_rules import TOO_LONG
from serving.errors import BadRequest, NotFound

CANCEL_PATIENCE_S = 5.0
"""How long a cancel waits for a tool that cannot be stopped."""


class Runs(Acceptor, Protocol):
    """What these routes need of the worker."""

    async def cancel(self, response_id: str) -> ResponseRef:
        """End a response; returns when it has ended."""

    async def purge_response(self, response_id: str) -> ResponseRef:
        """Delete a response for good, after cancelling it."""

    async def purge_conversation(self, conversation: str) -> None:
        """Delete a conversation and its responses for good, after cancelling what runs."""

    async def purge_older(self, than_s: float) -> int:
        """Delete some of the conversations without news for so long; returns how many."""


class ResponsesApi:
    """What each route does."""

    def __init__(self, journal: Journal, worker: Runs, intake: Intake, reader: Reader) -> None:
        self._journal = journal
        self._worker = worker
        self._intake = intake
        self._reader = reader

    async def create(self, body: bytes, key: str, caller: Caller) -> Response | dict[str, Any]:
        request = self._reader.read(CreateRequest, body, caller.name)
        fingerprint = hashlib.sha256(body).hexdigest()[:32]
        ref = await self._intake.accept(request, key, fingerprint, caller, len(body))
        if request.stream:
            return self._stream(ref, -1)
        if request.background:
            return (await now(self._journal, ref)).response()
        response = await at_end(self._journal, ref)
        _not_too_long(response)
        return response

    async def retrieve(self, response_id: str, tenant: str) -> dict[str, Any]:
        _, projection = await self._find(response_id, tenant)
        return projection.response()

    async def stream(self, response_id: str, tenant: str, starting_after: int) -> Response:
        """From the event behind `starting_after` (-1: from the first) on, then live."""
        ref, _ = await self._find(response_id, tenant)
        return self._stream(ref, starting_after)

    async def cancel(self, response_id: str, tenant: str) -> dict[str, Any]:
        """The response as it is after its end, or, when a tool will not let go, in progress.

        Cancelling what has ended changes nothing, as often as it is done.
        """
        ref, projection = await self._find(response_id, tenant)
        if not projection.finished:
            with suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_PATIENCE_S):
                    await self._worker.cancel(response_id)
            projection = await now(self._journal, ref)
        return projection.response()

    async def delete(self, response_id: str, tenant: str) -> dict[str, Any]:
        """A response in progress is cancelled first; `purge.py` says what stays of it."""
        await self._find(response_id, tenant)
        await self._worker.purge_response(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    async def input_items(self, response_id: str, page: Page, tenant: str) -> dict[str, Any]:
        _, projection = await self._find(response_id, tenant)
        accepted = projection.accepted
        return page.of(input_items_of(accepted) if accepted else [])

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


def _not_too_long(response: dict[str, Any]) -> None:
    """Raises BadRequest for a prompt that no engine took, as OpenAI does; a stream has begun by
    then, and ends in `response.failed`."""
    error = response["error"] or {}
    if error.get("type") == TOO_LONG and not response["output"]:
        raise BadRequest(f"input: {error['message']}", param="input", code=TOO_LONG)


def _unknown(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:80]}' not found.", param="response_id")
