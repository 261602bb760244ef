"""Every failure that a person or a client can see, and how it is said over HTTP.

    WarmloopError
    ├── ConfigError            a configuration file or flag is wrong          exit 2
    ├── WeightsError           a model's files cannot be had or do not match  exit 2
    ├── SchemaRefused          a tool's schema cannot be promised; in serving/schemas  exit 2
    ├── AdapterError           a LoRA adapter that its model cannot serve     exit 2
    ├── EngineError            an engine died or never became ready           exit 1
    └── RequestError           an answer with a status, in OpenAI's envelope
        ├── BadRequest         400   malformed or missing field
        ├── Unauthorized       401   no key, or none that is known
        ├── Forbidden          403   a key that may not do this
        ├── NotFound           404   unknown model, response or route
        ├── Conflict           409   wrong state for what was asked
        ├── TooLarge           413   body over the limit
        ├── RateLimited        429   a queue is full, or a limit reached; Retry-After says when
        │                            to come back
        ├── BudgetUsed         429   a session may not cost more; waiting does not help
        ├── Internal           500   a defect of ours; the request id finds it in the log
        ├── Unavailable        503   no engine ready; Retry-After says when to come back
        │   └── Overloaded     503   the wait would be too long; Retry-After is that wait
        ├── DeadlineExceeded   504   the client's own deadline came first
        └── UpstreamError      502   an engine answered nonsense or went away
            ├── InvalidToolCall 502  a call that does not fit its tool's schema, twice
            └── UpstreamTimeout 504  an engine did not answer in time

A message names the field, the value and the fix. Messages never hold prompt or tool content.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar


class WarmloopError(Exception):
    """Base of all expected failures; `str(error)` is a sentence for a person."""

    exit_code: ClassVar[int] = 1


class ConfigError(WarmloopError):
    """A configuration value is unknown, missing or impossible."""

    exit_code = 2


class WeightsError(WarmloopError):
    """No source of a model's weights worked, or what came does not match its checksum."""

    exit_code = 2


class AdapterError(WarmloopError):
    """A LoRA adapter's files are missing, torn, or do not fit the model."""

    exit_code = 2


class EngineError(WarmloopError):
    """An engine did not become ready, or died; the message ends with its last log lines."""


class RequestError(WarmloopError):
    """An answer for the client: `status`, OpenAI's `type` and `code`, and when to try again."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """OpenAI's error envelope."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, where waiting helps; never less than it takes."""
        if self.retry_after_s is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}


class BadRequest(RequestError):
    status = 400
    type = "invalid_request_error"


class Unauthorized(RequestError):
    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "www-authenticate": 'Bearer realm="warmloop"'}


class Forbidden(RequestError):
    status = 403
    type = "invalid_request_error"
    default_code = "operator_only"


class NotFound(RequestError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class Conflict(RequestError):
    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class TooLarge(RequestError):
    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class RateLimited(RequestError):
    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class BudgetUsed(RequestError):
    """OpenAI's word for it; not a RateLimited, which is worth another try."""

    status = 429
    type = "insufficient_quota"
    default_code = "session_budget_used"


class Internal(RequestError):
    status = 500
    default_code = "internal_error"


class Unavailable(RequestError):
    status = 503
    default_code = "no_engine_ready"


class Overloaded(Unavailable):
    """Taken on, it would have waited longer than anybody wants to."""

    default_code = "overloaded"


class DeadlineExceeded(RequestError):
    """The moment came that the client, or the configuration, had set for the turn."""

    status = 504
    default_code = "deadline_exceeded"


class UpstreamError(RequestError):
    status = 502
    default_code = "engine_failed"


class InvalidToolCall(UpstreamError):
    """The model's call cannot be passed on: asked again, it still did not fit."""

    default_code = "invalid_tool_call"


class UpstreamTimeout(UpstreamError):
    status = 504
    default_code = "engine_timeout"
