"""Every failure that a person or a client can see, and how it is said over HTTP.

    WarmloopError
    ├── ConfigError            a configuration file or flag is wrong          exit 2
    ├── WeightsError           a model's files cannot be had or do not match  exit 2
    ├── EngineError            an engine died or never became ready           exit 1
    └── RequestError           an answer with a status, in OpenAI's envelope
        ├── BadRequest         400   malformed or missing field
        ├── Unauthorized       401
        ├── NotFound           404   unknown model, response or route
        ├── Conflict           409   wrong state for what was asked
        ├── TooLarge           413   body over the limit
        ├── RateLimited        429   a queue is full; Retry-After says when to come back
        ├── Internal           500   a defect of ours; the request id finds it in the log
        ├── Unavailable        503   no engine ready; Retry-After says when to come back
        └── UpstreamError      502   an engine answered nonsense or went away
            └── UpstreamTimeout 504  an engine did not answer in time

A message names the field, the value and the fix. Messages never hold prompt or tool content.
"""

from __future__ import annotations

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
        """`Retry-After` in whole seconds, where waiting helps."""
        if self.retry_after_s is None:
            return {}
        return {"retry-after": str(max(1, round(self.retry_after_s)))}


class BadRequest(RequestError):
    status = 400
    type = "invalid_request_error"


class Unauthorized(RequestError):
    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


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


class Internal(RequestError):
    status = 500
    default_code = "internal_error"


class Unavailable(RequestError):
    status = 503
    default_code = "no_engine_ready"


class UpstreamError(RequestError):
    status = 502
    default_code = "engine_failed"


class UpstreamTimeout(UpstreamError):
    status = 504
    default_code = "engine_timeout"
