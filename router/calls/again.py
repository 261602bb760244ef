"""Asking an engine for one call again, after the one that it made did not fit its schema.

The question goes to the same replica, whose cache holds all of it but its last lines: the history,
the call as it was made, what is wrong with it, and the demand for this tool. Nothing of this is
seen by the client but the call that fits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from router.calls.forms import Call
from router.calls.plan import ToolPlan
from router.http.forward import Upstream
from router.http.http1 import Failed
from serving.protocol import Usage, usage_in

Send = Callable[[bytes], Awaitable[Upstream]]
"""Sends a body to the engine that has the turn. Raises Failed."""


class Again:
    """The `Retry` of one turn, and what its questions have cost."""

    def __init__(self, plan: ToolPlan, body: bytes, send: Send) -> None:
        self._plan = plan
        self._body = body
        self._send = send
        self._spent = Usage(0, 0, 0)

    def spent(self) -> Usage:
        return self._spent

    async def __call__(self, call: Call, problems: list[str]) -> str | None:
        """The arguments of the new call; None when there was none, whatever the reason."""
        try:
            upstream = await self._send(self._plan.again(self._body, call, problems))
            try:
                answer = b"".join([chunk async for chunk in upstream.chunks()])
            finally:
                upstream.close()
        except Failed:
            return None
        if upstream.status >= 400:
            return None
        if usage := usage_in(answer):
            self._spent = Usage(
                self._spent.prompt_tokens + usage.prompt_tokens,
                self._spent.cached_tokens + usage.cached_tokens,
                self._spent.output_tokens + usage.output_tokens,
            )
        try:
            return self._plan.form.called(msgspec.json.decode(answer), call.name)
        except (ValueError, RecursionError):
            return None
