"""What is not forwarded, as ASGI: the outermost application of a front door.

    Gate(inner)            every request: its id, its tenant, the last resort when something breaks
     ├── a path of `routes` → that application
     └── anything else      → inner (FastAPI)

The forwarding routes never come here: `server.FrontProtocol` hands them to `Gate.forwarding`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router import logs
from router.http.refusals import error_body, error_headers, internal, request_id_of
from router.http.wire import Forwarding
from serving.errors import RequestError, WarmloopError

_log = logging.getLogger("warmloop.front")


async def send_error(send: Send, error: RequestError, path: str, request_id: str) -> None:
    """The error as a whole answer."""
    body = error_body(error, path)
    headers = {**error_headers(error, body), "x-request-id": request_id}
    encoded = [(k.encode("latin-1"), v.encode("latin-1", "replace")) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


class Gate:
    """The application that `server.server` serves."""

    def __init__(
        self, forwarding: Forwarding, routes: Mapping[str, ASGIApp], inner: ASGIApp
    ) -> None:
        self.forwarding = forwarding
        self.routes = routes
        self.inner = inner
        self.unstarted: WarmloopError | None = None
        """Why it did not start, where we know why."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._live(scope, receive, send)
            return
        request_id = scope["warmloop.request_id"] = request_id_of(scope["headers"])
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if route is None:
                    message["headers"] = [
                        *message.get("headers", ()),
                        (b"x-request-id", request_id.encode()),
                    ]
            await send(message)

        route = self.routes.get(scope["path"])
        try:
            scope["warmloop.tenant"] = self.forwarding.access.admit(scope)
        except RequestError as error:
            # The path is not logged: it is whatever a stranger likes.
            record = logs.TurnRecord(logs.utc_now(), request_id, "", error.status)
            record.error = error.code or error.type
            self.forwarding.report(record)
            await send_error(send, error, scope["path"], request_id)
            return
        try:
            await (route or self.inner)(scope, receive, noting)
        except Exception:
            # A defect of ours. Its text stays in the log, where the request id finds it.
            _log.exception("request %s failed", request_id)
            if not started:
                await send_error(send, internal(request_id), scope["path"], request_id)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start and end. An error of ours says why by itself: its traceback is not told."""
        failed: list[Message] = []

        async def holding(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                failed.append(message)
            else:
                await send(message)

        try:
            await self.inner(scope, receive, holding)
        except Exception as error:
            for message in failed:
                if isinstance(error, WarmloopError):
                    self.unstarted = error
                    message["message"] = ""
                await send(message)
            raise
