"""What a client hears instead of an engine's answer: OpenAI's envelope, its headers, its event.

On Anthropic's route the envelope is also marked as its clients expect.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import msgspec

from serving.errors import Internal, RequestError, TooLarge
from serving.protocol import MESSAGES

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class MethodNotAllowed(RequestError):
    """The route exists, for another method."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's id where it is harmless in a log and a header, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value, "ascii")
    return "req_" + os.urandom(12).hex()


def internal(request_id: str) -> Internal:
    """What a client hears of a defect of ours."""
    return Internal(f"internal error; the log has it under {request_id}")


def error_body(error: RequestError, path: str) -> bytes:
    """The error as the body of a whole answer."""
    body = error.body()
    if path == MESSAGES:
        body = {"type": "error", **body}
    return msgspec.json.encode(body)


def error_headers(error: RequestError, body: bytes) -> dict[str, str]:
    """The headers of that answer; the request's id is the caller's to add."""
    headers = {
        **error.headers(),
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    if isinstance(error, TooLarge):
        headers["connection"] = "close"  # what is left of the body is not going to be read
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = "POST"
    return headers


def error_event(error: RequestError, path: str, last: bytes) -> bytes:
    """The error as the last event of a stream that broke behind the bytes `last`."""
    # Half an event may be out: an empty line ends it, and keeps ours apart.
    gap = b"" if last.endswith(b"\n\n") else b"\n\n"
    name = b"event: error\n" if path == MESSAGES else b""
    return b"%b%bdata: %b\n\n" % (gap, name, error_body(error, path))
